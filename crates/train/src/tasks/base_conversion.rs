//! Numbers between bases: to decimal digit by digit, from decimal by division.

use serde::Deserialize;

use super::{Check, Instance, Parameters, Range, Task, Wording};
use crate::rng::Rng;

/// Conversions of numbers that are not negative.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct BaseConversion {
    /// Both bases, which differ.
    bases: Range,
    /// The number.
    values: Range,
    wording: Wording,
}

impl Default for BaseConversion {
    fn default() -> Self {
        Self { bases: Range(2, 16), values: Range(0, 1000), wording: Wording::All }
    }
}

impl Parameters for BaseConversion {
    fn check(&self) -> Result<(), String> {
        self.bases.check("bases", 2, 36)?;
        if self.bases.0 == self.bases.1 {
            return Err("`bases` holds one base; expected at least two".to_owned());
        }
        self.values.check("values", 0, 1_000_000_000)
    }
}

const GYM: [&str; 1] = ["Your task is to convert a number between two different bases.

If the target base is > 10, use lowercase letters a-z for digits above 9.

Now, convert the {from} number {} to {to}
"];
const OWN: [&str; 4] = [
    "Write the {from} number {} in {to}.",
    "What is {} ({from}) in {to}?",
    "Convert {} from {from} to {to}.",
    "{} is a {from} number. How is it written in {to}? Lowercase letters for digits above 9.",
];

fn base_name(base: i64) -> String {
    match base {
        2 => "binary".to_owned(),
        16 => "hexadecimal".to_owned(),
        _ => format!("base-{base}"),
    }
}

fn digit(value: i64) -> char {
    char::from_digit(value as u32, 36).unwrap_or('?')
}

fn spell(mut value: i64, base: i64) -> String {
    let mut digits = vec![digit(value % base)];
    while value >= base {
        value /= base;
        digits.push(digit(value % base));
    }
    digits.iter().rev().collect()
}

/// Horner's rule from the first digit: `1*2+0=2`.
fn to_decimal(spelled: &str, base: i64) -> String {
    let mut value = 0;
    let mut steps = Vec::new();
    for c in spelled.chars() {
        let digit = i64::from(c.to_digit(36).unwrap_or(0));
        let name = if c.is_ascii_digit() { String::new() } else { format!("{c}={digit}, ") };
        let next = value * base + digit;
        steps.push(if steps.is_empty() {
            format!("{name}{next}")
        } else {
            format!("{name}{value}*{base}+{digit}={next}")
        });
        value = next;
    }
    steps.join(", ")
}

/// Division until nothing is left: `11=5*2+1`.
fn from_decimal(mut value: i64, base: i64) -> String {
    let mut steps = Vec::new();
    loop {
        let rest = value % base;
        let name = if rest < 10 { String::new() } else { format!(" {rest}={}", digit(rest)) };
        steps.push(format!("{value}={}*{base}+{rest}{name}", value / base));
        value /= base;
        if value == 0 {
            return steps.join(", ");
        }
    }
}

impl Task for BaseConversion {
    fn instance(&self, rng: &mut Rng) -> Instance {
        let value = self.values.draw(rng);
        let from = self.bases.draw(rng);
        let mut to = rng.between(self.bases.0, self.bases.1 - 1);
        to += i64::from(to >= from);
        let (source, target) = (spell(value, from), spell(value, to));
        let mut lines = Vec::new();
        if from != 10 {
            lines.push(to_decimal(&source, from));
        }
        if to != 10 {
            lines.push(from_decimal(value, to));
        }
        let (sentence, _) = self.wording.draw(rng, &GYM, &OWN);
        let question = sentence.replace("{from}", &base_name(from)).replace("{to}", &base_name(to));
        Instance {
            question: question.replace("{}", &source),
            reasoning: lines.join("\n"),
            check: Check::Text { expected: target.clone() },
            answer: target,
            key: format!("base {from} {to} {value}"),
        }
    }
}
