//! The CPU against the scalar reference: every operation at every level, the best one on several threads, and the
//! oracle models in both forms of latent attention.

use cpu::{Cpu, Level};
use ops::Activations;

use testkit::conformance::assert_conforms;
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
