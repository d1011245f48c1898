//! Which blocks the folder has, in the order of their last use.
//!
//! Owns names, sizes and times. Must not touch the disk.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::BlockKey;

/// The most files that are known of; a folder with more holds files that are not found again.
const N_FILES_MAX: usize = 1 << 22;

/// Nanoseconds since 1970.
pub(super) type Time = u64;

pub(super) fn time_of(time: SystemTime) -> Time {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(Time::MAX))
}

pub(super) fn system_time(time: Time) -> SystemTime {
    UNIX_EPOCH + Duration::from_nanos(time)
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    bytes: u64,
    used: Time,
}

/// A file of the folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Listed {
    pub(super) key: BlockKey,
    pub(super) bytes: u64,
    pub(super) used: Time,
}

#[derive(Debug, Default)]
pub(super) struct Index {
    entries: BTreeMap<BlockKey, Entry>,
    by_use: BTreeSet<(Time, BlockKey)>,
    bytes: u64,
    /// The last time that was given out: each is given once, so that uses have an order.
    clock: Time,
}

impl Index {
    pub(super) fn contains(&self, key: &BlockKey) -> bool {
        self.entries.contains_key(key)
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// `n` times from now on, of which the first is returned.
    fn times(&mut self, n: usize) -> Time {
        let first = time_of(SystemTime::now()).max(self.clock + 1);
        self.clock = first + n as u64;
        first
    }

    /// A block that is used now, whether known or not; returns the time.
    pub(super) fn insert(&mut self, key: BlockKey, bytes: u64) -> Time {
        let used = self.times(1);
        self.put(Listed { key, bytes, used });
        used
    }

    fn put(&mut self, Listed { key, bytes, used }: Listed) {
        self.remove(&key);
        if self.entries.len() < N_FILES_MAX {
            self.entries.insert(key, Entry { bytes, used });
            self.by_use.insert((used, key));
            self.bytes = self.bytes.saturating_add(bytes);
        }
    }

    pub(super) fn remove(&mut self, key: &BlockKey) {
        if let Some(Entry { bytes, used }) = self.entries.remove(key) {
            self.by_use.remove(&(used, *key));
            self.bytes = self.bytes.saturating_sub(bytes);
        }
    }

    /// Notes that a sequence of blocks is used, and calls `each` for those that are known. What comes first is the
    /// youngest: without its beginning a sequence is of no use, so it goes from its end.
    pub(super) fn touch(&mut self, chain: &[BlockKey], mut each: impl FnMut(BlockKey, Time)) {
        let first = self.times(chain.len());
        for (used, key) in (first..).zip(chain.iter().rev()) {
            if let Some(entry) = self.entries.get_mut(key) {
                self.by_use.remove(&(entry.used, *key));
                entry.used = used;
                self.by_use.insert((used, *key));
                each(*key, used);
            }
        }
    }

    /// The block that was not used for longest.
    pub(super) fn oldest(&self) -> Option<BlockKey> {
        self.by_use.first().map(|(_, key)| *key)
    }

    /// Makes what is known of the keys that begin with `first` equal to what the folder has.
    pub(super) fn replace(&mut self, first: u8, listed: &[Listed]) {
        let [low, high] = BlockKey::bounds(first);
        let now = time_of(SystemTime::now());
        let found: BTreeSet<BlockKey> = listed.iter().map(|file| file.key).collect();
        let gone: Vec<BlockKey> =
            self.entries.range(low..=high).map(|(key, _)| *key).filter(|key| !found.contains(key)).collect();
        gone.iter().for_each(|key| self.remove(key));
        for file in listed {
            // A time to come would keep a file for ever.
            let used = self.entries.get(&file.key).map_or(0, |entry| entry.used).max(file.used.min(now));
            self.put(Listed { used, ..*file });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(i: u8) -> BlockKey {
        BlockKey::from([i; 32])
    }

    fn drain(index: &mut Index) -> Vec<BlockKey> {
        std::iter::from_fn(|| {
            let key = index.oldest()?;
            index.remove(&key);
            Some(key)
        })
        .collect()
    }

    #[test]
    fn a_sequence_goes_from_its_end() {
        let mut index = Index::default();
        (1..=6).for_each(|i| _ = index.insert(key(i), 10));
        let mut touched = Vec::new();
        index.touch(&[key(2), key(3), key(9), key(4)], |key, used| touched.push((used, key)));
        assert!(touched.is_sorted() && touched.len() == 3);
        assert_eq!((index.bytes(), index.len()), (60, 6));
        assert_eq!(drain(&mut index), [1, 5, 6, 4, 3, 2].map(key));
        assert_eq!((index.bytes(), index.len()), (0, 0));
    }

    #[test]
    fn what_the_folder_has_is_known_and_what_it_lost_is_not() {
        let mut index = Index::default();
        (1..=3).for_each(|i| _ = index.insert(key(i), 10));
        let mut second = [2; 32];
        second[31] = 0;
        let listed = [(BlockKey::from(second), 7, Time::MAX), (key(2), 12, 5)];
        index.replace(2, &listed.map(|(key, bytes, used)| Listed { key, bytes, used }));
        index.replace(3, &[]);
        assert_eq!(index.bytes(), 10 + 7 + 12);
        // Its own use of block 2 is later than the file says, and no file is younger than now.
        assert_eq!(drain(&mut index), [key(1), key(2), BlockKey::from(second)]);
    }
}
