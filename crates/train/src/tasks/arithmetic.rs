//! Arithmetic with the four operators and brackets: `-5 + -3 * ( 4 - 2 )`, reduced one operation at a time.
//!
//! The spelling is reasoning-gym's: one space between all tokens, a sign before a bracket belongs to it, numbers may be
//! negative. Divisions are exact.

use serde::Deserialize;

use super::{Check, Instance, Parameters, Range, Task, Wording, steps};
use crate::rng::Rng;

/// Expressions of several terms.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct BasicArithmetic {
    /// How many numbers.
    terms: Range,
    /// How many digits the numbers of an instance have at most.
    digits: Range,
    /// Whether there are brackets.
    brackets: bool,
    /// Whether numbers and brackets may have a sign.
    signs: bool,
    /// Instances with a larger value on the way are drawn again.
    value_max: i64,
    wording: Wording,
}

impl Default for BasicArithmetic {
    fn default() -> Self {
        let (terms, digits) = (Range(2, 6), Range(1, 4));
        Self { terms, digits, brackets: true, signs: true, value_max: 100_000_000, wording: Wording::All }
    }
}

impl Parameters for BasicArithmetic {
    fn check(&self) -> Result<(), String> {
        self.terms.check("terms", 1, 16)?;
        self.digits.check("digits", 1, 4)?;
        Range(self.value_max, self.value_max).check("value_max", 1000, 1_000_000_000)
    }
}

const GYM: [&str; 5] = ["Calculate {}.", "What is {}?", "Solve {}.", "Compute {}.", "Evaluate: {}."];
const OWN: [&str; 6] = [
    "Find the value of {}.",
    "{} = ?",
    "How much is {}?",
    "Work this out: {}",
    "Which number is {}? Give the number alone.",
    "{}",
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    Number(i64),
    Operator(char),
    Open { minus: bool },
    Close,
}

fn spell(tokens: &[Token]) -> String {
    let spell_one = |token: &Token| match token {
        Token::Number(value) => value.to_string(),
        Token::Operator(operator) => operator.to_string(),
        Token::Open { minus } => if *minus { "-(" } else { "(" }.to_owned(),
        Token::Close => ")".to_owned(),
    };
    tokens.iter().map(spell_one).collect::<Vec<_>>().join(" ")
}

impl Task for BasicArithmetic {
    fn instance(&self, rng: &mut Rng) -> Instance {
        // Large products are rare enough that a few draws find an instance; the last resort is a single number.
        const DRAWS: usize = 200;
        let drawn = (0..DRAWS).find_map(|_| {
            let (n_terms, n_digits) = (self.terms.draw(rng), self.digits.draw(rng));
            let mut tokens = Vec::new();
            self.expression(rng, n_terms, n_digits, &mut tokens)?;
            let (lines, value) = reduce(tokens.clone(), self.value_max)?;
            Some((spell(&tokens), lines, value))
        });
        let (expression, lines, value) = drawn.unwrap_or_else(|| {
            let value = rng.between(0, 9);
            (value.to_string(), vec![value.to_string()], value)
        });
        let (sentence, _) = self.wording.draw(rng, &GYM, &OWN);
        Instance {
            question: sentence.replace("{}", &expression),
            reasoning: lines.join("\n"),
            answer: value.to_string(),
            check: Check::Integer { expected: value },
            key: format!("value {expression}"),
        }
    }
}

impl BasicArithmetic {
    /// Appends an expression of `n_terms` numbers; `None` where it has no value within the limits.
    ///
    /// As in reasoning-gym: operands in a row or a bracket of them, each time as many as a fair die says, and a division now
    /// and then by a divisor of the operand before it, so that every value on the way is whole.
    fn expression(&self, rng: &mut Rng, n_terms: i64, n_digits: i64, tokens: &mut Vec<Token>) -> Option<()> {
        let mut left = n_terms;
        loop {
            let n_operands = rng.between(1, left);
            left -= n_operands;
            let mut dividend = tokens.len();
            // A bracket may hold the whole, and so another bracket alone: reasoning-gym has `-( ( 4 - 2 ) )`.
            if self.brackets && n_operands > 1 && rng.chance(0.5) {
                self.bracket(rng, n_operands, n_digits, tokens)?;
            } else {
                for i in 0..n_operands {
                    if i > 0 {
                        tokens.push(Token::Operator(*rng.choose(&['+', '-', '*'])));
                    }
                    dividend = tokens.len();
                    tokens.push(Token::Number(self.number(rng, n_digits)));
                }
            }
            if left > 0 && rng.chance(0.25) {
                let (_, value) = reduce(tokens[dividend..].to_vec(), self.value_max)?;
                let divisor = divisor(rng, value, n_digits);
                tokens.push(Token::Operator('/'));
                let n_below = if self.brackets && rng.chance(0.25) { rng.between(1, left) } else { 1 };
                left -= n_below;
                match n_below {
                    1 => tokens.push(Token::Number(divisor)),
                    _ => self.bracket_of_value(rng, n_below, n_digits, divisor, tokens)?,
                }
            }
            if left == 0 {
                return Some(());
            }
            tokens.push(Token::Operator(*rng.choose(&['+', '-', '*'])));
        }
    }

