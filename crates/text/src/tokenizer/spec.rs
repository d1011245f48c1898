//! What a tokenizer is, in plain data, whatever file it came from. Owns the checks that every source must pass
//! before a vocabulary reaches the BPE library, whose own constructors assume a well-made file. Must not parse files.

use std::collections::{HashMap, HashSet};

use super::bpe::Vocab;
use super::bytes;
use crate::error::{TokenizerError, excerpt};

/// Most ids a vocabulary may span. The largest of the family has 152,064; others reach 262,144.
pub(crate) const MAX_IDS: usize = 1 << 20;
/// Most bytes one token may have. Real ones stay under 600.
const MAX_TOKEN_BYTES: usize = 16 * 1024;
/// Most bytes of all added tokens together; they become an automaton several times this size.
const MAX_ADDED_BYTES: usize = 1 << 20;
/// Most merges. Llama 3 has 280,147.
const MAX_MERGES: usize = 4 << 20;
/// The library keeps the pairs among its 512 hottest symbols in a table indexed by 16 bits.
const HOT_SYMBOLS: usize = 512;
const MAX_HOT_PAIRS: usize = 65_000;
/// Most bytes of pre-tokenizer patterns, and how deep they may nest: both bound the regex compiler.
const MAX_PATTERN_BYTES: usize = 8 * 1024;
const MAX_PATTERN_DEPTH: usize = 32;
const MAX_STEPS: usize = 16;
/// Most copies that the counted repetitions of a pattern may ask for, taken as if each stood inside the others.
const MAX_REPETITIONS: usize = 10_000;

/// A token matched literally in template text, before any splitting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AddedToken {
    pub(crate) id: u32,
    pub(crate) content: String,
    /// Left out by a decode that skips special tokens.
    pub(crate) special: bool,
    /// Matched after the others, in text that has been normalised.
    pub(crate) normalized: bool,
}

/// What happens to the text before it is split.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Normalizer {
    Identity,
    /// Unicode normalisation form C.
    Nfc,
}

/// What a split does with its matches, in the words of tokenizer.json.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
pub(crate) enum Behavior {
    Removed,
    Isolated,
    MergedWithPrevious,
    MergedWithNext,
    Contiguous,
}

/// One pass of the pre-tokenizer; each runs on the pieces of the one before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    Regex { pattern: String, behavior: Behavior, invert: bool },
    Literal { text: String, behavior: Behavior, invert: bool },
    Digits { individual: bool },
}

/// A byte-level BPE tokenizer.
#[derive(Debug, Clone)]
pub(crate) struct Spec {
    /// Tokens in the byte-level spelling, without the added ones.
    pub(crate) vocab: Vocab,
    /// Pairs in rank order, in the byte-level spelling.
    pub(crate) merges: Vec<(String, String)>,
    pub(crate) added: Vec<AddedToken>,
    pub(crate) normalizer: Normalizer,
    pub(crate) steps: Vec<Step>,
    /// A piece that is itself a token is that token, whatever its merges say (Llama 3).
    pub(crate) ignore_merges: bool,
}

impl Spec {
    /// Checks the whole, and moves the added tokens out of the vocabulary; calls `whole` on what is there then, and
    /// goes on to drop what no text can reach.
    ///
    /// After this, no sequence of merges and no `ignore_merges` shortcut can yield an added token's id.
    ///
    /// # Errors
    /// Ids or contents that contradict each other, merges that name absent tokens, sizes over the limits.
    pub(crate) fn check<T>(&mut self, whole: impl FnOnce(&Self) -> T) -> Result<T, TokenizerError> {
        self.added.retain(|token| !token.content.is_empty());
        self.check_sizes()?;
        self.check_patterns()?;
        self.check_ids()?;
        let merges = self.resolve_merges()?;
        self.check_characters(&merges)?;
        let n_ids = self.n_ids();
        let whole = whole(self);
        self.drop_unreachable(&merges, n_ids);
        self.check_hot_pairs(&merges, n_ids)?;
        Ok(whole)
    }

    /// One more than the highest id.
    pub(crate) fn n_ids(&self) -> usize {
        let highest = self.vocab.values().copied().chain(self.added.iter().map(|token| token.id)).max();
        highest.map_or(0, |id| id as usize + 1)
    }

    fn check_sizes(&self) -> Result<(), TokenizerError> {
        limit("merges", self.merges.len(), MAX_MERGES)?;
        limit("highest token id", self.n_ids(), MAX_IDS)?;
        let longest = self.vocab.keys().map(String::len).max().unwrap_or(0);
        limit("length of a token in bytes", longest, MAX_TOKEN_BYTES)?;
        let added = self.added.iter().map(|token| token.content.len()).sum();
        limit("length of all added tokens in bytes", added, MAX_ADDED_BYTES)
    }

