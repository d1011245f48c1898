//! Writing GGUF, version 3.
//!
//! Owns the order of the parts and their alignment.

use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use super::{ADVICE, Item, atomic, check_names};
use crate::Error;
use crate::gguf::types::id_of;
use crate::gguf::{ALIGNMENT, ALIGNMENT_KEY, ARRAY_ID, Array, DIMS_MAX, Kind, MAGIC, Value};

const VERSION: u32 = 3;

/// Writes a GGUF file: `metadata` in the given order, then the tensors, each aligned to 32 bytes.
///
/// # Errors
/// If a key or a name is given twice or is empty, an item's data does not fill its shape, its type is
/// unknown to the format, or the file cannot be written; then no file appears
pub fn gguf(path: impl AsRef<Path>, metadata: &[(&str, Value)], items: &[Item<'_>]) -> Result<(), Error> {
    let file: Arc<Path> = path.as_ref().into();
    check_names(&file, items)?;
    let mut header = Vec::new();
    header.extend(MAGIC);
    header.extend(VERSION.to_le_bytes());
    header.extend((items.len() as u64).to_le_bytes());
    header.extend((metadata.len() as u64).to_le_bytes());
    for (i, (key, value)) in metadata.iter().enumerate() {
        check_key(&file, &metadata[..i], key)?;
        put_string(&mut header, key.as_bytes());
        put_value(&mut header, value);
    }
    let mut offset = 0;
    for item in items {
        put_info(&file, &mut header, item, offset)?;
        offset = padded(offset + item.n_bytes(&file)?);
    }
    header.resize(padded(header.len()), 0);
    atomic::write(&file, |out| {
        out.write_all(&header)?;
        items.iter().try_for_each(|item| write_padded(&file, out, item))
    })
}

/// `n` rounded up to the alignment.
fn padded(n: usize) -> usize {
    n.next_multiple_of(ALIGNMENT as usize)
}

fn check_key(file: &Arc<Path>, before: &[(&str, Value)], key: &str) -> Result<(), Error> {
    let found = if key.is_empty() || key.len() > usize::from(u16::MAX) {
        format!("a key of {} bytes", key.len())
    } else if key == ALIGNMENT_KEY {
        "a key that the writer sets".into()
    } else if before.iter().any(|(other, _)| *other == key) {
        "the key twice".into()
    } else {
        return Ok(());
    };
    Err(Error::key(file, key, "another key", found, ADVICE))
}

fn put_string(out: &mut Vec<u8>, text: &[u8]) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text);
}

fn put_value(out: &mut Vec<u8>, value: &Value) {
    let mut put = |kind: Kind, bytes: &[u8]| {
        out.extend(kind.id().to_le_bytes());
        out.extend(bytes);
    };
    match value {
        Value::U8(v) => put(Kind::U8, &v.to_le_bytes()),
        Value::I8(v) => put(Kind::I8, &v.to_le_bytes()),
        Value::U16(v) => put(Kind::U16, &v.to_le_bytes()),
        Value::I16(v) => put(Kind::I16, &v.to_le_bytes()),
        Value::U32(v) => put(Kind::U32, &v.to_le_bytes()),
        Value::I32(v) => put(Kind::I32, &v.to_le_bytes()),
        Value::U64(v) => put(Kind::U64, &v.to_le_bytes()),
        Value::I64(v) => put(Kind::I64, &v.to_le_bytes()),
        Value::F32(v) => put(Kind::F32, &v.to_le_bytes()),
        Value::F64(v) => put(Kind::F64, &v.to_le_bytes()),
        Value::Bool(v) => put(Kind::Bool, &[u8::from(*v)]),
        Value::String(text) => {
            put(Kind::String, &[]);
            put_string(out, text);
        }
        Value::Array(array) => put_array(out, array),
    }
}

fn put_array(out: &mut Vec<u8>, array: &Array) {
    out.extend(ARRAY_ID.to_le_bytes());
    out.extend(array.kind().id().to_le_bytes());
    out.extend((array.len() as u64).to_le_bytes());
    out.extend(array.bytes());
}

fn put_info(file: &Arc<Path>, out: &mut Vec<u8>, item: &Item<'_>, offset: usize) -> Result<(), Error> {
    let wrong = |expected: String, found: String| Err(Error::tensor(file, item.name, expected, found, ADVICE));
    let Some(id) = id_of(&item.dtype) else {
        return wrong("a type that GGUF has".into(), item.dtype.to_string());
    };
    if item.shape.is_empty() || item.shape.len() > DIMS_MAX || item.shape.contains(&0) {
        return wrong(format!("1 to {DIMS_MAX} dimensions of at least 1"), format!("shape {:?}", item.shape));
    }
    put_string(out, item.name.as_bytes());
    out.extend((item.shape.len() as u32).to_le_bytes());
    item.shape.iter().rev().for_each(|&size| out.extend((size as u64).to_le_bytes()));
    out.extend(id.to_le_bytes());
    out.extend((offset as u64).to_le_bytes());
    Ok(())
}

fn write_padded(file: &Arc<Path>, out: &mut impl Write, item: &Item<'_>) -> io::Result<()> {
    item.write(out)?;
    let n_bytes = item.n_bytes(file).map_err(io::Error::other)?;
    out.write_all(&[0; ALIGNMENT as usize][..padded(n_bytes) - n_bytes])
}
