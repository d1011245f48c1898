//! Values of GGUF metadata.
//!
//! Owns their types and conversions. Arrays stay as they lie in the file: a vocabulary of strings costs four bytes per
//! entry beside the mapped file.

use bytes::{BufMut, Bytes, BytesMut};

use super::cursor::Cursor;
use crate::Error;
use crate::error::{CONVERT, DAMAGED};

/// One metadata value.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "the variants carry the format's own type names")]
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    U64(u64),
    I64(i64),
    F32(f32),
    F64(f64),
    Bool(bool),
    /// Text, usually but not necessarily UTF-8: [`FromValue`] for `&str` checks it.
    String(Bytes),
    Array(Array),
}

/// The type of a value that is not an array.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the variants carry the format's own type names")]
pub enum Kind {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    String,
    U64,
    I64,
    F64,
}

/// A list of values of one type, as it lies in the file.
#[derive(Clone, Debug, PartialEq)]
pub struct Array {
    kind: Kind,
    len: usize,
    /// The elements as the format stores them, strings with their lengths.
    bytes: Bytes,
    /// For strings: where in `bytes` each one's length stands.
    starts: Vec<u32>,
}

/// The number by which the format names an array.
pub(crate) const ARRAY_ID: u32 = 9;

impl Kind {
    const BY_ID: [(u32, Self); 12] = [
        (0, Self::U8),
        (1, Self::I8),
        (2, Self::U16),
        (3, Self::I16),
        (4, Self::U32),
        (5, Self::I32),
        (6, Self::F32),
        (7, Self::Bool),
        (8, Self::String),
        (10, Self::U64),
        (11, Self::I64),
        (12, Self::F64),
    ];

    fn from_id(id: u32) -> Option<Self> {
        Self::BY_ID.iter().find(|(known, _)| *known == id).map(|(_, kind)| *kind)
    }

    /// The number by which the format names the type.
    pub(crate) fn id(self) -> u32 {
        Self::BY_ID.iter().find(|(_, kind)| *kind == self).map_or(0, |(id, _)| *id)
    }

    /// Bytes of one element; for strings, of its length.
    fn n_bytes(self) -> usize {
        match self {
            Self::U8 | Self::I8 | Self::Bool => 1,
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 | Self::String => 8,
        }
    }
}

impl Value {
    pub(super) fn read(cursor: &mut Cursor<'_>, key: &str) -> Result<Self, Error> {
        let id = cursor.u32("value type")?;
        if id == ARRAY_ID {
            return Array::read(cursor, key).map(Self::Array);
        }
        let Some(kind) = Kind::from_id(id) else {
            return Err(Error::key(cursor.file(), key, "a value type from 0 to 12", id.to_string(), DAMAGED));
        };
        if kind == Kind::String {
            return cursor.string(key).map(Self::String);
        }
        let bytes = cursor.take(Some(kind.n_bytes()), key)?;
        match Self::decode(kind, &bytes) {
            Some(value) => Ok(value),
            None => Err(Error::key(cursor.file(), key, "a Bool of 0 or 1", format!("{:?}", &bytes[..]), DAMAGED)),
        }
    }

    /// The number at the beginning of `bytes`; `None` for a Bool that is neither 0 nor 1, and for strings.
    fn decode(kind: Kind, bytes: &[u8]) -> Option<Self> {
        fn first<const N: usize>(bytes: &[u8]) -> Option<[u8; N]> {
            bytes.first_chunk().copied()
        }
        Some(match kind {
            Kind::U8 => Self::U8(u8::from_le_bytes(first(bytes)?)),
            Kind::I8 => Self::I8(i8::from_le_bytes(first(bytes)?)),
            Kind::U16 => Self::U16(u16::from_le_bytes(first(bytes)?)),
            Kind::I16 => Self::I16(i16::from_le_bytes(first(bytes)?)),
            Kind::U32 => Self::U32(u32::from_le_bytes(first(bytes)?)),
            Kind::I32 => Self::I32(i32::from_le_bytes(first(bytes)?)),
            Kind::F32 => Self::F32(f32::from_le_bytes(first(bytes)?)),
            Kind::U64 => Self::U64(u64::from_le_bytes(first(bytes)?)),
            Kind::I64 => Self::I64(i64::from_le_bytes(first(bytes)?)),
            Kind::F64 => Self::F64(f64::from_le_bytes(first(bytes)?)),
            Kind::Bool => match bytes.first()? {
                0 => Self::Bool(false),
                1 => Self::Bool(true),
                _ => return None,
            },
            Kind::String => return None,
        })
    }

