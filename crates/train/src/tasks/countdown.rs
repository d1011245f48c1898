//! Countdown: reach a target from given numbers with + - * /.
//!
//! The reasoning puts the numbers in order and searches backwards from the target: each number in turn comes last, what the
//! others would have to give is written down, and so on until two are left, whose results are listed. Products and divisions
//! that nobody knows by heart are worked out above. Where numbers may be left out, all pairs are looked at first, then what
//! three give, and so on. The order is always the same and nothing is skipped that fails, so that what is imitated is
//! looking, not knowing.
//!
//! A share of the solutions may leave the search out (`without_search`): right too, as a book prints them, and what a model
//! that knows no solution learns from them is to guess. Reinforcement learning finds out which of the two pays.

use std::collections::BTreeSet;

use serde::Deserialize;

use super::{Check, Instance, Parameters, Range, Task, Wording, and_list, comma_list, steps};
use crate::rng::Rng;

/// Numbers and a target that they can reach.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Countdown {
    /// How many numbers.
    numbers: Range,
    /// The numbers; three questions in ten have those of the television game (25, 50, 75, 100, and up to 10), if within it.
    values: Range,
    /// The target.
    targets: Range,
    /// Share of the worked solutions that give the way alone and not how it was found.
    without_search: f64,
    wording: Wording,
}

impl Default for Countdown {
    fn default() -> Self {
        let (numbers, values, targets) = (Range(3, 4), Range(1, 100), Range(10, 999));
        Self { numbers, values, targets, without_search: 0.0, wording: Wording::All }
    }
}

