//! The shared listener of a pool: one server that is subscribed to the channels of all clients of the pool that listen
//! (`shared_listener`), so that these need no server of their own between transactions. Owns that server and what its
//! notifications are for; when a client shares it is decided by the relay.
//!
//! PostgreSQL has one queue of notifications, whose order all sessions see. So the place at which the delivery to a
//! client passes from its own server to the listener, or back, is a *mark* in this queue: a notification on a channel
//! with a random name, to which the listener is subscribed. The session that delivers before the mark and the one that
//! delivers behind it both see it; nothing is lost, delivered twice, or in another order.
//!
//! A mark that does not arrive at the listener shows that the two sessions belong to different servers.

mod connection;
mod membership;
mod registry;
mod state;

pub use connection::{notification, push_command};
pub use membership::{Handover, Membership, MembershipChange};
pub use registry::{Founding, ListenerOffer, Registry, is_for_marks};
pub use state::QueueMark;
