//! File descriptors, of which every connection uses one. Owns the reserve for the console and for probes, so that
//! both work even if clients and servers have used up all others.

use rustix::process::{Resource, getrlimit};
use std::os::fd::{AsFd, AsRawFd as _};

/// Number of files not available to clients and servers.
pub const RESERVED_FILES: u64 = 32;
/// The reserve is at most this fraction of the limit.
const MAX_SHARE: u64 = 8;

/// What a new connection may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PermittedUse {
    /// Anything.
    Any,
    /// A cancel request: the process drains, and other replicas may forward them.
    CancelRequest,
    /// The console.
    Console,
    /// A probe.
    Probe,
}

impl PermittedUse {
    /// Determined by the number of a newly opened file: the kernel assigns the lowest one available.
    pub fn of(file: impl AsFd) -> Self {
        let number = u64::try_from(file.as_fd().as_raw_fd()).unwrap_or(0);
        Self::of_number(number, getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX))
    }

    /// True if few files are left.
    pub fn is_scarce(self) -> bool {
        matches!(self, Self::Console | Self::Probe)
    }

    fn of_number(number: u64, allowed: u64) -> Self {
        let reserved = RESERVED_FILES.min(allowed / MAX_SHARE);
        if number < allowed - reserved {
            Self::Any
        } else if number < allowed - reserved / 2 {
            Self::Console
        } else {
            Self::Probe
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_files_are_reserved_for_console_and_probes() {
        let permitted = |number| PermittedUse::of_number(number, 1024);
        assert_eq!((permitted(0), permitted(991)), (PermittedUse::Any, PermittedUse::Any));
        assert_eq!((permitted(992), permitted(1007)), (PermittedUse::Console, PermittedUse::Console));
        assert_eq!((permitted(1008), permitted(1023)), (PermittedUse::Probe, PermittedUse::Probe));
        assert_eq!(
            (PermittedUse::of_number(55, 64), PermittedUse::of_number(56, 64)),
            (PermittedUse::Any, PermittedUse::Console)
        );
        assert_eq!(PermittedUse::of_number(1 << 40, u64::MAX), PermittedUse::Any);
    }
}
