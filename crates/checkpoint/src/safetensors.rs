//! Reading one safetensors file: 8 bytes of header length, a JSON header, the tensors' bytes.
//!
//! Owns the header's grammar and its checks. Must not follow references to other files (see `open.rs`).
//!
//! The `safetensors` crate is not used to read: it gives up on a whole file when one type is unknown to it, lets the
//! last of two equal names win silently, names no tensor in its errors, and keeps several maps per header without a
//! bound. The rules enforced are its rules: tensors lie end to end, without overlap or gap, and fill the file.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

use crate::budget::{self, Budget, Exhausted};
use crate::dtype::n_elements;
use crate::error::{DAMAGED, TRUNCATED, clip};
use crate::json::check_strings;
use crate::{Dtype, Error, Tensor};

/// The longest header that is read, as in the format's reference.
const HEADER_BYTES_MAX: usize = 100_000_000;
/// The most dimensions a tensor can have here; real ones have at most five.
const DIMS_MAX: usize = 8;

/// What stands in `__metadata__`: texts by name.
pub(crate) type Metadata = BTreeMap<String, String>;

/// The metadata and the tensors, in the order of their bytes.
///
/// # Errors
/// If the header is not what the format says, or does not describe exactly this file
pub(crate) fn parse(file: &Arc<Path>, bytes: &Bytes) -> Result<(Metadata, Vec<Tensor>), Error> {
    let (header, data) = split(file, bytes)?;
    let (metadata, mut entries) = parse_header(file, &header, bytes.len())?;
    entries.sort_unstable_by_key(|e| (e.begin, e.end));
    let mut tensors = Vec::with_capacity(entries.len());
    let mut end = 0;
    for entry in entries {
        if entry.begin != end {
            let expected = format!("bytes that begin at {end}, where the tensor before ends");
            let found = format!("bytes that begin at {}", entry.begin);
            return Err(Error::tensor(file, &entry.name, expected, found, DAMAGED));
        }
        tensors.push(entry.into_tensor(file, &data)?);
        end = end.saturating_add(tensors.last().map_or(0, |t| t.bytes.len()));
    }
    if end != data.len() {
        let expected = format!("{end} bytes of tensors, as the header says");
        return Err(Error::file(file, "length", expected, format!("{} bytes", data.len()), DAMAGED));
    }
    Ok((metadata, tensors))
}

/// Header and tensor bytes.
fn split(file: &Arc<Path>, bytes: &Bytes) -> Result<(Bytes, Bytes), Error> {
    let Some((length, rest)) = bytes.split_first_chunk::<8>() else {
        let found = format!("{} bytes", bytes.len());
        return Err(Error::file(file, "header length", "at least 8 bytes", found, TRUNCATED));
    };
    let stated = u64::from_le_bytes(*length);
    let n = usize::try_from(stated).ok().filter(|&n| n <= HEADER_BYTES_MAX);
    let Some(n) = n else {
        let expected = format!("at most {HEADER_BYTES_MAX} bytes");
        let advice = "this is not a safetensors file, or it is damaged: get it again";
        return Err(Error::file(file, "header length", expected, format!("{stated} bytes"), advice));
    };
    if n > rest.len() {
        let found = format!("{} bytes left in the file", rest.len());
        return Err(Error::file(file, "header", format!("{n} bytes"), found, TRUNCATED));
    }
    Ok((bytes.slice(8..8 + n), bytes.slice(8 + n..)))
}

fn parse_header(file: &Arc<Path>, header: &[u8], n_file_bytes: usize) -> Result<(Metadata, Vec<Entry>), Error> {
    let mut state = Header {
        metadata: Metadata::new(),
        entries: Vec::new(),
        budget: Budget::for_file(n_file_bytes),
        current: String::new(),
    };
    let mut json = serde_json::Deserializer::from_slice(header);
    let parsed = check_strings(header, n_file_bytes).and_then(|()| {
        let parsed = json.deserialize_map(&mut state).and_then(|()| json.end());
        parsed.map_err(|e| e.to_string())
    });
    parsed.map(|()| (state.metadata, state.entries)).map_err(|found| {
        let at = if state.current.is_empty() { "header".into() } else { format!("header, {:?}", clip(&state.current)) };
        Error::file(file, at, "a JSON object of tensors", clip(&found), DAMAGED)
    })
}

