//! Writing safetensors.
//!
//! Owns the order of tensors and the header.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::{ADVICE, Item, atomic, check_names};
use crate::Error;

/// Writes a safetensors file. `metadata` becomes `__metadata__`.
///
/// Tensors are ordered by the size of their elements, largest first, and keep the given order beside that: with a
/// header padded to 8 bytes every tensor is then aligned for its type.
///
/// # Errors
/// If two items have one name, an item's data does not fill its shape, its type is unknown to the format,
/// or the file cannot be written; then no file appears
pub fn safetensors(
    path: impl AsRef<Path>,
    metadata: &BTreeMap<String, String>,
    items: &[Item<'_>],
) -> Result<(), Error> {
    let file: Arc<Path> = path.as_ref().into();
    let (header, order) = plan(&file, metadata, items)?;
    atomic::write(&file, |out| fill(out, &header, &order))
}

/// The same in memory, for a model that is handed on within the program; `name` is its name in errors.
///
/// # Errors
/// As [`safetensors`], but for files
pub fn safetensors_bytes(name: impl AsRef<Path>, items: &[Item<'_>]) -> Result<Vec<u8>, Error> {
    let file: Arc<Path> = name.as_ref().into();
    let (header, order) = plan(&file, &BTreeMap::new(), items)?;
    let mut bytes = Vec::new();
    fill(&mut bytes, &header, &order).map_err(|e| Error::io(&file, "write the model", e))?;
    Ok(bytes)
}

/// The header, and the items in the order of their bytes.
fn plan<'i, 'd>(
    file: &Arc<Path>,
    metadata: &BTreeMap<String, String>,
    items: &'i [Item<'d>],
) -> Result<(Vec<u8>, Vec<&'i Item<'d>>), Error> {
    check_names(file, items)?;
    let mut order: Vec<&Item<'_>> = items.iter().collect();
    order.sort_by_key(|item| std::cmp::Reverse(item.dtype.block().map_or(0, |(_, bytes)| bytes)));
    Ok((header(file, metadata, &order)?, order))
}

fn fill(out: &mut impl Write, header: &[u8], order: &[&Item<'_>]) -> std::io::Result<()> {
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(header)?;
    order.iter().try_for_each(|item| item.write(out))
}

fn header(file: &Arc<Path>, metadata: &BTreeMap<String, String>, items: &[&Item<'_>]) -> Result<Vec<u8>, Error> {
    let mut header = Map::new();
    if !metadata.is_empty() {
        header.insert("__metadata__".into(), json!(metadata));
    }
    let mut begin = 0usize;
    for item in items {
        let wrong = |expected: &str, found: String| Error::tensor(file, item.name, expected, found, ADVICE);
        let Some(dtype) = item.dtype.safetensors_name() else {
            return Err(wrong("a type that safetensors has", item.dtype.to_string()));
        };
        if item.name == "__metadata__" {
            return Err(wrong("another name", "the name that the format keeps for itself".into()));
        }
        let end = begin.checked_add(item.n_bytes(file)?);
        let end = end.ok_or_else(|| wrong("a file that fits this machine", "more".into()))?;
        header.insert(item.name.into(), json!({ "dtype": dtype, "shape": item.shape, "data_offsets": [begin, end] }));
        begin = end;
    }
    let mut text = Value::Object(header).to_string().into_bytes();
    text.resize(text.len().next_multiple_of(8), b' ');
    Ok(text)
}
