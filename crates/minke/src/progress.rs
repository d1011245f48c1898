//! How far long work has come. Owns the bar's looks; it shows only where stderr is a terminal. Must not time anything.

use indicatif::{ProgressBar, ProgressStyle};

/// A bar over `n` tokens.
pub(crate) fn progress_bar(n: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{pos}/{len} tokens {wide_bar} {per_sec} eta {eta}");
    let bar = ProgressBar::new(n);
    style.map_or_else(|_| bar.clone(), |style| bar.clone().with_style(style))
}
