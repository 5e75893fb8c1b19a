//! Every bound of the protocol layer, by name. Owns numbers only.

/// Tag byte and length word in front of every message after startup.
pub const HEADER_BYTES: usize = 5;

/// The length word counts itself.
pub const MIN_LENGTH_WORD: u32 = 4;

/// Longest startup packet, as in the server's own `MAX_STARTUP_PACKET_LENGTH`.
pub const MAX_STARTUP_BYTES: usize = 10_000;

/// Length word plus request code: the shortest startup-phase packet.
pub const MIN_STARTUP_BYTES: usize = 8;

/// Longest cancel key of protocol 3.2.
pub const MAX_CANCEL_KEY_BYTES: usize = 256;

/// Longest password or SASL message of a client. The server itself takes 65,535 bytes; IAM tokens with long
/// session tokens come close to 5 KiB.
pub const MAX_PASSWORD_BYTES: usize = 65_536;

/// Longest statement or portal name that is looked at. The server truncates nothing here, so neither do we.
pub const MAX_NAME_BYTES: usize = 8_192;

/// Messages that are read whole (errors, parameter reports) up to this size; larger ones stream past unread.
pub const MAX_WHOLE_BYTES: u32 = 8_192;

/// The server's own ceiling for one message (`PQ_LARGE_MESSAGE_LIMIT`, 1 GiB − 1).
pub const MAX_MESSAGE_BYTES: u32 = 0x3fff_ffff;

const _: () = assert!(MAX_WHOLE_BYTES as usize > HEADER_BYTES);
const _: () = assert!(MAX_STARTUP_BYTES > MIN_STARTUP_BYTES + MAX_CANCEL_KEY_BYTES);
