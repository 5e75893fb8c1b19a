//! The pid file. Owns its creation and removal, and the refusal to start twice.

use anyhow::{Context as _, bail};
use std::path::{Path, PathBuf};

/// The pid file; removed when dropped.
pub(super) struct PidFile(PathBuf);

impl PidFile {
    /// Writes the file, unless the process it names is running.
    pub(super) fn create(path: &Path) -> anyhow::Result<Self> {
        if let Ok(text) = std::fs::read_to_string(path)
            && let Some(pid) = text.trim().parse().ok().and_then(rustix::process::Pid::from_raw)
            && pid != rustix::process::getpid()
            && rustix::process::test_kill_process(pid).is_ok()
        {
            bail!("pidfile {} names process {}, which is running", path.display(), pid.as_raw_nonzero());
        }
        std::fs::write(path, format!("{}\n", std::process::id()))
            .with_context(|| format!("cannot write pidfile {}", path.display()))?;
        Ok(Self(path.to_owned()))
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}
