//! How far long work has come. Owns the bar's looks; it shows only where stderr is a terminal. Must not time anything.

use indicatif::{ProgressBar, ProgressStyle};

/// A bar over `n` tokens.
pub(crate) fn progress_bar(n: u64) -> ProgressBar {
    bar(n, "{pos}/{len} tokens {wide_bar} {per_sec} eta {eta}")
}

/// A bar over `n` steps, whose message is seen.
pub(crate) fn step_bar(n: u64) -> ProgressBar {
    bar(n, "{pos}/{len} {wide_bar} {msg} eta {eta}")
}

fn bar(n: u64, template: &str) -> ProgressBar {
    let style = ProgressStyle::with_template(template);
    let bar = ProgressBar::new(n);
    style.map_or_else(|_| bar.clone(), |style| bar.clone().with_style(style))
}
