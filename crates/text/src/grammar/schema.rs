//! JSON schemas before they are compiled. Owns what is refused, and where; what is rewritten without changing what a
//! schema means; and its limits. Must not compile.
//!
//! The library refuses the keywords it knows and cannot enforce, but without saying where, and a few combinations it
//! gets wrong. Both are found here, so that every error names a place and every accepted schema is enforced. What
//! JSON Schema itself defines as annotation (`title`, unknown keywords, unknown `format`s) is no error.

use std::collections::{BTreeSet, HashSet};

use serde_json::{Map, Value};

use super::{GrammarError, STACK_BYTES_PER_NODE, conjunction, limit, pattern, with_stack};
use crate::error::excerpt;

/// Most bytes of text, most values and deepest nesting of a schema.
const MAX_BYTES: usize = 512 * 1024;
const MAX_VALUES: usize = 50_000;
const MAX_DEPTH: usize = 64;
/// Most alternatives in one `allOf`, each of which is intersected with the rest by recursion.
const MAX_ALL_OF: usize = 100;
/// Most patterns and formats that may have to hold at once.
const MAX_PATTERNS: usize = 4;
/// Largest minimum: so much text must be written. And the largest maximum that is counted: no text is longer.
const MAX_LENGTH: u64 = 10_000;
const MAX_MAXIMUM: u64 = 1 << 30;
/// Integers beyond this are not exact in the library's arithmetic.
const MAX_EXACT: f64 = 9_007_199_254_740_991.0;
/// The same with three digits after the point.
const MAX_FRACTION: f64 = 1e12;

/// Keywords that assert something the library cannot enforce.
const UNSUPPORTED: [&str; 18] = [
    "not",
    "if",
    "then",
    "else",
    "contains",
    "minContains",
    "maxContains",
    "propertyNames",
    "dependencies",
    "dependentRequired",
    "dependentSchemas",
    "unevaluatedItems",
    "unevaluatedProperties",
    "$dynamicRef",
    "$recursiveRef",
    "extends",
    "disallow",
    "divisibleBy",
];
/// Keywords with one schema, with a list of them, with a map to them.
const ONE: [&str; 2] = ["additionalProperties", "additionalItems"];
const LIST: [&str; 4] = ["allOf", "anyOf", "oneOf", "prefixItems"];
const MAP: [&str; 4] = ["properties", "patternProperties", "$defs", "definitions"];
/// Keywords that the library applies in the order they stand in, each intersected with what came before.
const APPLICATORS: [&str; 6] = ["const", "enum", "allOf", "anyOf", "oneOf", "$ref"];
/// The formats it enforces (dates without leap years). Others annotate.
const FORMATS: [&str; 9] = ["date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"];

/// A schema that may be compiled.
pub(super) struct Checked {
    pub(super) schema: Value,
    /// How many values it has: bounds the compiler's recursion.
    pub(super) n_nodes: usize,
    pub(super) notes: Notes,
}

/// Places to name when the library refuses something.
#[derive(Default)]
pub(super) struct Notes {
    one_of: Vec<String>,
}

impl Notes {
    /// Adds the places to an error that names none.
    pub(super) fn explain(&self, error: GrammarError) -> GrammarError {
        let GrammarError::Compile(problem) = &error else { return error };
        let Some(first) = self.one_of.first().filter(|_| problem.contains("oneOf")) else { return error };
        let others = match self.one_of.len() - 1 {
            0 => String::new(),
            n => format!(" (or one of {n} further places)"),
        };
        let problem = format!(
            "oneOf{others} has alternatives that may hold at once, which cannot be excluded; give each a required \
             property with a different constant, or use anyOf"
        );
        GrammarError::Schema { path: first.clone(), problem }
    }

    /// Takes over the places of another schema.
    pub(super) fn extend(&mut self, prefix: &str, other: Self) {
        self.one_of.extend(other.one_of.into_iter().map(|path| format!("{prefix}{path}")));
    }
}

