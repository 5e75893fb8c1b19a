//! Authentication: md5 and SCRAM-SHA-256 in both directions, AWS identities of clients, passwords that servers verify, HBA
//! rules, user maps. Owns computations and message order; independent of sockets.

pub(crate) mod hba;
pub(crate) mod iam;
pub(crate) mod ident;
pub mod lookups;
pub mod md5;
pub(crate) mod mock;
pub mod scram;
pub(crate) mod server_passwords;
pub mod stored_password;
