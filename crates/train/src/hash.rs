//! Names made of content. Owns the one way in which the crate turns bytes into a name.

use sha2::{Digest, Sha256};

/// SHA-256 of `parts` in hexadecimal; where one part ends counts.
#[must_use]
pub(crate) fn hex(parts: &[&[u8]]) -> String {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update((part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}
