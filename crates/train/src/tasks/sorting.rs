//! Sorting numbers, by taking the next one again and again.

use serde::Deserialize;

use super::{Check, Instance, Parameters, Range, Task, Wording, and_list, comma_list};
use crate::rng::Rng;

/// Lists to bring into order.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct NumberSorting {
    /// How many numbers.
    numbers: Range,
    /// The numbers' whole part.
    values: Range,
    /// Digits after the point.
    decimals: Range,
    wording: Wording,
}

impl Default for NumberSorting {
    fn default() -> Self {
        Self { numbers: Range(3, 10), values: Range(-100, 100), decimals: Range(0, 0), wording: Wording::All }
    }
}

impl Parameters for NumberSorting {
    fn check(&self) -> Result<(), String> {
        self.numbers.check("numbers", 1, 64)?;
        self.values.check("values", -1_000_000, 1_000_000)?;
        self.decimals.check("decimals", 0, 4)
    }
}

const GYM: [&str; 1] = ["Sort these numbers in {order} order: {}
Please follow the instruction below:
## 1. Let all your answers be a list of numbers. Instead of reporting your answer as -69, -13, 1, 7, 11, 43, 59, 61, use ['-69', '-13', '1', '7', '11', '43', '59', '61'] instead
## 2. Convert all numbers in the square brackets as strings. For example, ['-69', '-13', '1', '7', '11', '43', '59', '61']
"];
const OWN: [[&str; 2]; 4] = [
    ["Put these numbers in order, smallest first: {}", "Put these numbers in order, largest first: {}"],
    ["Sort {} from small to large.", "Sort {} from large to small."],
    ["Arrange in ascending order: {}", "Arrange in descending order: {}"],
    ["Here are some numbers: {}. List them from lowest to highest.", "List {} from highest to lowest, with commas."],
];

/// A number in units of its last digit.
fn spell(number: i64, decimals: u32) -> String {
    if decimals == 0 {
        return number.to_string();
    }
    let power = 10i64.pow(decimals);
    let sign = if number < 0 { "-" } else { "" };
    format!("{sign}{}.{:0width$}", number.abs() / power, number.abs() % power, width = decimals as usize)
}

impl Task for NumberSorting {
    fn instance(&self, rng: &mut Rng) -> Instance {
        let decimals = self.decimals.draw(rng) as u32;
        let power = 10i64.pow(decimals);
        let n_numbers = self.numbers.draw(rng);
        let range = Range(self.values.0 * power, self.values.1 * power);
        let numbers: Vec<i64> = (0..n_numbers).map(|_| range.draw(rng)).collect();
        let descending = rng.chance(0.5);
        let mut left = numbers.clone();
        let mut sorted = Vec::new();
        let mut lines = Vec::new();
        let all = |numbers: &[i64]| numbers.iter().map(|number| spell(*number, decimals)).collect::<Vec<_>>();
        while !left.is_empty() {
            let best = if descending { left.iter().max() } else { left.iter().min() };
            let at = left.iter().position(|number| Some(number) == best).unwrap_or(0);
            let next = left[at];
            lines.push(format!("{}: {}", all(&left).join(" "), spell(next, decimals)));
            left.remove(at);
            sorted.push(next);
        }
        let gym: Vec<[&str; 2]> = GYM.iter().map(|sentence| [*sentence; 2]).collect();
        let (sentences, from_gym) = self.wording.draw(rng, &gym, &OWN);
        let order = if descending { "descending" } else { "ascending" };
        let (numbers, sorted) = (all(&numbers), all(&sorted));
        let list = if from_gym || rng.chance(0.5) { comma_list(&numbers) } else { and_list(&numbers) };
        let quoted: Vec<String> = sorted.iter().map(|number| format!("'{number}'")).collect();
        Instance {
            question: sentences[usize::from(descending)].replace("{order}", order).replace("{}", &list),
            reasoning: lines.join("\n"),
            answer: if from_gym { format!("[{}]", comma_list(&quoted)) } else { comma_list(&sorted) },
            check: Check::List { expected: sorted },
            key: format!("sort {order} {}", comma_list(&numbers)),
        }
    }
}
