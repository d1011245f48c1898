//! A tokenizer's vocabulary as the grammar library sees it. Owns that view. Must not know grammars.
//!
//! Every added token is marked as special, whatever its flag says: none of them is text that a grammar could ask for.

use std::sync::Arc;

use llguidance::toktrie::{TokEnv, TokRxInfo, TokTrie, TokenId, TokenizerEnv};

use super::{GrammarError, limit};
use crate::tokenizer::Tokenizer;

/// Longest token, in bytes, that a grammar may yield, and most bytes of all tokens: what the library's trie holds.
const MAX_TOKEN_BYTES: usize = 1_000;
const MAX_VOCABULARY_BYTES: usize = (1 << 22) - 1_024;
/// Longest run of newlines in one token that may come between `</think>` and the text of a grammar.
const MAX_NEWLINES: usize = 2;

/// What grammars share: which tokens they may yield at all.
pub(super) struct Vocabulary {
    tokenizer: Arc<Tokenizer>,
    /// One bit per token: ordinary tokens and the end tokens.
    permitted: Vec<u32>,
    end_tokens: Vec<u32>,
    /// Tokens of newlines alone.
    newlines: Vec<u32>,
}

impl std::fmt::Debug for Vocabulary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vocabulary").field("n_tokens", &self.tokenizer.vocab_size()).finish_non_exhaustive()
    }
}

impl Vocabulary {
    pub(super) fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    pub(super) fn permitted(&self) -> &[u32] {
        &self.permitted
    }

    pub(super) fn is_end(&self, token: u32) -> bool {
        self.end_tokens.contains(&token)
    }

    pub(super) fn newlines(&self) -> &[u32] {
        &self.newlines
    }
}

/// The library's view of `tokenizer`, and ours.
///
/// # Errors
/// No end token, one outside the vocabulary, or a vocabulary with more bytes than fit.
pub(super) fn build(tokenizer: &Arc<Tokenizer>, end_tokens: &[u32]) -> Result<(TokEnv, Vocabulary), GrammarError> {
    let n_tokens = tokenizer.vocab_size();
    let Some(&first_end) = end_tokens.first() else {
        return Err(GrammarError::Vocabulary("expected at least one end token, found none".into()));
    };
    if let Some(id) = end_tokens.iter().find(|&&id| id as usize >= n_tokens) {
        return Err(GrammarError::Vocabulary(format!("end token {id} is outside the vocabulary of {n_tokens} ids")));
    }
    let mut permitted = vec![0; n_tokens.div_ceil(32)];
    let mut newlines = Vec::new();
    let mut words = Vec::with_capacity(n_tokens);
    for id in 0..n_tokens as u32 {
        let bytes = tokenizer.token_bytes(id).filter(|bytes| bytes.len() <= MAX_TOKEN_BYTES).unwrap_or_default();
        let is_special = tokenizer.added_token(id).is_some();
        let is_end = end_tokens.contains(&id);
        if is_end || !(is_special || bytes.is_empty()) {
            set(&mut permitted, id);
        }
        if !is_special && (1..=MAX_NEWLINES).contains(&bytes.len()) && bytes.iter().all(|&byte| byte == b'\n') {
            newlines.push(id);
        }
        words.push(if is_special { marked(id, bytes) } else { bytes.to_vec() });
    }
    limit("bytes of all tokens", words.iter().map(Vec::len).sum(), MAX_VOCABULARY_BYTES)?;
    let info = TokRxInfo::new(n_tokens as u32, first_end);
    let trie = TokTrie::from(&info, &words).with_eos_tokens(end_tokens);
    let env = Env { tokenizer: Arc::clone(tokenizer), trie };
    let end_tokens = end_tokens.to_vec();
    Ok((Arc::new(env), Vocabulary { tokenizer: Arc::clone(tokenizer), permitted, end_tokens, newlines }))
}

/// A special token's key in the trie: the marker, then a name in angle brackets that no other token has.
fn marked(id: u32, bytes: &[u8]) -> Vec<u8> {
    let mut word = vec![TokTrie::SPECIAL_TOKEN_MARKER];
    let is_name = bytes.len() > 2 && bytes.len() < 90 && bytes.starts_with(b"<") && bytes.ends_with(b">");
    if is_name && !bytes[1..].contains(&b'<') && !bytes[..bytes.len() - 1].contains(&b'>') {
        word.extend_from_slice(bytes);
    } else {
        word.extend_from_slice(format!("<added-{id}>").as_bytes());
    }
    word
}

/// Sets the bit of `token`.
pub(super) fn set(bits: &mut [u32], token: u32) {
    if let Some(word) = bits.get_mut(token as usize / 32) {
        *word |= 1 << (token % 32);
    }
}

/// Whether the bit of `token` is set.
pub(super) fn is_set(bits: &[u32], token: u32) -> bool {
    bits.get(token as usize / 32).is_some_and(|word| word >> (token % 32) & 1 == 1)
}

struct Env {
    tokenizer: Arc<Tokenizer>,
    trie: TokTrie,
}

impl TokenizerEnv for Env {
    fn tok_trie(&self) -> &TokTrie {
        &self.trie
    }

    /// The ids of forced text: as the tokenizer encodes it, and byte by byte where it is not UTF-8.
    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<TokenId> {
        let mut ids = Vec::new();
        for chunk in bytes.utf8_chunks() {
            match self.tokenizer.encode_plain(chunk.valid()) {
                Ok(encoded) => ids.extend(encoded),
                Err(_) => ids.extend(self.trie.greedy_tokenize(chunk.valid().as_bytes())),
            }
            ids.extend(self.trie.greedy_tokenize(chunk.invalid()));
        }
        ids
    }
}
