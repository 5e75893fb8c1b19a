//! Protocol-level prepared statements shared between clients and servers. Owns texts and names; it never sends a byte
//! (see [`crate::relay`]).
//!
//! A client's statement is known by its full text and parameter types, never by a hash alone, and has one name
//! on all servers. What a client or a server "has" is recorded when the message is sent and taken back when the
//! server's answer is an error: each expected answer carries its own undo (see [`crate::answers`]).

pub mod client_names;
pub mod effect;
mod interned;
pub mod server_cache;
pub mod statement;
pub mod unnamed;

pub use client_names::ClientNames;
pub use effect::Effect;
pub use server_cache::ServerCache;
pub use statement::{Interner, Statement};
pub use unnamed::{ServerUnnamed, Unnamed, UnnamedText, UnnamedTexts};
