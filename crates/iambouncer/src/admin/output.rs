//! Output to a console client. Owns the unsent bytes, which are bounded however much a command shows, and the time
//! limit for a client that does not read.

use crate::client_error::{self, ClientError};
use crate::clients::ClientInfo;
use crate::net::{Inbound, Stream};
use crate::worker::executor;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use wire::scan::Frame;

/// Bytes collected before they are sent.
const SEND_ABOVE_BYTES: usize = 32 * 1024;
/// Longest message a console client may send, in bytes.
const MAX_CONSOLE_MESSAGE_BYTES: u32 = 64 * 1024;

/// Why a console connection is closed.
pub(super) enum Stop {
    /// The client has disconnected or cannot be reached.
    Gone,
    /// The error to send to the client.
    Error(ClientError),
}

/// Why a command was not completed.
pub(super) enum CommandError {
    /// The error is sent, and the connection stays open.
    Error(ClientError),
    /// The connection is closed.
    Stop(Stop),
}

impl From<ClientError> for CommandError {
    fn from(error: ClientError) -> Self {
        Self::Error(error)
    }
}

impl From<Stop> for CommandError {
    fn from(stop: Stop) -> Self {
        Self::Stop(stop)
    }
}

/// Both directions of a console connection.
pub(super) struct Output {
    info: Rc<ClientInfo>,
    stream: Stream,
    inbound: Inbound,
    /// Bytes to be sent.
    pub(super) bytes: Vec<u8>,
}

impl Output {
    pub(super) fn new(info: Rc<ClientInfo>, stream: Stream, inbound: Inbound) -> Self {
        Self { info, stream, inbound, bytes: Vec::new() }
    }

    /// Sends the collected bytes if there are many, and lets the other tasks of the worker run.
    pub(super) async fn make_room(&mut self) -> Result<(), Stop> {
        if self.bytes.len() < SEND_ABOVE_BYTES {
            return Ok(());
        }
        self.send().await?;
        executor::yield_now().await;
        Ok(())
    }

    /// Sends the collected bytes.
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

    /// Sends the final message, with a time limit.
    pub(super) async fn send_final_message(&mut self, error: &ClientError) {
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
