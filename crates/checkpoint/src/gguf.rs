//! Reading one GGUF file: metadata, tensor list, the tensors' bytes.
//!
//! Owns the layout of the file and its checks. What a value is stands in `value.rs`, what a type number means in
//! `types.rs`; must not follow references to other files (see `open.rs`).

mod cursor;
pub(crate) mod types;
mod value;

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use crate::budget::{self, Budget, Exhausted};
use crate::dtype::{n_bytes, n_elements};
use crate::error::{DAMAGED, TRUNCATED, clip};
use crate::index::{Duplicate, NameIndex};
use crate::{Dtype, Error, Tensor};
use cursor::Cursor;
pub(crate) use value::ARRAY_ID;
pub use value::{Array, FromValue, Kind, Value};

pub(crate) const MAGIC: [u8; 4] = *b"GGUF";
/// Where tensors begin unless `general.alignment` says otherwise.
pub(crate) const ALIGNMENT: u32 = 32;
pub(crate) const ALIGNMENT_KEY: &str = "general.alignment";
/// The most dimensions a tensor can have in the format.
pub(crate) const DIMS_MAX: usize = 4;

/// The key–value part of a GGUF file, in file order.
#[derive(Debug)]
pub struct Metadata {
    file: Arc<Path>,
    entries: Vec<(String, Value)>,
    by_key: NameIndex,
}

impl Metadata {
    /// The value of `key`, if the file has one.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.by_key.find(&self.entries, key, |(key, _)| key).map(|(_, value)| value)
    }

    /// The value of `key`, if the file has one. Numbers are converted where they fit: files differ in the integer
    /// types that they use for one key.
    ///
    /// # Errors
    /// If the value has another type or does not fit
    pub fn optional<'a, T: FromValue<'a>>(&'a self, key: &str) -> Result<Option<T>, Error> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match T::from_value(value) {
            Some(value) => Ok(Some(value)),
            None => Err(Error::key(&self.file, key, T::EXPECTED, value.describe(), DAMAGED)),
        }
    }

    /// The value of `key`, which the file must have.
    ///
    /// # Errors
    /// If there is none, or it has another type or does not fit
    pub fn required<'a, T: FromValue<'a>>(&'a self, key: &str) -> Result<T, Error> {
        let missing = "check that the file is a complete model of this architecture";
        self.optional(key)?.ok_or_else(|| Error::key(&self.file, key, T::EXPECTED, "no such key", missing))
    }

    /// Every key and value, in file order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.entries.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// The file it was read from.
    pub fn file(&self) -> &Path {
        &self.file
    }
}

/// The metadata and the tensors, in the order of their bytes.
///
/// # Errors
/// If the file is not GGUF 2 or 3 in little-endian order, or contradicts itself
pub(crate) fn parse(file: &Arc<Path>, bytes: &Bytes) -> Result<(Metadata, Vec<Tensor>), Error> {
    let mut cursor = Cursor::new(file, bytes);
    check_version(&mut cursor)?;
    let n_tensors = cursor.u64("tensor count")?;
    let n_entries = cursor.u64("metadata count")?;
    let mut budget = Budget::for_file(bytes.len());
    let metadata = read_metadata(&mut cursor, n_entries, &mut budget)?;
    let infos = read_infos(&mut cursor, n_tensors, &mut budget)?;
    let alignment = alignment(&metadata)?;
    // A file of metadata alone, such as a vocabulary, need not be padded.
    let data = if infos.is_empty() { Bytes::new() } else { tensor_data(&cursor, alignment)? };
    let tensors = place(file, infos, &data, alignment)?;
    Ok((metadata, tensors))
}

fn check_version(cursor: &mut Cursor<'_>) -> Result<(), Error> {
    let magic = cursor.array::<4>("magic")?;
    if magic != MAGIC {
        let found = format!("{:?}", magic.escape_ascii().to_string());
        return Err(cursor.wrong("magic", "\"GGUF\"", found, "give the path of a GGUF or safetensors file"));
    }
    let version = cursor.u32("version")?;
    if version & 0xffff == 0 && version != 0 {
        let advice = "use the little-endian file of this model";
        return Err(cursor.wrong("version", "little-endian byte order", "a big-endian file", advice));
    }
    if !(2..=3).contains(&version) {
        let advice = "convert the model again with a current tool";
        return Err(cursor.wrong("version", "2 or 3", version.to_string(), advice));
    }
    Ok(())
}

fn read_metadata(cursor: &mut Cursor<'_>, n: u64, budget: &mut Budget) -> Result<Metadata, Error> {
    let mut entries: Vec<(String, Value)> = Vec::new();
    for _ in 0..n {
        let key = cursor.name("metadata key")?;
        let value = Value::read(cursor, &key)?;
        let heap = key.len() + value.heap_bytes();
        budget.take::<(String, Value)>(heap).map_err(|Exhausted| over_budget(cursor, "metadata"))?;
        entries.push((key, value));
    }
    let file = cursor.file().clone();
    match NameIndex::new(&entries, |(key, _)| key) {
        Ok(by_key) => Ok(Metadata { file, entries, by_key }),
        Err(Duplicate(i, _)) => Err(Error::key(&file, &entries[i].0, "one value", "the key twice", DAMAGED)),
    }
}

