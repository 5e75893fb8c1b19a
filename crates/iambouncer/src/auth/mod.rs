//! Authentication: md5 and SCRAM-SHA-256 in both directions, AWS identities of clients, user maps. Owns computations
//! and message order; independent of sockets and configuration.

pub mod iam;
pub mod ident;
pub mod md5;
pub mod mock;
pub mod scram;
