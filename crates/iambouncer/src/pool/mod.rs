//! Pools of server connections, one per database and user. Owns which client gets a server next, how many servers may
//! exist, and when they are opened and closed; it never looks at a query.
//!
//! A pool is local to a worker. State common to all workers is in [`shared`]: limits are exact for the process, and
//! `balance` moves servers to workers whose clients wait too long.
//!
//! A [`Pool`] is made of parts with private state: `rules`, `idle`, `queue`, `arrivals`, `logins`, `canceling`,
//! `checking`, `rebalancer` and the [`table`]. The other files decide with them: `acquire` and `release` about servers, `connect`,
//! `replacement` and `maintenance` about logins, `places` and `shared_limits` about limits.

mod acquire;
mod arrivals;
mod balance;
mod canceling;
mod changes;
mod checking;
mod closing;
mod connect;
mod counts;
mod dedicated;
mod demand;
pub mod directory;
mod following;
mod forgetting;
mod functions;
mod hosts;
mod idle;
mod learned;
mod lease;
#[cfg(test)]
mod lease_tests;
mod lingering;
mod login_retry;
mod logins;
mod maintenance;
mod places;
mod queue;
mod rebalancer;
mod refusal;
mod release;
mod reloading;
mod replacement;
#[cfg(debug_assertions)]
mod rotation;
mod rules;
#[cfg(test)]
mod sample_directory;
mod session_rules;
pub mod shared;
mod shared_limits;
pub mod shared_listener;
mod startup_response;
pub mod table;
mod visiting;
mod wait_reason;
mod waiter;

pub use acquire::{Acquired, Pool};
pub use dedicated::DedicatedServer;
pub use directory::{DatabaseState, Directory};
pub use lease::Lease;
pub use lingering::UnfinishedWork;
pub use session_rules::SessionRules;
pub use shared::SharedPools;
pub use startup_response::{ServerParameters, StartupResponse};
pub use wait_reason::WaitReason;
pub use waiter::Waiter;