    fn number(&self, rng: &mut Rng, n_digits: i64) -> i64 {
        let limit = 10i64.pow(n_digits as u32) - 1;
        rng.between(if self.signs { -limit } else { 0 }, limit)
    }

    fn bracket(&self, rng: &mut Rng, n_terms: i64, n_digits: i64, tokens: &mut Vec<Token>) -> Option<()> {
        tokens.push(Token::Open { minus: self.signs && rng.chance(0.5) });
        self.expression(rng, n_terms, n_digits, tokens)?;
        tokens.push(Token::Close);
        Some(())
    }

    /// `( … + 17 )`, whose last number is what the others lack to `value`.
    fn bracket_of_value(
        &self,
        rng: &mut Rng,
        n_terms: i64,
        n_digits: i64,
        value: i64,
        tokens: &mut Vec<Token>,
    ) -> Option<()> {
        tokens.push(Token::Open { minus: self.signs && rng.chance(0.5) });
        let start = tokens.len();
        self.expression(rng, n_terms - 1, n_digits, tokens)?;
        let (_, others) = reduce(tokens[start..].to_vec(), self.value_max)?;
        let lacks = value - others;
        let plus = if self.signs || lacks >= 0 { ('+', lacks) } else { ('-', -lacks) };
        tokens.extend([Token::Operator(plus.0), Token::Number(plus.1), Token::Close]);
        Some(())
    }
}

/// A divisor of `value` with at most four digits; of `n_digits` where the value is 0 and any number divides it.
fn divisor(rng: &mut Rng, value: i64, n_digits: i64) -> i64 {
    if value == 0 {
        return rng.between(1, 10i64.pow(n_digits as u32) - 1);
    }
    let divisors: Vec<i64> = (1..=value.abs().min(9999)).filter(|d| value % d == 0).collect();
    *rng.choose(&divisors)
}

/// Works an expression out: the lines of work, and the value. `None` where a division is not exact or a value passes
/// `value_max`.
fn reduce(mut tokens: Vec<Token>, value_max: i64) -> Option<(Vec<String>, i64)> {
    let mut lines = Vec::new();
    if tokens.len() != 3 {
        lines.push(spell(&tokens));
    }
    loop {
        if let [Token::Number(value)] = tokens[..] {
            return Some((lines, value));
        }
        // The first bracket to close has none inside.
        let close = tokens.iter().position(|token| *token == Token::Close).unwrap_or(tokens.len());
        let open = tokens[..close].iter().rposition(|token| matches!(token, Token::Open { .. }));
        let inside = open.map_or(0, |at| at + 1)..close;
        if let (Some(open), [Token::Number(value)]) = (open, &tokens[inside.clone()]) {
            let value = if tokens[open] == (Token::Open { minus: true }) { -value } else { *value };
            tokens.splice(open..=close, [Token::Number(value)]);
            lines.push(format!("= {}", spell(&tokens)));
            continue;
        }
        let first = |wanted: [char; 2]| {
            let mut places = inside.clone();
            places.find(|&at| matches!(tokens[at], Token::Operator(operator) if wanted.contains(&operator)))
        };
        let at = first(['*', '/']).or_else(|| first(['+', '-']))?;
        let [Token::Number(a), Token::Operator(operator), Token::Number(b)] = tokens[at - 1..=at + 1] else {
            return None;
        };
        if operator == '/' && (b == 0 || a % b != 0) {
            return None;
        }
        let (line, value) = steps::operate(a, operator, b);
        if value.abs() > value_max {
            return None;
        }
        let is_last = tokens.len() == 3;
        tokens.splice(at - 1..=at + 1, [Token::Number(value)]);
        lines.push(line);
        if !is_last {
            lines.push(format!("= {}", spell(&tokens)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worked_expression() {
        let tokens = vec![
            Token::Number(-5),
            Token::Operator('+'),
            Token::Number(-3),
            Token::Operator('*'),
            Token::Open { minus: true },
            Token::Number(4),
            Token::Operator('-'),
            Token::Number(2),
            Token::Close,
        ];
        assert_eq!(spell(&tokens), "-5 + -3 * -( 4 - 2 )");
        let (lines, value) = reduce(tokens, 1000).unwrap();
        assert_eq!(value, 1);
        assert_eq!(
            lines,
            [
                "-5 + -3 * -( 4 - 2 )",
                "4 - 2 = 2",
                "= -5 + -3 * -( 2 )",
                "= -5 + -3 * -2",
                "-3 * -2 = 6",
                "= -5 + 6",
                "-5 + 6 = 6 - 5 = 1"
            ]
        );
        let whole = [Token::Number(7), Token::Operator('/'), Token::Number(2)];
        assert_eq!(reduce(whole.to_vec(), 1000), None);
    }

    #[test]
    fn values_agree_with_the_evaluator() {
        let task = BasicArithmetic::default();
        let mut n_divisions = 0;
        for i in 0..2000 {
            let instance = task.instance(&mut Rng::new(&[i]));
            let expression = instance.key.strip_prefix("value ").unwrap();
            let (value, _) = crate::tasks::expression::evaluate(expression).unwrap();
            assert_eq!(value.as_integer().map(|value| value.to_string()), Some(instance.answer));
            n_divisions += usize::from(expression.contains('/'));
        }
        assert!(n_divisions > 200, "{n_divisions}");
    }
}
