//! What must hold of a header of any bytes, for tests and the fuzz target alike.
//!
//! Owns the assertions. Must not know where the bytes come from.

use engine::prefix::file::FileLayout;
use engine::prefix::{BlockKey, Fingerprint};

/// A layout, a block and its tokens that a reader expects.
pub(crate) fn expected() -> (FileLayout, BlockKey, BlockKey, [u32; 4]) {
    let fingerprint = Fingerprint::from([0x11; 32]);
    let layout = FileLayout { fingerprint, block_len: 4, payload_bytes: 24 };
    let (parent, tokens) = (BlockKey::root(&fingerprint), [1, 2, 0xffff_ffff, 0]);
    (layout, parent.child(&tokens), parent, tokens)
}

/// The file that a writer makes of a payload.
pub(crate) fn file(payload: &[u8; 24]) -> Vec<u8> {
    let (layout, key, parent, tokens) = expected();
    let mut file = vec![0xee; layout.file_bytes()];
    layout.describe(&key, &parent, &tokens, &mut file);
    file[layout.header_bytes()..].copy_from_slice(payload);
    layout.seal(&mut file);
    file
}

/// Offers bytes as a header. A header that is believed is the one that a writer makes, but for the payload's checksum.
pub(crate) fn header(bytes: &[u8]) -> bool {
    let (layout, key, _, tokens) = expected();
    let Ok(checksum) = layout.check_header(bytes, &key, &tokens) else { return false };
    let made = file(&[0; 24]);
    let same = |range: std::ops::Range<usize>| bytes[range.clone()] == made[range];
    // The checksums' places: behind the keys, and at the end.
    assert!(bytes.len() == layout.header_bytes() && same(0..120) && same(128..bytes.len() - 8), "a foreign header");
    assert_eq!(bytes[120..128], checksum.to_le_bytes());
    true
}