    /// Memory that the value owns beside itself.
    pub(super) fn heap_bytes(&self) -> usize {
        match self {
            Self::Array(array) => size_of_val(&array.starts[..]),
            _ => 0,
        }
    }

    /// Type and value, for errors.
    pub(super) fn describe(&self) -> String {
        match self {
            Self::String(text) => {
                format!("String {:?}", crate::error::clip(&String::from_utf8_lossy(clip_bytes(text))))
            }
            Self::Array(array) => format!("an array of {} {:?}", array.len, array.kind),
            other => format!("{other:?}"),
        }
    }

    /// The value as an integer, if it is one.
    fn integer(&self) -> Option<i128> {
        Some(match *self {
            Self::U8(v) => v.into(),
            Self::I8(v) => v.into(),
            Self::U16(v) => v.into(),
            Self::I16(v) => v.into(),
            Self::U32(v) => v.into(),
            Self::I32(v) => v.into(),
            Self::U64(v) => v.into(),
            Self::I64(v) => v.into(),
            _ => return None,
        })
    }
}

/// The first bytes of a text: a file's megabytes do not go into an error.
fn clip_bytes(text: &[u8]) -> &[u8] {
    &text[..text.len().min(1024)]
}

impl Array {
    fn read(cursor: &mut Cursor<'_>, key: &str) -> Result<Self, Error> {
        let id = cursor.u32("array type")?;
        let Some(kind) = Kind::from_id(id) else {
            let found = if id == ARRAY_ID { "an array of arrays".into() } else { format!("type {id}") };
            return Err(Error::key(cursor.file(), key, "an array of plain values", found, CONVERT));
        };
        let stated = cursor.u64("array length")?;
        let len = usize::try_from(stated).ok();
        if kind != Kind::String {
            let bytes = cursor.take(len.and_then(|len| len.checked_mul(kind.n_bytes())), key)?;
            if kind == Kind::Bool && bytes.iter().any(|&b| b > 1) {
                return Err(Error::key(cursor.file(), key, "Bools of 0 or 1", "another byte", DAMAGED));
            }
            return Ok(Self { kind, len: len.unwrap_or(0), bytes, starts: Vec::new() });
        }
        let begin = cursor.position();
        let mut starts = Vec::new();
        // Each turn consumes at least the 8 bytes of a length, so the file bounds the loop and the list.
        for _ in 0..stated {
            let start = u32::try_from(cursor.position() - begin);
            let too_long = |_| Error::key(cursor.file(), key, "texts of at most 4 GiB in all", "more", DAMAGED);
            starts.push(start.map_err(too_long)?);
            cursor.string(key)?;
        }
        let n_bytes = cursor.position() - begin;
        let bytes = cursor.bytes_from(begin).map_or(Bytes::new(), |rest| rest.slice(..n_bytes));
        Ok(Self { kind, len: starts.len(), bytes, starts })
    }

    /// An array of texts, for writing.
    ///
    /// # Panics   if the texts take more than 4 GiB
    pub fn from_strs<S: AsRef<str>>(texts: &[S]) -> Self {
        let mut bytes = BytesMut::new();
        let mut starts = Vec::with_capacity(texts.len());
        for text in texts {
            assert!(bytes.len() <= u32::MAX as usize, "texts of more than 4 GiB in one array");
            starts.push(bytes.len() as u32);
            bytes.put_u64_le(text.as_ref().len() as u64);
            bytes.put_slice(text.as_ref().as_bytes());
        }
        Self { kind: Kind::String, len: texts.len(), bytes: bytes.freeze(), starts }
    }

    /// An array of 32-bit integers, for writing.
    pub fn from_i32(values: &[i32]) -> Self {
        Self::from_numbers(Kind::I32, values, i32::to_le_bytes)
    }

    /// An array of 32-bit unsigned integers, for writing.
    pub fn from_u32(values: &[u32]) -> Self {
        Self::from_numbers(Kind::U32, values, u32::to_le_bytes)
    }

