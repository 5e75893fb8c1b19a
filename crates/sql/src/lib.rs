//! SQL as far as a pooler needs it: where tokens and statements end, and what a statement or a function may change in its
//! session. Never parses a statement, and never needs a server.
//!
//! The rules of tokens are those of the manual's section "Lexical Structure".
#![forbid(unsafe_code)]

mod calls;
pub mod changes;
mod commands;
pub mod features;
mod filter;
pub mod names;
mod plpgsql;
mod prepared_names;
mod reader;
pub mod routines;
pub mod statements;
mod summary;
pub mod token;
mod values;

pub use changes::SessionChanges;
pub use features::{Feature, Features};
pub use names::ChangingNames;
pub use prepared_names::{PreparedName, PreparedUse, prepared_name};
pub use summary::summary;
