//! What a process has cost so far, as the kernel counts it. Owns reading `/proc`; it never estimates: a figure
//! it cannot read is an error.
//!
//! CPU time comes from the scheduler (`/proc/PID/task/*/schedstat`, nanoseconds, user and system together),
//! summed over the threads. A thread that ends takes its count with it; when one has ended between two
//! readings, the coarser totals of `/proc/PID/stat` stand in, which include ended threads.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result};

/// Length of one tick in `/proc/PID/stat`: `USER_HZ` is 100 on every Linux this runs on.
const TICK_NS: u64 = 10_000_000;
/// Fields of `/proc/PID/stat` between the command's closing bracket and `utime`.
const FIELDS_BEFORE_UTIME: usize = 11;

/// Written to `/proc/PID/clear_refs`, makes the peak of resident memory what is resident now.
const RESET_PEAK: &str = "5";

/// A reading of a process's CPU time.
#[derive(Debug)]
pub(crate) struct CpuTime {
    threads_ns: BTreeMap<u32, u64>,
    ticks: u64,
}

impl CpuTime {
    /// Reads the time process `pid` has used so far.
    pub(crate) fn read(pid: u32) -> Result<Self> {
        let mut threads_ns = BTreeMap::new();
        let tasks = format!("/proc/{pid}/task");
        for task in fs::read_dir(&tasks).with_context(|| format!("reading {tasks}"))? {
            let Some(tid) = task?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            // A thread may end between the listing and this line; the readings' difference accounts for it.
            if let Ok(text) = fs::read_to_string(format!("{tasks}/{tid}/schedstat")) {
                threads_ns.insert(tid, first_number(&text).context("schedstat without a number")?);
            }
        }
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).context("reading stat")?;
        Ok(Self { threads_ns, ticks: ticks(&stat).context("unexpected layout of stat")? })
    }

    /// Nanoseconds used between `earlier` and this reading.
    pub(crate) fn since(&self, earlier: &Self) -> u64 {
        let some_ended = earlier.threads_ns.keys().any(|tid| !self.threads_ns.contains_key(tid));
        if some_ended {
            return (self.ticks - earlier.ticks) * TICK_NS;
        }
        let before = |tid| earlier.threads_ns.get(tid).copied().unwrap_or(0);
        self.threads_ns.iter().map(|(tid, now_ns)| now_ns.saturating_sub(before(tid))).sum()
    }
}

/// Memory of a process in KiB.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Memory {
    /// Resident pages.
    pub(crate) rss_kib: u64,
    /// Resident pages, shared ones counted by their share.
    pub(crate) pss_kib: u64,
}

impl Memory {
    /// Reads what process `pid` holds now.
    pub(crate) fn read(pid: u32) -> Result<Self> {
        let path = format!("/proc/{pid}/smaps_rollup");
        let text = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(first_number).with_context(|| format!("{path} has no line {name}"))
        };
        Ok(Self { rss_kib: field("Rss:")?, pss_kib: field("Pss:")? })
    }
}

/// The most memory a process has held since a moment, in KiB.
#[derive(Debug)]
pub(crate) struct Peak {
    pid: u32,
    before_kib: u64,
}

impl Peak {
    /// Begins anew: forgets what process `pid` has held before.
    pub(crate) fn watch(pid: u32) -> Result<Self> {
        let path = format!("/proc/{pid}/clear_refs");
        fs::write(&path, RESET_PEAK).with_context(|| format!("writing {path}"))?;
        Ok(Self { pid, before_kib: Memory::read(pid)?.rss_kib })
    }

    /// By how much the peak exceeds what was held at the beginning.
    pub(crate) fn growth_kib(&self) -> Result<u64> {
        let path = format!("/proc/{}/status", self.pid);
        let text = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let peak_kib = line.and_then(first_number).with_context(|| format!("{path} has no peak"))?;
        Ok(peak_kib.saturating_sub(self.before_kib))
    }
}

fn first_number(text: &str) -> Option<u64> {
    text.split_whitespace().next()?.parse().ok()
}

/// `utime + stime`. The command's name may hold blanks and brackets, so counting starts behind the last one.
fn ticks(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(FIELDS_BEFORE_UTIME);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_found_behind_an_ugly_name() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 100 0 0 0 42 8 0 0 20 0 1 0 5 0 0";
        assert_eq!(ticks(stat), Some(50));
    }

    #[test]
    fn an_ended_thread_is_counted_by_ticks() {
        let before = CpuTime { threads_ns: BTreeMap::from([(1, 10), (2, 10)]), ticks: 1 };
        let after = CpuTime { threads_ns: BTreeMap::from([(1, 30)]), ticks: 4 };
        assert_eq!(after.since(&before), 3 * TICK_NS);
        let all_there = CpuTime { threads_ns: BTreeMap::from([(1, 30), (2, 15), (3, 7)]), ticks: 4 };
        assert_eq!(all_there.since(&before), 32);
    }

    #[test]
    fn our_own_figures_can_be_read() {
        let pid = std::process::id();
        assert!(CpuTime::read(pid).is_ok());
        assert!(Memory::read(pid).unwrap().rss_kib > 0);
        assert!(Peak::watch(pid).unwrap().growth_kib().is_ok());
    }
}