/// One tensor of the header, not yet compared with the file.
struct Entry {
    name: String,
    dtype: Dtype,
    shape: Vec<usize>,
    begin: usize,
    end: usize,
}

impl Entry {
    fn into_tensor(self, file: &Arc<Path>, data: &Bytes) -> Result<Tensor, Error> {
        let Self { name, dtype, shape, begin, end } = self;
        if end < begin {
            let found = format!("bytes {begin} to {end}");
            return Err(Error::tensor(file, &name, "an end not before the beginning", found, DAMAGED));
        }
        if end > data.len() {
            let found = format!("{} bytes in the file", data.len());
            return Err(Error::tensor(file, &name, format!("bytes {begin} to {end}"), found, TRUNCATED));
        }
        let expected = match (&dtype, dtype.n_bytes(&shape)) {
            (_, Some(n)) if n == end - begin => None,
            (Dtype::Other(_), _) if n_elements(&shape).is_some() => None,
            (_, Some(n)) => Some(format!("{n} bytes for {dtype} of shape {shape:?}")),
            (_, None) => Some(format!("a shape that {dtype} can have, of a size that fits this machine")),
        };
        if let Some(expected) = expected {
            let found = format!("{} bytes and shape {shape:?}", end - begin);
            return Err(Error::tensor(file, &name, expected, found, DAMAGED));
        }
        Ok(Tensor { name, dtype, shape, bytes: data.slice(begin..end), file: file.clone() })
    }
}

/// What has been read of the header; `current` names the tensor being read, for errors.
struct Header {
    metadata: Metadata,
    entries: Vec<Entry>,
    budget: Budget,
    current: String,
}

impl<'de> Visitor<'de> for &mut Header {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(name) = map.next_key::<String>()? {
            self.current = name;
            if self.current == "__metadata__" {
                map.next_value_seed(Texts(self))?;
                continue;
            }
            let RawEntry { dtype, shape: Shape(shape), data_offsets: (begin, end) } = map.next_value()?;
            let name = std::mem::take(&mut self.current);
            let heap = name.len() + dtype.len() + size_of_val(&shape[..]);
            self.budget.take::<(Entry, Tensor)>(heap).map_err(over_budget)?;
            self.entries.push(Entry { name, dtype: Dtype::from_safetensors(&dtype), shape, begin, end });
        }
        Ok(())
    }
}

fn over_budget<E: serde::de::Error>(_: Exhausted) -> E {
    E::custom(format_args!("more than fits: expected {}", budget::EXPECTED))
}

/// Reads `__metadata__`.
struct Texts<'a>(&'a mut Header);

impl<'de> DeserializeSeed<'de> for Texts<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Texts<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of texts")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some((key, text)) = map.next_entry::<String, String>()? {
            self.0.budget.take::<(String, String)>(key.len() + text.len()).map_err(over_budget)?;
            self.0.metadata.insert(key, text);
        }
        Ok(())
    }
}

/// A tensor's object as written. Unknown fields are ignored, as the format's reference does.
#[derive(Deserialize)]
struct RawEntry {
    dtype: String,
    shape: Shape,
    data_offsets: (usize, usize),
}

/// A shape of at most [`DIMS_MAX`] dimensions.
struct Shape(Vec<usize>);

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        ShapeSeed.deserialize(deserializer).map(Self)
    }
}

struct ShapeSeed;

impl<'de> DeserializeSeed<'de> for ShapeSeed {
    type Value = Vec<usize>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Vec<usize>, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for ShapeSeed {
    type Value = Vec<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a shape of at most {DIMS_MAX} dimensions")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<usize>, A::Error> {
        let mut shape = Vec::new();
        while let Some(size) = seq.next_element()? {
            if shape.len() == DIMS_MAX {
                return Err(A::Error::invalid_length(DIMS_MAX + 1, &self));
            }
            shape.push(size);
        }
        Ok(shape)
    }
}
