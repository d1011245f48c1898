//! This machine's memory, and sizes as people read them. Must not decide anything.

use sysinfo::{MemoryRefreshKind, RefreshKind, System};

/// Bytes of main memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Memory {
    /// Installed.
    pub(crate) total: u64,
    /// Free, or free to be taken.
    pub(crate) available: u64,
}

/// Asks the operating system.
pub(crate) fn memory() -> Memory {
    let what = RefreshKind::nothing().with_memory(MemoryRefreshKind::nothing().with_ram());
    // Where the system does not tell, nothing is known to fit.
    System::new_with_specifics(what).map_or(Memory { total: 0, available: 0 }, |s| Memory {
        total: s.total_memory(),
        available: s.available_memory(),
    })
}

/// 12,345,678 → "12.3 MB".
pub(crate) fn bytes(n: u64) -> String {
    let units = [(1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "KB")];
    let unit = units.into_iter().find(|(size, _)| n as f64 >= *size);
    unit.map_or_else(|| format!("{n} B"), |(size, name)| format!("{:.1} {name}", n as f64 / size))
}

/// 12345678 → "12,345,678".
pub(crate) fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_well() {
        assert_eq!(
            (bytes(999), bytes(1500), bytes(10_360_000_000)),
            ("999 B".into(), "1.5 KB".into(), "10.4 GB".into())
        );
        assert_eq!(
            (grouped(5), grouped(70_272), grouped(3_997_696)),
            ("5".into(), "70,272".into(), "3,997,696".into())
        );
    }
}
