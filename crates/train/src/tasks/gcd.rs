//! Greatest common divisors by Euclid's algorithm.

use serde::Deserialize;

use super::{Check, Instance, Parameters, Range, Task, Wording, and_list, comma_list, steps};
use crate::rng::Rng;

/// Greatest common divisors of positive numbers.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Gcd {
    /// How many numbers.
    numbers: Range,
    /// The numbers; in a quarter of the questions a tenth as large, for most divisions of those are short.
    values: Range,
    wording: Wording,
}

impl Default for Gcd {
    fn default() -> Self {
        Self { numbers: Range(2, 2), values: Range(1, 1000), wording: Wording::All }
    }
}

impl Parameters for Gcd {
    fn check(&self) -> Result<(), String> {
        self.numbers.check("numbers", 2, 8)?;
        self.values.check("values", 1, 1_000_000_000)
    }
}

const GYM: [&str; 1] =
    ["Find the Greatest Common Divisor (GCD) of these numbers: {}. Give only the GCD as your final answer."];
const OWN: [&str; 5] = [
    "What is the greatest common divisor of {}?",
    "Which is the largest number that divides {} without a rest?",
    "GCD of {}?",
    "Give me the highest common factor of {}.",
    "Use Euclid's algorithm on {} and tell me the result.",
];

impl Task for Gcd {
    fn instance(&self, rng: &mut Rng) -> Instance {
        // Most pairs have no common divisor but 1; as in reasoning-gym, three draws look for one that has.
        let Range(low, high) = self.values;
        let values = Range(low, if rng.chance(0.25) { (high / 10).max(low) } else { high });
        let mut numbers = Vec::new();
        for _ in 0..3 {
            let n_numbers = self.numbers.draw(rng);
            numbers = (0..n_numbers).map(|_| values.draw(rng)).collect();
            if numbers.iter().copied().reduce(gcd) > Some(1) {
                break;
            }
        }
        let mut lines = Vec::new();
        let mut value = numbers[0];
        for number in &numbers[1..] {
            let (mut a, mut b) = (value.max(*number), value.min(*number));
            lines.push(format!("gcd({a}, {b})"));
            while b > 0 {
                let (line, rest) = steps::divide_with_rest(a, b);
                lines.push(line);
                (a, b) = (b, rest);
            }
            lines.push(format!("gcd is {a}"));
            value = a;
        }
        let (sentence, from_gym) = self.wording.draw(rng, &GYM, &OWN);
        let list = if from_gym { comma_list(&numbers) } else { and_list(&numbers) };
        let mut sorted = numbers.clone();
        sorted.sort_unstable();
        Instance {
            question: sentence.replace("{}", &list),
            reasoning: lines.join("\n"),
            answer: value.to_string(),
            check: Check::Integer { expected: value },
            key: format!("gcd {}", comma_list(&sorted)),
        }
    }
}

fn gcd(a: i64, b: i64) -> i64 {
    if b == 0 { a } else { gcd(b, a % b) }
}
