//! Which engine moves the bytes. Owns the answer to `io_engine = auto`, for the process and for each of its workers, and
//! says what it is and why.

use crate::config::IoEngine;
use crate::worker;
use crate::worker::reactor::{self, EngineKind};
use crate::worker::workers::Workers;
use std::io;
use std::sync::Once;

/// The engine of the workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EngineChoice {
    /// This one.
    Only(EngineKind),
    /// A ring for each worker that can have one.
    RingIfPossible,
}

impl EngineChoice {
    /// Runs this thread as a worker.
    ///
    /// # Errors
    /// As [`worker::run`].
    pub(super) fn run(self, workers: &Workers, main: impl Future<Output = ()> + 'static) -> io::Result<()> {
        match self {
            Self::Only(kind) => worker::run(kind, workers, main),
            Self::RingIfPossible => worker::run_with_ring_or_epoll(workers, report_refusal, main),
        }
    }
}

/// Said once, whichever worker is the first.
fn report_refusal(error: &io::Error) {
    static REPORTED: Once = Once::new();
    REPORTED.call_once(|| {
        tracing::warn!(
            "a worker uses epoll, since its ring was refused: {error}; locked memory (ulimit -l, LimitMEMLOCK=) is counted \
             for a user over all its processes"
        );
    });
}

/// The engine to use.
///
/// # Errors
/// io_uring is asked for by name and the kernel, or the container around us, does not let us.
pub(super) fn choose(wanted: IoEngine) -> io::Result<EngineChoice> {
    let chosen = match wanted {
        IoEngine::Epoll => EngineChoice::Only(EngineKind::Epoll),
        IoEngine::IoUring => {
            reactor::probe_ring().map_err(|error| {
                io::Error::new(error.kind(), format!("io_engine = io_uring is not possible here: {error}"))
            })?;
            EngineChoice::Only(EngineKind::IoUring)
        }
        IoEngine::Auto => match reactor::probe_ring() {
            Ok(()) => EngineChoice::RingIfPossible,
            Err(error) => {
                tracing::info!("io_engine = epoll (auto: io_uring is not possible here: {error})");
                return Ok(EngineChoice::Only(EngineKind::Epoll));
            }
        },
    };
    match chosen {
        EngineChoice::Only(kind) => tracing::info!("io_engine = {kind} (set)"),
        EngineChoice::RingIfPossible => tracing::info!("io_engine = {} (auto)", EngineKind::IoUring),
    }
    Ok(chosen)
}
