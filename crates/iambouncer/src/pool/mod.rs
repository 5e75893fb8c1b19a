//! Pools of server connections, one per database and user. Owns who gets a server next, how many there may be,
//! and when one is opened or closed; it never looks at a query.
//!
//! A pool is local to a worker. What the workers have in common is in [`shared`]: limits are exact for the process,
//! and `balance` moves servers to workers whose clients wait too long.

mod arrivals;
mod balance;
mod changes;
mod counts;
pub mod directory;
mod forgetting;
mod growth;
mod idle;
mod lending;
mod lingering;
mod neighbours;
pub mod permits;
mod places;
mod refusal;
mod session_rules;
pub mod shared;
mod succession;
mod sweep;
pub mod table;
pub mod waiter;
mod welcome;

pub use directory::{DatabaseState, Directory};
pub use lending::{Borrow, Pool};
pub use lingering::Unfinished;
pub use session_rules::SessionRules;
pub use waiter::Waiter;
pub use welcome::{Greeting, Welcome};
