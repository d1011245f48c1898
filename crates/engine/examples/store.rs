//! How fast blocks go to the store and come back, with files in the page cache.
//!
//!     cargo run --release -p engine --example store -- [FOLDER]
//!
//! 16 thousand tokens of V2-Lite in BF16: 256 blocks of 27 layers × 64 rows × 576 values. Also the checksum alone, and
//! opening a folder of many files. The best of some runs.
#![expect(clippy::print_stdout, reason = "its purpose")]

use std::convert::Infallible;
use std::fs;
use std::hint::black_box;
use std::path::Path;
use std::time::Instant;

use engine::prefix::{BlockKey, Load, Saved, Store, StoreOptions};
use ops::{CacheSpec, RowFormat, RowLayout};
use xxhash_rust::xxh3::xxh3_64;

const N_BLOCKS: usize = 256;
const BLOCK_LEN: usize = 64;
const N_RUNS: usize = 5;
const N_FILES: u64 = 100_000;

type Failure = Box<dyn std::error::Error>;

/// Prints the shortest of some runs, each of which returns its seconds.
fn report(what: &str, bytes: usize, mut run: impl FnMut() -> Result<f64, Failure>) -> Result<(), Failure> {
    let mut best_s = f64::INFINITY;
    for _ in 0..N_RUNS {
        best_s = best_s.min(run()?);
    }
    print!("{what:<36} {:9.3} ms", 1e3 * best_s);
    match bytes {
        0 => println!(),
        _ => println!(" {:7.2} GB/s", bytes as f64 / best_s / 1e9),
    }
    Ok(())
}

fn seconds(run: impl FnOnce() -> Result<(), Failure>) -> Result<f64, Failure> {
    let start = Instant::now();
    run()?;
    Ok(start.elapsed().as_secs_f64())
}

/// Key, parent's key and tokens of each block.
fn chain() -> Vec<(BlockKey, BlockKey, Vec<u32>)> {
    let mut parent = BlockKey::root(&[1; 32].into());
    let block = |i: u32| {
        let tokens: Vec<u32> = (0..BLOCK_LEN as u32).map(|t| i * 1000 + t).collect();
        let key = parent.child(&tokens);
        (key, std::mem::replace(&mut parent, key), tokens)
    };
    (0..N_BLOCKS as u32).map(block).collect()
}

fn main() -> Result<(), Failure> {
    let base = std::env::args().nth(1).map_or_else(std::env::temp_dir, Into::into);
    let folder = base.join(format!("minke-store-example-{}", std::process::id()));
    let result = blocks(&folder.join("blocks")).and_then(|options| many_files(&folder.join("many"), options));
    fs::remove_dir_all(&folder)?;
    result
}

fn blocks(folder: &Path) -> Result<StoreOptions, Failure> {
    let row = RowLayout { row_len: 576, group_len: 512, tail_len: 64, row_format: RowFormat::BF16 };
    let spec = CacheSpec { n_layers: 27, n_blocks: N_BLOCKS, block_len: BLOCK_LEN, row };
    let (block, all) = (spec.block_bytes(), N_BLOCKS * spec.block_bytes());
    println!("{N_BLOCKS} blocks of {:.2} MB", block as f64 / 1e6);
    let options = StoreOptions {
        fingerprint: [1; 32].into(),
        block_len: BLOCK_LEN,
        payload_bytes: block,
        budget_bytes: 4 * all as u64,
        queue_bytes: 2 * all,
    };
    let rows: Vec<u8> = (0..block as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let mut out = vec![0; block];
    report("checksum", all, || {
        seconds(|| {
            (0..N_BLOCKS).for_each(|_| _ = black_box(xxh3_64(black_box(&rows))));
            Ok(())
        })
    })?;
    let chain = chain();
    let mut handed_s = f64::INFINITY;
    report("save, until written", all, || {
        if folder.exists() {
            fs::remove_dir_all(folder)?;
        }
        let store = Store::open(folder, options)?;
        let fill = |out: &mut [u8]| {
            out.copy_from_slice(&rows);
            Ok::<_, Infallible>(())
        };
        seconds(|| {
            let start = Instant::now();
            for (key, parent, tokens) in &chain {
                assert_eq!(store.save(key, parent, tokens, fill)?, Saved::Queued);
            }
            handed_s = handed_s.min(start.elapsed().as_secs_f64());
            store.flush();
            Ok(())
        })
    })?;
    println!("{:<36} {:9.3} ms", "  of which the caller waits", 1e3 * handed_s);
    let store = Store::open(folder, options)?;
    report("load", all, || {
        seconds(|| {
            for (key, _, tokens) in &chain {
                assert_eq!(store.load(key, tokens, &mut out), Load::Loaded);
            }
            Ok(())
        })
    })?;
    assert_eq!(out, rows);
    Ok(options)
}

/// Opening a folder with many files, and asking for blocks.
fn many_files(folder: &Path, options: StoreOptions) -> Result<(), Failure> {
    for first in 0..=u8::MAX {
        fs::create_dir_all(folder.join(format!("{first:02x}")))?;
    }
    for i in 0..N_FILES {
        let first = i % 256;
        fs::write(folder.join(format!("{first:02x}/{first:02x}{i:062x}.block")), [])?;
    }
    report("open a folder of 100 thousand files", 0, || {
        let start = Instant::now();
        let store = Store::open(folder, options)?;
        let opened_s = start.elapsed().as_secs_f64();
        assert_eq!(store.stats().n_blocks as u64, N_FILES);
        Ok(opened_s)
    })?;
    let (store, chain) = (Store::open(folder, options)?, chain());
    report("ask for 256 blocks", 0, || {
        seconds(|| {
            assert!(!chain.iter().any(|(key, ..)| store.contains(key)));
            Ok(())
        })
    })
}
