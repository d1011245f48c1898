//! The repository checks. Each is a function from the repository to findings; `ALL` is the list that runs.
//!
//! To add one: a file here, a line in `ALL`, a line in the test below, and tests that show both verdicts.

mod dependencies;
mod documents;
mod edges;
mod sizes;
mod tokens;
mod vocabulary;
mod words;

use crate::repo::{Finding, Repo};

type Check = fn(&Repo) -> Vec<Finding>;

/// Every check, by the name that `xtask check` prints.
pub(crate) const ALL: [(&str, Check); 9] = [
    ("edges", edges::check),
    ("vocabulary", vocabulary::check),
    ("dependencies", dependencies::check),
    ("headers", documents::headers),
    ("documents", documents::documents),
    ("sizes", sizes::check),
    ("unsafe", tokens::unsafe_code),
    ("placeholders", tokens::placeholders),
    ("words", words::check),
];

/// Joins the findings of steps that may themselves end in one (a missing file, a block that does not parse).
fn flatten(result: Result<Vec<Finding>, Finding>) -> Vec<Finding> {
    result.unwrap_or_else(|finding| vec![finding])
}

/// One test per check, so that a failure names its rule.
#[cfg(test)]
mod tests {
    use super::*;

    macro_rules! repository_tests {
        ($($test:ident: $name:literal,)*) => {
            $(#[test]
            fn $test() {
                let repo = Repo::open().expect("the repository");
                let (_, check) = ALL.iter().find(|(name, _)| *name == $name).expect("a check of this name");
                let findings: Vec<String> = check(&repo).iter().map(ToString::to_string).collect();
                assert!(findings.is_empty(), "{} to change:\n{}", findings.len(), findings.join("\n"));
            })*

            #[test]
            fn every_check_has_its_test() {
                assert_eq!(ALL.map(|(name, _)| name), [$($name),*]);
            }
        };
    }

    repository_tests! {
        edges_of_the_workspace_are_those_of_the_plan: "edges",
        operations_of_the_trait_are_those_of_the_plan: "vocabulary",
        versions_stand_in_one_place_with_a_reason: "dependencies",
        source_files_say_what_they_own: "headers",
        documents_keep_their_promises: "documents",
        files_stay_small: "sizes",
        unsafe_stands_only_where_the_plan_says: "unsafe",
        nothing_is_left_as_a_placeholder: "placeholders",
        no_stray_characters_or_private_paths: "words",
    }
}
