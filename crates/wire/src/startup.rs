//! The first packets of a connection, which have no tag: startup, SSL, GSS and cancel requests. Owns their
//! parsing and limits; never answers them.

use crate::FormatError;
use crate::cursor::Cursor;
use crate::limits::{MAX_CANCEL_KEY_BYTES, MAX_STARTUP_BYTES, MIN_STARTUP_BYTES};

/// Request code of CancelRequest.
pub const CANCEL_CODE: u32 = 80_877_102;
/// Request code of SSLRequest.
pub const SSL_CODE: u32 = 80_877_103;
/// Request code of GSSENCRequest.
pub const GSS_CODE: u32 = 80_877_104;

/// A protocol version as in the startup packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u32);

impl Version {
    /// The version supported by all clients and servers.
    pub const V3_0: Self = Self(0x0003_0000);
    /// PostgreSQL 18: longer cancel keys.
    pub const V3_2: Self = Self(0x0003_0002);

    /// Major part.
    pub fn major(self) -> u16 {
        (self.0 >> 16) as u16
    }

    /// Minor part.
    pub fn minor(self) -> u16 {
        self.0 as u16
    }
}

/// The first request of a client.
#[derive(Debug, PartialEq, Eq)]
pub enum Request<'a> {
    /// Requests TLS; expects one byte `S` or `N`.
    Ssl,
    /// Requests GSSAPI encryption; expects one byte `G` or `N`.
    Gss,
    /// Requests that the query of this backend be canceled; expects the connection to close.
    Cancel {
        /// Process ID from BackendKeyData.
        pid: u32,
        /// Secret from BackendKeyData: 4 bytes in protocol 3.0, up to 256 in 3.2.
        key: &'a [u8],
    },
    /// Requests a session.
    Startup(Startup<'a>),
}

/// A session request.
#[derive(Debug, PartialEq, Eq)]
pub struct Startup<'a> {
    /// Requested version; the minor part may be unsupported.
    pub version: Version,
    body: &'a [u8],
}

impl<'a> Startup<'a> {
    /// Names and values in the order sent. The packet was validated when it was parsed.
    pub fn parameters(&self) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
        let mut cursor = Cursor::new(self.body);
        std::iter::from_fn(move || {
            let name = cursor.c_str().ok()?;
            if name.is_empty() {
                return None;
            }
            Some((name, cursor.c_str().ok()?))
        })
    }
}

/// A first packet that cannot be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StartupError {
    /// A length outside the limits: not a PostgreSQL client, or a hostile one.
    #[error("invalid length of startup packet")]
    Length,
    /// A major version other than 3.
    #[error("unsupported frontend protocol {}.{}: server supports 3.0 to 3.2", .0.major(), .0.minor())]
    Version(Version),
    /// Strings that are not terminated, not UTF-8, or not in pairs.
    #[error("invalid startup packet layout: {0}")]
    Layout(FormatError),
}

/// Length in bytes of the startup-phase packet at the front of `bytes`, or `None` if it is not yet known.
///
/// # Errors
/// [`StartupError::Length`] if the length field is out of bounds.
pub fn packet_len(bytes: &[u8]) -> Result<Option<usize>, StartupError> {
    let Some(word) = bytes.first_chunk::<4>() else { return Ok(None) };
    let len = u32::from_be_bytes(*word) as usize;
    if (MIN_STARTUP_BYTES..=MAX_STARTUP_BYTES).contains(&len) {
        Ok(Some(len))
    } else {
        Err(StartupError::Length)
    }
}

/// Reads one whole startup-phase packet, including its length field.
///
/// # Errors
/// See [`StartupError`].
pub fn parse(packet: &[u8]) -> Result<Request<'_>, StartupError> {
    let layout = StartupError::Layout;
    let mut cursor = Cursor::new(packet.get(4..).ok_or(StartupError::Length)?);
    let code = cursor.u32().map_err(layout)?;
    match code {
        SSL_CODE if cursor.is_empty() => Ok(Request::Ssl),
        GSS_CODE if cursor.is_empty() => Ok(Request::Gss),
        SSL_CODE | GSS_CODE => Err(StartupError::Length),
        CANCEL_CODE => {
            let pid = cursor.u32().map_err(|_| StartupError::Length)?;
            let key = cursor.rest();
            if key.len() < 4 || key.len() > MAX_CANCEL_KEY_BYTES {
                return Err(StartupError::Length);
            }
            Ok(Request::Cancel { pid, key })
        }
        _ if Version(code).major() != 3 => Err(StartupError::Version(Version(code))),
        _ => {
            let body = cursor.rest();
            check_parameters(body).map_err(layout)?;
            Ok(Request::Startup(Startup { version: Version(code), body }))
        }
    }
}

/// Name/value pairs up to an empty name, which must be the last byte.
fn check_parameters(body: &[u8]) -> Result<(), FormatError> {
    let mut cursor = Cursor::new(body);
    loop {
        if cursor.c_str()?.is_empty() {
            return if cursor.is_empty() { Ok(()) } else { Err(FormatError::Truncated) };
        }
        cursor.c_str()?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encode;
    use proptest::prelude::*;

    #[test]
    fn an_encoded_startup_packet_is_parsed() {
        let mut out = Vec::new();
        encode::startup(&mut out, Version::V3_0, &[("user", "app"), ("database", "shop")]);
        assert_eq!(packet_len(&out), Ok(Some(out.len())));
        let Request::Startup(startup) = parse(&out).unwrap() else { panic!() };
        let all: Vec<_> = startup.parameters().collect();
        assert_eq!(all, [("user", "app"), ("database", "shop")]);
    }

    #[test]
    fn requests_are_distinguished_by_code() {
        assert_eq!(parse(&[0, 0, 0, 8, 4, 210, 22, 47]).unwrap(), Request::Ssl);
        assert_eq!(parse(&[0, 0, 0, 8, 4, 210, 22, 48]).unwrap(), Request::Gss);
        let mut out = Vec::new();
        encode::cancel_request(&mut out, 7, &[1, 2, 3, 4]);
        assert_eq!(parse(&out).unwrap(), Request::Cancel { pid: 7, key: &[1, 2, 3, 4] });
    }

    #[test]
    fn invalid_first_packets_are_errors() {
        assert_eq!(packet_len(b"GET / HTTP/1.1"), Err(StartupError::Length));
        assert_eq!(parse(&[0, 0, 0, 9, 0, 2, 0, 0, 0]), Err(StartupError::Version(Version(0x0002_0000))));
        assert_eq!(
            parse(b"\0\0\0\x0d\0\x03\0\0user\0"),
            Err(StartupError::Layout(FormatError::UnterminatedString))
        );
    }

    proptest! {
        #[test]
        fn no_packet_panics(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = packet_len(&bytes);
            if let Ok(Request::Startup(startup)) = parse(&bytes) {
                let _ = startup.parameters().count();
            }
        }
    }
}
