//! Look-up by name in a list that keeps its own order.
//!
//! Owns a sorted permutation: four bytes per entry, no hashing, and duplicates found while it is built.

/// Positions of a list's entries in the order of their names.
#[derive(Debug, Default)]
pub(crate) struct NameIndex(Vec<u32>);

/// Two entries have one name: their positions.
pub(crate) struct Duplicate(pub(crate) usize, pub(crate) usize);

impl NameIndex {
    pub(crate) fn new<T>(list: &[T], name: impl Fn(&T) -> &str) -> Result<Self, Duplicate> {
        // Every list is bounded by its file's budget; one of 2³² entries would need a file of many gigabytes of names.
        let n = u32::try_from(list.len()).unwrap_or(u32::MAX);
        let mut order: Vec<u32> = (0..n).collect();
        let name_at = |i: u32| name(&list[i as usize]);
        order.sort_unstable_by(|&a, &b| name_at(a).cmp(name_at(b)).then(a.cmp(&b)));
        match order.windows(2).find(|pair| name_at(pair[0]) == name_at(pair[1])) {
            Some(pair) => Err(Duplicate(pair[0] as usize, pair[1] as usize)),
            None => Ok(Self(order)),
        }
    }

    pub(crate) fn find<'a, T>(&self, list: &'a [T], wanted: &str, name: impl Fn(&T) -> &str) -> Option<&'a T> {
        let at = self.0.binary_search_by(|&i| name(&list[i as usize]).cmp(wanted)).ok()?;
        list.get(self.0[at] as usize)
    }
}
