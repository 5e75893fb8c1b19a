//! Network I/O: sockets, TLS and buffers. Owns all bytes in transit; independent of messages.
//!
//! The interface is completion-based: [`Stream::poll_recv`] fills an [`Inbound`] buffer that holds a block only while
//! it has bytes, [`Stream::poll_send`] takes slices. Callers are independent of the I/O engine.

pub mod address;
pub mod certificate_fault;
pub mod certificates;
pub mod connection_id;
pub mod interfaces;
pub mod ldap_trust;
pub mod listener;
pub mod moving;
pub mod peer_credentials;
pub mod socket;
pub mod stream;
pub mod tcp_options;
pub mod tls;
pub mod tls_config;
pub mod trust;
pub mod verified;
mod verifiers;
mod x509;

pub use crate::worker::buffer::Inbound;
pub use address::{Endpoint, unix_socket_path};
pub use moving::SocketInTransit;
pub use peer_credentials::PeerCredentials;
pub use socket::Socket;
pub use stream::Stream;
