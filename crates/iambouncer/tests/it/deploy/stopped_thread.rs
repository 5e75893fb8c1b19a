//! A thread of another process that does not run. Owns the tracing, which ends with the value.

use rustix::process::Pid;

/// A stopped thread.
pub(super) struct StoppedThread(libc::pid_t);

impl StoppedThread {
    /// Stops the thread of a process that has this name.
    pub(super) fn of(process: Pid, name: &str) -> Self {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", process.as_raw_nonzero())).unwrap();
        let is_named = |path: &std::path::Path| {
            std::fs::read_to_string(path.join("comm")).is_ok_and(|text| text.trim() == name)
        };
        let task = tasks.map(|task| task.unwrap()).find(|task| is_named(&task.path())).expect("the thread");
        let thread: libc::pid_t = task.file_name().to_str().unwrap().parse().unwrap();
        trace(libc::PTRACE_SEIZE, thread);
        trace(libc::PTRACE_INTERRUPT, thread);
        // Without this the thread might still run.
        let mut status = 0;
        // SAFETY: waits for a thread that this one traces; status is a valid pointer.
        #[allow(unsafe_code, reason = "no safe function waits for a traced thread")]
        let stopped = unsafe { libc::waitpid(thread, &raw mut status, libc::__WALL) };
        assert_eq!(stopped, thread, "{}", std::io::Error::last_os_error());
        Self(thread)
    }
}

impl Drop for StoppedThread {
    fn drop(&mut self) {
        trace(libc::PTRACE_DETACH, self.0);
    }
}

fn trace(request: libc::c_uint, thread: libc::pid_t) {
    let none = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: these requests read and write no memory of this process.
    #[allow(unsafe_code, reason = "only ptrace stops a single thread")]
    let done = unsafe { libc::ptrace(request, thread, none, none) };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
}
