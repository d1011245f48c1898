//! Judging answers. Owns the verifiers, which meet whatever a model in training writes: bounded in time and memory, and
//! never a panic. Must not know how questions are made.

use super::expression::{Fraction, evaluate};

/// Longest answer that is looked at, in bytes.
const ANSWER_BYTES_MAX: usize = 4096;

/// What makes an answer right.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Check {
    /// This text, but for white space around it.
    Text {
        /// The text.
        expected: String,
    },
    /// This integer, in decimal digits without leading zeros.
    Integer {
        /// The number.
        expected: i64,
    },
    /// These numbers in this order, separated by commas; brackets around the list and quotes around its items are
    /// accepted.
    List {
        /// The numbers as the question spells them.
        expected: Vec<String>,
    },
    /// An expression over the numbers that gives the target.
    Countdown {
        /// The numbers that may be used, each as often as it is here.
        numbers: Vec<i64>,
        /// The value to reach.
        target: i64,
        /// Whether every number must be used.
        all: bool,
    },
}

impl Check {
    /// Whether `answer` is right.
    #[must_use]
    pub fn accepts(&self, answer: &str) -> bool {
        if answer.len() > ANSWER_BYTES_MAX {
            return false;
        }
        let answer = answer.trim();
        match self {
            Self::Text { expected } => answer == expected,
            Self::Integer { expected } => answer == expected.to_string(),
            Self::List { expected } => is_list(answer, expected),
            Self::Countdown { numbers, target, all } => reaches(answer, numbers, *target, *all),
        }
    }
}

fn is_list(answer: &str, expected: &[String]) -> bool {
    let inside = answer.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(answer);
    let bare = |item: &str| {
        let item = item.trim();
        let quoted = ['\'', '"'].into_iter().find_map(|quote| item.strip_prefix(quote)?.strip_suffix(quote));
        quoted.unwrap_or(item).to_owned()
    };
    inside.split(',').map(bare).eq(expected.iter().cloned())
}

fn reaches(answer: &str, numbers: &[i64], target: i64, all: bool) -> bool {
    let Ok((value, used)) = evaluate(answer) else { return false };
    let mut left = numbers.to_vec();
    let allowed = used.iter().all(|number| {
        let at = left.iter().position(|candidate| candidate == number);
        at.map(|at| left.swap_remove(at)).is_some()
    });
    allowed && (!all || left.is_empty()) && value == Fraction::from(target)
}

/// What a completion answers: the text after its last `</think>`, or all of it where there is none.
#[must_use]
pub fn final_answer(completion: &str) -> &str {
    completion.rsplit("</think>").next().unwrap_or(completion).trim()
}

/// Whether a completion has the form that is rewarded: reasoning, one `</think>`, and an answer that is not empty.
/// `opened` says that the prompt ends with `<think>`; otherwise the completion must begin with it.
#[must_use]
pub fn is_well_formed(completion: &str, opened: bool) -> bool {
    let body = if opened { Some(completion) } else { completion.trim_start().strip_prefix("<think>") };
    let Some((reasoning, answer)) = body.and_then(|body| body.split_once("</think>")) else { return false };
    let is_tag = |text: &str| text.contains("<think>") || text.contains("</think>");
    !reasoning.trim().is_empty() && !answer.trim().is_empty() && !is_tag(reasoning) && !is_tag(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn countdown_accepts_expressions_alone() {
        let any = Check::Countdown { numbers: vec![3, 7, 25, 50], target: 175, all: false };
        for right in ["25 * 7", "7*25", " (50 / (3 - 1 * 1) + 0) ", "(3 + 25 - 3) * 7"] {
            let legal = right.contains('7') && !right.contains("3)") && !right.starts_with(' ');
            assert_eq!(any.accepts(right), legal && right.matches('3').count() < 2, "{right}");
        }
        let all = Check::Countdown { numbers: vec![2, 3, 4], target: 24, all: true };
        assert!(all.accepts("2 * 3 * 4") && all.accepts("(2*4)*3") && all.accepts("-2*-3*4"));
        for wrong in ["", "24", "2 * 3 * 4 = 24", "6 * 4", "2 * 12", "2 * 3 * 4 * 1", "2 ** 3 * 3", "2 3 4", "2/0"] {
            assert!(!all.accepts(wrong), "{wrong}");
        }
        let half = Check::Countdown { numbers: vec![1, 3, 6], target: 2, all: true };
        assert!(half.accepts("6 / 3 * 1") && half.accepts("6 * (1 / 3)"), "fractions on the way are exact");
    }

    #[test]
    fn hostile_answers_are_wrong_and_cheap() {
        let check = Check::Countdown { numbers: vec![1], target: 1, all: true };
        for hostile in [
            "(".repeat(4000),
            "-".repeat(4000),
            format!("{}1{}", "(".repeat(3000), ")".repeat(3000)),
            "9".repeat(4096),
            "1".repeat(1 << 20),
            "9223372036854775807*9223372036854775807*9223372036854775807*9223372036854775807".into(),
            "1/0".into(),
            "\u{0661}".into(),
            "1\0".into(),
        ] {
            assert!(!check.accepts(&hostile));
        }
    }

    #[test]
    fn answers_stand_after_the_reasoning() {
        assert_eq!(final_answer("so 3</think>\n 4 "), "4");
        assert_eq!(final_answer("4"), "4");
        assert!(is_well_formed("a</think>b", true) && is_well_formed("<think>a</think>b", false));
        for bad in ["ab", "a</think>", "</think>b", "a</think>b</think>c", "a<think>b</think>c"] {
            assert!(!is_well_formed(bad, true), "{bad}");
        }
        let list = Check::List { expected: vec!["-1".into(), "2.5".into()] };
        assert!(list.accepts("['-1', '2.5']") && list.accepts("-1,2.5") && list.accepts("[-1, \"2.5\"]"));
        assert!(!list.accepts("2.5, -1") && !list.accepts("-1") && !list.accepts("-1, 2.5, 3") && !list.accepts(""));
        let number = Check::Integer { expected: -7 };
        assert!(number.accepts(" -7\n") && !number.accepts("7") && !number.accepts("-7.") && !number.accepts("-07"));
    }
}
