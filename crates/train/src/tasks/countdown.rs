//! Countdown: reach a target from given numbers with + - * /.
//!
//! The reasoning is a search backwards from the target: each number in turn comes last, what the others would have to give
//! is written down, and so on until two are left, whose results are listed. The order is always the same and nothing is
//! skipped that fails, so that what is imitated is looking, not knowing.

use serde::Deserialize;

use super::{Check, Instance, Parameters, Range, Task, Wording, and_list, comma_list};
use crate::rng::Rng;

/// Numbers and a target that they can reach.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Countdown {
    /// How many numbers.
    numbers: Range,
    /// The numbers.
    values: Range,
    /// The target.
    targets: Range,
    wording: Wording,
}

impl Default for Countdown {
    fn default() -> Self {
        let (numbers, values, targets) = (Range(3, 4), Range(1, 100), Range(10, 999));
        Self { numbers, values, targets, wording: Wording::All }
    }
}

impl Parameters for Countdown {
    fn check(&self) -> Result<(), String> {
        self.numbers.check("numbers", 2, 6)?;
        self.values.check("values", 1, 1000)?;
        self.targets.check("targets", 1, 1_000_000)
    }
}

const RULES: &str = "

Final answer format instructions:
1. Provide your solution as a arithmetic expression (no '=' sign).
2. Do not include the target number in the expression.
3. Use '*' for multiplication.
4. Use '/' for division.
5. Do not include any other text or formatting.
";
const GYM: [(&str, bool); 3] = [
    ("Using all the numbers {}, create an expression that equals {target}.\nYou can only use each number once.", true),
    ("Find a way to make {target} using all of these numbers: {}.\nEach number can only be used once.", true),
    ("Calculate {target} using all of these numbers: {}.\nEach number may be used at most once.", true),
];
/// Sentences, and whether they ask for all numbers.
const OWN: [(&str, bool); 6] = [
    ("Use {} to make {target}", false),
    ("Make {target} from {}. You may leave numbers out.", false),
    ("Can you get {target} with {}? Each number at most once.", false),
    ("Reach {target} with all of the numbers {}, each exactly once.", true),
    ("Combine {} into {target} with + - * /. Every number has to be used once.", true),
    ("Countdown: numbers {}, target {target}. Give me the expression; not every number is needed.", false),
];

/// Longest solution that is asked to be imitated, in lines: a context has an end.
const LINES_MAX: usize = 32;

impl Task for Countdown {
    fn instance(&self, rng: &mut Rng) -> Instance {
        const DRAWS: usize = 500;
        let ((sentence, all), from_gym) = self.wording.draw(rng, &GYM, &OWN);
        let n_numbers = self.numbers.draw(rng);
        let n_used = if *all { n_numbers } else { rng.between(2, n_numbers) };
        let solved = (0..DRAWS).find_map(|_| {
            let (numbers, target) = self.draw(rng, n_numbers, n_used)?;
            Solved::new(numbers, target, *all).filter(|solved| solved.lines.len() <= LINES_MAX)
        });
        // Parameters under which nothing is found still give a question: a sum.
        let Solved { numbers, target, lines, solution } = solved.unwrap_or_else(|| {
            let numbers: Vec<i64> = (0..n_numbers).map(|_| self.values.draw(rng)).collect();
            let text = numbers.iter().map(i64::to_string).collect::<Vec<_>>().join(" + ");
            let target = numbers.iter().sum();
            Solved { numbers, target, lines: vec![format!("{text} = {target}")], solution: text }
        });
        let mut sorted = numbers.clone();
        sorted.sort_unstable();
        let list = if from_gym { comma_list(&numbers) } else { and_list(&numbers) };
        let question = sentence.replace("{target}", &target.to_string()).replace("{}", &list);
        Instance {
            question: if from_gym { question + RULES } else { question },
            reasoning: lines.join("\n"),
            answer: solution,
            key: format!("countdown {target} {}", comma_list(&sorted)),
            check: Check::Countdown { numbers, target, all: *all },
        }
    }
}

