//! Reading `config.json`.
//!
//! Owns the bounds on what such a file may hold. Must not know what any key means: that is the model's business.

use std::fmt;
use std::fs;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use crate::Error;
use crate::error::clip;
use crate::json::check_strings;

/// The largest file that is read; published ones have a few kilobytes.
const BYTES_MAX: u64 = 4 << 20;
/// The deepest nesting.
const DEPTH_MAX: usize = 32;
/// The most values in all. With [`BYTES_MAX`] it bounds memory: a value costs far more than the two bytes of "0,".
const VALUES_MAX: usize = 1 << 16;

const ADVICE: &str = "get config.json again from the model's publisher";

/// Reads the `config.json` of a model's folder, or the JSON file that is given.
///
/// # Errors
/// If the file is missing or unreadable, is no JSON object, is larger, deeper or fuller than any published
/// one, or gives a key twice
pub fn read_config(path: impl AsRef<Path>) -> Result<Value, Error> {
    let path = path.as_ref();
    let file: Arc<Path> = if path.is_dir() { path.join("config.json").into() } else { path.into() };
    let about = fs::metadata(&file).map_err(|e| Error::io(&file, "find the configuration", e))?;
    if !about.is_file() {
        return Err(Error::file(&file, "kind", "a regular file", "something else", ADVICE));
    }
    let mut text = Vec::new();
    let handle = fs::File::open(&file).map_err(|e| Error::io(&file, "open the configuration", e))?;
    let read = handle.take(BYTES_MAX + 1).read_to_end(&mut text);
    read.map_err(|e| Error::io(&file, "read the configuration", e))?;
    parse_config(&file, &text)
}

/// Parses the text of a `config.json`; `file` is its name in errors.
///
/// # Errors
/// As [`read_config`]
pub fn parse_config(file: impl AsRef<Path>, text: &[u8]) -> Result<Value, Error> {
    let file: Arc<Path> = file.as_ref().into();
    if text.len() as u64 > BYTES_MAX {
        return Err(Error::file(&file, "length", format!("at most {BYTES_MAX} bytes"), "more", ADVICE));
    }
    let parsed = check_strings(text, text.len()).and_then(|()| {
        let mut left = VALUES_MAX;
        let mut json = serde_json::Deserializer::from_slice(text);
        let parsed = Bounded { depth: 0, left: &mut left }.deserialize(&mut json);
        parsed.and_then(|value| json.end().map(|()| value)).map_err(|e| e.to_string())
    });
    match parsed {
        Ok(value @ Value::Object(_)) => Ok(value),
        Ok(_) => Err(Error::file(&file, "text", "a JSON object", "another JSON value", ADVICE)),
        Err(found) => Err(Error::file(&file, "text", "a JSON object", clip(&found), ADVICE)),
    }
}

/// Builds a [`Value`] that is no deeper and no fuller than allowed.
struct Bounded<'a> {
    depth: usize,
    left: &'a mut usize,
}

impl Bounded<'_> {
    fn inner<E: serde::de::Error>(&mut self) -> Result<Bounded<'_>, E> {
        if self.depth == DEPTH_MAX {
            return Err(E::custom(format_args!("nesting deeper than {DEPTH_MAX}")));
        }
        Ok(Bounded { depth: self.depth + 1, left: self.left })
    }
}

impl<'de> DeserializeSeed<'de> for Bounded<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        *self.left =
            self.left.checked_sub(1).ok_or_else(|| D::Error::custom(format_args!("more than {VALUES_MAX} values")))?;
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Bounded<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("a number that is not finite"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut seq: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(value) = seq.next_element_seed(self.inner()?)? {
            list.push(value);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            let value = map.next_value_seed(self.inner()?)?;
            if object.contains_key(&key) {
                return Err(A::Error::custom(format_args!("the key {:?} twice", clip(&key))));
            }
            object.insert(key, value);
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Value, String> {
        parse_config("some/config.json", text.as_bytes()).map_err(|e| e.to_string())
    }

    #[test]
    fn what_serde_json_reads_is_read_alike() {
        let text = r#"{"a": [1, -2, 3.5e-6, 18446744073709551615, true, null], "b": {"é\n": ""}, "c": []}"#;
        assert_eq!(parse(text).unwrap(), serde_json::from_str::<Value>(text).unwrap());
    }

    #[test]
    fn every_bound_is_an_error_that_names_the_file() {
        let cases = [
            ("".into(), "EOF"),
            ("[]".into(), "another JSON value"),
            ("{} {}".into(), "trailing"),
            ("{\"a\": 1, \"a\": 2}".into(), "the key \"a\" twice"),
            (format!("{{\"a\": {}}}", "[".repeat(100_000)), "nesting deeper than 32"),
            (format!("{{\"a\": [{}0]}}", "0,".repeat(VALUES_MAX)), "more than 65536 values"),
            (" ".repeat(BYTES_MAX as usize + 1), "at most 4194304 bytes"),
            ("{\"a\": 1e999}".into(), "out of range"),
        ];
        for (text, wanted) in cases {
            let error = parse(&text).unwrap_err();
            assert!(error.contains(wanted) && error.starts_with("some/config.json: "), "{error}");
        }
    }
}
