//! Resources used by a process, as counted by the kernel. Owns reading `/proc`; never estimates: a figure
//! that cannot be read is an error.
//!
//! CPU time comes from the scheduler (`/proc/PID/task/*/schedstat`, nanoseconds, user and system together),
//! summed over all threads. The count of a thread is lost when it exits; if one exited between two readings,
//! the coarser totals of `/proc/PID/stat` are used, which include exited threads.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result};

/// The line of the kernel's summary with anonymous memory.
const ANONYMOUS: &str = "Pss_Anon:";
/// Length of one tick in `/proc/PID/stat`: `USER_HZ` is 100 on every Linux this runs on.
const TICK_NS: u64 = 10_000_000;
/// Fields of `/proc/PID/stat` between the parenthesis after the command and `utime`.
const FIELDS_BEFORE_UTIME: usize = 11;

/// Value for `/proc/PID/clear_refs` that resets the peak of resident memory to its current size.
const RESET_PEAK: &str = "5";

/// A reading of a process's CPU time.
#[derive(Debug)]
pub(crate) struct CpuTime {
    threads_ns: BTreeMap<u32, u64>,
    ticks: u64,
}

impl CpuTime {
    /// Reads the time used so far by process `pid`.
    pub(crate) fn read(pid: u32) -> Result<Self> {
        let mut threads_ns = BTreeMap::new();
        let tasks = format!("/proc/{pid}/task");
        for task in fs::read_dir(&tasks).with_context(|| format!("reading {tasks}"))? {
            let Some(tid) = task?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            // A thread may exit between the listing and this line; `since` handles that.
            if let Ok(text) = fs::read_to_string(format!("{tasks}/{tid}/schedstat")) {
                threads_ns.insert(tid, first_number(&text).context("schedstat without a number")?);
            }
        }
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).context("reading stat")?;
        Ok(Self { threads_ns, ticks: ticks(&stat).context("unexpected layout of stat")? })
    }

    /// Nanoseconds used between `earlier` and this reading.
    pub(crate) fn since(&self, earlier: &Self) -> u64 {
        let has_exited_thread = earlier.threads_ns.keys().any(|tid| !self.threads_ns.contains_key(tid));
        if has_exited_thread {
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
    /// Resident pages, with shared ones counted proportionally.
    pub(crate) pss_kib: u64,
}

impl Memory {
    /// Reads the current memory of process `pid`.
    pub(crate) fn read(pid: u32) -> Result<Self> {
        let (path, text) = summary(pid)?;
        let field = |name| field(&text, name).with_context(|| format!("{path} has no line {name}"));
        Ok(Self { rss_kib: field("Rss:")?, pss_kib: field("Pss:")? })
    }
}

/// The anonymous part of a process's PSS, in KiB. The pages of the program's file count less the more processes share them.
pub(crate) fn anonymous_kib(pid: u32) -> Result<u64> {
    let (path, text) = summary(pid)?;
    field(&text, ANONYMOUS).with_context(|| format!("{path} has no line {ANONYMOUS}"))
}

/// The kernel's summary of a process's memory, with its path.
fn summary(pid: u32) -> Result<(String, String)> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    Ok((path, text))
}

fn field(summary: &str, name: &str) -> Option<u64> {
    summary.lines().find_map(|line| line.strip_prefix(name)).and_then(first_number)
}

/// The peak of a process's resident memory since a point in time, in KiB.
#[derive(Debug)]
pub(crate) struct Peak {
    pid: u32,
    before_kib: u64,
}

impl Peak {
    /// Resets the peak of process `pid`.
    pub(crate) fn watch(pid: u32) -> Result<Self> {
        let path = format!("/proc/{pid}/clear_refs");
        fs::write(&path, RESET_PEAK).with_context(|| format!("writing {path}"))?;
        Ok(Self { pid, before_kib: Memory::read(pid)?.rss_kib })
    }

    /// How far the peak exceeds the memory at the start.
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

/// `utime + stime`. The command may contain blanks and parentheses, so fields are counted after the last
/// parenthesis.
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
    fn ticks_are_found_after_a_command_with_parentheses() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 100 0 0 0 42 8 0 0 20 0 1 0 5 0 0";
        assert_eq!(ticks(stat), Some(50));
    }

    #[test]
    fn ticks_are_used_if_a_thread_has_exited() {
        let before = CpuTime { threads_ns: BTreeMap::from([(1, 10), (2, 10)]), ticks: 1 };
        let after = CpuTime { threads_ns: BTreeMap::from([(1, 30)]), ticks: 4 };
        assert_eq!(after.since(&before), 3 * TICK_NS);
        let all_running = CpuTime { threads_ns: BTreeMap::from([(1, 30), (2, 15), (3, 7)]), ticks: 4 };
        assert_eq!(all_running.since(&before), 32);
    }

    #[test]
    fn only_anonymous_memory_counts() {
        let summary = "Rss:  9000 kB\nPss:  8000 kB\nPss_Anon:  700 kB\nPss_File:  7300 kB\n";
        assert_eq!(field(summary, ANONYMOUS), Some(700));
        assert_eq!(field("Rss: 1 kB", ANONYMOUS), None);
    }

    #[test]
    fn figures_of_this_process_can_be_read() {
        let pid = std::process::id();
        assert!(CpuTime::read(pid).is_ok());
        assert!(Memory::read(pid).unwrap().rss_kib > 0);
        assert!(Peak::watch(pid).unwrap().growth_kib().is_ok());
    }
}
