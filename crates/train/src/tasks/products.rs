//! Products of numbers of several digits, worked as on paper.

use serde::Deserialize;

use super::{Check, Instance, Parameters, Range, Task, Wording, number_of_digits, steps};
use crate::rng::Rng;

/// Products of numbers that are not negative.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Products {
    /// How many factors.
    terms: Range,
    /// How many digits the factors of an instance have.
    digits: Range,
    wording: Wording,
}

impl Default for Products {
    fn default() -> Self {
        Self { terms: Range(2, 2), digits: Range(1, 3), wording: Wording::All }
    }
}

impl Parameters for Products {
    fn check(&self) -> Result<(), String> {
        self.terms.check("terms", 2, 4)?;
        // Four factors of four digits stay far below 64 bits.
        self.digits.check("digits", 1, if self.terms.1 > 3 { 4 } else { 5 })
    }
}

const GYM: [&str; 1] = ["Solve the following multiplication: {}. Give only the result as your final answer."];
const OWN: [&str; 7] = [
    "What is {}?",
    "Multiply: {}",
    "{} = ?",
    "What do you get for {}?",
    "Please work out the product {}.",
    "How much is {}? Answer with the number alone.",
    "{}",
];

impl Task for Products {
    fn instance(&self, rng: &mut Rng) -> Instance {
        let (n_terms, n_digits) = (self.terms.draw(rng), self.digits.draw(rng));
        let factors: Vec<i64> = (0..n_terms).map(|_| number_of_digits(rng, n_digits)).collect();
        let expression = factors.iter().map(i64::to_string).collect::<Vec<_>>().join(" * ");
        let mut value = factors[0];
        let mut lines = Vec::new();
        for factor in &factors[1..] {
            let (line, next) = steps::operate(value, '*', *factor);
            lines.push(line);
            value = next;
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
