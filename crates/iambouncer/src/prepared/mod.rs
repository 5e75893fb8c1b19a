//! Protocol-level prepared statements shared between clients and servers. Owns names and answers expected;
//! it never sends a byte (see [`crate::relay`]).
//!
//! A client's statement is known by its full text and parameter types, never by a hash alone, and has one name
//! on all servers. What a client or a server "has" is written down when the message is sent and taken back when
//! the server's answer is an error: each expected answer carries its own undo.

pub mod client_names;
pub mod expected;
pub mod server_cache;
pub mod statement;

pub use client_names::ClientNames;
pub use expected::{Answer, Expected, ExpectedAnswers, Undo};
pub use server_cache::ServerCache;
pub use statement::{Interner, Statement};