/// Checks and rewrites `schema`.
///
/// # Errors
/// It is malformed, over a limit, or asks for what cannot be enforced.
pub(super) fn check(schema: &Value) -> Result<Checked, GrammarError> {
    let n_nodes = measure(schema)?;
    let mut schema = match schema {
        Value::Bool(true) => Value::Object(Map::new()),
        other => other.clone(),
    };
    let mut walk = Walk::default();
    walk.schema(&mut schema, "#")?;
    // References may lead to places that are no schemas by themselves.
    while let Some(path) = walk.pending.pop_first() {
        if walk.visited.contains(&path) {
            continue;
        }
        let Some(target) = schema.pointer_mut(&path[1..]) else {
            return Err(refuse(&path, "a $ref points here, where nothing is".into()));
        };
        walk.schema(target, &path)?;
    }
    let n_patterns = with_stack(STACK_BYTES_PER_NODE * n_nodes, || Ok(conjunction::bound(&schema)))?;
    limit("patterns and formats that one string must match at once", n_patterns, MAX_PATTERNS)?;
    Ok(Checked { schema, n_nodes, notes: walk.notes })
}

/// Sets the library's options, which it reads from the schema; whatever the client put there is gone.
pub(super) fn set_options(schema: &mut Value, white_space: &str) {
    let Some(map) = schema.as_object_mut() else { return };
    // Without `u`, a name has one spelling, so that an additional property cannot repeat a named one. Control
    // characters other than these can then not be written.
    let options = serde_json::json!({ "json_allowed_escapes": "nrbtf\\\"", "whitespace_pattern": white_space });
    map.insert("x-guidance".into(), options);
}

