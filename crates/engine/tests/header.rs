//! Headers of blocks' files: what a writer makes is believed, and nothing else. Twin of the fuzz target `block`.
//!
//! Owns damage to headers. What must hold then stands in `exercise`.
#![allow(clippy::unwrap_used, reason = "a test stops where something fails")]

mod exercise;

use engine::prefix::file::FileLayout;
use engine::prefix::{BlockKey, Damage, Fingerprint};
use proptest::prelude::*;

fn checked(header: &[u8]) -> Result<u64, Damage> {
    let (layout, key, _, tokens) = exercise::expected();
    layout.check_header(header, &key, &tokens)
}

#[test]
fn every_flipped_bit_and_every_other_length_is_found() {
    let (layout, ..) = exercise::expected();
    let file = exercise::file(&[7; 24]);
    let header = &file[..layout.header_bytes()];
    assert!(exercise::header(header));
    for bit in 0..8 * header.len() {
        let mut damaged = header.to_vec();
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert!(!exercise::header(&damaged), "bit {bit}");
    }
    for n in 0..header.len() {
        assert!(matches!(checked(&header[..n]), Err(Damage::Length { .. })));
    }
    assert!(matches!(checked(&file), Err(Damage::Length { .. })));
}

#[test]
fn each_field_that_differs_has_its_reason() {
    let (layout, key, parent, tokens) = exercise::expected();
    let header = |layout: FileLayout, key: BlockKey, parent: BlockKey, tokens: &[u32]| {
        let mut file = vec![0; layout.file_bytes()];
        layout.describe(&key, &parent, tokens, &mut file);
        layout.seal(&mut file);
        file.truncate(layout.header_bytes());
        file
    };
    let of_other_model = FileLayout { fingerprint: Fingerprint::from([0x12; 32]), ..layout };
    let longer = FileLayout { payload_bytes: 25, ..layout };
    let other = BlockKey::root(&of_other_model.fingerprint);
    assert_eq!(checked(&header(of_other_model, key, parent, &tokens)), Err(Damage::Foreign));
    assert_eq!(checked(&header(longer, key, parent, &tokens)), Err(Damage::Foreign));
    assert_eq!(checked(&header(layout, other, parent, &tokens)), Err(Damage::Key));
    assert_eq!(checked(&header(layout, key, other, &tokens)), Err(Damage::Key));
    assert_eq!(checked(&header(layout, key, parent, &[1, 2, 3, 0])), Err(Damage::Key));
    let good = header(layout, key, parent, &tokens);
    assert_eq!(layout.check_header(&good, &key, &tokens[..3]), Err(Damage::Key));
    let mut newer = good.clone();
    newer[8] = 2;
    assert_eq!(checked(&newer), Err(Damage::Version { found: 2 }));
    let mut torn = good.clone();
    torn[128..].fill(0);
    assert_eq!(checked(&torn), Err(Damage::Header));
    assert_eq!(checked(&vec![0; good.len()]), Err(Damage::Magic));
}

#[test]
fn rows_begin_with_a_cache_line_whatever_the_blocks_length() {
    for block_len in [1, 3, 14, 15, 16, 64, 100] {
        let (layout, ..) = exercise::expected();
        let layout = FileLayout { block_len, ..layout };
        assert!(layout.header_bytes().is_multiple_of(64) && layout.header_bytes() >= 128 + 4 * block_len + 8);
        let tokens: Vec<u32> = (0..block_len as u32).collect();
        let parent = BlockKey::root(&layout.fingerprint);
        let mut file = vec![0xee; layout.file_bytes()];
        layout.describe(&parent.child(&tokens), &parent, &tokens, &mut file);
        layout.seal(&mut file);
        let header = &file[..layout.header_bytes()];
        assert!(layout.check_header(header, &parent.child(&tokens), &tokens).is_ok());
    }
}

proptest! {
    #[test]
    fn any_bytes_are_no_header(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(!exercise::header(&bytes));
    }

    #[test]
    fn a_header_with_any_bytes_in_any_place_is_no_header(
        at in 0usize..192, bytes in proptest::collection::vec(any::<u8>(), 1..64), payload: [u8; 24],
    ) {
        let (layout, ..) = exercise::expected();
        let file = exercise::file(&payload);
        let mut header = file[..layout.header_bytes()].to_vec();
        let n = bytes.len().min(header.len().saturating_sub(at));
        let at = at.min(header.len());
        header[at..at + n].copy_from_slice(&bytes[..n]);
        prop_assert_eq!(exercise::header(&header), header == file[..layout.header_bytes()]);
    }
}
