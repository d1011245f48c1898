//! Typed, bounded access to a JSON object's keys.
//!
//! Owns the errors of configs: each names the key, what was expected and what was found. Must not know any model.

use serde_json::{Map, Value};
use thiserror::Error;

/// Why a config was refused.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{source_name}: {key}: expected {expected}, found {found}")]
pub struct ConfigError {
    /// `config.json` or the GGUF's metadata.
    pub source_name: String,
    /// The key, with its path.
    pub key: String,
    /// What would have been accepted.
    pub expected: String,
    /// What stands there.
    pub found: String,
}

impl ConfigError {
    pub(crate) fn new(source_name: &str, key: &str, expected: &str, found: &str) -> Self {
        let [source_name, key, expected, found] = [source_name, key, expected, found].map(str::to_owned);
        Self { source_name, key, expected, found }
    }
}

/// Largest size accepted for any dimension: above every published model, and small enough that a config of a few
/// hundred bytes cannot ask for much.
const DIM_MAX: usize = 1 << 20;

/// An object of the config and the path that leads to it.
#[derive(Clone, Copy)]
pub(super) struct Keys<'a> {
    path: &'a str,
    map: &'a Map<String, Value>,
}

impl<'a> Keys<'a> {
    pub(super) fn new(path: &'a str, json: &'a Value) -> Result<Self, ConfigError> {
        match json {
            Value::Object(map) => Ok(Self { path, map }),
            other => Err(error(path, "", "a JSON object", &show(other))),
        }
    }

    /// The value of a key; `null` counts as absent.
    pub(super) fn get(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|v| !v.is_null())
    }

    pub(super) fn object(&self, key: &str, path: &'a str) -> Result<Option<Keys<'a>>, ConfigError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(Keys { path, map })),
            Some(other) => Err(self.error(key, "an object", &show(other))),
        }
    }

    pub(super) fn error(&self, key: &str, expected: &str, found: &str) -> ConfigError {
        error(self.path, key, expected, found)
    }

    fn required<T>(&self, key: &str, expected: &str, value: Option<T>) -> Result<T, ConfigError> {
        value.ok_or_else(|| self.error(key, expected, "no such key"))
    }

    /// A count between 1 and `max`, which the errors give.
    pub(super) fn dim_up_to(&self, key: &str, max: usize) -> Result<usize, ConfigError> {
        let value = self.count_up_to(key, max)?.filter(|n| *n > 0);
        let found = self.get(key).map_or("no such key".to_owned(), show);
        value.ok_or_else(|| self.error(key, &format!("an integer from 1 to {max}"), &found))
    }

    /// A count between 1 and [`DIM_MAX`].
    pub(super) fn dim(&self, key: &str) -> Result<usize, ConfigError> {
        let value = self.opt_dim(key)?;
        self.required(key, "a positive integer", value)
    }

    pub(super) fn opt_dim(&self, key: &str) -> Result<Option<usize>, ConfigError> {
        match self.count(key)? {
            Some(0) => Err(self.error(key, "a positive integer", "0")),
            other => Ok(other),
        }
    }

    /// A count between 0 and [`DIM_MAX`], if present.
    pub(super) fn count(&self, key: &str) -> Result<Option<usize>, ConfigError> {
        self.count_up_to(key, DIM_MAX)
    }

    fn count_up_to(&self, key: &str, max: usize) -> Result<Option<usize>, ConfigError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let whole =
            value.as_u64().or_else(|| value.as_f64().filter(|f| f.fract() == 0.0 && *f >= 0.0).map(|f| f as u64));
        match whole {
            Some(n) if n <= max as u64 => Ok(Some(n as usize)),
            _ => Err(self.error(key, &format!("an integer of at most {max}"), &show(value))),
        }
    }

    /// A finite number above zero.
    pub(super) fn positive(&self, key: &str) -> Result<f64, ConfigError> {
        let value = self.opt_positive(key)?;
        self.required(key, "a number above 0", value)
    }

    pub(super) fn opt_positive(&self, key: &str) -> Result<Option<f64>, ConfigError> {
        match self.number(key)? {
            Some(n) if n <= 0.0 => Err(self.error(key, "a number above 0", &n.to_string())),
            other => Ok(other),
        }
    }

    /// A finite number, if present.
    pub(super) fn number(&self, key: &str) -> Result<Option<f64>, ConfigError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match value.as_f64() {
            Some(n) if n.is_finite() => Ok(Some(n)),
            _ => Err(self.error(key, "a number", &show(value))),
        }
    }

    pub(super) fn flag(&self, key: &str, default: bool) -> Result<bool, ConfigError> {
        match self.get(key) {
            None => Ok(default),
            Some(Value::Bool(b)) => Ok(*b),
            Some(other) => Err(self.error(key, "true or false", &show(other))),
        }
    }

    pub(super) fn text(&self, key: &str) -> Result<Option<&'a str>, ConfigError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(s)) => Ok(Some(s)),
            Some(other) => Err(self.error(key, "a string", &show(other))),
        }
    }

    /// The choice that `key` names; `default` when absent.
    pub(super) fn choice<T: Copy>(&self, key: &str, known: &[(&str, T)], default: Option<T>) -> Result<T, ConfigError> {
        let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
        let expected = format!("one of {}", names.join(", "));
        let Some(value) = self.text(key)? else { return self.required(key, &expected, default) };
        let found = known.iter().find(|(name, _)| *name == value).map(|(_, choice)| *choice);
        found.ok_or_else(|| self.error(key, &expected, &format!("{value:?}")))
    }

    /// Refuses any value of `key` but the one that the program computes; absent is fine.
    pub(super) fn only(&self, key: &str, value: &Value) -> Result<(), ConfigError> {
        match self.get(key) {
            Some(found) if found != value => Err(self.error(key, &value.to_string(), &show(found))),
            _ => Ok(()),
        }
    }
}

fn error(path: &str, key: &str, expected: &str, found: &str) -> ConfigError {
    let (source_name, prefix) = path.split_once(": ").unwrap_or((path, ""));
    let key = if prefix.is_empty() { key.to_owned() } else { format!("{prefix}.{key}") };
    ConfigError::new(source_name, &key, expected, found)
}

/// A value as it stands in the file, shortened.
fn show(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(80) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
