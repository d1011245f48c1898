//! Time and memory that this process, and its children, have used.
//!
//! Owns asking the operating system; where it does not tell, the answer is none. Must not decide what is measured.

use std::fs;
use std::time::Instant;

use sysinfo::{ProcessRefreshKind, ProcessesToUpdate, System};

/// Ticks per second of `/proc`: the same on every Linux that programs can see.
const TICKS_PER_S: f64 = 100.0;

/// What a piece of work took.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spent {
    pub(super) wall_s: f64,
    /// Of all threads together.
    pub(super) cpu_s: Option<f64>,
}

/// A moment to measure from.
pub(super) struct Clock {
    wall: Instant,
    cpu_s: Option<f64>,
    cpu: fn() -> Option<f64>,
}

impl Clock {
    /// Measures this process.
    pub(super) fn start() -> Self {
        Self::of(own_cpu_s)
    }

    /// Measures the processes that this one started and waited for.
    pub(super) fn start_for_children() -> Self {
        Self::of(children_cpu_s)
    }

    fn of(cpu: fn() -> Option<f64>) -> Self {
        let cpu_s = cpu();
        Self { wall: Instant::now(), cpu_s, cpu }
    }

    /// What has been used since.
    pub(super) fn spent(&self) -> Spent {
        let wall_s = self.wall.elapsed().as_secs_f64();
        let cpu_s = (self.cpu)().zip(self.cpu_s).map(|(now, then)| now - then);
        Spent { wall_s, cpu_s }
    }
}

/// Processor time of all live threads: the scheduler's own count in nanoseconds, where there is one.
fn own_cpu_s() -> Option<f64> {
    threads_cpu_s().or_else(|| {
        let pid = sysinfo::get_current_pid().ok()?;
        let mut system = System::new().ok()?;
        let what = ProcessRefreshKind::nothing().with_cpu();
        system.refresh_processes_specifics(ProcessesToUpdate::Some(&[pid]), false, what);
        Some(system.process(pid)?.accumulated_cpu_time() as f64 / 1e3)
    })
}

fn threads_cpu_s() -> Option<f64> {
    let mut total_ns = 0u64;
    for thread in fs::read_dir("/proc/self/task").ok()? {
        let counts = fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?;
        total_ns += counts.split_whitespace().next()?.parse::<u64>().ok()?;
    }
    Some(total_ns as f64 / 1e9)
}

fn children_cpu_s() -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The program's name, in brackets, may hold blanks; of the fields after it, cutime and cstime are the 14th and 15th.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(13);
    let mut ticks = || fields.next()?.parse::<f64>().ok();
    Some((ticks()? + ticks()?) / TICKS_PER_S)
}

/// Memory that is this process's own, not mapped from files.
pub(super) fn anonymous_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let kilobytes = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    Some(kilobytes.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_seen() {
        let clock = Clock::start();
        let mut x = 1u64;
        while clock.wall.elapsed().as_secs_f64() < 0.1 {
            x = std::hint::black_box(x.wrapping_mul(3));
        }
        let spent = clock.spent();
        assert!(spent.wall_s >= 0.1);
        // Other tests run in threads of this process too, so only the lower bound holds; a tick may be missing.
        assert!(spent.cpu_s.is_none_or(|s| s > 0.0), "{spent:?}");
        if cfg!(target_os = "linux") {
            assert!(spent.cpu_s.is_some() && children_cpu_s().is_some() && anonymous_bytes().is_some_and(|n| n > 0));
        }
    }
}
