//! What any recipe must survive; the fuzz target and its twin in `recipe.rs` run the same code.
//!
//! Owns the assertions that hold for every input. Must not assume that a recipe is good, nor that it is not.

use std::path::Path;

use train::recipe::Recipe;

/// Reads a recipe: an error that says where it is, or steps, rows and rates that make sense.
pub(crate) fn recipe(text: &str, file: &Path) {
    match Recipe::parse(text, file) {
        Err(error) => {
            assert_eq!(error.file, file);
            assert!(error.line.is_none_or(|line| (1..=text.lines().count() + 1).contains(&line)), "{error}");
            assert!(!error.problem.is_empty());
            let longest = 8 * text.len() + 4096;
            assert!(error.to_string().len() <= longest, "an error of {} bytes", error.to_string().len());
        }
        Ok(recipe) => {
            assert!(!recipe.stages.is_empty() && !recipe.fingerprint().is_empty());
            for stage in &recipe.stages {
                let (n_rows, n_micro, n_steps) = (stage.n_rows(), stage.n_micro_rows(), stage.n_steps());
                assert!(n_steps >= 1 && n_micro >= 1 && n_rows.is_multiple_of(n_micro), "{stage:?}");
                assert!([0, n_steps / 2, n_steps - 1].iter().all(|step| stage.lr(*step).is_finite()), "{stage:?}");
            }
        }
    }
}
