//! Pools of server connections, one per database and user. Owns who gets a server next, how many there may be,
//! and when one is opened or closed; it never looks at a query.
//!
//! All of it is local to a worker except the counters behind [`permits`], which are exact for the process.

pub mod directory;
mod growth;
mod lending;
pub mod permits;
mod sweep;
pub mod table;
pub mod waiter;

pub use directory::{DatabaseState, Directory};
pub use growth::Eviction;
pub use lending::{Borrow, Pool, Welcome};
pub use waiter::Waiter;
