//! Chained sums: `12 + 5 - 30`, worked term by term.

use serde::Deserialize;

use super::{Check, Instance, Parameters, Range, Task, Wording, number_of_digits, steps};
use crate::rng::Rng;

/// Chained sums and differences of numbers that are not negative.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct ChainSum {
    /// How many numbers.
    terms: Range,
    /// How many digits each number of an instance has.
    digits: Range,
    wording: Wording,
}

impl Default for ChainSum {
    fn default() -> Self {
        Self { terms: Range(2, 6), digits: Range(1, 4), wording: Wording::All }
    }
}

impl Parameters for ChainSum {
    fn check(&self) -> Result<(), String> {
        self.terms.check("terms", 1, 32)?;
        self.digits.check("digits", 1, 9)
    }
}

const GYM: [&str; 1] = ["State the final answer to the following arithmetic problem: {} ="];
const OWN: [&str; 8] = [
    "What is {}?",
    "{} = ?",
    "Add it up: {}",
    "How much is {}?",
    "Work out {}.",
    "Please compute {}.",
    "I need the result of {}. Only the number, please.",
    "{}",
];

impl Task for ChainSum {
    fn instance(&self, rng: &mut Rng) -> Instance {
        let (n_terms, n_digits) = (self.terms.draw(rng), self.digits.draw(rng));
        let mut value = number_of_digits(rng, n_digits);
        let mut expression = value.to_string();
        let mut lines = Vec::new();
        for _ in 1..n_terms {
            let operator = *rng.choose(&['+', '-']);
            let term = number_of_digits(rng, n_digits);
            expression.push_str(&format!(" {operator} {term}"));
            let (line, next) = steps::operate(value, operator, term);
            lines.push(line);
            value = next;
        }
        if lines.is_empty() {
            lines.push(expression.clone());
        }
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
