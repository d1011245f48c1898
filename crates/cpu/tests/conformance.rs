//! The CPU against the scalar reference: every operation at every level, the best one on several threads, and the
//! oracle models in both forms of latent attention; and that the kernels were compiled as they are meant to be.

use cpu::{Cpu, Level};
use ops::Activations;

use testkit::conformance::{assert_conforms, assert_trains};
use testkit::oracle::{Form, LOGIT_TOLERANCE, compare, fixtures, oracles, switches};

#[test]
fn every_level_conforms() {
    for level in Level::available() {
        println!("{}", level.name());
        for activations in [Activations::F32, Activations::Int8] {
            assert_conforms(&Cpu::with(level, 1).with_activations(activations));
        }
    }
}

#[test]
fn threads_conform() {
    assert_conforms(&Cpu::with(Level::detect(), 3).with_activations(Activations::Int8));
}

#[test]
fn training_conforms_with_the_same_bits_at_every_level_on_any_threads() {
    let scalar = assert_trains(&Cpu::with(Level::Scalar, 1)).values;
    for level in Level::available() {
        let alone = assert_trains(&Cpu::with(level, 1)).values;
        for n_threads in [1, 2, 3] {
            let values = assert_trains(&Cpu::with(level, n_threads)).values;
            assert!(values.keys().eq(scalar.keys()));
            for (operation, values) in values {
                // Only products that need not be inference's may have an order of the level's own.
                let may_differ =
                    level.name() == "amx" && ["gemm", "gemm of high precision", "gemm_groups"].contains(&operation);
                let expected = if may_differ { &alone[operation] } else { &scalar[operation] };
                let differs = |(a, b): (&f32, &f32)| a.to_bits() != b.to_bits() && !(a.is_nan() && b.is_nan());
                let first = values.iter().zip(expected).position(differs);
                let what = format!("{operation}, {}, {n_threads} threads", level.name());
                assert_eq!((values.len(), first), (expected.len(), None), "{what}");
            }
        }
    }
}

#[test]
fn every_oracle_has_its_logits() {
    for level in Level::available() {
        let cpu = Cpu::with(level, 1);
        for oracle in [fixtures(), switches()].iter().flat_map(|folder| oracles(folder)) {
            let model = oracle.load(&cpu).unwrap();
            for (form, chunk) in [(Form::Absorbed, 1), (Form::Absorbed, 7), (Form::Expanded, 7), (Form::Expanded, 99)] {
                for prompt in oracle.prompts() {
                    let found = compare(&cpu, &model, &prompt, form, chunk);
                    let worst = found.logits.max(found.mtp_logits.unwrap_or(0.0));
                    let what = format!("{} {} {form:?} chunk {chunk}: {worst:e}", level.name(), oracle.name);
                    assert!(worst <= LOGIT_TOLERANCE && found.same_greedy, "{what}");
                }
            }
        }
    }
}

/// An intrinsic that is a call costs twenty times what it should. It happens where a closure around one is not inlined:
/// then it is compiled without the level's instructions, and nothing can be inlined into it.
#[test]
fn no_intrinsic_is_left_a_call() {
    if cfg!(debug_assertions) || !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        return println!("skipped: only optimised builds inline everything, and only ELF files are read");
    }
    let program = std::fs::read(std::env::current_exe().unwrap()).unwrap();
    let symbols = symbols(&program);
    assert!(symbols.iter().any(|name| name.contains("cpu")), "a program without symbols");
    // Detection may call what it asks the system with.
    let calls = symbols.iter().filter(|name| name.contains("core_arch") && !name.contains("xgetbv"));
    let calls: Vec<_> = calls.filter(|name| !name.contains("cpuid")).collect();
    assert!(calls.is_empty(), "{calls:#?}\n(who calls them: objdump -d)");
}

/// Names of a 64-bit ELF file's functions.
fn symbols(file: &[u8]) -> Vec<String> {
    const SYMBOL_TABLE: usize = 2;
    let number = |at: usize, n: usize| file[at..at + n].iter().rev().fold(0, |sum, byte| sum << 8 | usize::from(*byte));
    let section = |i: usize| number(0x28, 8) + i * number(0x3a, 2);
    let content = |i: usize| &file[number(section(i) + 0x18, 8)..][..number(section(i) + 0x20, 8)];
    let tables = (0..number(0x3c, 2)).filter(|i| number(section(*i) + 4, 4) == SYMBOL_TABLE);
    let names = tables.flat_map(|i| {
        let strings = content(number(section(i) + 0x28, 4));
        content(i).as_chunks::<24>().0.iter().map(move |[a, b, c, d, ..]| {
            let name = &strings[u32::from_le_bytes([*a, *b, *c, *d]) as usize..];
            String::from_utf8_lossy(name.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned()
        })
    });
    names.collect()
}
