//! The seam to the kernel: sockets, TLS and buffers. Owns every byte that is on its way; knows no message.
//!
//! The shape is that of completions: [`Stream::poll_recv`] hands back an [`Inbound`] buffer that was lent only
//! because bytes are there, [`Stream::poll_send`] takes slices. Nothing above knows what is below.

pub mod address;
pub mod certificate_fault;
pub mod certificates;
pub mod listener;
pub mod moving;
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
pub use address::Endpoint;
pub use moving::SocketInTransit;
pub use socket::Socket;
pub use stream::Stream;