/// Counts the values below `schema`.
fn measure(schema: &Value) -> Result<usize, GrammarError> {
    let (mut n_values, mut n_bytes, mut deepest) = (0, 0, 0);
    let mut stack = vec![(schema, 1)];
    while let Some((value, depth)) = stack.pop() {
        n_values += 1;
        deepest = deepest.max(depth);
        match value {
            Value::String(text) => n_bytes += text.len(),
            Value::Array(items) => stack.extend(items.iter().map(|item| (item, depth + 1))),
            Value::Object(map) => {
                for (key, value) in map {
                    n_bytes += key.len();
                    stack.push((value, depth + 1));
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }
    limit("bytes of text in the JSON schema", n_bytes, MAX_BYTES)?;
    limit("values in the JSON schema", n_values, MAX_VALUES)?;
    limit("nesting of the JSON schema", deepest, MAX_DEPTH)?;
    Ok(n_values)
}

fn refuse(path: &str, problem: String) -> GrammarError {
    GrammarError::Schema { path: path.into(), problem }
}

#[derive(Default)]
struct Walk {
    /// Paths of the schemas seen.
    visited: HashSet<String>,
    /// Targets of local references.
    pending: BTreeSet<String>,
    notes: Notes,
}

impl Walk {
    fn schema(&mut self, schema: &mut Value, path: &str) -> Result<(), GrammarError> {
        self.visited.insert(path.to_owned());
        if schema.is_boolean() {
            return Ok(());
        }
        let Some(map) = schema.as_object_mut() else {
            return Err(refuse(path, format!("expected a schema (an object or a boolean), found {}", shown(schema))));
        };
        self.keywords(map, path)?;
        for key in ONE {
            if let Some(value) = map.get_mut(key) {
                self.schema(value, &below(path, key))?;
            }
        }
        for key in LIST {
            self.list(map, key, path)?;
        }
        match map.get("items") {
            Some(Value::Array(_)) => self.list(map, "items", path)?,
            Some(_) => self.schema(&mut map["items"], &below(path, "items"))?,
            None => {}
        }
        for key in MAP {
            let Some(value) = map.get_mut(key) else { continue };
            let path = below(path, key);
            let Some(map) = value.as_object_mut() else {
                return Err(refuse(&path, format!("expected an object, found {}", shown(value))));
            };
            for (name, schema) in map {
                self.schema(schema, &below(&path, name))?;
            }
        }
        translate_names(map, path)?;
        applicators_last(map);
        Ok(())
    }

    fn list(&mut self, map: &mut Map<String, Value>, key: &str, path: &str) -> Result<(), GrammarError> {
        let Some(value) = map.get_mut(key) else { return Ok(()) };
        let path = below(path, key);
        let Some(items) = value.as_array_mut() else {
            return Err(refuse(&path, format!("expected an array, found {}", shown(value))));
        };
        if key == "allOf" {
            limit("schemas in one allOf", items.len(), MAX_ALL_OF)?;
        }
        if key == "oneOf" {
            self.notes.one_of.push(path.clone());
        }
        items.iter_mut().enumerate().try_for_each(|(at, item)| self.schema(item, &below(&path, &at.to_string())))
    }

    /// What one schema's own keywords say.
    fn keywords(&mut self, map: &mut Map<String, Value>, path: &str) -> Result<(), GrammarError> {
        // Assertions that hold of everything.
        map.retain(|key, value| match key.as_str() {
            "uniqueItems" | "$recursiveAnchor" => *value != Value::Bool(false),
            "unevaluatedProperties" | "unevaluatedItems" => *value != Value::Bool(true),
            "format" => value.as_str().is_some_and(|format| FORMATS.contains(&format)),
            _ => true,
        });
        if let Some(key) = map.keys().find(|key| UNSUPPORTED.contains(&key.as_str()) || *key == "uniqueItems") {
            return Err(refuse(&below(path, key), "this keyword cannot be enforced; remove it".into()));
        }
        if map.contains_key("prefixItems") && map.contains_key("additionalItems") {
            let problem = "additionalItems has no meaning beside prefixItems; use items".into();
            return Err(refuse(&below(path, "additionalItems"), problem));
        }
        canonical_draft(map);
        if let Some(text) = map.get("pattern").and_then(Value::as_str) {
            let translated =
                pattern::translate(text).map_err(|problem| bad_pattern(&below(path, "pattern"), text, &problem))?;
            map.insert("pattern".into(), translated.into());
        }
        for key in ["const", "enum"] {
            if map.get(key).is_some_and(has_unwritable) {
                return Err(refuse(&below(path, key), "a control character, which the output cannot hold".into()));
            }
        }
        for key in ["const", "enum", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"] {
            if let Some(number) = map.get(key).and_then(inexact) {
                let problem = format!("{number} is beyond the integers that are exact here (up to 2^53)");
                return Err(refuse(&below(path, key), problem));
            }
        }
        for key in ["minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"] {
            self.count(map, key, path)?;
        }
        self.min_properties(map, path)?;
        bound_numbers(map);
        match map.get("$ref") {
            None => Ok(()),
            Some(Value::String(target)) => self.reference(target, path),
            Some(other) => Err(refuse(&below(path, "$ref"), format!("expected a string, found {}", shown(other)))),
        }
    }

    /// Integers may be spelled as floats.
    fn count(&self, map: &mut Map<String, Value>, key: &str, path: &str) -> Result<(), GrammarError> {
        let Some(value) = map.get_mut(key) else { return Ok(()) };
        let count = value.as_u64().or_else(|| {
            let float = value.as_f64().filter(|float| float.fract() == 0.0 && (0.0..=MAX_EXACT).contains(float));
            float.map(|float| float as u64)
        });
        let Some(count) = count else {
            return Err(refuse(&below(path, key), format!("expected a count, found {}", shown(value))));
        };
        if key.starts_with("max") && count > MAX_MAXIMUM {
            map.remove(key);
        } else if key.starts_with("min") && count > MAX_LENGTH {
            return Err(refuse(&below(path, key), format!("{count} is over the limit of {MAX_LENGTH}")));
        } else {
            *value = count.into();
        }
        Ok(())
    }

    /// Of the properties beyond the required ones, two may come with one name, and count once.
    fn min_properties(&self, map: &Map<String, Value>, path: &str) -> Result<(), GrammarError> {
        let required: HashSet<&str> =
            map.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
        let Some(count) = map.get("minProperties").and_then(Value::as_u64) else { return Ok(()) };
        if count as usize <= required.len() + 1 {
            return Ok(());
        }
        let problem = format!("{count} with {} required properties: at most one more can be enforced", required.len());
        Err(refuse(&below(path, "minProperties"), problem))
    }

    fn reference(&mut self, target: &str, path: &str) -> Result<(), GrammarError> {
        let Some(fragment) = target.strip_prefix('#') else {
            let problem =
                format!("{:?} is outside this document; nothing is fetched: put it into $defs", excerpt(target));
            return Err(refuse(&below(path, "$ref"), problem));
        };
        if fragment.is_empty() || fragment.starts_with('/') {
            let Some(fragment) = percent_decoded(fragment) else {
                return Err(refuse(&below(path, "$ref"), "the fragment is not UTF-8".into()));
            };
            self.pending.insert(format!("#{fragment}"));
        }
        Ok(())
    }
}

/// Moves the applicators behind the other keywords, so that those which belong together (`items` and
/// `additionalItems`) are read together.
fn applicators_last(map: &mut Map<String, Value>) {
    if !map.keys().any(|key| APPLICATORS.contains(&key.as_str())) {
        return;
    }
    let (last, first): (Vec<_>, Vec<_>) =
        std::mem::take(map).into_iter().partition(|(key, _)| APPLICATORS.contains(&key.as_str()));
    map.extend(first.into_iter().chain(last));
}

/// The patterns of `patternProperties`.
fn translate_names(map: &mut Map<String, Value>, path: &str) -> Result<(), GrammarError> {
    let Some(patterns) = map.get_mut("patternProperties").and_then(Value::as_object_mut) else { return Ok(()) };
    let path = below(path, "patternProperties");
    for (name, schema) in std::mem::take(patterns) {
        let translated =
            pattern::translate(&name).map_err(|problem| bad_pattern(&below(&path, &name), &name, &problem))?;
        patterns.insert(translated, schema);
    }
    Ok(())
}

fn bad_pattern(path: &str, pattern: &str, problem: &str) -> GrammarError {
    refuse(path, format!("the pattern {:?} has {problem}", excerpt(pattern)))
}

/// Numbers get bounds, so that whoever reads the output can hold them exactly and a text of digits ends.
fn bound_numbers(map: &mut Map<String, Value>) {
    const KEYS: [&str; 5] = ["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"];
    let is_numeric = |kind: &Value| kind == "number" || kind == "integer";
    let names_number = match map.get("type") {
        Some(Value::Array(kinds)) => kinds.iter().any(is_numeric),
        Some(kind) => is_numeric(kind),
        None => KEYS.iter().any(|key| map.contains_key(*key)),
    };
    if !names_number {
        return;
    }
    // Multiples of a fraction must be exact in their last digit.
    let is_fraction = map.get("multipleOf").and_then(Value::as_f64).is_some_and(|step| step.fract() != 0.0);
    let most = if is_fraction { MAX_FRACTION } else { MAX_EXACT };
    // Beside `true`, which drafts up to 4 have, the bound itself is there.
    for (key, exclusive, bound) in [("minimum", "exclusiveMinimum", -most), ("maximum", "exclusiveMaximum", most)] {
        let has_bound = map.contains_key(key) || map.get(exclusive).is_some_and(Value::is_number);
        if !has_bound && !map.contains_key(exclusive) {
            map.insert(key.into(), (bound as i64).into());
        }
    }
}

/// Names the draft as the library knows it. Where it knows none, the newest applies.
fn canonical_draft(map: &mut Map<String, Value>) {
    const DRAFTS: [(&str, &str); 5] = [
        ("draft-04", "http://json-schema.org/draft-04/schema#"),
        ("draft-06", "http://json-schema.org/draft-06/schema#"),
        ("draft-07", "http://json-schema.org/draft-07/schema#"),
        ("draft/2019-09", "https://json-schema.org/draft/2019-09/schema"),
        ("draft/2020-12", "https://json-schema.org/draft/2020-12/schema"),
    ];
    let Some(Value::String(name)) = map.get_mut("$schema") else { return };
    match DRAFTS.iter().find(|(part, _)| name.contains(part)) {
        Some((_, canonical)) => *name = (*canonical).to_owned(),
        None => drop(map.shift_remove("$schema")),
    }
}

/// Whether a string or a key in `value` has a character that the output cannot hold.
fn has_unwritable(value: &Value) -> bool {
    let is_bad = |text: &str| text.chars().any(pattern::is_unwritable);
    match value {
        Value::String(text) => is_bad(text),
        Value::Array(items) => items.iter().any(has_unwritable),
        Value::Object(map) => map.iter().any(|(key, value)| is_bad(key) || has_unwritable(value)),
        _ => false,
    }
}

/// The first number in `value` that is not exact in an f64, as text.
fn inexact(value: &Value) -> Option<String> {
    let mut stack = vec![value];
    while let Some(value) = stack.pop() {
        match value {
            Value::Number(number) if number.as_f64().is_none_or(|float| float.abs() > MAX_EXACT) => {
                return Some(number.to_string());
            }
            Value::Array(items) => stack.extend(items),
            Value::Object(map) => stack.extend(map.values()),
            _ => {}
        }
    }
    None
}

/// The path of `key` below `path`.
fn below(path: &str, key: &str) -> String {
    format!("{path}/{}", key.replace('~', "~0").replace('/', "~1"))
}

fn shown(value: &Value) -> String {
    excerpt(&value.to_string())
}

pub(super) fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let hex = (byte == b'%').then(|| after.get(..2)).flatten().and_then(|hex| std::str::from_utf8(hex).ok());
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(decoded) => {
                bytes.push(decoded);
                rest = &after[2..];
            }
            None => {
                bytes.push(byte);
                rest = after;
            }
        }
    }
    String::from_utf8(bytes).ok()
}
