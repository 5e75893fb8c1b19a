//! The few messages of the PostgreSQL protocol that a door needs.
//!
//! Owns: parsing a first packet and a password, and encoding RDS's answers.
//! Never: parses anything after the login. Deliberately separate from the pooler's protocol code, so that a
//! mistake in one is not hidden by the same mistake in the other.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt};

/// Maximum length of a first packet, in bytes; PostgreSQL's own (`MAX_STARTUP_PACKET_LENGTH`).
pub(crate) const MAX_STARTUP_BYTES: usize = 10_000;
/// Maximum length of a password message without its type byte, in bytes; PostgreSQL's own (`PG_MAX_AUTH_TOKEN_LENGTH`).
pub(crate) const MAX_PASSWORD_BYTES: usize = 65_535;

const SSL_REQUEST: u32 = 80_877_103;
const GSS_REQUEST: u32 = 80_877_104;
const CANCEL_REQUEST: u32 = 80_877_102;
const PROTOCOL_3_0: u32 = 196_608;

/// AuthenticationCleartextPassword.
pub(crate) const REQUEST_CLEARTEXT: [u8; 9] = [b'R', 0, 0, 0, 8, 0, 0, 0, 3];

/// The first packet of a connection.
#[derive(Debug)]
pub(crate) enum FirstPacket {
    /// Requests TLS.
    Ssl,
    /// Requests GSSAPI encryption.
    Gss,
    /// A cancel request, unchanged.
    Cancel(Vec<u8>),
    /// A startup message.
    StartupPacket(StartupPacket),
}

/// A startup message.
#[derive(Debug)]
pub(crate) struct StartupPacket {
    /// The whole packet, to be forwarded.
    pub(crate) packet: Vec<u8>,
    /// The user.
    pub(crate) user: String,
    /// The database; the user's name if none is given.
    pub(crate) database: String,
}

/// Reads the first packet of a connection, or the next one after an answer to `Ssl` or `Gss`.
pub(crate) async fn read_first_packet<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<FirstPacket> {
    let len = stream.read_u32().await? as usize;
    if !(8..=MAX_STARTUP_BYTES).contains(&len) {
        return Err(malformed("invalid length of startup packet"));
    }
    let mut packet = vec![0_u8; len];
    let (head, body) = packet.split_at_mut(4);
    head.copy_from_slice(&(len as u32).to_be_bytes());
    stream.read_exact(body).await?;
    let code = u32::from_be_bytes([body[0], body[1], body[2], body[3]]);
    match code {
        SSL_REQUEST => Ok(FirstPacket::Ssl),
        GSS_REQUEST => Ok(FirstPacket::Gss),
        CANCEL_REQUEST => Ok(FirstPacket::Cancel(packet)),
        version if version >> 16 == 3 => parse_startup(packet).map(FirstPacket::StartupPacket),
        _ => Err(malformed("unsupported frontend protocol")),
    }
}

fn parse_startup(packet: Vec<u8>) -> io::Result<StartupPacket> {
    let mut user = String::new();
    let mut database = String::new();
    let mut words = packet[8..].split(|&byte| byte == 0);
    while let Some(name) = words.next().filter(|name| !name.is_empty()) {
        let value = words.next().ok_or_else(|| malformed("startup packet ends within a parameter"))?;
        match name {
            b"user" => user = String::from_utf8_lossy(value).into_owned(),
            b"database" => database = String::from_utf8_lossy(value).into_owned(),
            _ => {}
        }
    }
    if user.is_empty() {
        return Err(malformed("no PostgreSQL user name specified in startup packet"));
    }
    if database.is_empty() {
        database.clone_from(&user);
    }
    Ok(StartupPacket { packet, user, database })
}

/// Reads a password message; returns the text before the final NUL.
pub(crate) async fn read_password<S: AsyncRead + Unpin>(
    stream: &mut S,
) -> io::Result<zeroize::Zeroizing<String>> {
    if stream.read_u8().await? != b'p' {
        return Err(malformed("expected password response"));
    }
    let len = stream.read_u32().await? as usize;
    if !(5..=MAX_PASSWORD_BYTES).contains(&len) {
        return Err(malformed("invalid message length"));
    }
    let mut body = zeroize::Zeroizing::new(vec![0_u8; len - 4]);
    stream.read_exact(&mut body).await?;
    let text = body.strip_suffix(&[0]).ok_or_else(|| malformed("invalid password packet"))?;
    let text = std::str::from_utf8(text).map_err(|_| malformed("password is not UTF-8"))?;
    Ok(zeroize::Zeroizing::new(text.to_owned()))
}

/// A startup message of protocol 3.0.
pub(crate) fn startup_message(parameters: &[(&str, &str)]) -> Vec<u8> {
    let mut body = PROTOCOL_3_0.to_be_bytes().to_vec();
    for (name, value) in parameters {
        for text in [name, value] {
            body.extend_from_slice(text.as_bytes());
            body.push(0);
        }
    }
    body.push(0);
    let mut packet = ((body.len() + 4) as u32).to_be_bytes().to_vec();
    packet.append(&mut body);
    packet
}

/// An ErrorResponse of severity FATAL.
pub(crate) fn fatal(code: &str, message: &str) -> Vec<u8> {
    let mut body = Vec::new();
    for (field, text) in [(b'S', "FATAL"), (b'V', "FATAL"), (b'C', code), (b'M', message)] {
        body.push(field);
        body.extend_from_slice(text.as_bytes());
        body.push(0);
    }
    body.push(0);
    let mut packet = vec![b'E'];
    packet.extend_from_slice(&((body.len() + 4) as u32).to_be_bytes());
    packet.append(&mut body);
    packet
}

fn malformed(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn first(mut bytes: &[u8]) -> io::Result<FirstPacket> {
        read_first_packet(&mut bytes).await
    }

    #[tokio::test]
    async fn a_startup_message_is_parsed_and_kept_unchanged() {
        let packet = startup_message(&[("user", "app"), ("application_name", "x"), ("database", "shop")]);
        let FirstPacket::StartupPacket(startup) = first(&packet).await.unwrap() else { panic!() };
        assert_eq!((startup.user.as_str(), startup.database.as_str()), ("app", "shop"));
        assert_eq!(startup.packet, packet);
        let FirstPacket::StartupPacket(startup) = first(&startup_message(&[("user", "app")])).await.unwrap()
        else {
            panic!()
        };
        assert_eq!(startup.database, "app");
    }

    #[tokio::test]
    async fn malformed_first_packets_are_errors() {
        let no_user = startup_message(&[("database", "x")]);
        for bytes in [&[0_u8, 0, 0, 7, 0, 0, 0][..], &[0, 1, 0, 0], &[0, 0, 0, 8, 0, 2, 0, 0], &no_user] {
            assert!(first(bytes).await.is_err());
        }
    }

    #[tokio::test]
    async fn passwords_of_maximum_length_are_read() {
        let password = "x".repeat(MAX_PASSWORD_BYTES - 5);
        let mut message = vec![b'p'];
        message.extend_from_slice(&(MAX_PASSWORD_BYTES as u32).to_be_bytes());
        message.extend_from_slice(password.as_bytes());
        message.push(0);
        assert_eq!(*read_password(&mut message.as_slice()).await.unwrap(), password);
        message[1..5].copy_from_slice(&65_536_u32.to_be_bytes());
        assert!(read_password(&mut message.as_slice()).await.is_err());
    }
}
