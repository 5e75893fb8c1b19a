//! Which engine moves the bytes. Owns the answer to `io_engine = auto`, and says at start what it is and why.

use crate::config::IoEngine;
use crate::worker::reactor::{self, EngineKind};
use std::io;

/// The engine to use.
///
/// # Errors
/// io_uring is asked for by name and the kernel, or the container around us, does not let us.
pub(super) fn choose(wanted: IoEngine) -> io::Result<EngineKind> {
    let chosen = match wanted {
        IoEngine::Epoll => EngineKind::Epoll,
        IoEngine::IoUring => {
            reactor::probe_ring().map_err(|error| {
                io::Error::new(error.kind(), format!("io_engine = io_uring is not possible here: {error}"))
            })?;
            EngineKind::IoUring
        }
        IoEngine::Auto => match reactor::probe_ring() {
            Ok(()) => EngineKind::IoUring,
            Err(error) => {
                tracing::info!("io_engine = epoll (auto: io_uring is not possible here: {error})");
                return Ok(EngineKind::Epoll);
            }
        },
    };
    let why = if wanted == IoEngine::Auto { "auto" } else { "set" };
    tracing::info!("io_engine = {chosen} ({why})");
    Ok(chosen)
}