impl Parameters for Countdown {
    fn check(&self) -> Result<(), String> {
        self.numbers.check("numbers", 2, 6)?;
        self.values.check("values", 1, 1000)?;
        self.targets.check("targets", 1, 1_000_000)?;
        match self.without_search {
            share if (0.0..=1.0).contains(&share) => Ok(()),
            share => Err(format!("without_search is a share from 0 to 1, not {share}")),
        }
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
const OWN: [(&str, bool); 8] = [
    ("Use {} to make {target}", false),
    ("Use {} to get {target}.", false),
    ("How can I make {target} out of {}?", false),
    ("Make {target} from {}. You may leave numbers out.", false),
    ("Can you get {target} with {}? Each number at most once.", false),
    ("Reach {target} with all of the numbers {}, each exactly once.", true),
    ("Combine {} into {target} with + - * /. Every number has to be used once.", true),
    ("Countdown: numbers {}, target {target}. Give me the expression; not every number is needed.", false),
];

/// Longest solution that is asked to be imitated, in bytes, which are more than its tokens: a context has an end.
const BYTES_MAX: usize = 1600;

impl Task for Countdown {
    fn instance(&self, rng: &mut Rng) -> Instance {
        const DRAWS: usize = 500;
        let ((sentence, all), from_gym) = self.wording.draw(rng, &GYM, &OWN);
        let n_numbers = self.numbers.draw(rng);
        let n_used = if *all { n_numbers } else { rng.between(2, n_numbers) };
        let solved = (0..DRAWS).find_map(|_| {
            let (numbers, target) = self.draw(rng, n_numbers, n_used)?;
            Solved::new(numbers, target, *all).filter(|solved| solved.search.len() <= BYTES_MAX)
        });
        // Parameters under which nothing is found still give a question: a sum.
        let Solved { numbers, target, search, solution } = solved.unwrap_or_else(|| {
            let numbers: Vec<i64> = (0..n_numbers).map(|_| self.values.draw(rng)).collect();
            let text = numbers.iter().map(i64::to_string).collect::<Vec<_>>().join(" + ");
            let target = numbers.iter().sum();
            let steps = vec![format!("{text} = {target}")];
            Solved { numbers, target, search: steps[0].clone(), solution: Expression { text, is_sum: true, steps } }
        });
        let is_searched = !rng.chance(self.without_search);
        let mut sorted = numbers.clone();
        sorted.sort_unstable();
        let list = if from_gym { comma_list(&numbers) } else { and_list(&numbers) };
        let question = sentence.replace("{target}", &target.to_string()).replace("{}", &list);
        Instance {
            question: if from_gym { question + RULES } else { question },
            reasoning: if is_searched { search } else { solution.steps.join(", ") },
            answer: solution.text,
            key: format!("countdown {target} {}", comma_list(&sorted)),
            check: Check::Countdown { numbers, target, all: *all },
        }
    }
}

impl Countdown {
    /// Numbers, and a target that `n_used` of them reach when each is applied to the value so far.
    fn draw(&self, rng: &mut Rng, n_numbers: i64, n_used: i64) -> Option<(Vec<i64>, i64)> {
        let Range(low, high) = self.values;
        let as_on_television = low <= 10 && high >= 100 && rng.chance(0.3);
        let number = |rng: &mut Rng| match as_on_television {
            true if rng.chance(0.4) => *rng.choose(&[25, 50, 75, 100]),
            true => rng.between(low, 10),
            false => self.values.draw(rng),
        };
        let mut numbers: Vec<i64> = (0..n_numbers).map(|_| number(rng)).collect();
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
    /// The search, line by line.
    search: String,
    solution: Expression,
}

impl Solved {
    /// `None` where the search finds nothing, which does not mean that there is nothing.
    fn new(numbers: Vec<i64>, target: i64, all: bool) -> Option<Self> {
        let mut descending = numbers.clone();
        descending.sort_unstable_by(|a, b| b.cmp(a));
        let mut paper = Paper { lines: vec![comma_list(&descending)], ..Paper::default() };
        let solution = if all || numbers.len() > 4 {
            search_all(&descending, target, &mut paper)
        } else {
            search_some(&descending, target, &mut paper)
        }?;
        Some(Self { numbers, target, search: paper.lines.join("\n"), solution })
    }
}

/// What a search has written.
#[derive(Default)]
struct Paper {
    lines: Vec<String>,
    /// Pairs whose product stands above.
    multiplied: BTreeSet<(i64, i64)>,
    /// Pairs whose division stands above.
    divided: BTreeSet<(i64, i64)>,
}

impl Paper {
    /// Writes down whether `number` divides `target`, unless it stands above or is plain.
    fn divide(&mut self, target: i64, number: i64) {
        if 1 < number && number < target && self.divided.insert((target, number)) {
            self.lines.extend(steps::divides(target, number));
        }
    }
}

/// An expression's text, and whether it is a sum or difference at its top.
#[derive(Clone, Debug)]
struct Expression {
    text: String,
    is_sum: bool,
    /// The equations that lead to its value, from the innermost.
    steps: Vec<String>,
}

impl Expression {
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
    target: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Plus,
    Minus,
    /// The others are taken from the number.
    From,
    Times,
}

impl Move {
    /// What is done to an expression of the value `need`.
    fn spell(self, inner: &Expression) -> Expression {
        let of = |bare: &str, in_brackets: &str| match self.way {
            Way::Plus => format!("{bare} + {}", self.number),
            Way::Minus => format!("{bare} - {}", self.number),
            Way::From => format!("{} - {in_brackets}", self.number),
            Way::Times => format!("{in_brackets} * {}", self.number),
        };
        let mut steps = inner.steps.clone();
        steps.push(format!("{} = {}", self.outer(), self.target));
        Expression { text: of(&inner.text, &inner.in_brackets()), is_sum: self.way != Way::Times, steps }
    }

    /// The same of the number that is needed: `28 * 7`.
    fn outer(self) -> String {
        let Self { number, need, way, .. } = self;
        match way {
            Way::Plus => format!("{need} + {number}"),
            Way::Minus => format!("{need} - {number}"),
            Way::From => format!("{number} - {need}"),
            Way::Times => format!("{need} * {number}"),
        }
    }
}

/// What the number at `at` can do last. What is needed before it is never negative, and a division never comes last: such
/// ways are rare, and cost more to look at than they find.
fn moves(numbers: &[i64], at: usize, target: i64) -> Vec<Move> {
    let number = numbers[at];
    let ways = [
        (Way::Plus, (number <= target).then(|| target - number)),
        (Way::From, (number > target).then(|| number - target)),
        (Way::Minus, Some(target + number)),
        (Way::Times, (number > 0 && target % number == 0).then(|| target / number)),
    ];
    ways.into_iter().filter_map(|(way, need)| Some(Move { at, number, way, need: need?, target })).collect()
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

/// Each choice of `n` of the numbers, which descend, once: those with the largest first.
fn choices(numbers: &[i64], n: usize) -> Vec<Vec<i64>> {
    if n == 0 {
        return vec![Vec::new()];
    }
    let firsts = distinct(numbers).filter(|at| at + n <= numbers.len());
    let chosen = firsts.flat_map(|at| {
        let rest = choices(&numbers[at + 1..], n - 1);
        rest.into_iter().map(move |rest| [vec![numbers[at]], rest].concat())
    });
    chosen.collect()
}

/// Results of two numbers, none negative; products up to twice what can be needed, so that whoever only guesses how large
/// one is leaves out none that is needed. A product that is not known by heart is worked out once.
fn pair_results(a: i64, b: i64, need_max: i64, paper: &mut Paper) -> Vec<(i64, Expression)> {
    let (a, b) = (a.max(b), a.min(b));
    let mut results = Vec::new();
    for operator in ['+', '-', '*', '/'] {
        let value = match apply(a, operator, b) {
            Some(value) if operator != '*' || value <= 2 * need_max => value,
            _ => continue,
        };
        if operator == '*' && paper.multiplied.insert((a, b)) {
            let (work, _) = steps::operate(a, '*', b);
            if work.contains(':') {
                paper.lines.push(work);
            }
        }
        let text = format!("{a} {operator} {b}");
        let steps = vec![format!("{text} = {value}")];
        results.push((value, Expression { text, is_sum: matches!(operator, '+' | '-'), steps }));
    }
    results
}

/// Searches `numbers`, which descend, using every one of them.
fn search_all(numbers: &[i64], target: i64, paper: &mut Paper) -> Option<Expression> {
    match numbers {
        [] | [_] => None,
        [a, b] => {
            let results = pair_results(*a, *b, target, paper);
            let found = results.iter().find(|(value, _)| *value == target).map(|(_, found)| found.clone());
            let verdict = found.as_ref().map_or_else(|| "no".to_owned(), |found| format!("{} = {target}", found.text));
            paper.lines.push(format!("need {target}; {}, {verdict}", spell_pair(*a, *b, &results)));
            found
        }
        [_, _, _] => search_three(numbers, target, paper),
        [_, _, _, _] => search_four(numbers, target, paper),
        _ => search_more(numbers, target, paper),
    }
}

/// Searches two of the numbers, then three, and so on.
fn search_some(numbers: &[i64], target: i64, paper: &mut Paper) -> Option<Expression> {
    (2..=numbers.len()).find_map(|n| {
        choices(numbers, n).into_iter().find_map(|chosen| {
            if n > 2 {
                paper.lines.push(format!("{target} from {}", comma_list(&chosen)));
            }
            search_all(&chosen, target, paper)
        })
    })
}

/// `67, 9: 76 58 603`
fn spell_pair(a: i64, b: i64, results: &[(i64, Expression)]) -> String {
    let values: Vec<String> = results.iter().map(|(value, _)| value.to_string()).collect();
    format!("{a}, {b}: {}", values.join(" "))
}

/// Each number as the last one: all that it would need, against all that the two others give.
fn search_three(numbers: &[i64], target: i64, paper: &mut Paper) -> Option<Expression> {
    for at in distinct(numbers) {
        let last = numbers[at];
        paper.divide(target, last);
        let (rest, moves) = (without(numbers, at), moves(numbers, at, target));
        let needs: Vec<String> = moves.iter().map(|way| way.need.to_string()).collect();
        let need_max = moves.iter().map(|way| way.need).max().unwrap_or(0);
        let results = pair_results(rest[0], rest[1], need_max, paper);
        let found = moves.iter().find_map(|way| {
            let (_, inner) = results.iter().find(|(value, _)| *value == way.need)?;
            Some((way, inner))
        });
        let head = format!("last {last}: need {}; {}", needs.join(" "), spell_pair(rest[0], rest[1], &results));
        let Some((way, inner)) = found else {
            paper.lines.push(format!("{head}, no"));
            continue;
        };
        let solution = way.spell(inner);
        paper.lines.push(format!("{head}, {}", way.need));
        paper.lines.push(solution.steps.join(", "));
        return Some(solution);
    }
    None
}

/// Each way for a number to be the last of four, in an order that needs no insight: times first, where a division without
/// rest says that it may well be right, then sums and differences.
fn search_four(numbers: &[i64], target: i64, paper: &mut Paper) -> Option<Expression> {
    distinct(numbers).for_each(|at| paper.divide(target, numbers[at]));
    let mut ways: Vec<Move> = distinct(numbers).flat_map(|at| moves(numbers, at, target)).collect();
    ways.sort_by_key(|way| way.way != Way::Times);
    ways.into_iter().find_map(|way| {
        paper.lines.push(head(numbers, way));
        let inner = search_three(&without(numbers, way.at), way.need, paper)?;
        Some(way.spell(&inner))
    })
}

/// `510 = 410 + 100: 410 from 93, 67, 9`
fn head(numbers: &[i64], way: Move) -> String {
    let rest = comma_list(&without(numbers, way.at));
    format!("{} = {}: {} from {rest}", way.target, way.outer(), way.need)
}

/// A full search of five numbers would be hundreds of lines: only ways that lead somewhere are shown.
fn search_more(numbers: &[i64], target: i64, paper: &mut Paper) -> Option<Expression> {
    if numbers.len() < 4 {
        return search_all(numbers, target, paper);
    }
    distinct(numbers).flat_map(|at| moves(numbers, at, target)).find_map(|way| {
        let mut after = Paper::default();
        let inner = search_more(&without(numbers, way.at), way.need, &mut after)?;
        paper.lines.push(head(numbers, way));
        paper.lines.append(&mut after.lines);
        Some(way.spell(&inner))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn solve(numbers: &[i64], target: i64, all: bool) -> Option<(String, Vec<String>)> {
        let solved = Solved::new(numbers.to_vec(), target, all)?;
        Some((solved.solution.text, solved.search.lines().map(str::to_owned).collect()))
    }

    #[test]
    fn a_search_shows_its_work() {
        let (solution, lines) = solve(&[25, 7, 3], 196, true).expect("a solution");
        assert_eq!(solution, "(25 + 3) * 7");
        let expected = [
            "25, 7, 3",
            "last 25: need 171 221; 7, 3: 10 4 21, no",
            "196 / 7: 19-2*7=5, 56-8*7=0, 28",
            "25 * 3: 5*3=15, 2*3+1=7, 75",
            "last 7: need 189 203 28; 25, 3: 28 22 75, 28",
            "25 + 3 = 28, 28 * 7 = 196",
        ];
        assert_eq!(lines, expected);
        let (solution, lines) = solve(&[90, 20, 9], 61, true).expect("a solution");
        assert_eq!(solution, "90 - (20 + 9)");
        let expected = [
            "90, 20, 9",
            "20 * 9: 0*9=0, 2*9=18, 180",
            "last 90: need 29 151; 20, 9: 29 11 180, 29",
            "20 + 9 = 29, 90 - 29 = 61",
        ];
        assert_eq!(lines, expected);
        assert!(solve(&[2, 2, 2], 999, true).is_none());
    }

    #[test]
    fn numbers_may_be_left_out() {
        let (solution, lines) = solve(&[3, 7, 25, 50], 175, false).expect("a solution");
        assert_eq!(solution, "25 * 7");
        let expected = [
            "50, 25, 7, 3",
            "need 175; 50, 25: 75 25 2, no",
            "50 * 7: 0*7=0, 5*7=35, 350",
            "need 175; 50, 7: 57 43 350, no",
            "50 * 3: 0*3=0, 5*3=15, 150",
            "need 175; 50, 3: 53 47 150, no",
            "25 * 7: 5*7=35, 2*7+3=17, 175",
            "need 175; 25, 7: 32 18 175, 25 * 7 = 175",
        ];
        assert_eq!(lines, expected);
        let (solution, lines) = solve(&[50, 25, 2, 2], 98, false).expect("a solution");
        assert_eq!(solution, "50 * 2 - 2");
        assert!(lines.contains(&"98 from 50, 25, 2".to_owned()), "{lines:?}");
    }

    #[test]
    fn choices_come_once() {
        assert_eq!(choices(&[9, 5, 5], 2), [[9, 5], [5, 5]]);
        assert_eq!(choices(&[4, 3, 2, 1], 3), [[4, 3, 2], [4, 3, 1], [4, 2, 1], [3, 2, 1]]);
    }

    #[test]
    fn a_solution_may_leave_the_search_out() {
        let task = Countdown { without_search: 1.0, ..Countdown::default() };
        for i in 0..40 {
            let instance = task.instance(&mut Rng::new(&[i]));
            assert!(instance.check.accepts(&instance.answer), "{instance:?}");
            assert!(!instance.reasoning.contains("need"), "{instance:?}");
        }
        assert!(Countdown { without_search: 1.5, ..task }.check().is_err());
    }

    #[test]
    fn every_instance_is_solved_and_short() {
        for n in 2..=6 {
            let task = Countdown { numbers: Range(n, n), ..Countdown::default() };
            for i in 0..if n < 5 { 60 } else { 10 } {
                let instance = task.instance(&mut Rng::new(&[i]));
                assert!(instance.check.accepts(&instance.answer), "{instance:?}");
                assert!(instance.reasoning.len() <= BYTES_MAX, "{instance:?}");
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