    fn check_patterns(&self) -> Result<(), TokenizerError> {
        limit("pre-tokenizer steps", self.steps.len(), MAX_STEPS)?;
        for step in &self.steps {
            let (Step::Regex { pattern: text, .. } | Step::Literal { text, .. }) = step else { continue };
            limit("length of a pre-tokenizer pattern in bytes", text.len(), MAX_PATTERN_BYTES)?;
            limit("nesting of a pre-tokenizer pattern", nesting(text), MAX_PATTERN_DEPTH)?;
            limit("repetitions in a pre-tokenizer pattern", repetitions(text), MAX_REPETITIONS)?;
            if text.is_empty() {
                return Err(TokenizerError::Invalid {
                    field: "pre_tokenizer.pattern".into(),
                    problem: "expected a pattern, found the empty string".into(),
                });
            }
        }
        Ok(())
    }

    fn check_ids(&mut self) -> Result<(), TokenizerError> {
        let mut contents = HashSet::with_capacity(self.added.len());
        for token in &self.added {
            if !contents.insert(token.content.as_str()) {
                return Err(TokenizerError::Invalid {
                    field: "added_tokens".into(),
                    problem: format!("{:?} is there twice", excerpt(&token.content)),
                });
            }
            let in_vocab = self.vocab.get(&token.content);
            if let Some(id) = in_vocab.filter(|&&id| id != token.id) {
                let text = excerpt(&token.content);
                return Err(TokenizerError::Invalid {
                    field: "added_tokens".into(),
                    problem: format!("{text:?} has id {} here and id {id} in the vocabulary", token.id),
                });
            }
        }
        self.vocab.retain(|text, _| !contents.contains(text.as_str()));

        let added = self.added.iter().map(|token| (token.id, token.content.as_str()));
        let mut by_id: Vec<(u32, &str)> =
            self.vocab.iter().map(|(text, &id)| (id, text.as_str())).chain(added).collect();
        by_id.sort_unstable();
        match by_id.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            None => Ok(()),
            Some(pair) => Err(TokenizerError::Invalid {
                field: "vocabulary".into(),
                problem: format!(
                    "id {} belongs to both {:?} and {:?}",
                    pair[0].0,
                    excerpt(pair[0].1),
                    excerpt(pair[1].1)
                ),
            }),
        }
    }

    /// The ids of each merge: left, right, product. Every merge must join two tokens into a third, none of them added:
    /// otherwise plain text could spell one.
    fn resolve_merges(&mut self) -> Result<Vec<[u32; 3]>, TokenizerError> {
        let added: HashSet<&str> = self.added.iter().map(|token| token.content.as_str()).collect();
        for byte in 0..=255 {
            let spelling = bytes::char_of(byte).to_string();
            if added.contains(spelling.as_str()) {
                let problem = format!("{spelling:?} is the spelling of a byte");
                return Err(TokenizerError::Invalid { field: "added_tokens".into(), problem });
            }
        }
        let mut resolved = Vec::with_capacity(self.merges.len());
        let mut kept = Vec::with_capacity(self.merges.len());
        let mut joined = String::new();
        for (rank, (left, right)) in std::mem::take(&mut self.merges).into_iter().enumerate() {
            let wrong = |problem| TokenizerError::Invalid { field: format!("model.merges[{rank}]"), problem };
            joined.clear();
            joined.push_str(&left);
            joined.push_str(&right);
            if added.contains(joined.as_str()) {
                return Err(wrong(format!("makes the added token {:?}", excerpt(&joined))));
            }
            // An added token never comes out of the merges, so a merge that starts from one is dead.
            if added.contains(left.as_str()) || added.contains(right.as_str()) {
                continue;
            }
            if left.is_empty() || right.is_empty() {
                return Err(wrong("has an empty side".into()));
            }
            let id_of = |text: &str| {
                let id = self.vocab.get(text).copied();
                id.ok_or_else(|| wrong(format!("needs {:?}, which is not in the vocabulary", excerpt(text))))
            };
            let ids = [id_of(&left)?, id_of(&right)?, id_of(&joined)?];
            // So is one of a spelling that stands for no bytes.
            if in_alphabet(&joined) {
                resolved.push(ids);
                kept.push((left, right));
            }
        }
        self.merges = kept;
        Ok(resolved)
    }

    /// A token that spells one character must be what merging that character's bytes gives, as in every vocabulary
    /// that was trained: the library takes it without merging.
    fn check_characters(&self, merges: &[[u32; 3]]) -> Result<(), TokenizerError> {
        if self.ignore_merges {
            return Ok(());
        }
        let n_bytes = |text: &str| text.chars().count();
        let short = self.merges.iter().zip(merges).enumerate();
        let short = short
            .filter(|(_, ((left, right), _))| left.len() + right.len() <= 8 && n_bytes(left) + n_bytes(right) <= 4);
        let pairs: HashMap<(u32, u32), (usize, u32)> =
            short.map(|(rank, (_, &[left, right, product]))| ((left, right), (rank, product))).collect();
        let wrong = self.vocab.iter().find(|&(text, &id)| {
            let bytes = if text.len() <= 8 { bytes::decode(text) } else { None };
            let character = bytes.as_deref().and_then(|bytes| std::str::from_utf8(bytes).ok());
            let is_one = character.is_some_and(|text| text.len() > 1 && text.chars().nth(1).is_none());
            is_one && self.merge_short(text, &pairs) != [id]
        });
        match wrong {
            None => Ok(()),
            Some((text, id)) => Err(TokenizerError::Invalid {
                field: "model.merges".into(),
                problem: format!("{:?} has token {id}, but its bytes do not merge into it", excerpt(text)),
            }),
        }
    }

    /// The ids of a few bytes, merged pair by pair in rank order.
    fn merge_short(&self, text: &str, pairs: &HashMap<(u32, u32), (usize, u32)>) -> Vec<u32> {
        let id_of = |c: char| self.vocab.get(c.encode_utf8(&mut [0; 4]) as &str).copied();
        let mut ids: Vec<u32> = text.chars().filter_map(id_of).collect();
        loop {
            let candidates =
                ids.windows(2).enumerate().filter_map(|(at, pair)| Some((pairs.get(&(pair[0], pair[1]))?, at)));
            let Some((&(_, product), at)) = candidates.min() else { return ids };
            ids.splice(at..at + 2, [product]);
        }
    }

    /// Drops the tokens that BPE cannot yield: spellings outside the byte alphabet, and those that are neither a
    /// byte nor a merge's product (unless `ignore_merges` reaches them). The library would match some of them.
    fn drop_unreachable(&mut self, merges: &[[u32; 3]], n_ids: usize) {
        let ignore_merges = self.ignore_merges;
        let mut is_product = vec![false; n_ids];
        merges.iter().for_each(|&[_, _, product]| is_product[product as usize] = true);
        self.vocab.retain(|text, id| {
            in_alphabet(text) && (ignore_merges || is_product[*id as usize] || text.chars().nth(1).is_none())
        });
    }

    /// Counts the pairs among the library's hot symbols, numbered as it numbers them: first what no merge makes,
    /// by id, then products by rank.
    fn check_hot_pairs(&self, merges: &[[u32; 3]], n_ids: usize) -> Result<(), TokenizerError> {
        let mut first_rank = vec![0; n_ids];
        for (rank, &[_, _, product]) in merges.iter().enumerate().rev() {
            first_rank[product as usize] = rank + 1;
        }
        let mut order: Vec<(usize, u32)> = self.vocab.values().map(|&id| (first_rank[id as usize], id)).collect();
        order.sort_unstable();
        let mut is_hot = vec![false; n_ids];
        order.iter().take(HOT_SYMBOLS).for_each(|&(_, id)| is_hot[id as usize] = true);
        let n_hot = merges.iter().filter(|ids| is_hot[ids[0] as usize] && is_hot[ids[1] as usize]).count();
        limit("merges among the 512 first symbols", n_hot, MAX_HOT_PAIRS)
    }
}

fn in_alphabet(text: &str) -> bool {
    text.chars().all(|c| bytes::byte_of(c).is_some())
}

/// How deep the parentheses and brackets of a pattern nest, counting every opening as one deeper at worst.
fn nesting(pattern: &str) -> usize {
    let mut depth = 0usize;
    let mut deepest = 0;
    for c in pattern.chars() {
        match c {
            '(' | '[' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            ')' | ']' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// The product of the largest counts of all `{n}` and `{n,m}`.
fn repetitions(pattern: &str) -> usize {
    let count = |n: &str| match n.trim() {
        n if n.is_empty() || n.bytes().any(|byte| !byte.is_ascii_digit()) => 1,
        n => n.parse::<usize>().unwrap_or(usize::MAX).max(1),
    };
    let braced = pattern.split('{').skip(1).filter_map(|rest| rest.split_once('}')).map(|(inside, _)| inside);
    braced.map(|inside| inside.split(',').map(count).max().unwrap_or(1)).fold(1, usize::saturating_mul)
}

fn limit(field: &str, found: usize, limit: usize) -> Result<(), TokenizerError> {
    if found <= limit { Ok(()) } else { Err(TokenizerError::TooLarge { field: field.into(), found, limit }) }
}
