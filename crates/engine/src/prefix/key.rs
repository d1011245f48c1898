//! Names of cache blocks: a block's rows depend on every token up to its end, so its name does too.
//!
//! Owns the two hashes. They are SHA-256, not a fast hash: with an equal name for different tokens one user's context
//! would be handed to another, so nobody may be able to make two prompts whose names are equal.

use std::fmt;

use ops::{CacheSpec, RowFormat};
use sha2::{Digest, Sha256};

/// What all rows of a cache have in common: the model, how rows are stored, and what else decides their bits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// Of a model's identity (see `model::identity`) and the geometry of its cache, of which only the number of blocks
    /// does not count. `arithmetic` names what else decides a row's bits, such as the device's level and how it rounds
    /// activations: where it differs, answers with a found prefix would not be those without.
    #[must_use]
    pub fn new(model: &[u8; 32], spec: &CacheSpec, has_mtp: bool, arithmetic: &str) -> Self {
        let row = spec.row;
        let row_format: u8 = match row.row_format {
            RowFormat::F32 => 0,
            RowFormat::BF16 => 1,
            RowFormat::Q8 => 2,
        };
        let mut hash = Sha256::new();
        hash.update(b"minke cache fingerprint\0");
        hash.update(super::file::VERSION.to_le_bytes());
        hash.update(model);
        for size in [spec.n_layers, spec.block_len, row.row_len, row.group_len, row.tail_len] {
            hash.update((size as u64).to_le_bytes());
        }
        hash.update([row_format, u8::from(has_mtp)]);
        hash.update(arithmetic);
        Self(hash.finalize().into())
    }

    /// Its bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl From<[u8; 32]> for Fingerprint {
    fn from(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

/// The name of a full block: of its tokens and of all tokens before it.
///
/// key = SHA-256(parent's key | tokens), the first block's parent is [`BlockKey::root`]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockKey([u8; 32]);

impl BlockKey {
    /// The parent of first blocks: where nothing was said yet.
    #[must_use]
    pub fn root(fingerprint: &Fingerprint) -> Self {
        // Longer than a key and of a length that no tokens have behind one, so that no child's input equals it.
        Self(Sha256::new().chain_update(b"minke cache root\0").chain_update(fingerprint.0).finalize().into())
    }

    /// The block of these tokens behind this one.
    #[must_use]
    pub fn child(&self, tokens: &[u32]) -> Self {
        let mut hash = Sha256::new();
        hash.update(self.0);
        for token in tokens {
            hash.update(token.to_le_bytes());
        }
        Self(hash.finalize().into())
    }

    /// Its bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The key that [`BlockKey`]'s text names: 64 lower-case hexadecimal digits and nothing else.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let digits: &[u8; 64] = text.as_bytes().try_into().ok()?;
        let mut key = [0; 32];
        for (byte, pair) in key.iter_mut().zip(digits.as_chunks::<2>().0) {
            let [high, low] = pair.map(|digit| match digit {
                b'0'..=b'9' => Some(digit - b'0'),
                b'a'..=b'f' => Some(digit - b'a' + 10),
                _ => None,
            });
            *byte = high? << 4 | low?;
        }
        Some(Self(key))
    }

    /// The least and the greatest key of those that begin with `first`.
    pub(super) fn bounds(first: u8) -> [Self; 2] {
        [0, 0xff].map(|rest| {
            let mut key = [rest; 32];
            key[0] = first;
            Self(key)
        })
    }
}

impl From<[u8; 32]> for BlockKey {
    fn from(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

fn hex(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

impl fmt::Display for BlockKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(&self.0, f)
    }
}

impl fmt::Debug for BlockKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(&self.0, f)
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use ops::RowLayout;

    use super::*;

    #[test]
    fn a_key_depends_on_every_token_before_it_and_on_where_blocks_end() {
        let root = BlockKey::root(&[1; 32].into());
        let of = |blocks: &[&[u32]]| blocks.iter().fold(root, |key, tokens| key.child(tokens));
        let keys = [
            of(&[]),
            of(&[&[1, 2], &[3, 4]]),
            of(&[&[3, 4], &[1, 2]]),
            of(&[&[1, 2, 3, 4]]),
            of(&[&[1, 2], &[3, 5]]),
            of(&[&[9, 2], &[3, 4]]),
            of(&[&[1], &[2], &[3, 4]]),
            BlockKey::root(&[2; 32].into()),
        ];
        assert_eq!(keys[1], of(&[&[1, 2], &[3, 4]]));
        for (i, a) in keys.iter().enumerate() {
            assert!(keys[i + 1..].iter().all(|b| a != b));
        }
    }

    #[test]
    fn keys_are_what_they_were_when_files_were_written() {
        // sha256sum of the 32 bytes and two little-endian tokens.
        let key = BlockKey::from([7; 32]).child(&[1, 0x01020304]);
        assert_eq!(key.to_string(), "c6850bca10b357fccb82301f320cedd3eae082ca68cdea270ac0ede8db7e9a45");
        assert_eq!(BlockKey::parse(&key.to_string()), Some(key));
    }

    #[test]
    fn only_its_own_text_names_a_key() {
        let text = BlockKey::from([0xab; 32]).to_string();
        for wrong in [&text[1..], &text.to_uppercase(), &format!("{text}0"), "", &text.replace('a', "é")] {
            assert_eq!(BlockKey::parse(wrong), None);
        }
        let [low, high] = BlockKey::bounds(0xab);
        assert!(
            (low..=high).contains(&BlockKey::from([0xab; 32])) && !(low..=high).contains(&BlockKey::from([0xac; 32]))
        );
    }

    #[test]
    fn everything_but_the_number_of_blocks_makes_another_fingerprint() {
        let row = RowLayout { row_len: 576, group_len: 512, tail_len: 64, row_format: RowFormat::BF16 };
        let spec = CacheSpec { n_layers: 27, n_blocks: 5, block_len: 64, row };
        let of = |spec: CacheSpec| Fingerprint::new(&[3; 32], &spec, false, "avx2");
        assert_eq!(of(spec), of(CacheSpec { n_blocks: 6, ..spec }));
        let others = [
            of(CacheSpec { n_layers: 28, ..spec }),
            of(CacheSpec { block_len: 32, ..spec }),
            of(CacheSpec { row: RowLayout { row_format: RowFormat::Q8, ..row }, ..spec }),
            of(CacheSpec { row: RowLayout { tail_len: 0, ..row }, ..spec }),
            Fingerprint::new(&[4; 32], &spec, false, "avx2"),
            Fingerprint::new(&[3; 32], &spec, true, "avx2"),
            Fingerprint::new(&[3; 32], &spec, false, "avx512"),
        ];
        assert!(others.iter().all(|other| *other != of(spec)));
    }
}
