//! Properties that every task has: its worked solution is accepted and spoiled answers are not, an instance depends on
//! its name alone, and no question is both trained on and kept aside.
#![allow(clippy::unwrap_used, reason = "a test stops where something fails")]

use std::collections::HashSet;

use proptest::prelude::*;
use train::split::Split;
use train::tasks::{Check, NAMES, Questions, is_well_formed};

fn parameters(text: &str) -> toml::Table {
    toml::from_str(text).unwrap()
}

fn questions(name: &str, seed: u64) -> Questions {
    Questions::new(name, &toml::Table::new(), seed, 0.1).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn solutions_are_accepted_and_spoiled_ones_are_not(which in 0..NAMES.len(), seed: u64, index: u64) {
        let instance = questions(NAMES[which], seed).get(Split::Train, index).unwrap();
        let completion = instance.completion();
        prop_assert!(instance.verify(&completion), "{instance:?}");
        prop_assert!(is_well_formed(&completion, true));
        prop_assert!(instance.reasoning.len() < 4000, "{} bytes", instance.reasoning.len());
        // What is thought does not count, nor a right answer with something more.
        let thought = format!("{}</think>", instance.answer);
        prop_assert!(!instance.verify(&thought));
        for spoiled in [
            format!("{}1", instance.answer),
            format!("{}, 7", instance.answer),
            format!("{} {}", instance.answer, instance.answer),
            format!("-({})+0.5", instance.answer),
            format!("it is {}", instance.answer),
            String::new(),
        ] {
            prop_assert!(!instance.verify(&spoiled), "{spoiled:?} for {instance:?}");
        }
    }

    #[test]
    fn answers_of_any_text_are_judged_without_a_panic(which in 0..NAMES.len(), answer in ".{0,200}") {
        let instance = questions(NAMES[which], 3).get(Split::Train, 4).unwrap();
        let _ = instance.verify(&answer);
        let arithmetic: String = answer.chars().map(|c| b"0123456789+-*/() "[c as usize % 17] as char).collect();
        let _ = instance.verify(&arithmetic);
    }
}

#[test]
fn instances_depend_on_their_name_alone() {
    for name in NAMES {
        let get = |seed, index| questions(name, seed).get(Split::Train, index).unwrap();
        assert_eq!(get(1, 5), get(1, 5));
        let distinct: HashSet<String> = (0..20).map(|i| get(1, i).key).chain((0..20).map(|i| get(2, i).key)).collect();
        assert!(distinct.len() > 30, "{name}: {} of 40", distinct.len());
        let restored: train::tasks::Instance =
            serde_json::from_str(&serde_json::to_string(&get(1, 5)).unwrap()).unwrap();
        assert_eq!(restored, get(1, 5));
    }
}

#[test]
fn the_sides_share_no_question() {
    // Few possible questions, so that both sides meet the same ones if they can.
    for (name, text) in [
        ("chain_sum", "terms = [2, 2]\ndigits = [1, 1]"),
        ("products", "digits = [1, 1]"),
        ("gcd", "values = [1, 20]"),
        ("base_conversion", "values = [0, 15]\nbases = [2, 4]"),
        ("countdown", "numbers = [2, 2]\nvalues = [1, 9]\ntargets = [1, 20]"),
    ] {
        let keys = |side, seed| -> HashSet<String> {
            let questions = Questions::new(name, &parameters(text), seed, 0.3).unwrap();
            (0..300).map(|i| questions.get(side, i).unwrap().key).collect()
        };
        let (train, held_out) = (keys(Split::Train, 1), keys(Split::HeldOut, 2));
        assert!(train.len() > 20 && held_out.len() > 5, "{name}: {} {}", train.len(), held_out.len());
        assert!(train.is_disjoint(&held_out), "{name}");
    }
}

#[test]
fn the_wordings_of_reasoning_gym() {
    let gym = parameters("wording = \"reasoning_gym\"");
    let get = |name, i| Questions::new(name, &gym, 1, 0.0).unwrap().get(Split::Train, i).unwrap();
    assert!(get("chain_sum", 0).question.starts_with("State the final answer to the following arithmetic problem: "));
    assert!(get("gcd", 0).question.contains("(GCD) of these numbers: "));
    assert!(get("number_sorting", 0).answer.starts_with("['"));
    assert!(get("base_conversion", 0).question.ends_with('\n'));
    for i in 0..20 {
        let countdown = get("countdown", i);
        // Its verifier wants every number used.
        assert!(matches!(countdown.check, Check::Countdown { all: true, .. }));
        assert!(countdown.question.ends_with("5. Do not include any other text or formatting.\n"));
    }
}

#[test]
fn wrong_parameters_are_named() {
    for (name, text, said) in [
        ("sudoku", "", "task \"sudoku\" is not known; there are chain_sum"),
        ("chain_sum", "term = [1, 2]", "unknown field `term`"),
        ("chain_sum", "terms = [3, 2]", "`terms` is [3, 2]; expected [lowest, highest] within [1, 32]"),
        ("chain_sum", "digits = [1, 40]", "`digits` is [1, 40]"),
        ("products", "terms = [2, 4]\ndigits = [5, 5]", "`digits`"),
        ("countdown", "numbers = 3", "invalid type"),
        ("letter_counting", "invented = 2.0", "`invented` is 2"),
        ("base_conversion", "bases = [7, 7]", "expected at least two"),
        ("gcd", "wording = \"french\"", "unknown variant `french`, expected one of `all`, `own`, `reasoning_gym`"),
    ] {
        let error = Questions::new(name, &parameters(text), 1, 0.1).unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
    }
    let none = Questions::new("chain_sum", &toml::Table::new(), 1, 0.0).unwrap();
    let error = none.get(Split::HeldOut, 0).unwrap_err().to_string();
    assert!(error.contains("chain_sum") && error.contains("HeldOut"), "{error}");
}
