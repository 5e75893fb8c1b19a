//! Protocol-level prepared statements, shared between clients and servers. Owns texts and names; it never sends bytes
//! (see [`crate::relay`]).
//!
//! A client's statement is identified by its full text and parameter types, never by a hash alone, and has the same
//! name on all servers. The statements of clients and servers are recorded when a message is sent, and corrected if the
//! server answers with an error: each expected answer carries its own undo information (see [`crate::answers`]).

mod call_cache;
pub mod client_names;
pub mod description;
pub mod effect;
mod interned;
pub mod server_cache;
pub mod statement;
pub mod unnamed;

pub use call_cache::CallCache;
pub use client_names::{ClientNames, NamedStatement};
pub use description::Description;
pub use effect::Effect;
pub use server_cache::{MAX_EVICTED, ServerCache};
pub use statement::{Interner, Statement};
pub use unnamed::{ServerUnnamed, Unnamed, UnnamedText, UnnamedTexts};
