//! Questions and the judging of answers.
//!
//! Owns what a completion is worth: a verifier's verdict, a share for the right form, and what a broken verifier costs (its
//! own sample, counted). Must not know how completions come to be.

use serde_json::Value;
use text::Message;

use crate::external::{Sample, Verifier};
use crate::tasks::{Check, final_answer, is_well_formed};

/// A question as rollouts and judges see it.
#[derive(Clone, Debug)]
pub struct Question {
    /// The number of its source, which is also its judge's.
    pub source: usize,
    /// The turns before the answer.
    pub messages: Vec<Message>,
    /// What the person asks.
    pub text: String,
    /// The conversation's tokens, up to where the model goes on.
    pub prompt: Vec<u32>,
    /// Whether the prompt has opened the reasoning.
    pub opened: bool,
    /// What makes an answer right, where this program can tell.
    pub check: Option<Check>,
    /// What came with the question, for a command.
    pub data: Value,
}

/// What a completion was found to be.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Judged {
    /// From 0 to 1, the form's share included.
    pub reward: f64,
    /// Whether the answer alone is right: a verdict of at least one half.
    pub is_right: bool,
    /// Whether the verifier broke, and this sample counts as wrong for it.
    pub is_broken: bool,
}

/// Judges completions.
#[derive(Debug, Default)]
pub struct Judge {
    /// The command, where questions are not judged by this program.
    pub verifier: Option<Verifier>,
    /// The share of the reward that the form alone is worth.
    pub format_share: f64,
    /// Samples on which the verifier broke.
    pub n_broken: u64,
    /// What it said the last time.
    pub last_error: Option<String>,
}

impl Judge {
    /// What `completion` is worth; one that did not end is worth nothing.
    pub fn judge(&mut self, question: &Question, completion: &str, ended: bool) -> Judged {
        if !ended {
            return Judged::default();
        }
        let (verdict, is_broken) = match &question.check {
            Some(check) => (f64::from(u8::from(check.accepts(final_answer(completion)))), false),
            None => self.ask(question, completion),
        };
        let form = f64::from(u8::from(is_well_formed(completion, question.opened)));
        let reward = (1.0 - self.format_share) * verdict + self.format_share * form;
        Judged { reward, is_right: verdict >= 0.5, is_broken }
    }

    fn ask(&mut self, question: &Question, completion: &str) -> (f64, bool) {
        let Some(verifier) = &mut self.verifier else { return (0.0, false) };
        let answer = final_answer(completion);
        let sample = Sample { prompt: &question.text, completion, answer, data: &question.data };
        match verifier.reward(&sample) {
            Ok(reward) => (reward, false),
            Err(error) => {
                self.n_broken += 1;
                self.last_error = Some(error.to_string());
                (0.0, true)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::external::Limits;

    fn question(check: Option<Check>) -> Question {
        let messages = Vec::new();
        Question {
            source: 0,
            messages,
            text: "What is 2 + 2?".into(),
            prompt: vec![1],
            opened: true,
            check,
            data: Value::Null,
        }
    }

    #[test]
    fn the_form_and_the_answer_count_apart() {
        let mut judge = Judge { format_share: 0.25, ..Judge::default() };
        let asked = question(Some(Check::Integer { expected: 4 }));
        let reward = |judge: &mut Judge, text: &str, ended| judge.judge(&asked, text, ended).reward;
        assert_eq!(reward(&mut judge, "2 + 2 = 4</think>4", true), 1.0);
        assert_eq!(reward(&mut judge, "2 + 2 = 5</think>5", true), 0.25);
        assert_eq!(reward(&mut judge, "4", true), 0.75, "right, but not thought aloud");
        assert_eq!(reward(&mut judge, "2 + 2 = 4</think>4", false), 0.0, "cut off");
    }

    #[test]
    #[cfg(unix)]
    fn a_broken_verifier_costs_its_own_sample() {
        // Dies on the completion "x", and judges others.
        let script = "while read line; do case \"$line\" in *'\"completion\":\"x\"'*) exit 3;; *) echo '{\"reward\": 1}';; esac; done";
        let command = ["sh", "-c", script].map(str::to_owned).to_vec();
        let verifier = Verifier::new(command, std::env::temp_dir(), Limits::default());
        let mut judge = Judge { verifier: Some(verifier), ..Judge::default() };
        let asked = question(None);
        let found: Vec<Judged> = ["a", "x", "b"].iter().map(|text| judge.judge(&asked, text, true)).collect();
        assert_eq!(found.iter().map(|j| j.reward).collect::<Vec<_>>(), [1.0, 0.0, 1.0]);
        assert_eq!(found.iter().map(|j| j.is_broken).collect::<Vec<_>>(), [false, true, false]);
        assert_eq!(judge.n_broken, 1);
        assert!(judge.last_error.is_some_and(|error| error.contains("exit status: 3")));
    }
}
