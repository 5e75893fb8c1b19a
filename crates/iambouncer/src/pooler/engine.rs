//! The I/O engine. Owns the choice for `io_engine = auto`, for the process and for each worker, and logs it with the
//! reason.

use crate::config::IoEngine;
use crate::worker;
use crate::worker::reactor::{self, EngineKind};
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
    pub(super) fn run(self, main: impl Future<Output = ()> + 'static) -> io::Result<()> {
        match self {
            Self::Only(kind) => worker::run(kind, main),
            Self::RingIfPossible => worker::run_with_ring_or_epoll(report_refusal, main),
        }
    }
}

/// Logged once, by the first worker affected.
fn report_refusal(error: &io::Error) {
    static REPORTED: Once = Once::new();
    REPORTED.call_once(|| {
        tracing::warn!(
            "a worker uses epoll because its ring was refused: {error}; locked memory (ulimit -l, LimitMEMLOCK=) is counted \
             per user over all processes"
        );
    });
}

/// The engine to use.
///
/// # Errors
/// io_uring is configured explicitly, and the kernel or the container does not permit it.
pub(super) fn choose(configured: IoEngine) -> io::Result<EngineChoice> {
    let chosen = match configured {
        IoEngine::Epoll => EngineChoice::Only(EngineKind::Epoll),
        IoEngine::IoUring => {
            reactor::probe_ring().map_err(|error| {
                io::Error::new(error.kind(), format!("io_engine = io_uring is not available: {error}"))
            })?;
            EngineChoice::Only(EngineKind::IoUring)
        }
        IoEngine::Auto => match reactor::probe_ring() {
            Ok(()) => EngineChoice::RingIfPossible,
            Err(error) => {
                tracing::info!("io_engine = epoll (auto: io_uring is not available: {error})");
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
