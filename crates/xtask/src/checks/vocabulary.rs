//! The vocabulary of operations: the traits of devices in `ops`, each against its block in ARCHITECTURE.md.
//!
//! The block's lines begin with a group's name; what stands in parentheses is remark. A new method of the trait is a
//! word of the project's language, so it is written there in the same change.

use std::collections::BTreeSet;
use std::str::FromStr;

use proc_macro2::{TokenStream, TokenTree};

use super::flatten;
use crate::repo::{Finding, Repo, fenced_block};

const PLAN: &str = "ARCHITECTURE.md";

/// A trait and where its methods are written down.
struct Vocabulary {
    block: &'static str,
    file: &'static str,
    name: &'static str,
}

const VOCABULARIES: [Vocabulary; 2] = [
    Vocabulary { block: "vocabulary", file: "crates/ops/src/device.rs", name: "Device" },
    Vocabulary { block: "training", file: "crates/ops/src/train.rs", name: "TrainDevice" },
];

pub(crate) fn check(repo: &Repo) -> Vec<Finding> {
    VOCABULARIES.iter().flat_map(|vocabulary| flatten(run(repo, vocabulary))).collect()
}

fn run(repo: &Repo, &Vocabulary { block: label, file, name }: &Vocabulary) -> Result<Vec<Finding>, Finding> {
    let block = fenced_block(repo.text(PLAN)?, label).ok_or_else(|| {
        Finding::new(PLAN, format!("no fenced block called `{label}`; the check of the operations reads it"))
    })?;
    let written: BTreeSet<String> = block.iter().flat_map(|(_, line)| words(line)).collect();
    let methods = trait_methods(repo.text(file)?, name)
        .ok_or_else(|| Finding::new(file, format!("no `trait {name}` here; tell this check where it went")))?;
    let missing =
        methods.difference(&written).map(|method| format!("operation `{method}` is not in the `{label}` block"));
    let stale = written.difference(&methods).map(|word| format!("`{word}` is no method of `ops::{name}`"));
    Ok(missing.chain(stale).map(|message| Finding::new(PLAN, message)).collect())
}

/// The operations of a line: its words after the group's name, without what stands in parentheses.
fn words(line: &str) -> Vec<String> {
    let mut depth = 0_u32;
    let mut kept = String::new();
    for c in line.chars() {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ if depth == 0 => kept.push(c),
            _ => {}
        }
    }
    kept.split_whitespace().skip(1).map(str::to_owned).collect()
}

/// Names of the methods of the trait, or `None` where the text has no such trait.
fn trait_methods(source: &str, trait_name: &str) -> Option<BTreeSet<String>> {
    let mut tokens = TokenStream::from_str(source).ok()?.into_iter();
    while let Some(token) = tokens.next() {
        if is_ident(&token, "trait") && tokens.next().is_some_and(|name| is_ident(&name, trait_name)) {
            let body = tokens.find_map(|token| match token {
                TokenTree::Group(group) if group.delimiter() == proc_macro2::Delimiter::Brace => Some(group.stream()),
                _ => None,
            })?;
            return Some(function_names(body));
        }
    }
    None
}

fn function_names(body: TokenStream) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut tokens = body.into_iter();
    while let Some(token) = tokens.next() {
        if is_ident(&token, "fn")
            && let Some(name) = tokens.next()
        {
            names.insert(name.to_string());
        }
    }
    names
}

fn is_ident(token: &TokenTree, name: &str) -> bool {
    matches!(token, TokenTree::Ident(ident) if ident == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repo::TextFile;

    const SOURCE: &str = "/// fn no.\npub trait Device: Send {\n type B;\n fn matmul(&self);\n fn add(&self) {}\n}\n";

    fn messages(block: &str, source: &str) -> Vec<String> {
        let plan = format!("```vocabulary\n{block}\n```\n```training\nlinear gemm\n```\n");
        let [device, train] = VOCABULARIES.map(|vocabulary| vocabulary.file);
        let training = "pub trait TrainDevice: Device { fn gemm(&self); }";
        let files = vec![TextFile::new(PLAN, &plan), TextFile::new(device, source), TextFile::new(train, training)];
        check(&Repo { root: "/".into(), files }).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn same_words_pass_whatever_their_order_and_remarks() {
        assert!(messages("linear  add   matmul (y = x·Wᵀ (all rows))", SOURCE).is_empty());
    }

    #[test]
    fn unwritten_methods_stale_words_and_a_lost_trait_are_found() {
        let found = messages("linear  matmul  concat", SOURCE);
        assert_eq!(found.len(), 2, "{found:#?}");
        assert!(found[0].contains("`add` is not in"));
        assert!(found[1].contains("`concat` is no method"));
        assert_eq!(messages("linear  matmul", "fn trait_less() {}").len(), 1);
    }
}
