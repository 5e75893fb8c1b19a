//! Proving who one is: md5 and SCRAM-SHA-256 in both directions, AWS identities of clients, user maps. Owns the
//! arithmetic and the order of messages; it knows no socket and no configuration.

pub mod iam;
pub mod ident;
pub mod md5;
pub mod mock;
pub mod scram;
