//! How many patterns one string would have to match at once. Owns that bound. Must not refuse.
//!
//! The library intersects the automata of all patterns and formats that hold of one place, and whether anything is left
//! takes time and memory that grow exponentially with their number. The bound is from above: any two places in the
//! branches of an `allOf` may turn out to be the same.

use std::collections::HashMap;

use serde_json::Value;

const CHILD: [&str; 3] = ["additionalProperties", "additionalItems", "items"];
const CHILDREN: [&str; 2] = ["items", "prefixItems"];

/// A bound for the whole of `root`.
pub(super) fn bound(root: &Value) -> usize {
    Bounds { root, targets: HashMap::new() }.of(root)
}

struct Bounds<'a> {
    root: &'a Value,
    /// What references lead to; `None` while it is being worked out.
    targets: HashMap<&'a str, Option<usize>>,
}

impl<'a> Bounds<'a> {
    fn of(&mut self, schema: &'a Value) -> usize {
        let Some(map) = schema.as_object() else { return 0 };
        let own = usize::from(map.contains_key("pattern")) + usize::from(map.contains_key("format"));
        let single = CHILD.iter().filter_map(|key| map.get(*key));
        let several = CHILDREN.iter().filter_map(|key| map.get(*key)?.as_array()).flatten();
        let below = single.chain(several).map(|schema| self.of(schema)).max().unwrap_or(0);
        // A property is held to its own schema and to that of the pattern its name matches.
        let [named, matched] = ["properties", "patternProperties"].map(|key| {
            let schemas = map.get(key).and_then(Value::as_object).into_iter().flat_map(|map| map.values());
            schemas.map(|schema| self.of(schema)).max().unwrap_or(0)
        });
        let [all, any, one] = ["allOf", "anyOf", "oneOf"].map(|key| -> Vec<usize> {
            let schemas = map.get(key).and_then(Value::as_array).into_iter().flatten();
            schemas.map(|schema| self.of(schema)).collect()
        });
        let most = |bounds: Vec<usize>| bounds.into_iter().max().unwrap_or(0);
        let target = map.get("$ref").and_then(Value::as_str).map_or(0, |target| self.target(target));
        let all = all.into_iter().fold(0, usize::saturating_add);
        let held = own.max(below).max(named.saturating_add(matched));
        [all, most(any), most(one), target].into_iter().fold(held, usize::saturating_add)
    }

    fn target(&mut self, target: &'a str) -> usize {
        if let Some(known) = self.targets.get(target) {
            return known.unwrap_or(0);
        }
        self.targets.insert(target, None);
        let pointer = target.strip_prefix('#').and_then(super::schema::percent_decoded);
        let found = pointer.and_then(|pointer| self.root.pointer(&pointer)).map_or(0, |schema| self.of(schema));
        self.targets.insert(target, Some(found));
        found
    }
}