impl Countdown {
    /// Numbers, and a target that `n_used` of them reach when each is applied to the value so far.
    fn draw(&self, rng: &mut Rng, n_numbers: i64, n_used: i64) -> Option<(Vec<i64>, i64)> {
        let mut numbers: Vec<i64> = (0..n_numbers).map(|_| self.values.draw(rng)).collect();
        let mut target = numbers[0];
        for number in &numbers[1..n_used as usize] {
            target = apply(target, *rng.choose(&['+', '-', '*', '/']), *number)?;
        }
        rng.shuffle(&mut numbers);
        (self.targets.0 <= target && target <= self.targets.1).then_some((numbers, target))
    }
}

/// The value, where it is whole and not too large to think about.
fn apply(a: i64, operator: char, b: i64) -> Option<i64> {
    let value = match operator {
        '+' => a + b,
        '-' => a - b,
        '*' => a * b,
        _ if b != 0 && a % b == 0 => a / b,
        _ => return None,
    };
    (value.abs() <= 1_000_000).then_some(value)
}

/// A question with its worked solution.
struct Solved {
    numbers: Vec<i64>,
    target: i64,
    lines: Vec<String>,
    solution: String,
}

impl Solved {
    /// `None` where the search finds nothing, which does not mean that there is nothing.
    fn new(numbers: Vec<i64>, target: i64, all: bool) -> Option<Self> {
        let mut descending = numbers.clone();
        descending.sort_unstable_by(|a, b| b.cmp(a));
        let mut lines = Vec::new();
        let solution = search(&descending, target, all, &mut lines)?.text;
        Some(Self { numbers, target, lines, solution })
    }
}

/// An expression's text, and whether it is a sum or difference at its top.
#[derive(Clone, Debug)]
struct Expression {
    text: String,
    is_sum: bool,
}

impl Expression {
    fn number(number: i64) -> Self {
        Self { text: number.to_string(), is_sum: false }
    }

    fn in_brackets(&self) -> String {
        if self.is_sum { format!("({})", self.text) } else { self.text.clone() }
    }
}

/// What is done last to reach a target: `need` is what the other numbers have to give.
#[derive(Clone, Copy, Debug)]
struct Move {
    /// The number's place.
    at: usize,
    number: i64,
    way: Way,
    need: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// The number is left out.
    Without,
    Plus,
    Minus,
    /// The others are taken from the number.
    From,
    Times,
}

impl Move {
    /// `need` and the number, as the line that ends a search writes them.
    fn spell(self, inner: &Expression) -> Expression {
        let Self { number, way, .. } = self;
        match way {
            Way::Without => inner.clone(),
            Way::Plus => Expression { text: format!("{} + {number}", inner.text), is_sum: true },
            Way::Minus => Expression { text: format!("{} - {number}", inner.text), is_sum: true },
            Way::From => Expression { text: format!("{number} - {}", inner.in_brackets()), is_sum: true },
            Way::Times => Expression { text: format!("{} * {number}", inner.in_brackets()), is_sum: false },
        }
    }
}

/// What the number at `at` can do last. What is needed before it is never negative, and a division never comes last: such
/// ways are rare, and cost more to look at than they find.
fn moves(numbers: &[i64], at: usize, target: i64, all: bool) -> Vec<Move> {
    let number = numbers[at];
    let ways = [
        (Way::Without, (!all).then_some(target)),
        (Way::Plus, (number <= target).then(|| target - number)),
        (Way::From, (number > target).then(|| number - target)),
        (Way::Minus, Some(target + number)),
        (Way::Times, (number > 0 && target % number == 0).then(|| target / number)),
    ];
    ways.into_iter().filter_map(|(way, need)| Some(Move { at, number, way, need: need? })).collect()
}

/// The places of `numbers`, which descend, one of each value.
fn distinct(numbers: &[i64]) -> impl Iterator<Item = usize> {
    (0..numbers.len()).filter(|&at| at == 0 || numbers[at] != numbers[at - 1])
}

