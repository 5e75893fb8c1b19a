//! Open files, of which every connection is one. Owns the reserve: some are kept for the console and for probes, so that
//! both answer when clients and servers have taken all others.

use rustix::process::{Resource, getrlimit};
use std::os::fd::{AsFd, AsRawFd as _};

/// Files that neither clients nor servers get.
pub const RESERVED_FILES: u64 = 32;
/// The reserve is at the most this part of all files that are allowed.
const MAX_SHARE: u64 = 8;

/// What a new connection may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// Anything.
    Ordinary,
    /// The console.
    Console,
    /// A probe.
    Probe,
}

impl Room {
    /// By the number of a file that has just been opened: the kernel gives the lowest that is free.
    pub fn of(file: impl AsFd) -> Self {
        let number = u64::try_from(file.as_fd().as_raw_fd()).unwrap_or(0);
        Self::of_number(number, getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX))
    }

    fn of_number(number: u64, allowed: u64) -> Self {
        let reserved = RESERVED_FILES.min(allowed / MAX_SHARE);
        if number < allowed - reserved {
            Self::Ordinary
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
    fn the_last_files_are_for_probes_and_those_before_for_the_console() {
        let room = |number| Room::of_number(number, 1024);
        assert_eq!((room(0), room(991)), (Room::Ordinary, Room::Ordinary));
        assert_eq!((room(992), room(1007)), (Room::Console, Room::Console));
        assert_eq!((room(1008), room(1023)), (Room::Probe, Room::Probe));
        assert_eq!((Room::of_number(55, 64), Room::of_number(56, 64)), (Room::Ordinary, Room::Console));
        assert_eq!(Room::of_number(1 << 40, u64::MAX), Room::Ordinary);
    }
}
