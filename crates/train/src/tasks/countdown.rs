//! Countdown: reach a target from given numbers with + - * /.
//!
//! The reasoning is a search backwards from the target: guess the number that comes last, see what the others would
//! have to give, and go on until two are left, whose results are listed. Wrong guesses are shown as they are met, so
//! that what is imitated is looking, not knowing.

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

impl Task for Countdown {
    fn instance(&self, rng: &mut Rng) -> Instance {
        let ((sentence, all), from_gym) = self.wording.draw(rng, &GYM, &OWN);
        let n_numbers = self.numbers.draw(rng);
        let n_used = if *all { n_numbers } else { rng.between(2, n_numbers) };
        let (mut used, target) = self.draw(rng, n_used);
        let mut numbers = used.clone();
        numbers.extend((n_used..n_numbers).map(|_| self.values.draw(rng)));
        rng.shuffle(&mut numbers);
        used.sort_unstable_by(|a, b| b.cmp(a));
        let mut lines = Vec::new();
        if n_used < n_numbers {
            lines.push(format!("use {}", comma_list(&used)));
        }
        let solution = search(rng, &used, target, &mut lines);
        // `draw` made the target by the very moves that the search tries.
        let answer = solution.map_or_else(|| target.to_string(), |solution| solution.text);
        let list = if from_gym { comma_list(&numbers) } else { and_list(&numbers) };
        let question = sentence.replace("{target}", &target.to_string()).replace("{}", &list);
        let mut sorted = numbers.clone();
        sorted.sort_unstable();
        Instance {
            question: if from_gym { question + RULES } else { question },
            reasoning: lines.join("\n"),
            answer,
            key: format!("countdown {target} {}", comma_list(&sorted)),
            check: Check::Countdown { numbers, target, all: *all },
        }
    }
}

impl Countdown {
    /// Numbers, and a target that they reach when each is applied to the value so far.
    fn draw(&self, rng: &mut Rng, n_used: i64) -> (Vec<i64>, i64) {
        const DRAWS: usize = 2000;
        let chain = |rng: &mut Rng| {
            let numbers: Vec<i64> = (0..n_used).map(|_| self.values.draw(rng)).collect();
            let mut value = numbers[0];
            for number in &numbers[1..] {
                let operator = *rng.choose(&['+', '-', '*', '/']);
                value = apply(value, operator, *number)?;
            }
            (self.targets.0 <= value && value <= self.targets.1).then_some((numbers, value))
        };
        // Parameters under which no chain meets the targets still give a question: a sum.
        (0..DRAWS).find_map(|_| chain(rng)).unwrap_or_else(|| {
            let numbers: Vec<i64> = (0..n_used).map(|_| self.values.draw(rng)).collect();
            let sum = numbers.iter().sum();
            (numbers, sum)
        })
    }
}

/// The value, where it is whole and not too large to think about.
fn apply(a: i64, operator: char, b: i64) -> Option<i64> {
    let value = match operator {
        '+' => a + b,
        '-' => a - b,
        '*' => a * b,
        _ if a % b == 0 => a / b,
        _ => return None,
    };
    (value.abs() <= 1_000_000).then_some(value)
}

/// A solution's text, and whether it is a sum or difference at its top.
#[derive(Clone, Debug)]
struct Solution {
    text: String,
    is_sum: bool,
}

impl Solution {
    fn then(&self, operator: char, number: i64) -> Self {
        let is_sum = matches!(operator, '+' | '-');
        let left = if self.is_sum && !is_sum { format!("({})", self.text) } else { self.text.clone() };
        Self { text: format!("{left} {operator} {number}"), is_sum }
    }
}

/// What can come last: the number, its operator, and what the others have to give before it.
fn moves(numbers: &[i64], target: i64) -> Vec<(usize, char, i64)> {
    let mut moves = Vec::new();
    for (at, &number) in numbers.iter().enumerate() {
        let need = [
            ('+', Some(target - number)),
            ('-', Some(target + number)),
            ('*', (number != 0 && target % number == 0).then(|| target / number)),
            ('/', target.checked_mul(number).filter(|need| need.abs() <= 1_000_000)),
        ];
        moves.extend(need.into_iter().filter_map(|(operator, need)| Some((at, operator, need?))));
    }
    moves
}

/// Whether `numbers`, all of them, reach `target` by a chain of moves.
fn is_reachable(numbers: &[i64], target: i64) -> bool {
    if let [number] = numbers {
        return *number == target;
    }
    moves(numbers, target).into_iter().any(|(at, _, need)| is_reachable(&without(numbers, at), need))
}

fn without(numbers: &[i64], at: usize) -> Vec<i64> {
    let mut rest = numbers.to_vec();
    rest.remove(at);
    rest
}

/// Searches, writing what is tried. `None` if `target` cannot be reached.
fn search(rng: &mut Rng, numbers: &[i64], target: i64, lines: &mut Vec<String>) -> Option<Solution> {
    match numbers {
        [] => None,
        [number] => (*number == target).then(|| Solution { text: number.to_string(), is_sum: false }),
        [a, b] => {
            let (line, solution) = pair(*a, *b, target);
            lines.push(line);
            solution
        }
        [_, _, _] => search_three(rng, numbers, target, lines),
        _ => search_more(rng, numbers, target, lines),
    }
}

