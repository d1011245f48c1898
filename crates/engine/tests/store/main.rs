//! The store of blocks: what is saved comes back or is missing, whatever the disk, other processes and the folder do.
//!
//! Owns the scenes. Failures are made in `faulty.rs`.
#![allow(clippy::unwrap_used, reason = "a test stops where something fails")]

mod damage;
mod faults;
mod faulty;
mod processes;

use std::convert::Infallible;
use std::path::{Path, PathBuf};

use engine::prefix::{BlockKey, Damage, Load, Saved, Store, StoreError, StoreOptions, StoreStats};

const BLOCK_LEN: usize = 4;
const PAYLOAD: usize = 1000;
/// 128 bytes, 4 tokens and a checksum, and the payload.
const FILE: u64 = 192 + PAYLOAD as u64;

fn options(n_blocks: u64) -> StoreOptions {
    StoreOptions {
        fingerprint: [0x11; 32].into(),
        block_len: BLOCK_LEN,
        payload_bytes: PAYLOAD,
        budget_bytes: n_blocks * FILE,
        queue_bytes: 8 * FILE as usize,
    }
}

/// A block of a conversation: which conversation, and which of its blocks.
#[derive(Clone, Copy)]
struct Block(u32, u32);

impl Block {
    fn tokens(self) -> [u32; BLOCK_LEN] {
        [self.0, self.1, 7, 8]
    }

    fn parent(self) -> BlockKey {
        match self.1 {
            0 => BlockKey::root(&[0x11; 32].into()),
            i => Self(self.0, i - 1).key(),
        }
    }

    fn key(self) -> BlockKey {
        self.parent().child(&self.tokens())
    }

    fn rows(self) -> Vec<u8> {
        (0..PAYLOAD as u32).map(|i| (i * i + 31 * self.0 + 7 * self.1) as u8).collect()
    }

    fn path(self, folder: &Path) -> PathBuf {
        let key = self.key().to_string();
        folder.join(&key[..2]).join(format!("{key}.block"))
    }

    fn save(self, store: &Store) -> Saved {
        let fill = |out: &mut [u8]| {
            out.copy_from_slice(&self.rows());
            Ok::<_, Infallible>(())
        };
        store.save(&self.key(), &self.parent(), &self.tokens(), fill).unwrap()
    }

    /// Loads the block; rows that are said to be there are those that were saved.
    fn load(self, store: &Store) -> Load {
        let mut out = vec![0xee; PAYLOAD];
        let load = store.load(&self.key(), &self.tokens(), &mut out);
        assert!(load != Load::Loaded || out == self.rows(), "other rows than were saved");
        load
    }
}

fn chain(conversation: u32, n: u32) -> Vec<BlockKey> {
    (0..n).map(|i| Block(conversation, i).key()).collect()
}

/// Saves blocks one by one, waiting for each.
fn save_all(store: &Store, blocks: impl IntoIterator<Item = Block>) {
    for block in blocks {
        assert_eq!(block.save(store), Saved::Queued);
        store.flush();
    }
}

fn present(store: &Store, blocks: impl IntoIterator<Item = Block>) -> Vec<bool> {
    blocks.into_iter().map(|block| store.contains(&block.key())).collect()
}

/// All files below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.symlink_metadata().unwrap().is_dir() {
            true => found.extend(files(&path)),
            false => found.push(path),
        }
    }
    found
}

#[test]
fn what_is_saved_comes_back_also_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let blocks = || (0..5).map(|i| Block(1, i));
    {
        let store = Store::open(folder.path(), options(10)).unwrap();
        blocks().for_each(|block| assert_eq!(block.save(&store), Saved::Queued));
        store.flush();
        assert!(blocks().all(|block| store.contains(&block.key()) && block.load(&store) == Load::Loaded));
        assert_eq!(Block(1, 2).save(&store), Saved::Known);
        assert_eq!(Block(2, 0).load(&store), Load::Missing);
        let expected = StoreStats {
            n_blocks: 5,
            bytes: 5 * FILE,
            n_written: 5,
            n_loaded: 5,
            n_missing: 1,
            ..StoreStats::default()
        };
        assert_eq!(store.stats(), expected);
        // Handed over, and written by closing.
        Block(1, 5).save(&store);
    }
    let store = Store::open(folder.path(), options(10)).unwrap();
    assert_eq!(store.stats(), StoreStats { n_blocks: 6, bytes: 6 * FILE, ..StoreStats::default() });
    assert!((0..6).all(|i| Block(1, i).load(&store) == Load::Loaded));
    assert!(files(folder.path()).len() == 6);
}

