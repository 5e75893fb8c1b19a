//! The socket of the system's log. Owns the connection and the form of a message; nothing waits for it.

use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use tracing::Level;

/// The socket that syslog(3) uses, too.
pub(super) const SYSLOG_SOCKET: &str = "/dev/log";

/// The facilities of `syslog_facility` with their numbers (RFC 5424, 6.2.1).
const FACILITIES: [(&str, u8); 12] = [
    ("auth", 4),
    ("authpriv", 10),
    ("daemon", 3),
    ("user", 1),
    ("local0", 16),
    ("local1", 17),
    ("local2", 18),
    ("local3", 19),
    ("local4", 20),
    ("local5", 21),
    ("local6", 22),
    ("local7", 23),
];

/// The connection to the system's log.
pub(super) struct SyslogSocket {
    path: PathBuf,
    /// `None` until the daemon is reachable again.
    socket: Option<UnixDatagram>,
    facility: u8,
    ident: String,
}

impl SyslogSocket {
    /// Connects. If nothing listens there yet, a later message tries again.
    ///
    /// # Errors
    /// The facility is unknown.
    pub(super) fn open(path: &Path, facility: &str, ident: &str) -> Result<Self, String> {
        let Some((_, number)) = FACILITIES.iter().find(|(name, _)| *name == facility) else {
            let names: Vec<&str> = FACILITIES.iter().map(|(name, _)| *name).collect();
            return Err(format!("syslog_facility: \"{facility}\" is not one of {}", names.join(", ")));
        };
        let mut log =
            Self { path: path.to_owned(), socket: None, facility: *number, ident: ident.to_owned() };
        // Reported by the log itself, if there is another destination.
        let _ = log.connect();
        Ok(log)
    }

    /// Sends one message. A daemon that does not keep up loses it: no client waits for a log.
    pub(super) fn write(&mut self, level: Level, text: &str) {
        let priority = u16::from(self.facility) * 8 + severity(level);
        let message = format!("<{priority}>{}[{}]: {text}", self.ident, std::process::id());
        if self.socket.is_none() && self.connect().is_err() {
            return;
        }
        let sent = self.socket.as_ref().map(|socket| socket.send(message.as_bytes()));
        if let Some(Err(error)) = sent
            && error.kind() != io::ErrorKind::WouldBlock
        {
            // The daemon was restarted.
            self.socket = None;
            if self.connect().is_ok() {
                let _ = self.socket.as_ref().map(|socket| socket.send(message.as_bytes()));
            }
        }
    }

    fn connect(&mut self) -> io::Result<()> {
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        socket.connect(&self.path)?;
        self.socket = Some(socket);
        Ok(())
    }
}

/// The severity of a level (RFC 5424, 6.2.1), as chosen by PgBouncer.
fn severity(level: Level) -> u16 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(daemon: &UnixDatagram) -> String {
        let mut bytes = [0; 200];
        let length = daemon.recv(&mut bytes).unwrap();
        String::from_utf8(bytes[..length].to_vec()).unwrap()
    }

    #[test]
    fn messages_have_priority_and_name_and_survive_a_restart_of_the_daemon() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log = SyslogSocket::open(&path, "local3", "pooler").unwrap();
        log.write(Level::INFO, "lost: nothing listens");
        for _ in 0..2 {
            let daemon = UnixDatagram::bind(&path).unwrap();
            log.write(Level::WARN, "text");
            assert_eq!(received(&daemon), format!("<156>pooler[{}]: text", std::process::id()));
            std::fs::remove_file(&path).unwrap();
        }
        let unknown = SyslogSocket::open(&path, "lcal3", "pooler").map(|_| ());
        assert!(unknown.unwrap_err().contains("local3"));
    }
}
