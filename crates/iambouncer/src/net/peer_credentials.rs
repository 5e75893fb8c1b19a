//! Who has opened a UNIX socket to the pooler. Owns the question to the kernel; decides nothing.

use rustix::process::Uid;
use std::os::fd::{AsFd, AsRawFd as _};

/// The process at the other end of a UNIX socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerCredentials {
    /// Its process ID; 0 if it is in a PID namespace that this process cannot see.
    pub pid: u32,
    /// Its account.
    pub uid: Uid,
}

impl PeerCredentials {
    /// `None` if the kernel does not know.
    #[allow(unsafe_code, reason = "the type in rustix has no process ID 0")]
    pub fn of(socket: impl AsFd) -> Option<Self> {
        let mut found = libc::ucred { pid: 0, uid: u32::MAX, gid: u32::MAX };
        let mut bytes = size_of::<libc::ucred>() as libc::socklen_t;
        // SAFETY: the structure and its size live until the call is over, and every value of its fields is valid.
        let failed = unsafe {
            libc::getsockopt(
                socket.as_fd().as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERCRED,
                (&raw mut found).cast(),
                &raw mut bytes,
            )
        } != 0;
        // A TCP socket has no process, and the account -1.
        let is_known = !failed && found.uid != u32::MAX;
        is_known.then(|| Self { pid: u32::try_from(found.pid).unwrap_or(0), uid: Uid::from_raw(found.uid) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::UnixStream;

    #[test]
    fn the_process_at_the_other_end_of_a_unix_socket_is_known() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let expected = PeerCredentials { pid: std::process::id(), uid: rustix::process::geteuid() };
        assert_eq!(PeerCredentials::of(ours), Some(expected));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        assert_eq!(PeerCredentials::of(TcpStream::connect(listener.local_addr().unwrap()).unwrap()), None);
    }
}