#[cfg(unix)]
#[test]
fn conversations_are_the_users_alone() {
    use std::os::unix::fs::PermissionsExt;
    let above = tempfile::tempdir().unwrap();
    let folder = above.path().join("new/cache");
    let store = Store::open(&folder, options(10)).unwrap();
    save_all(&store, [Block(1, 0)]);
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&folder), mode(&Block(1, 0).path(&folder))), (0o700, 0o600));
}

#[test]
fn the_budget_is_kept_by_removing_what_was_not_used_for_longest() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path(), options(4)).unwrap();
    save_all(&store, (0..4).map(|i| Block(1, i)));
    assert_eq!(Block(1, 0).load(&store), Load::Loaded);
    save_all(&store, [Block(2, 0)]);
    assert_eq!(present(&store, (0..4).map(|i| Block(1, i))), [true, false, true, true]);
    assert_eq!(files(folder.path()).len(), 4);
    assert_eq!((store.stats().bytes, store.stats().n_evicted), (4 * FILE, 1));
}

#[test]
fn a_conversation_goes_from_its_end_also_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    {
        let store = Store::open(folder.path(), options(6)).unwrap();
        save_all(&store, (0..2).map(|i| Block(2, i)));
        save_all(&store, (0..3).map(|i| Block(1, i)));
        store.touch(&chain(2, 2));
        store.touch(&chain(1, 5));
        store.flush();
    }
    let store = Store::open(folder.path(), options(6)).unwrap();
    let all = || (0..2).map(|i| Block(2, i)).chain((0..3).map(|i| Block(1, i)));
    save_all(&store, (0..2).map(|i| Block(3, i)));
    assert_eq!(present(&store, all()), [true, false, true, true, true]);
    save_all(&store, [Block(3, 2)]);
    assert_eq!(present(&store, all()), [false, false, true, true, true]);
    save_all(&store, [Block(3, 3)]);
    assert_eq!(present(&store, all()), [false, false, true, true, false]);
}

#[test]
fn a_smaller_budget_is_kept_from_the_first_write_on() {
    let folder = tempfile::tempdir().unwrap();
    save_all(&Store::open(folder.path(), options(9)).unwrap(), (0..9).map(|i| Block(1, i)));
    let store = Store::open(folder.path(), options(3)).unwrap();
    save_all(&store, [Block(2, 0)]);
    assert_eq!(files(folder.path()).len(), 3);
    drop(store);
    let Err(error) = Store::open(folder.path(), StoreOptions { budget_bytes: FILE - 1, ..options(1) }) else {
        panic!("a budget of less than a block");
    };
    assert!(matches!(error, StoreError::Budget { budget: 1191, block: 1192 }), "{error}");
}

#[test]
fn rows_that_could_not_be_read_from_the_device_are_not_saved() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path(), StoreOptions { queue_bytes: 0, ..options(4) }).unwrap();
    let block = Block(1, 0);
    for _ in 0..3 {
        let saved = store.save(&block.key(), &block.parent(), &block.tokens(), |_| Err("lost"));
        assert_eq!(saved, Err("lost"));
    }
    store.flush();
    assert!(!store.contains(&block.key()) && files(folder.path()).is_empty());
    assert_eq!(block.save(&store), Saved::Queued);
}

#[test]
fn models_share_a_folder_and_a_budget_but_no_block() {
    let folder = tempfile::tempdir().unwrap();
    save_all(&Store::open(folder.path(), options(3)).unwrap(), [Block(1, 0), Block(1, 1)]);
    let fingerprint = [0x22; 32].into();
    let other = StoreOptions { fingerprint, payload_bytes: 2 * PAYLOAD, ..options(3) };
    let store = Store::open(folder.path(), other).unwrap();
    let (parent, tokens) = (BlockKey::root(&fingerprint), Block(1, 0).tokens());
    let key = parent.child(&tokens);
    assert_eq!(store.load(&key, &tokens, &mut [0; 2 * PAYLOAD]), Load::Missing);
    store.save(&key, &parent, &tokens, |_| Ok::<_, Infallible>(())).unwrap();
    store.flush();
    // A block of the first model had to go.
    assert_eq!((store.stats().n_blocks, store.stats().n_evicted), (2, 1));
    assert_eq!(store.load(&key, &tokens, &mut [0; 2 * PAYLOAD]), Load::Loaded);
    assert_ne!(Block(1, 0).key(), key);
    assert_eq!(store.load(&key, &Block(1, 1).tokens(), &mut [0; 2 * PAYLOAD]), Load::Damaged(Damage::Key));
}
