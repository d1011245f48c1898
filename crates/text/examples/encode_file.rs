//! Encodes a text file, checks that decoding gives it back, and writes the ids as little-endian u32: one side of
//! the comparison with Hugging Face's tokenizers (`tests/peer/compare.py` is the other). Must not be shipped.
//!
//! `cargo run --release -p text --example encode_file -- tokenizer.json corpus.txt ids.bin`
#![allow(clippy::print_stdout, reason = "a command-line example")]

use std::error::Error;
use std::time::Instant;

use text::Tokenizer;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [tokenizer, corpus, output] = args.as_slice() else {
        return Err("expected three arguments: tokenizer.json corpus.txt ids.bin".into());
    };
    let start = Instant::now();
    let tokenizer = Tokenizer::from_json(&std::fs::read(tokenizer)?)?;
    println!("load {:.2} s", start.elapsed().as_secs_f64());
    let text = String::from_utf8_lossy(&std::fs::read(corpus)?).into_owned();
    let mb = text.len() as f64 / 1e6;

    let mut ids = Vec::new();
    for round in ["cold", "warm"] {
        let start = Instant::now();
        ids = tokenizer.encode(&text)?;
        let seconds = start.elapsed().as_secs_f64();
        println!("encode {round} {mb:.1} MB in {seconds:.2} s: {:.1} MB/s, {} ids", mb / seconds, ids.len());
    }
    let start = Instant::now();
    let decoded = tokenizer.decode(&ids, false)?;
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "decode {:.1} MB/s, {}",
        mb / seconds,
        if decoded == text { "equal to the input" } else { "different (expected only where the tokenizer normalises)" }
    );
    std::fs::write(output, ids.iter().flat_map(|id| id.to_le_bytes()).collect::<Vec<u8>>())?;
    Ok(())
}