fn over_budget(cursor: &Cursor<'_>, at: &str) -> Error {
    cursor.wrong(at, budget::EXPECTED, "more", DAMAGED)
}

/// `general.alignment`, a power of two.
fn alignment(metadata: &Metadata) -> Result<usize, Error> {
    let alignment = metadata.optional::<u32>(ALIGNMENT_KEY)?.unwrap_or(ALIGNMENT);
    if !alignment.is_power_of_two() {
        let found = alignment.to_string();
        return Err(Error::key(&metadata.file, ALIGNMENT_KEY, "a power of two", found, DAMAGED));
    }
    Ok(alignment as usize)
}

/// One entry of the tensor list, not yet compared with the file.
struct Info {
    name: String,
    dtype: Dtype,
    shape: Vec<usize>,
    /// Bytes that the tensor takes; `None` if the type is not known.
    n_bytes: Option<usize>,
    offset: usize,
}

fn read_infos(cursor: &mut Cursor<'_>, n: u64, budget: &mut Budget) -> Result<Vec<Info>, Error> {
    let mut infos = Vec::new();
    for _ in 0..n {
        let info = read_info(cursor)?;
        let heap = info.name.len() + size_of_val(&info.shape[..]);
        budget.take::<(Info, Tensor)>(heap).map_err(|Exhausted| over_budget(cursor, "tensor list"))?;
        infos.push(info);
    }
    Ok(infos)
}

fn read_info(cursor: &mut Cursor<'_>) -> Result<Info, Error> {
    let name = cursor.name("tensor name")?;
    let file = cursor.file().clone();
    let wrong = |expected: String, found: String| Error::tensor(&file, &name, expected, found, DAMAGED);
    let n_dims = cursor.u32("number of dimensions")? as usize;
    if !(1..=DIMS_MAX).contains(&n_dims) {
        return Err(wrong(format!("1 to {DIMS_MAX} dimensions"), n_dims.to_string()));
    }
    let mut shape = Vec::with_capacity(n_dims);
    for _ in 0..n_dims {
        let size = cursor.u64("dimension")?;
        let size = usize::try_from(size).ok().filter(|&size| size > 0);
        shape.push(size.ok_or_else(|| wrong("sizes of at least 1 that fit this machine".into(), "another".into()))?);
    }
    shape.reverse();
    let id = cursor.u32("tensor type")?;
    let offset = cursor.u64("tensor offset")?;
    let offset = usize::try_from(offset).map_err(|_| wrong("an offset inside the file".into(), offset.to_string()))?;
    let (dtype, block) = types::from_id(id);
    let n_bytes = block.and_then(|(len, bytes)| n_bytes(len, bytes, &shape));
    if block.is_some() && n_bytes.is_none() || n_elements(&shape).is_none() {
        let len = block.map_or(1, |(len, _)| len);
        let expected = format!("rows of whole {dtype} blocks of {len}, of a size that fits this machine");
        return Err(wrong(expected, format!("shape {shape:?}")));
    }
    Ok(Info { name, dtype, shape, n_bytes, offset })
}

/// The bytes after the tensor list and its padding.
fn tensor_data(cursor: &Cursor<'_>, alignment: usize) -> Result<Bytes, Error> {
    let begin = cursor.position().checked_next_multiple_of(alignment);
    match begin.and_then(|begin| cursor.bytes_from(begin)) {
        Some(data) => Ok(data),
        None => Err(cursor.wrong("tensor data", "bytes after the tensor list", "the end of the file", TRUNCATED)),
    }
}

/// Gives each tensor its bytes, in file order.
fn place(file: &Arc<Path>, mut infos: Vec<Info>, data: &Bytes, alignment: usize) -> Result<Vec<Tensor>, Error> {
    infos.sort_unstable_by_key(|info| info.offset);
    let mut tensors: Vec<Tensor> = Vec::with_capacity(infos.len());
    let mut free_from = 0;
    let mut infos = infos.into_iter().peekable();
    while let Some(Info { name, dtype, shape, n_bytes, offset }) = infos.next() {
        let wrong = |expected: String, found: String, advice| Err(Error::tensor(file, &name, expected, found, advice));
        if !offset.is_multiple_of(alignment) {
            return wrong(format!("an offset that is a multiple of {alignment}"), offset.to_string(), DAMAGED);
        }
        if offset < free_from {
            let before = tensors.last().map_or("", |t| &t.name);
            let expected = format!("an offset of at least {free_from}, where {:?} ends", clip(before));
            return wrong(expected, offset.to_string(), DAMAGED);
        }
        // A tensor of unknown type extends to the next one; that is enough to carry it.
        let next = infos.peek().map_or(data.len(), |next| next.offset).min(data.len());
        let n_bytes = n_bytes.unwrap_or(next.saturating_sub(offset));
        let Some(end) = offset.checked_add(n_bytes).filter(|&end| end <= data.len()) else {
            let found = format!("{} bytes of tensors in the file", data.len());
            return wrong(format!("{n_bytes} bytes from {offset}"), found, TRUNCATED);
        };
        free_from = end;
        tensors.push(Tensor { name, dtype, shape, bytes: data.slice(offset..end), file: file.clone() });
    }
    Ok(tensors)
}
