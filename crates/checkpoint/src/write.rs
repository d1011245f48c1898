//! Writing model files.
//!
//! Owns what both formats share: the items to write, their conversion in bounded chunks, and the guarantee that a file
//! appears under its name only when it is complete. Must not hold a second copy of the weights.

mod atomic;
mod gguf;
mod safetensors;

use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use crate::error::clip;
use crate::index::{Duplicate, NameIndex};
use crate::{Dtype, Error};

pub use atomic::write as atomically;
pub use gguf::gguf;
pub use safetensors::{safetensors, safetensors_bytes};

/// A tensor to write.
#[derive(Clone, Debug)]
pub struct Item<'a> {
    /// Its name.
    pub name: &'a str,
    /// How it is stored.
    pub dtype: Dtype,
    /// Sizes, outermost first (GGUF's reversal happens while writing).
    pub shape: &'a [usize],
    /// The elements, row-major.
    pub data: Data<'a>,
}

/// The elements of an [`Item`].
#[derive(Clone, Copy, Debug)]
pub enum Data<'a> {
    /// Bytes as they are stored.
    Bytes(&'a [u8]),
    /// Values, encoded in the item's type while they are written: F32, F16, BF16, Q4_0 or Q8_0.
    F32(&'a [f32]),
}

const ADVICE: &str = "this is a bug in the caller: report it";

impl Item<'_> {
    /// Bytes that the item takes in the file.
    fn n_bytes(&self, file: &Arc<Path>) -> Result<usize, Error> {
        let wrong = |expected: String, found: String| Error::tensor(file, self.name, expected, found, ADVICE);
        let shape = format!("{} of shape {:?}", self.dtype, self.shape);
        let Some(n_bytes) = self.dtype.n_bytes(self.shape) else {
            return Err(wrong("a type of known size and a shape that it can have".into(), shape));
        };
        match (self.data, &self.dtype) {
            (Data::Bytes(bytes), _) if bytes.len() == n_bytes => Ok(n_bytes),
            (Data::Bytes(bytes), _) => Err(wrong(format!("{n_bytes} bytes for {shape}"), format!("{}", bytes.len()))),
            (Data::F32(values), Dtype::Weight(format)) if format.can_encode() => {
                if format.row_bytes(values.len()) == Some(n_bytes) {
                    return Ok(n_bytes);
                }
                Err(wrong(format!("values for {shape}"), values.len().to_string()))
            }
            (Data::F32(_), _) => Err(wrong("a type with an encoder: F32, F16, BF16, Q4_0 or Q8_0".into(), shape)),
        }
    }

    fn write(&self, out: &mut impl Write) -> io::Result<()> {
        // A multiple of every block length; small enough to stay in the cache.
        const CHUNK: usize = 8192;
        match (self.data, &self.dtype) {
            (Data::Bytes(bytes), _) => out.write_all(bytes),
            (Data::F32(values), Dtype::Weight(format)) => {
                let mut buffer = vec![0; format.row_bytes(CHUNK).unwrap_or(0)];
                for chunk in values.chunks(CHUNK) {
                    let encoded = &mut buffer[..format.row_bytes(chunk.len()).unwrap_or(0)];
                    format.encode(chunk, encoded);
                    out.write_all(encoded)?;
                }
                Ok(())
            }
            (Data::F32(_), _) => Err(io::Error::other("values without an encoder")),
        }
    }
}

/// Refuses names that a reader would refuse.
fn check_names(file: &Arc<Path>, items: &[Item<'_>]) -> Result<(), Error> {
    if let Some(item) = items.iter().find(|item| item.name.is_empty() || item.name.len() > usize::from(u16::MAX)) {
        let found = format!("{} bytes", item.name.len());
        return Err(Error::tensor(file, item.name, "a name of 1 to 65535 bytes", found, ADVICE));
    }
    match NameIndex::new(items, |item| item.name) {
        Ok(_) => Ok(()),
        Err(Duplicate(i, _)) => {
            let found = format!("{:?} twice", clip(items[i].name));
            Err(Error::file(file, "tensors", "each name once", found, ADVICE))
        }
    }
}
