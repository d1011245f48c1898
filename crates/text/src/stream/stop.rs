//! Stop strings. Owns the text that may still turn out to be the beginning of one. Must not know ids.
//!
//! Each string is searched with its own Knuth–Morris–Pratt state, one byte at a time: the state is the length of the
//! longest end of the text that begins the string, which is exactly what must be held back.

use std::sync::Arc;

use crate::error::TokenizerError;

/// Most stop strings of one request, and most bytes of all of them together.
const MAX_STOPS: usize = 64;
const MAX_STOP_BYTES: usize = 16 * 1024;

/// The stop strings of a request, ready to search for.
#[derive(Debug)]
pub struct StopStrings {
    stops: Vec<Vec<u8>>,
    /// `fallback[s][n]`: the longest proper border of the first `n` bytes of stop `s`.
    fallback: Vec<Vec<usize>>,
}

impl StopStrings {
    /// Prepares `stops`. Empty strings are left out.
    ///
    /// # Errors
    /// More than 64 stop strings, or more than 16 KiB of them.
    pub fn new<S: AsRef<str>>(stops: &[S]) -> Result<Self, TokenizerError> {
        let too_large = |field: &str, found, limit| TokenizerError::TooLarge { field: field.into(), found, limit };
        if stops.len() > MAX_STOPS {
            return Err(too_large("stop strings", stops.len(), MAX_STOPS));
        }
        let n_bytes = stops.iter().map(|stop| stop.as_ref().len()).sum();
        if n_bytes > MAX_STOP_BYTES {
            return Err(too_large("bytes of stop strings", n_bytes, MAX_STOP_BYTES));
        }
        let stops: Vec<Vec<u8>> =
            stops.iter().map(|stop| stop.as_ref().as_bytes().to_vec()).filter(|stop| !stop.is_empty()).collect();
        let fallback = stops.iter().map(|stop| borders(stop)).collect();
        Ok(Self { stops, fallback })
    }
}

/// `result[n]` is the length of the longest proper prefix of `word[..n]` that is also its suffix.
fn borders(word: &[u8]) -> Vec<usize> {
    let mut result = vec![0; word.len() + 1];
    let mut k = 0;
    for n in 1..word.len() {
        while k > 0 && word[k] != word[n] {
            k = result[k];
        }
        if word[k] == word[n] {
            k += 1;
        }
        result[n + 1] = k;
    }
    result
}

/// Cuts a stream of text at the first stop string.
///
/// Emits all text before the match that begins leftmost, never a part of that match, and holds back no more than
/// could still begin one.
#[derive(Debug, Clone)]
pub struct StopMatcher {
    strings: Arc<StopStrings>,
    /// For each stop string, how many of its bytes the end of the text so far matches.
    matched: Vec<usize>,
    held: String,
    /// Where in `held` the leftmost complete match begins, while one that begins before it may still complete.
    cut: Option<usize>,
    /// Which string that match is of.
    found: usize,
    stopped: bool,
}

impl StopMatcher {
    /// Starts a stream.
    #[must_use]
    pub fn new(strings: Arc<StopStrings>) -> Self {
        let matched = vec![0; strings.stops.len()];
        Self { strings, matched, held: String::new(), cut: None, found: 0, stopped: false }
    }

    /// Takes `text`; returns what is safe to show. After a stop string, returns nothing any more.
    pub fn push(&mut self, text: &str) -> String {
        if self.stopped {
            return String::new();
        }
        if self.matched.is_empty() {
            return text.to_owned();
        }
        let n_held = self.held.len();
        self.held.push_str(text);
        for end in n_held + 1..=self.held.len() {
            self.step(end);
            if let Some(cut) = self.cut
                && !self.may_begin_before(cut, end)
            {
                return self.stop_at(cut);
            }
        }
        if self.cut.is_some() {
            return String::new();
        }
        let n_hold = self.matched.iter().copied().max().unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - n_hold);
        std::mem::replace(&mut self.held, rest)
    }

    /// Takes the byte before `end` into account.
    fn step(&mut self, end: usize) {
        let byte = self.held.as_bytes()[end - 1];
        let strings = self.strings.stops.iter().zip(&self.strings.fallback);
        for (i, ((stop, fallback), n)) in strings.zip(&mut self.matched).enumerate() {
            while *n > 0 && stop[*n] != byte {
                *n = fallback[*n];
            }
            *n += usize::from(stop[*n] == byte);
            if *n == stop.len() {
                let start = end - stop.len();
                if self.cut.is_none_or(|cut| start < cut) {
                    (self.cut, self.found) = (Some(start), i);
                }
                *n = fallback[*n];
            }
        }
    }

    /// Whether a stop string that begins before `cut` may still complete after `end`.
    fn may_begin_before(&self, cut: usize, end: usize) -> bool {
        self.matched.iter().any(|&n| end - n < cut)
    }

    fn stop_at(&mut self, cut: usize) -> String {
        self.stopped = true;
        self.cut = None;
        self.held.truncate(cut);
        std::mem::take(&mut self.held)
    }

    /// Whether a stop string was found.
    #[must_use]
    pub fn stopped(&self) -> bool {
        self.stopped
    }

    /// The stop string that was found.
    #[must_use]
    pub fn stopped_by(&self) -> Option<&str> {
        let stop = self.strings.stops.get(self.found).filter(|_| self.stopped)?;
        std::str::from_utf8(stop).ok()
    }

    /// Ends the stream: what was held back is no stop string after all, unless one was waiting for a longer one.
    pub fn finish(&mut self) -> String {
        if let Some(cut) = self.cut {
            return self.stop_at(cut);
        }
        self.matched.fill(0);
        std::mem::take(&mut self.held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stop_string_that_was_found_is_named() {
        let strings = Arc::new(StopStrings::new(&["", "long stop", "stop", "g st"]).unwrap());
        for (text, shown, found) in [
            ("a long stop", "a ", Some("long stop")),
            ("a stop", "a ", Some("stop")),
            ("along st", "alon", Some("g st")),
            ("a long stoq", "a lon", Some("g st")),
            ("none", "none", None),
        ] {
            let mut matcher = StopMatcher::new(Arc::clone(&strings));
            let out: String = text.chars().map(|c| matcher.push(&c.to_string())).collect();
            assert_eq!((out + &matcher.finish()).as_str(), shown, "{text}");
            assert_eq!(matcher.stopped_by(), found, "{text}");
        }
    }
}
