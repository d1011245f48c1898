//! Disks that fail.

use std::io::ErrorKind;

use super::faulty::{Fault, Faulty};
use super::*;

fn store_on(folder: &Path, n_blocks: u64) -> (Faulty, Store) {
    let disk = Faulty::default();
    let store = Store::open_on(Box::new(disk.clone()), folder, options(n_blocks)).unwrap();
    (disk, store)
}

#[test]
fn a_write_that_fails_costs_its_block_and_leaves_nothing() {
    for fault in [Fault::Full, Fault::Short, Fault::Rename] {
        let folder = tempfile::tempdir().unwrap();
        let (disk, store) = store_on(folder.path(), 10);
        disk.set(fault);
        save_all(&store, [Block(1, 0)]);
        assert!(files(folder.path()).is_empty() && !store.contains(&Block(1, 0).key()), "{fault:?}");
        assert_eq!((store.stats().n_failed, store.stats().bytes), (1, 0));
        assert!(store.stats().last_trouble.unwrap().contains(&Block(1, 0).key().to_string()));
        disk.set(None);
        save_all(&store, [Block(1, 0)]);
        assert_eq!(Block(1, 0).load(&store), Load::Loaded);
    }
}

#[test]
fn a_disk_that_fails_again_and_again_is_left_in_peace_for_a_while() {
    let folder = tempfile::tempdir().unwrap();
    let (disk, store) = store_on(folder.path(), 10_000);
    disk.set(Fault::Full);
    let mut tries_at = Vec::new();
    for i in 0..200 {
        let n = disk.n_writes();
        Block(1, i).save(&store);
        store.flush();
        if disk.n_writes() > n {
            tries_at.push(i);
        }
    }
    assert_eq!(tries_at, [0, 1, 2, 19, 52, 117]);
    assert_eq!((store.stats().n_failed, store.stats().n_written), (200, 0));
    disk.set(None);
    while Block(1, 0).save(&store) == Saved::Dropped {}
    store.flush();
    save_all(&store, (1..9).map(|i| Block(1, i)));
    assert_eq!(store.stats().n_written, 9);
}

#[test]
fn a_torn_write_is_found_when_it_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let (disk, store) = store_on(folder.path(), 10);
    disk.set(Fault::Torn);
    save_all(&store, [Block(1, 0)]);
    assert!(store.contains(&Block(1, 0).key()));
    let why = Damage::Length { expected: FILE, found: FILE / 2 };
    assert_eq!(Block(1, 0).load(&store), Load::Damaged(why));
    assert_eq!(Block(1, 0).load(&store), Load::Missing);
}

#[test]
fn a_block_that_cannot_be_read_now_may_be_read_later() {
    for (fault, kind) in [(Fault::Denied, ErrorKind::PermissionDenied), (Fault::Read, ErrorKind::TimedOut)] {
        let folder = tempfile::tempdir().unwrap();
        let (disk, store) = store_on(folder.path(), 10);
        save_all(&store, [Block(1, 0)]);
        disk.set(fault);
        assert_eq!(Block(1, 0).load(&store), Load::Damaged(Damage::Unreadable(kind)));
        disk.set(None);
        assert_eq!(Block(1, 0).load(&store), Load::Loaded);
        assert!(store.contains(&Block(1, 0).key()));
    }
}

#[test]
fn where_nothing_can_be_removed_the_budget_is_kept_by_not_writing() {
    let folder = tempfile::tempdir().unwrap();
    let (disk, store) = store_on(folder.path(), 2);
    save_all(&store, (0..2).map(|i| Block(1, i)));
    disk.set(Fault::Remove);
    save_all(&store, [Block(1, 2)]);
    assert_eq!((files(folder.path()).len(), store.stats().n_failed), (2, 1));
    assert_eq!(present(&store, (0..3).map(|i| Block(1, i))), [true, true, false]);
    disk.set(None);
    save_all(&store, [Block(1, 2)]);
    assert_eq!(present(&store, (0..3).map(|i| Block(1, i))), [true, false, true]);
}

#[test]
fn a_slow_disk_drops_blocks_and_never_blocks() {
    let folder = tempfile::tempdir().unwrap();
    let (disk, store) = store_on(folder.path(), 100);
    disk.hold(true);
    let saved: Vec<Saved> = (0..20).map(|i| Block(1, i).save(&store)).collect();
    assert_eq!(saved[..8], [Saved::Queued; 8]);
    assert_eq!(saved[8..], [Saved::Dropped; 12]);
    assert_eq!(Block(1, 3).save(&store), Saved::Known);
    assert_eq!((Block(1, 3).load(&store), store.contains(&Block(1, 3).key())), (Load::Missing, false));
    disk.hold(false);
    store.flush();
    assert_eq!((store.stats().n_written, store.stats().n_dropped), (8, 12));
    assert!((0..8).all(|i| Block(1, i).load(&store) == Load::Loaded));
    save_all(&store, [Block(1, 8)]);
}
