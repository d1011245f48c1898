//! The decoders against values that nobody here computed: see `fixtures/formats/generate.py`.
//!
//! Owns the comparison bit by bit. `MINKE_FORMAT_FIXTURES=DIR` compares larger files made by the same script instead,
//! and skips formats that the folder lacks.

use std::fs;
use std::path::PathBuf;

use ops::WeightFormat;

fn fixture(format: WeightFormat, suffix: &str) -> Option<Vec<u8>> {
    let other = std::env::var_os("MINKE_FORMAT_FIXTURES").map(PathBuf::from);
    let strict = other.is_none();
    let folder = other.unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/formats"));
    let path = folder.join(format!("{format}.{suffix}"));
    match fs::read(&path) {
        Ok(bytes) => Some(bytes),
        Err(e) if strict => panic!("{}: {e}", path.display()),
        Err(_) => None,
    }
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

#[test]
fn every_decoder_equals_the_published_reference_bit_by_bit() {
    for format in WeightFormat::ALL {
        let (Some(blocks), Some(expected)) = (fixture(format, "bytes"), fixture(format, "f32")) else {
            println!("{format}: skipped, no such files");
            continue;
        };
        let expected = floats(&expected);
        assert_eq!(format.row_bytes(expected.len()), Some(blocks.len()), "{format}");
        let mut found = vec![0.0; expected.len()];
        format.decode(&blocks, &mut found);
        let mut n_nan = 0;
        for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
            n_nan += usize::from(expected.is_nan());
            let same = found.to_bits() == expected.to_bits() || found.is_nan() && expected.is_nan();
            assert!(same, "{format}: weight {i} of block {}: {found:e} for {expected:e}", i / format.block_len());
        }
        println!("{format}: {} blocks, {n_nan} NaN of {} values", blocks.len() / format.block_bytes(), found.len());
    }
}

#[test]
fn every_encoder_equals_the_published_reference_byte_by_byte() {
    for format in [WeightFormat::F16, WeightFormat::BF16, WeightFormat::Q4_0, WeightFormat::Q8_0] {
        let (Some(values), Some(expected)) = (fixture(format, "values"), fixture(format, "encoded")) else {
            println!("{format}: skipped, no such files");
            continue;
        };
        let values = floats(&values);
        let mut found = vec![0; expected.len()];
        format.encode(&values, &mut found);
        let differs = found.iter().zip(&expected).position(|(a, b)| a != b);
        assert_eq!(differs, None, "{format}: first differing byte");
        println!("{format}: {} values", values.len());
    }
}

#[test]
fn what_is_encoded_without_loss_comes_back() {
    let values: Vec<f32> = (-64..64).map(|i| i as f32 / 8.0).collect();
    for format in [WeightFormat::F32, WeightFormat::F16, WeightFormat::BF16] {
        let mut bytes = vec![0; format.row_bytes(values.len()).unwrap()];
        format.encode(&values, &mut bytes);
        let mut back = vec![0.0; values.len()];
        format.decode(&bytes, &mut back);
        assert_eq!(back, values, "{format}");
    }
}

/// Half a step of the block's own scale, and what rounding the scale to half precision adds.
#[test]
fn a_round_trip_errs_by_half_a_step() {
    let values: Vec<f32> = (0..32 * 50).map(|i| ((i * 37 % 101) as f32 - 50.0) * 1.01f32.powi(i / 8)).collect();
    for (format, steps) in [(WeightFormat::Q8_0, 127.0), (WeightFormat::Q4_0, 8.0)] {
        let mut bytes = vec![0; format.row_bytes(values.len()).unwrap()];
        let mut back = vec![0.0; values.len()];
        format.encode(&values, &mut bytes);
        format.decode(&bytes, &mut back);
        for (block, back) in values.chunks(32).zip(back.chunks(32)) {
            let furthest = block.iter().fold(0.0f32, |m, w| m.max(w.abs()));
            // Q4_0 has 7 steps on one side, 8 on the other: the last of the shorter side errs by a whole one.
            let bound = furthest * (if format == WeightFormat::Q4_0 { 1.0 } else { 0.5 } / steps + 1e-3);
            assert!(block.iter().zip(back).all(|(a, b)| (a - b).abs() <= bound), "{format}");
        }
    }
}

#[test]
fn a_q8_0_block_that_is_not_finite_decodes_to_nan() {
    for odd in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut values = [1.0; 32];
        values[7] = odd;
        let mut bytes = [0; 34];
        WeightFormat::Q8_0.encode(&values, &mut bytes);
        let mut back = [0.0; 32];
        WeightFormat::Q8_0.decode(&bytes, &mut back);
        assert!(back.iter().all(|v| v.is_nan()), "{odd}");
    }
}