fn without(numbers: &[i64], at: usize) -> Vec<i64> {
    let mut rest = numbers.to_vec();
    rest.remove(at);
    rest
}

/// Results of two numbers, none negative; products only as far as they can be needed.
fn pair_results(a: i64, b: i64, need_max: i64) -> Vec<(i64, Expression)> {
    let (a, b) = (a.max(b), a.min(b));
    let operators = ['+', '-', '*', '/'].into_iter();
    let results = operators.filter_map(|operator| {
        let value = apply(a, operator, b).filter(|value| operator != '*' || *value <= need_max)?;
        let text = format!("{a} {operator} {b}");
        Some((value, Expression { text, is_sum: matches!(operator, '+' | '-') }))
    });
    results.collect()
}

/// Searches `numbers`, which descend, writing what is tried. With `all` every number is used.
fn search(numbers: &[i64], target: i64, all: bool, lines: &mut Vec<String>) -> Option<Expression> {
    match numbers {
        [] => None,
        [number] => (*number == target).then(|| Expression::number(*number)),
        [a, b] => {
            let results = pair_results(*a, *b, target);
            let found = results.iter().find(|(value, _)| *value == target).map(|(_, found)| found.clone());
            let verdict = found.as_ref().map_or_else(|| "no".to_owned(), |found| format!("{} = {target}", found.text));
            lines.push(format!("need {target}; {}, {verdict}", spell_pair(*a, *b, &results)));
            found
        }
        [_, _, _] => search_three(numbers, target, all, lines),
        [_, _, _, _] => search_four(numbers, target, all, lines),
        _ => search_more(numbers, target, lines),
    }
}

/// `67, 9: 76 58 603`
fn spell_pair(a: i64, b: i64, results: &[(i64, Expression)]) -> String {
    let values: Vec<String> = results.iter().map(|(value, _)| value.to_string()).collect();
    format!("{a}, {b}: {}", values.join(" "))
}

/// Each number as the last one: all that it would need, against all that the two others give.
fn search_three(numbers: &[i64], target: i64, all: bool, lines: &mut Vec<String>) -> Option<Expression> {
    for at in distinct(numbers) {
        let last = numbers[at];
        let (rest, moves) = (without(numbers, at), moves(numbers, at, target, all));
        let needs: Vec<String> = moves.iter().map(|way| way.need.to_string()).collect();
        let results = pair_results(rest[0], rest[1], moves.iter().map(|way| way.need).max().unwrap_or(0));
        let found = moves.iter().find_map(|way| {
            let (_, inner) = results.iter().find(|(value, _)| *value == way.need)?;
            Some((way, inner))
        });
        let head = format!("last {last}: need {}; {}", needs.join(" "), spell_pair(rest[0], rest[1], &results));
        let Some((way, inner)) = found else {
            lines.push(format!("{head}, no"));
            continue;
        };
        lines.push(format!("{head}, {}", way.need));
        let outer = way.spell(&Expression::number(way.need)).text;
        let ending = if way.way == Way::Without { String::new() } else { format!(", {outer} = {target}") };
        lines.push(format!("{} = {}{ending}", inner.text, way.need));
        return Some(way.spell(inner));
    }
    None
}

/// Each way for a number to be the last of four, in an order that needs no insight: left out, then times, where a division
/// without rest says that it may well be right, then sums and differences.
fn search_four(numbers: &[i64], target: i64, all: bool, lines: &mut Vec<String>) -> Option<Expression> {
    let mut ways: Vec<Move> = distinct(numbers).flat_map(|at| moves(numbers, at, target, all)).collect();
    ways.sort_by_key(|way| match way.way {
        Way::Without => 0,
        Way::Times => 1,
        _ => 2,
    });
    ways.into_iter().find_map(|way| {
        lines.push(head(numbers, way, target));
        let inner = search_three(&without(numbers, way.at), way.need, way.way != Way::Without, lines)?;
        Some(way.spell(&inner))
    })
}