/// `25, 7: 32 18 -18 175` and, where the target is among the results, how it came.
fn pair(a: i64, b: i64, target: i64) -> (String, Option<Solution>) {
    let results = pair_results(a, b);
    let found = results.iter().find(|(_, _, _, value)| *value == target);
    let solution = found.map(|&(a, operator, b, _)| Solution { text: a.to_string(), is_sum: false }.then(operator, b));
    let verdict = solution.as_ref().map_or_else(|| "no".to_owned(), |found| format!("{} = {target}", found.text));
    (format!("{}, {verdict}", spell_pair(a, b, &results)), solution)
}

fn pair_results(a: i64, b: i64) -> Vec<(i64, char, i64, i64)> {
    let candidates = [(a, '+', b), (a, '-', b), (b, '-', a), (a, '*', b), (a, '/', b), (b, '/', a)];
    candidates.into_iter().filter_map(|(a, operator, b)| Some((a, operator, b, apply(a, operator, b)?))).collect()
}

fn spell_pair(a: i64, b: i64, results: &[(i64, char, i64, i64)]) -> String {
    let values: Vec<String> = results.iter().map(|(_, _, _, value)| value.to_string()).collect();
    format!("{a}, {b}: {}", values.join(" "))
}

/// Tries each number as the last one; all that it would need, against all that the two others give.
fn search_three(rng: &mut Rng, numbers: &[i64], target: i64, lines: &mut Vec<String>) -> Option<Solution> {
    let mut order: Vec<usize> = (0..numbers.len()).collect();
    rng.shuffle(&mut order);
    for at in order {
        let (last, rest) = (numbers[at], without(numbers, at));
        let results = pair_results(rest[0], rest[1]);
        let moves: Vec<(char, i64)> = (moves(numbers, target).into_iter())
            .filter_map(|(place, operator, need)| (place == at).then_some((operator, need)))
            .collect();
        let needs: Vec<String> = moves.iter().map(|(_, need)| need.to_string()).collect();
        let found = moves.iter().find_map(|&(operator, need)| {
            let &(a, inner, b, _) = results.iter().find(|result| result.3 == need)?;
            Some((need, Solution { text: a.to_string(), is_sum: false }.then(inner, b), operator))
        });
        let head = format!("last {last}: need {}; {}", needs.join(" "), spell_pair(rest[0], rest[1], &results));
        match found {
            None => lines.push(format!("{head}, no")),
            Some((need, inner, operator)) => {
                lines.push(format!("{head}, {need}"));
                lines.push(format!("{} = {need}, {need} {operator} {last} = {target}", inner.text));
                return Some(inner.then(operator, last));
            }
        }
    }
    None
}

/// Tries some ways that lead nowhere, then one that does: a full search of four numbers would be hundreds of lines.
fn search_more(rng: &mut Rng, numbers: &[i64], target: i64, lines: &mut Vec<String>) -> Option<Solution> {
    const WRONG_MAX: u64 = 4;
    let mut candidates = moves(numbers, target);
    rng.shuffle(&mut candidates);
    let is_way = |&(at, _, need): &(usize, char, i64)| is_reachable(&without(numbers, at), need);
    let n_wrong = if numbers.len() == 4 { rng.below(WRONG_MAX + 1) as usize } else { 0 };
    let wrong: Vec<_> = if n_wrong > 0 {
        candidates.iter().filter(|way| !is_way(way)).take(n_wrong).copied().collect()
    } else {
        vec![]
    };
    let right = candidates.iter().find(|way| is_way(way)).copied()?;
    for (at, operator, need) in wrong.into_iter().chain([right]) {
        let rest = without(numbers, at);
        lines.push(format!("{need} {operator} {} = {target}, need {need} from {}", numbers[at], comma_list(&rest)));
        if let Some(inner) = search(rng, &rest, need, lines) {
            return Some(inner.then(operator, numbers[at]));
        }
        lines.push("back".to_owned());
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_search_shows_its_work() {
        let mut lines = Vec::new();
        let solution = search(&mut Rng::new(&[5]), &[25, 7, 3], 196, &mut lines).unwrap();
        assert_eq!(solution.text, "(25 + 3) * 7");
        assert_eq!(lines.last().unwrap(), "25 + 3 = 28, 28 * 7 = 196");
        assert!(search(&mut Rng::new(&[5]), &[2, 2, 2], 999, &mut lines).is_none());
    }

    #[test]
    fn every_instance_is_solved_and_short() {
        for n in 2..=6 {
            let task = Countdown { numbers: Range(n, n), ..Countdown::default() };
            for i in 0..if n < 5 { 60 } else { 10 } {
                let instance = task.instance(&mut Rng::new(&[i]));
                assert!(instance.check.accepts(&instance.answer), "{instance:?}");
                assert!(instance.reasoning.lines().count() <= 30, "{instance:?}");
            }
        }
    }
}
