//! Files that are not what a store wrote.

use std::fs::{self, File};
use std::io::ErrorKind;

use super::*;

/// A store with block (1, 0), whose file `spoil` changes.
fn after(spoil: impl FnOnce(&Path)) -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    save_all(&Store::open(folder.path(), options(10)).unwrap(), [Block(1, 0), Block(1, 1)]);
    spoil(&Block(1, 0).path(folder.path()));
    let store = Store::open(folder.path(), options(10)).unwrap();
    (folder, store)
}

/// It is refused for a reason, removed, and can be saved anew.
fn refused(spoil: impl FnOnce(&Path), why: Damage) {
    let (folder, store) = after(spoil);
    let block = Block(1, 0);
    assert_eq!(block.load(&store), Load::Damaged(why));
    assert!(!block.path(folder.path()).exists() && !store.contains(&block.key()));
    let trouble = store.stats().last_trouble.unwrap();
    assert!(trouble.contains(&block.key().to_string()) && trouble.contains(&why.to_string()), "{trouble}");
    assert_eq!((block.load(&store), store.stats().n_damaged), (Load::Missing, 1));
    assert_eq!(Block(1, 1).load(&store), Load::Loaded);
    save_all(&store, [block]);
    assert_eq!(block.load(&store), Load::Loaded);
}

fn edit(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
}

#[test]
fn damaged_files_are_refused_for_their_reasons() {
    for n in [0, 1, 191, 192, 193, FILE - 1, FILE + 1, 1 << 40] {
        let why = Damage::Length { expected: FILE, found: n };
        // The last one takes no room on the disk: a hostile length must not be believed.
        refused(|path| File::options().write(true).open(path).unwrap().set_len(n).unwrap(), why);
    }
    refused(|path| edit(path, |bytes| bytes.fill(0)), Damage::Magic);
    refused(|path| edit(path, |bytes| bytes[8] = 9), Damage::Version { found: 9 });
    refused(|path| edit(path, |bytes| bytes[30] ^= 1), Damage::Header);
    refused(|path| edit(path, |bytes| bytes[192] ^= 1), Damage::Payload);
    refused(|path| edit(path, |bytes| bytes[FILE as usize - 1] ^= 0x80), Damage::Payload);
    // The second half never reached the disk.
    refused(|path| edit(path, |bytes| bytes[600..].fill(0)), Damage::Payload);
}

#[test]
fn another_blocks_file_is_refused() {
    let other_block = |path: &Path| {
        let _ = fs::copy(Block(1, 1).path(path.ancestors().nth(2).unwrap()), path).unwrap();
    };
    refused(other_block, Damage::Key);
    let other_model = |path: &Path| {
        let elsewhere = tempfile::tempdir().unwrap();
        let fingerprint = [0x22; 32].into();
        let store = Store::open(elsewhere.path(), StoreOptions { fingerprint, ..options(1) }).unwrap();
        save_all(&store, [Block(1, 0)]);
        fs::copy(Block(1, 0).path(elsewhere.path()), path).unwrap();
    };
    refused(other_model, Damage::Foreign);
}

#[test]
fn a_file_that_cannot_be_read_is_kept() {
    let (folder, store) = after(|path| {
        fs::remove_file(path).unwrap();
        fs::create_dir(path).unwrap();
    });
    assert_eq!(Block(1, 0).load(&store), Load::Damaged(Damage::NotAFile));
    // A folder in a block's place: nothing can be saved there, and nothing else suffers.
    assert_eq!(Block(1, 0).save(&store), Saved::Queued);
    store.flush();
    assert_eq!(store.stats().n_failed, 1);
    assert!(Block(1, 0).path(folder.path()).is_dir());
    save_all(&store, [Block(1, 2)]);
    assert!(matches!(store.stats().last_trouble, Some(trouble) if trouble.contains(".block")));
    assert_ne!(Load::Damaged(Damage::Unreadable(ErrorKind::Other)), Block(1, 2).load(&store));
}

#[cfg(unix)]
#[test]
fn links_lead_nowhere() {
    use std::os::unix::fs::symlink;
    let outside = tempfile::tempdir().unwrap();
    let secret = outside.path().join("secret");
    fs::write(&secret, "not a block").unwrap();
    let link = |path: &Path| {
        fs::remove_file(path).unwrap();
        symlink(&secret, path).unwrap();
    };
    refused(link, Damage::NotAFile);
    assert_eq!(fs::read(&secret).unwrap(), b"not a block");
    // Nor does a link to a good block: the file's owner may change it at any time.
    let (folder, store) = after(|path| {
        fs::rename(path, outside.path().join("block")).unwrap();
        symlink(outside.path().join("block"), path).unwrap();
    });
    assert_eq!(store.stats().n_strange, 1);
    assert_eq!(Block(1, 0).load(&store), Load::Damaged(Damage::NotAFile));
    assert!(outside.path().join("block").exists() && !Block(1, 0).path(folder.path()).exists());
}

#[test]
fn what_is_not_the_stores_own_is_neither_counted_nor_removed() {
    let folder = tempfile::tempdir().unwrap();
    let key = Block(1, 0).key().to_string();
    let in_folder = |name: String| folder.path().join(name);
    fs::create_dir_all(in_folder(format!("{}/deeper", &key[..2]))).unwrap();
    fs::create_dir(in_folder("AB".into())).unwrap();
    fs::create_dir(in_folder("abc".into())).unwrap();
    let strange = [
        "notes.txt".into(),
        "ab".into(),
        format!("{}/{key}", &key[..2]),
        format!("{}/{key}.BLOCK", &key[..2]),
        format!("{}/{}.block", &key[..2], key.to_uppercase()),
        format!("{}/ff{}.block", &key[..2], &key[2..]),
        format!("{}/deeper/{key}.block", &key[..2]),
        format!("AB/{key}.block"),
    ];
    strange.iter().for_each(|name| fs::write(in_folder(name.clone()), "x").unwrap());
    // Larger than any block: it would crowd out all others.
    let huge = in_folder(format!("{}/{}e.block", &key[..2], &key[..63]));
    File::create(&huge).unwrap().set_len(1 << 40).unwrap();
    let store = Store::open(folder.path(), options(2)).unwrap();
    assert_eq!((store.stats().n_blocks, store.stats().bytes), (0, 0));
    save_all(&store, (0..4).map(|i| Block(1, i)));
    assert!(strange.iter().all(|name| in_folder(name.clone()).exists()) && huge.exists());
    assert_eq!(store.stats().n_blocks, 2);
}

#[test]
fn what_was_left_in_the_middle_of_writing_goes_when_it_is_old() {
    let folder = tempfile::tempdir().unwrap();
    drop(Store::open(folder.path(), options(2)).unwrap());
    let [old, new] = ["1-2-3", "4-5-6"].map(|name| folder.path().join("unfinished").join(name));
    let long_ago = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1 << 30);
    File::create(&old).unwrap().set_modified(long_ago).unwrap();
    File::create(&new).unwrap();
    drop(Store::open(folder.path(), options(2)).unwrap());
    assert!(!old.exists() && new.exists());
}