/// `510 = 410 + 100: 410 from 93, 67, 9`
fn head(numbers: &[i64], way: Move, target: i64) -> String {
    let rest = comma_list(&without(numbers, way.at));
    let outer = way.spell(&Expression::number(way.need)).text;
    let equation = if way.way == Way::Without { String::new() } else { format!("{target} = {outer}: ") };
    format!("{equation}{} from {rest}", way.need)
}

/// A full search of five numbers would be hundreds of lines: only ways that lead somewhere are shown.
fn search_more(numbers: &[i64], target: i64, lines: &mut Vec<String>) -> Option<Expression> {
    if numbers.len() < 4 {
        return search(numbers, target, true, lines);
    }
    distinct(numbers).flat_map(|at| moves(numbers, at, target, true)).find_map(|way| {
        let mut after = Vec::new();
        let inner = search_more(&without(numbers, way.at), way.need, &mut after)?;
        lines.push(head(numbers, way, target));
        lines.append(&mut after);
        Some(way.spell(&inner))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn solve(numbers: &[i64], target: i64, all: bool) -> (Option<String>, Vec<String>) {
        let mut lines = Vec::new();
        let solution = search(numbers, target, all, &mut lines);
        (solution.map(|solution| solution.text), lines)
    }

    #[test]
    fn a_search_shows_its_work() {
        let (solution, lines) = solve(&[25, 7, 3], 196, true);
        assert_eq!(solution.as_deref(), Some("(25 + 3) * 7"));
        let expected = [
            "last 25: need 171 221; 7, 3: 10 4 21, no",
            "last 7: need 189 203 28; 25, 3: 28 22 75, 28",
            "25 + 3 = 28, 28 * 7 = 196",
        ];
        assert_eq!(lines, expected);
        let (solution, lines) = solve(&[90, 20, 9], 61, true);
        assert_eq!(solution.as_deref(), Some("90 - (20 + 9)"));
        assert_eq!(lines, ["last 90: need 29 151; 20, 9: 29 11, 29", "20 + 9 = 29, 90 - 29 = 61"]);
        let (solution, lines) = solve(&[50, 25, 7, 3], 175, false);
        assert_eq!(solution.as_deref(), Some("25 * 7"));
        let expected = [
            "175 from 25, 7, 3",
            "last 25: need 175 150 200 7; 7, 3: 10 4 21, no",
            "last 7: need 175 168 182 25; 25, 3: 28 22 75, no",
            "last 3: need 175 172 178; 25, 7: 32 18 175, 175",
            "25 * 7 = 175",
        ];
        assert_eq!(lines, expected);
        assert_eq!(solve(&[2, 2, 2], 999, true).0, None);
    }

    #[test]
    fn numbers_may_be_left_out() {
        let (solution, lines) = solve(&[82, 69, 50], 119, false);
        assert_eq!(solution.as_deref(), Some("69 + 50"));
        assert_eq!(lines[0], "last 82: need 119 37 201; 69, 50: 119 19, 119");
        assert_eq!(lines[1], "69 + 50 = 119");
    }

    #[test]
    fn every_instance_is_solved_and_short() {
        for n in 2..=6 {
            let task = Countdown { numbers: Range(n, n), ..Countdown::default() };
            for i in 0..if n < 5 { 60 } else { 10 } {
                let instance = task.instance(&mut Rng::new(&[i]));
                assert!(instance.check.accepts(&instance.answer), "{instance:?}");
                assert!(instance.reasoning.lines().count() <= LINES_MAX, "{instance:?}");
            }
        }
    }

    #[test]
    fn what_cannot_be_found_becomes_a_sum() {
        let task = Countdown { values: Range(500, 1000), targets: Range(1, 1), ..Countdown::default() };
        let instance = task.instance(&mut Rng::new(&[3]));
        assert!(instance.check.accepts(&instance.answer), "{instance:?}");
    }
}
