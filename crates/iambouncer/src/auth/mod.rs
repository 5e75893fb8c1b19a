//! Proving a password, in both directions: md5 and SCRAM-SHA-256. Owns the arithmetic and the order of messages;
//! it knows no socket and no configuration.

pub mod md5;
pub mod scram;
