//! What a console client is sent. Owns the bytes that have not gone out yet, which are few however much a command shows, and
//! the end of a client that does not read.

use crate::client_error::{self, ClientError};
use crate::clients::ClientInfo;
use crate::net::{Inbound, Stream};
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use wire::scan::Frame;

/// Bytes collected before they are sent.
const SEND_ABOVE_BYTES: usize = 32 * 1024;
/// Longest message a console client may send, in bytes.
const MAX_CONSOLE_MESSAGE_BYTES: u32 = 64 * 1024;

/// Why a console connection ends.
pub(super) enum Stop {
    /// The client has left, or cannot be reached.
    Gone,
    /// The client is told.
    Error(ClientError),
}

/// Why a command has not come to its end.
pub(super) enum Trouble {
    /// Its client is told, and the connection goes on.
    Error(ClientError),
    /// So does the connection not.
    Stop(Stop),
}

impl From<ClientError> for Trouble {
    fn from(error: ClientError) -> Self {
        Self::Error(error)
    }
}

impl From<Stop> for Trouble {
    fn from(stop: Stop) -> Self {
        Self::Stop(stop)
    }
}

/// Both directions of a console connection.
pub(super) struct Output {
    info: Rc<ClientInfo>,
    stream: Stream,
    inbound: Inbound,
    /// To be sent.
    pub(super) bytes: Vec<u8>,
}

impl Output {
    pub(super) fn new(info: Rc<ClientInfo>, stream: Stream, inbound: Inbound) -> Self {
        Self { info, stream, inbound, bytes: Vec::new() }
    }

    /// Sends what there is if that is a lot.
    pub(super) async fn make_room(&mut self) -> Result<(), Stop> {
        if self.bytes.len() < SEND_ABOVE_BYTES { Ok(()) } else { self.send().await }
    }

    /// Sends what there is.
    pub(super) async fn send(&mut self) -> Result<(), Stop> {
        let Self { info, stream, bytes, .. } = self;
        {
            let mut sending = pin!(stream.send_all(bytes));
            poll_fn(|cx| match info.take_kill() {
                Some(error) => Poll::Ready(Err(Stop::Error(error))),
                None => sending.as_mut().poll(cx).map_err(|_| Stop::Gone),
            })
            .await?;
        }
        self.bytes.clear();
        self.bytes.shrink_to(SEND_ABOVE_BYTES);
        Ok(())
    }

    /// The last words, if the client takes them soon.
    pub(super) async fn say_last(&mut self, error: &ClientError) {
        self.bytes.clear();
        error.encode_fatal(&mut self.bytes);
        let Self { stream, bytes, .. } = self;
        let _ = crate::worker::timers::timeout(super::FINAL_MESSAGE_TIMEOUT, stream.send_all(bytes)).await;
    }

    /// The client's next message.
    pub(super) async fn receive(&mut self) -> Result<(Frame, Vec<u8>), Stop> {
        let Self { info, stream, inbound, .. } = self;
        let frame = {
            let mut message = pin!(stream.recv_message(inbound, MAX_CONSOLE_MESSAGE_BYTES));
            poll_fn(|cx| match info.take_kill() {
                Some(error) => Poll::Ready(Err(Stop::Error(error))),
                None => message.as_mut().poll(cx).map_err(|error| match error.kind() {
                    std::io::ErrorKind::InvalidData => Stop::Error(client_error::protocol(error)),
                    _ => Stop::Gone,
                }),
            })
            .await?
        };
        let message = inbound.bytes()[..frame.len].to_vec();
        inbound.consume(frame.len);
        Ok((frame, message))
    }
}
