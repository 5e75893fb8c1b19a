//! A client's connection before and around its session: first packets, TLS, login, startup response, cancel requests.
//! Owns admission; the session itself belongs to [`crate::relay`] or [`crate::admin`].

mod admission;
mod auth_query;
mod authenticate;
mod cancel;
mod connection;
mod handshake;
mod iam;
mod iam_sts;
mod interrupt;
mod ldap;
mod log_lines;
mod login_record;
mod login_wait;
mod message_boundary;
mod method;
mod moving;
mod pam;
#[cfg(feature = "pam")]
mod pam_library;
mod peer_host;
mod peers;
mod proofs;
mod replication;
mod scram;
mod serve;
mod server_password;
mod session_server;
mod spelling;
mod startup;
mod startup_response;
mod stored;
mod sts;
mod system_name;

pub use admission::close_evicted;
pub use connection::ConnectionPermit;
pub use serve::serve;
