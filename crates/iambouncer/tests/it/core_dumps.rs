//! A crash writes no core file unless core dumps are enabled.

use crate::support::sim::{SECRET, Sim};
use crate::support::{Bouncer, postgres};
use rustix::process::{Resource, Rlimit, Signal, prlimit};
use std::os::unix::process::ExitStatusExt;

/// Crashes a pooler after an IAM login with an unlimited core size. Returns true if a core was written, and
/// its bytes.
fn leaves_a_core(settings: &[&str]) -> (bool, Vec<u8>) {
    let sim = Sim::in_front_of(postgres());
    let mut bouncer: Bouncer = sim.pooler(settings);
    assert_eq!(bouncer.client().value("SELECT 1"), "1");
    let unlimited = Rlimit { current: None, maximum: None };
    // Without root this fails if the hard limit is lower; then there is no core either.
    let _ = prlimit(Some(bouncer.pid()), Resource::Core, unlimited);
    bouncer.signal(Signal::ABORT);
    let status = bouncer.wait_for_end();
    assert_eq!(status.signal(), Some(Signal::ABORT.as_raw()), "{status:?}");
    let file = std::fs::read_dir(bouncer.dir())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.file_name().unwrap().to_string_lossy().starts_with("core"));
    (status.core_dumped(), file.map(|path| std::fs::read(path).unwrap()).unwrap_or_default())
}

#[test]
fn a_crash_writes_no_secret_into_a_core_file() {
    let (is_dumped, bytes) = leaves_a_core(&[]);
    assert!(!is_dumped && bytes.is_empty());
}

/// The other test proves something only if core files exist here and contain secrets.
#[test]
fn core_dumps_setting_enables_core_files() {
    let pattern = std::fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let control = "ulimit -c unlimited && kill -ABRT $$";
    let control =
        std::process::Command::new("sh").args(["-c", control]).current_dir(dir.path()).status().unwrap();
    if !control.core_dumped() {
        return eprintln!("this system writes no core files: core_pattern is {pattern}");
    }
    let (is_dumped, bytes) = leaves_a_core(&["core_dumps = 1"]);
    assert!(is_dumped, "core_pattern is {pattern}");
    // With another pattern, a system program or another directory receives the core.
    if pattern.trim() == "core" {
        assert!(bytes.windows(SECRET.len()).any(|part| part == SECRET.as_bytes()), "{} bytes", bytes.len());
    }
}
