//! Counting letters: words are spelled out, the count runs along.

use serde::Deserialize;

use super::{Check, Instance, Parameters, Range, Task, Wording};
use crate::rng::Rng;

/// How often a letter stands in a text.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct LetterCounting {
    /// How many words.
    words: Range,
    /// The share of words that are invented, so that none can be known by heart.
    invented: f64,
    wording: Wording,
}

impl Default for LetterCounting {
    fn default() -> Self {
        Self { words: Range(1, 10), invented: 0.3, wording: Wording::All }
    }
}

impl Parameters for LetterCounting {
    fn check(&self) -> Result<(), String> {
        self.words.check("words", 1, 32)?;
        if (0.0..=1.0).contains(&self.invented) {
            return Ok(());
        }
        Err(format!("`invented` is {}; expected a share from 0 to 1", self.invented))
    }
}

const GYM: [&str; 1] = ["How many times does the letter \"{letter}\" appear in the text: \"{}\"?"];
const OWN: [&str; 5] = [
    "How many {letter}s are in {}?",
    "Count the letter {letter} in \"{}\".",
    "In the words {}, how often do you see {letter}?",
    "Tell me how many times {letter} occurs in: {}",
    "\"{}\" - how many times is the letter {letter} in there? Just the number.",
];

/// Words of all lengths, with the doubled letters that make counting hard.
const WORDS: [&str; 120] = [
    "strawberry",
    "the",
    "letter",
    "balloon",
    "committee",
    "of",
    "and",
    "to",
    "in",
    "banana",
    "Mississippi",
    "coffee",
    "success",
    "address",
    "bookkeeper",
    "apple",
    "cherry",
    "parallel",
    "tomorrow",
    "a",
    "is",
    "was",
    "for",
    "with",
    "great",
    "little",
    "summer",
    "winter",
    "yellow",
    "pepper",
    "butter",
    "between",
    "ocean",
    "river",
    "mountain",
    "village",
    "people",
    "house",
    "garden",
    "window",
    "kitchen",
    "morning",
    "evening",
    "never",
    "always",
    "again",
    "question",
    "answer",
    "number",
    "seven",
    "eleven",
    "twelve",
    "hundred",
    "thousand",
    "million",
    "machine",
    "engine",
    "paper",
    "pencil",
    "science",
    "history",
    "music",
    "violin",
    "piano",
    "guitar",
    "teacher",
    "student",
    "school",
    "university",
    "language",
    "sentence",
    "grammar",
    "syllable",
    "rhythm",
    "mystery",
    "crystal",
    "sky",
    "fly",
    "my",
    "weather",
    "thunder",
    "lightning",
    "rainbow",
    "forest",
    "animal",
    "elephant",
    "giraffe",
    "kangaroo",
    "penguin",
    "butterfly",
    "spider",
    "lizard",
    "zebra",
    "quick",
    "brown",
    "fox",
    "jumps",
    "over",
    "lazy",
    "dog",
    "her",
    "his",
    "their",
    "would",
    "could",
    "should",
    "which",
    "because",
    "through",
    "though",
    "enough",
    "queen",
    "express",
    "account",
    "illusion",
    "occurrence",
    "assess",
    "possess",
    "wheel",
    "noon",
];

fn invented(rng: &mut Rng) -> String {
    let n_syllables = rng.between(1, 3);
    let syllable = |rng: &mut Rng| {
        let onset =
            *rng.choose(&["b", "br", "c", "d", "f", "g", "gl", "k", "l", "m", "n", "p", "r", "s", "st", "t", "v"]);
        let vowel = *rng.choose(&["a", "e", "i", "o", "u", "ee", "oo", "y"]);
        let coda = *rng.choose(&["", "", "l", "ll", "n", "r", "rr", "s", "ss", "t", "x"]);
        format!("{onset}{vowel}{coda}")
    };
    (0..n_syllables).map(|_| syllable(rng)).collect()
}

impl Task for LetterCounting {
    fn instance(&self, rng: &mut Rng) -> Instance {
        let n_words = self.words.draw(rng);
        let words: Vec<String> = (0..n_words)
            .map(|_| if rng.chance(self.invented) { invented(rng) } else { (*rng.choose(&WORDS)).to_owned() })
            .collect();
        let lower = words.concat().to_lowercase();
        let present: Vec<char> = lower.chars().collect();
        // Now and then a letter that may be absent.
        let letter = if rng.chance(0.9) { *rng.choose(&present) } else { (b'a' + rng.below(26) as u8) as char };
        let mut total = 0;
        let mut lines = Vec::new();
        for word in &words {
            let lower = word.to_lowercase();
            let spelled: Vec<String> = lower.chars().map(|c| c.to_string()).collect();
            let count = lower.chars().filter(|c| *c == letter).count();
            let sum = if lines.is_empty() { String::new() } else { format!(", {total} + {count} = {}", total + count) };
            total += count;
            lines.push(format!("{}: {count}{sum}", spelled.join(" ")));
        }
        let text = words.join(" ");
        let (sentence, _) = self.wording.draw(rng, &GYM, &OWN);
        Instance {
            question: sentence.replace("{letter}", &letter.to_string()).replace("{}", &text),
            reasoning: lines.join("\n"),
            answer: total.to_string(),
            check: Check::Integer { expected: total as i64 },
            key: format!("letters {letter} {text}"),
        }
    }
}
