//! All limits of the protocol layer. Owns numbers only.

/// Tag byte and length field of every message after startup.
pub const HEADER_BYTES: usize = 5;

/// The length field includes itself.
pub const MIN_LENGTH_WORD: u32 = 4;

/// Longest startup packet, as in the server's own `MAX_STARTUP_PACKET_LENGTH`.
pub const MAX_STARTUP_BYTES: usize = 10_000;

/// Length field plus request code: the shortest startup-phase packet.
pub const MIN_STARTUP_BYTES: usize = 8;

/// Longest cancel key of protocol 3.2.
pub const MAX_CANCEL_KEY_BYTES: usize = 256;

/// Longest password or SASL message of a client. The server itself accepts 65,535 bytes; IAM tokens with long
/// session tokens are close to 5 KiB.
pub const MAX_PASSWORD_BYTES: usize = 65_536;

/// Longest statement or portal name that is parsed. The server does not truncate such names, so neither does
/// the pooler.
pub const MAX_NAME_BYTES: usize = 65_536;

/// Messages that are parsed as a whole (errors, parameter reports) up to this size; larger ones are forwarded
/// unparsed.
pub const MAX_WHOLE_BYTES: u32 = 8_192;

/// The server's own limit for a message (`PQ_LARGE_MESSAGE_LIMIT`, 1 GiB − 1).
pub const MAX_MESSAGE_BYTES: u32 = 0x3fff_ffff;

const _: () = assert!(MAX_WHOLE_BYTES as usize > HEADER_BYTES);
const _: () = assert!(MAX_STARTUP_BYTES > MIN_STARTUP_BYTES + MAX_CANCEL_KEY_BYTES);
