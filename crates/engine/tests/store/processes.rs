//! Several stores on one folder, and a process that is killed.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use super::*;

#[test]
fn a_store_reads_what_another_wrote_and_forgets_what_another_removed() {
    let folder = tempfile::tempdir().unwrap();
    let [a, b] = [0, 1].map(|_| Store::open(folder.path(), options(4)).unwrap());
    save_all(&a, (0..2).map(|i| Block(1, i)));
    assert!(!b.contains(&Block(1, 0).key()));
    assert_eq!(Block(1, 0).load(&b), Load::Loaded);
    // Writing lists the folder, so both stay within one budget.
    save_all(&b, (0..4).map(|i| Block(2, i)));
    assert!(files(folder.path()).len() <= 5, "{}", files(folder.path()).len());
    save_all(&a, (0..2).map(|i| Block(3, i)));
    assert!(files(folder.path()).len() <= 5, "{}", files(folder.path()).len());
    for block in (0..2).map(|i| Block(1, i)).chain((0..4).map(|i| Block(2, i))) {
        assert!(matches!(block.load(&a), Load::Loaded | Load::Missing));
        assert!(matches!(block.load(&b), Load::Loaded | Load::Missing));
        assert_eq!(a.contains(&block.key()), block.path(folder.path()).exists());
    }
}

#[test]
fn a_folder_that_somebody_empties_fills_again() {
    let above = tempfile::tempdir().unwrap();
    let folder = above.path().join("store");
    let store = Store::open(&folder, options(20)).unwrap();
    save_all(&store, (0..4).map(|i| Block(1, i)));
    std::fs::remove_dir_all(&folder).unwrap();
    assert_eq!(Block(1, 0).load(&store), Load::Missing);
    // On the way the folder is listed again, and what is gone is no longer known.
    save_all(&store, (0..3).map(|i| Block(2, i)));
    assert_eq!((store.stats().n_blocks, store.stats().n_failed), (3, 0));
    assert!((0..3).all(|i| Block(2, i).load(&store) == Load::Loaded));
}

#[test]
fn threads_of_several_stores_corrupt_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let stores = [0, 1, 2].map(|_| Store::open(folder.path(), options(12)).unwrap());
    std::thread::scope(|scope| {
        for t in 0..6 {
            let store = &stores[t % 3];
            scope.spawn(move || {
                for i in 0..200 {
                    let block = Block(0, (i * 7 + t as u32 * 5) % 24);
                    block.save(store);
                    let other = Block(0, (i * 11 + t as u32) % 24);
                    assert!(matches!(other.load(store), Load::Loaded | Load::Missing));
                }
            });
        }
    });
    stores.iter().for_each(Store::flush);
    assert!(files(folder.path()).len() <= 12 + 3, "{}", files(folder.path()).len());
    assert!(stores.iter().all(|store| store.stats().n_damaged == 0));
}

const FOLDER: &str = "MINKE_TEST_STORE_OF_CHILD";

/// Not a test of its own: the process that `a_killed_process_leaves_a_store_that_opens` kills.
#[test]
#[ignore = "runs for ever; another test starts it"]
fn child() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let store = Store::open(folder, options(16)).unwrap();
    for i in 0.. {
        Block(i / 8, i % 8).save(&store);
        println!("saved {i}");
    }
}

#[test]
fn a_killed_process_leaves_a_store_that_opens() {
    let folder = tempfile::tempdir().unwrap();
    for n_lines in [1, 20, 200, 2000] {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "processes::child", "--ignored", "--nocapture"])
            .env(FOLDER, folder.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let n = lines.map_while(Result::ok).filter(|line| line.contains("saved")).take(n_lines).count();
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(n, n_lines);
        let store = Store::open(folder.path(), options(16)).unwrap();
        let all = || (0..(n_lines as u32 * 4 + 100)).map(|i| Block(i / 8, i % 8));
        let n_loaded = all().filter(|block| block.load(&store) == Load::Loaded).count();
        assert_eq!(store.stats().n_damaged, 0, "a process was killed, not the machine");
        assert!(n_loaded <= 16);
        save_all(&store, [Block(1 << 20, n_lines as u32)]);
        assert!(files(folder.path()).len() <= 16 + 4, "{}", files(folder.path()).len());
    }
}
