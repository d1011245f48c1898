//! Which model this is: a short name for a config and its weights, for what is kept of a model's results.
//!
//! Owns what counts. Must not read a whole file: ten gigabytes are mapped, and only some pages of each tensor are touched.

use checkpoint::Checkpoint;
use sha2::{Digest, Sha256};

use crate::Config;

/// Bytes looked at in one place of a tensor: a page.
const SAMPLE: usize = 4096;

/// SHA-256 of the config, of every tensor's name, type, shape and file order, and of three pages of its bytes: the first,
/// the middle and the last 4096.
///
/// Two trainings of one architecture differ, because training changes nearly every byte of the tensors it touches. What
/// it does not find: weights that were edited only between those pages, such as single rows of an embedding matrix. The
/// config counts as this program reads it, after [`crate::fit_to_file`], so a key that decides nothing does not count, and
/// another version of this program may give another identity. It is a name, not a proof: who writes the weights can
/// make two models with one identity.
#[must_use]
pub fn identity(config: &Config, file: &Checkpoint) -> [u8; 32] {
    let mut hash = Sha256::new();
    let mut add = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    add(b"minke model identity 1");
    add(format!("{config:?}").as_bytes());
    add(&file.file_bytes().to_le_bytes());
    for tensor in file.tensors() {
        add(tensor.name.as_bytes());
        add(format!("{} {:?} {}", tensor.dtype, tensor.shape, tensor.bytes.len()).as_bytes());
        let bytes = &tensor.bytes[..];
        if bytes.len() <= 3 * SAMPLE {
            add(bytes);
            continue;
        }
        for at in [0, (bytes.len() - SAMPLE) / 2, bytes.len() - SAMPLE] {
            add(&bytes[at..at + SAMPLE]);
        }
    }
    hash.finalize().into()
}