    /// An array of 32-bit floats, for writing.
    pub fn from_f32(values: &[f32]) -> Self {
        Self::from_numbers(Kind::F32, values, f32::to_le_bytes)
    }

    fn from_numbers<T: Copy, const N: usize>(kind: Kind, values: &[T], bytes: impl Fn(T) -> [u8; N]) -> Self {
        let bytes: Vec<u8> = values.iter().flat_map(|&v| bytes(v)).collect();
        Self { kind, len: values.len(), bytes: bytes.into(), starts: Vec::new() }
    }

    /// The elements' type.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The elements' bytes as the format stores them.
    pub(crate) fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Element `i`, if there is one.
    pub fn get(&self, i: usize) -> Option<Value> {
        if i >= self.len {
            return None;
        }
        match self.kind {
            Kind::String => {
                let text = self.text(i)?;
                Some(Value::String(self.bytes.slice_ref(text)))
            }
            kind => Value::decode(kind, &self.bytes[i * kind.n_bytes()..]),
        }
    }

    /// The bytes of text `i` of an array of texts.
    pub fn text(&self, i: usize) -> Option<&[u8]> {
        let start = *self.starts.get(i)? as usize;
        let (length, rest) = self.bytes.get(start..)?.split_first_chunk::<8>()?;
        rest.get(..usize::try_from(u64::from_le_bytes(*length)).ok()?)
    }
}

/// A type that a metadata value can be read as.
pub trait FromValue<'a>: Sized {
    /// What is expected, for errors.
    const EXPECTED: &'static str;

    /// The value, if it is of this type or can be converted without loss.
    fn from_value(value: &'a Value) -> Option<Self>;
}

/// A number that a value, and an array of such values, can be read as.
trait Number: Sized {
    const EXPECTED_ARRAY: &'static str;
    fn from_number(value: &Value) -> Option<Self>;
}

macro_rules! numbers {
    ($($type:ty, $expected:literal, $value:ident => $convert:expr;)*) => {$(
        impl Number for $type {
            const EXPECTED_ARRAY: &'static str = concat!("an array, each element ", $expected);
            fn from_number($value: &Value) -> Option<Self> { $convert }
        }

        impl FromValue<'_> for $type {
            const EXPECTED: &'static str = $expected;
            fn from_value(value: &Value) -> Option<Self> { Self::from_number(value) }
        }
    )*};
}

numbers! {
    u32, "an integer from 0 to 2^32 - 1", v => v.integer()?.try_into().ok();
    i32, "an integer of 32 bits with sign", v => v.integer()?.try_into().ok();
    u64, "an integer from 0 to 2^64 - 1", v => v.integer()?.try_into().ok();
    usize, "an integer from 0 on that fits this machine", v => v.integer()?.try_into().ok();
    bool, "a Bool", v => match v { Value::Bool(b) => Some(*b), _ => None };
    f32, "a floating-point number", v => match v {
        Value::F32(f) => Some(*f),
        Value::F64(f) => Some(*f as f32),
        _ => None,
    };
}

impl<T: Number> FromValue<'_> for Vec<T> {
    const EXPECTED: &'static str = T::EXPECTED_ARRAY;

    fn from_value(value: &Value) -> Option<Self> {
        let Value::Array(array) = value else { return None };
        (0..array.len).map(|i| T::from_number(&array.get(i)?)).collect()
    }
}

impl<'a> FromValue<'a> for &'a str {
    const EXPECTED: &'static str = "a String of UTF-8 text";

    fn from_value(value: &'a Value) -> Option<Self> {
        let Value::String(text) = value else { return None };
        str::from_utf8(text).ok()
    }
}

impl<'a> FromValue<'a> for Vec<&'a str> {
    const EXPECTED: &'static str = "an array of Strings of UTF-8 text";

    fn from_value(value: &'a Value) -> Option<Self> {
        let Value::Array(array) = value else { return None };
        (0..array.len).map(|i| str::from_utf8(array.text(i)?).ok()).collect()
    }
}

impl<'a> FromValue<'a> for &'a Array {
    const EXPECTED: &'static str = "an array";

    fn from_value(value: &'a Value) -> Option<Self> {
        match value {
            Value::Array(array) => Some(array),
            _ => None,
        }
    }
}
