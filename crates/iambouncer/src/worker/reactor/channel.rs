//! A connected socket on a ring. Owns bytes received and not read yet, bytes being sent, and how either direction
//! ended; the requests belong to `super::ring`.
//!
//! Receiving continues while there is room: one request fills block after block. A send takes ownership of a block, or
//! copies a few bytes into one, and completes for the caller at once; further bytes wait until the block has been sent.

use super::flow::{self, FlowState};
use super::with_ring;
use crate::worker::buffer::{Inbound, SMALL_BLOCK_BYTES};
use crate::worker::executor::{self, TaskKey};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, recv, sendmsg};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::task::Poll;

/// Unread blocks above which receiving is stopped.
pub(super) const MAX_UNREAD_BLOCKS: usize = 8;

/// The multishot receive request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReceiveState {
    /// Not active.
    Off,
    /// The kernel fills blocks as bytes arrive.
    On,
    /// Canceled, but not completed yet.
    Stopping,
}

/// How the peer's byte stream ended.
#[derive(Debug, Clone, Copy)]
enum End {
    Open,
    Closed,
    Failed(Errno),
}

/// What is being sent.
pub(super) enum SendState {
    /// Nothing.
    Nothing,
    /// These bytes, which must neither move nor change before the request completes.
    Block(Inbound),
    /// The same, followed by the last bytes of a socket that is about to be closed.
    BlockAndLast(Box<(Inbound, Inbound)>),
    /// Nothing, but the kernel had no room, and a poll request for room is active.
    Room,
}

/// What remains to be done after a send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SendCompletion {
    /// Nothing.
    All,
    /// The rest needs another request.
    Part,
    /// The last bytes need another request.
    AllButLast,
}

/// Unread blocks; nearly always at most one.
#[derive(Default)]
struct UnreadBlocks {
    first: Option<Inbound>,
    /// Allocated only if there are more.
    #[expect(clippy::box_collection, reason = "a quarter of the size, in every idle connection")]
    more: Option<Box<VecDeque<Inbound>>>,
}

impl UnreadBlocks {
    fn push(&mut self, block: Inbound) {
        if self.first.is_none() {
            self.first = Some(block);
        } else {
            self.more.get_or_insert_default().push_back(block);
        }
    }

    fn len(&self) -> usize {
        usize::from(self.first.is_some()) + self.more.as_ref().map_or(0, |more| more.len())
    }

    /// Transfers bytes, without copying where possible.
    fn transfer(&mut self, into: &mut Inbound) -> Option<usize> {
        let first = self.first.as_mut()?;
        let n = into.take_from(first);
        if first.is_empty() {
            self.first = self.more.as_mut().and_then(|more| more.pop_front());
            if self.first.is_none() {
                self.more = None;
            }
        }
        Some(n)
    }
}

/// A socket on the ring of its thread.
pub struct Channel {
    fd: OwnedFd,
    index: u32,
    owner: Cell<TaskKey>,
    receiving: Cell<ReceiveState>,
    end: Cell<End>,
    unread: RefCell<UnreadBlocks>,
    sending: RefCell<SendState>,
    send_error: Cell<Option<Errno>>,
    awaits_room: Cell<bool>,
    closed: Cell<bool>,
    /// It is being moved to another worker: nothing more is received here.
    is_moving: Cell<bool>,
    pub(super) flow: Cell<FlowState>,
    /// A poll request is active.
    is_polling: Cell<bool>,
    /// During a flow: too little is left for another receive before the next report. A receive would find a few bytes, as
    /// if the flow had ended.
    is_drained: Cell<bool>,
}

impl Channel {
    pub(super) fn new(fd: OwnedFd, index: u32) -> Self {
        Self {
            fd,
            index,
            owner: Cell::new(TaskKey::NONE),
            receiving: Cell::new(ReceiveState::Off),
            end: Cell::new(End::Open),
            unread: RefCell::default(),
            sending: RefCell::new(SendState::Nothing),
            send_error: Cell::new(None),
            awaits_room: Cell::new(false),
            closed: Cell::new(false),
            is_moving: Cell::new(false),
            flow: Cell::default(),
            is_polling: Cell::new(false),
            is_drained: Cell::new(true),
        }
    }

    /// Receives once. `Ready(Ok(0))` is the end of the stream.
    pub fn poll_recv(&self, into: &mut Inbound) -> Poll<io::Result<usize>> {
        self.owner.set(executor::current());
        if into.is_full() {
            return Poll::Ready(Err(io::Error::other("receive buffer is full")));
        }
        if let Some(n) = self.transfer(into) {
            self.receive_again()?;
            return Poll::Ready(Ok(n));
        }
        match self.end.get() {
            End::Closed => return Poll::Ready(Ok(0)),
            End::Failed(errno) => return Poll::Ready(Err(errno.into())),
            End::Open => {}
        }
        if self.has_flow() {
            return self.poll_recv_in_flow(into);
        }
        // Large results are received faster in large blocks, which are not provided to the kernel.
        if into.wants_large_block() && with_ring(|ring| Ok(ring.has_reaped_all()))? {
            match self.receive_directly(into) {
                Err(Errno::AGAIN) => {}
                other => return Poll::Ready(other.map_err(io::Error::from)),
            }
        }
        self.receive_again()?;
        Poll::Pending
    }

    /// Receives directly while data flows, since blocks that are provided to the kernel are small.
    fn poll_recv_in_flow(&self, into: &mut Inbound) -> Poll<io::Result<usize>> {
        if self.receiving.get() != ReceiveState::Off {
            with_ring(|ring| ring.stop_receiving(self))?;
            return Poll::Pending;
        }
        if self.is_drained.get() && self.flow.get() == FlowState::On {
            return self.await_low_water();
        }
        into.want_large_block();
        let room = into.spare().len();
        match self.receive_directly(into) {
            Ok(n) => {
                flow::received(self, self, n, room);
                self.is_drained.set(n < room);
                self.receive_again()?;
                Poll::Ready(Ok(n))
            }
            Err(Errno::AGAIN) => {
                if self.flow.get() == FlowState::Due {
                    self.end_flow();
                    return Poll::Pending;
                }
                self.await_low_water()
            }
            Err(error) => Poll::Ready(Err(error.into())),
        }
    }

    fn await_low_water(&self) -> Poll<io::Result<usize>> {
        if !self.is_polling.get() {
            with_ring(|ring| ring.poll_readable(self))?;
        }
        Poll::Pending
    }

    /// Data does not flow fast any more: it is received into provided blocks again.
    pub(super) fn end_flow(&self) {
        if self.has_flow() {
            flow::end(self, self);
            self.is_drained.set(true);
            // What cannot be received is reported by the next receive.
            let _ = with_ring(|ring| ring.stop_polling(self)).and_then(|()| self.receive_again());
        }
    }

    fn transfer(&self, into: &mut Inbound) -> Option<usize> {
        self.unread.borrow_mut().transfer(into)
    }

    /// Starts receiving, unless there are enough unread blocks.
    #[inline]
    pub fn receive_again(&self) -> io::Result<()> {
        if self.receiving.get() == ReceiveState::Off && self.wants_more() {
            with_ring(|ring| ring.start_receiving(self))?;
        }
        Ok(())
    }

    fn receive_directly(&self, into: &mut Inbound) -> Result<usize, Errno> {
        loop {
            match recv(&self.fd, into.spare(), RecvFlags::DONTWAIT) {
                Err(Errno::INTR) => {}
                Ok((_, n)) => {
                    into.filled(n);
                    return Ok(n);
                }
                Err(errno) => {
                    into.filled(0);
                    return Err(errno);
                }
            }
        }
    }

    /// Ready when all has been sent and more can be accepted.
    pub fn poll_room(&self) -> Poll<io::Result<()>> {
        self.owner.set(executor::current());
        if let Some(errno) = self.send_error.get() {
            return Poll::Ready(Err(errno.into()));
        }
        if matches!(*self.sending.borrow(), SendState::Nothing) {
            Poll::Ready(Ok(()))
        } else {
            self.await_room()?;
            Poll::Pending
        }
    }

    /// The task that runs is woken when the send in progress has completed.
    fn await_room(&self) -> io::Result<()> {
        self.awaits_room.set(true);
        with_ring(|ring| {
            ring.await_attempt();
            Ok(())
        })
    }

    /// Accepts bytes of `head`, then of `body`, to be sent, and returns how many. A later failure is reported to the
    /// next caller.
    pub fn poll_send(&self, head: &[u8], body: &[u8]) -> Poll<io::Result<usize>> {
        std::task::ready!(self.poll_room())?;
        if head.len() + body.len() > SMALL_BLOCK_BYTES {
            return self.send_directly(head, body);
        }
        let mut block = Inbound::default();
        block.append(head);
        block.append(body);
        let n = block.len();
        self.start_send(block)?;
        Poll::Ready(Ok(n))
    }

    /// Accepts the whole block to be sent, without copying it, and leaves `block` empty.
    pub fn poll_send_block(&self, block: &mut Inbound) -> Poll<io::Result<usize>> {
        std::task::ready!(self.poll_room())?;
        let n = block.len();
        self.start_send(std::mem::take(block))?;
        Poll::Ready(Ok(n))
    }

    /// Accepts a few last bytes before the socket is closed; they follow a send in progress.
    pub fn send_last(&self, bytes: &[u8]) {
        let mut last = Inbound::default();
        last.append(bytes);
        let mut sending = self.sending.borrow_mut();
        match std::mem::replace(&mut *sending, SendState::Nothing) {
            SendState::Nothing => {
                drop(sending);
                let _ = self.start_send(last);
            }
            // The bytes of a block do not move with it.
            SendState::Block(block) => *sending = SendState::BlockAndLast(Box::new((block, last))),
            other => *sending = other,
        }
    }

    fn start_send(&self, block: Inbound) -> io::Result<()> {
        *self.sending.borrow_mut() = SendState::Block(block);
        with_ring(|ring| ring.attempt_sending(self))
    }

    fn send_directly(&self, head: &[u8], body: &[u8]) -> Poll<io::Result<usize>> {
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        loop {
            let pieces = [IoSlice::new(head), IoSlice::new(body)];
            match sendmsg(&self.fd, &pieces, &mut SendAncillaryBuffer::default(), flags) {
                Ok(n) => return Poll::Ready(Ok(n)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    *self.sending.borrow_mut() = SendState::Room;
                    self.awaits_room.set(true);
                    with_ring(|ring| ring.start_sending(self))?;
                    return Poll::Pending;
                }
                Err(errno) => return Poll::Ready(Err(errno.into())),
            }
        }
    }

    /// Ready when no request for this socket is active; cancels those that are.
    pub fn poll_quiet(&self) -> Poll<io::Result<()>> {
        self.owner.set(executor::current());
        if !self.is_busy() {
            return Poll::Ready(Ok(()));
        }
        self.await_room()?;
        self.is_moving.set(true);
        with_ring(|ring| {
            ring.stop_polling(self)?;
            ring.stop_receiving(self)
        })?;
        Poll::Pending
    }

    /// Undoes [`Channel::poll_quiet`]: the socket stays at this worker.
    pub fn stay(&self) -> io::Result<()> {
        self.is_moving.set(false);
        self.receive_again()
    }

    /// Takes the bytes that were received and not read, of a channel that is quiet.
    ///
    /// # Errors
    /// The connection has failed after these bytes.
    pub fn take_unread(&self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let mut block = Inbound::default();
        while self.transfer(&mut block).is_some() {
            bytes.extend_from_slice(block.bytes());
            block.clear();
        }
        match self.end.get() {
            End::Failed(errno) => Err(errno.into()),
            // The next worker reads the end of the stream again.
            End::Open | End::Closed => Ok(bytes),
        }
    }

    /// True when there are unread bytes or an unread end of stream.
    pub fn has_pending_input(&self) -> bool {
        let may_be_readable = match self.flow.get() {
            FlowState::Off => false,
            FlowState::On => !self.is_polling.get(),
            FlowState::Due => true,
        };
        may_be_readable || self.unread.borrow().first.is_some() || !matches!(self.end.get(), End::Open)
    }

    /// From now on no task is woken.
    pub fn clear_waker(&self) {
        self.owner.set(TaskKey::NONE);
    }

    /// Closes the socket. Accepted bytes are still sent as far as the kernel takes them at once.
    pub fn close(&self) {
        self.closed.set(true);
        self.clear_waker();
        *self.unread.borrow_mut() = UnreadBlocks::default();
        // Without a ring the thread is exiting, which closes the file.
        let _ = with_ring(|ring| ring.close(self));
    }
}

/// Called by the ring.
impl Channel {
    pub(super) fn index(&self) -> u32 {
        self.index
    }

    pub(super) fn receiving(&self) -> ReceiveState {
        self.receiving.get()
    }

    pub(super) fn set_receiving(&self, receiving: ReceiveState) {
        self.receiving.set(receiving);
        if receiving == ReceiveState::Off && (self.is_moving.get() || self.has_flow()) {
            self.wake();
        }
    }

    /// True if data flows fast through the socket.
    #[inline]
    pub(super) fn has_flow(&self) -> bool {
        self.flow.get() != FlowState::Off
    }

    /// Wakes the task that uses the socket.
    pub(super) fn wake(&self) {
        executor::wake(self.owner.get());
    }

    pub(super) fn is_polling(&self) -> bool {
        self.is_polling.get()
    }

    pub(super) fn set_polling(&self, is_polling: bool) {
        self.is_polling.set(is_polling);
        if !is_polling {
            self.is_drained.set(false);
            self.wake();
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.get()
    }

    /// Accesses what is being sent.
    pub(super) fn with_sending<T>(&self, look: impl FnOnce(&SendState) -> T) -> T {
        look(&self.sending.borrow())
    }

    /// True while a request is active.
    pub(super) fn is_busy(&self) -> bool {
        self.receiving.get() != ReceiveState::Off
            || self.is_polling.get()
            || !matches!(*self.sending.borrow(), SendState::Nothing)
    }

    /// Adds received bytes. Returns the number of unread blocks.
    pub(super) fn received(&self, block: Inbound) -> usize {
        if self.closed.get() {
            return 0;
        }
        let mut unread = self.unread.borrow_mut();
        unread.push(block);
        executor::wake(self.owner.get());
        unread.len()
    }

    /// True when nothing is unread and more may arrive.
    pub(super) fn wants_more(&self) -> bool {
        !self.is_moving.get()
            && !self.has_flow()
            && matches!(self.end.get(), End::Open)
            && self.unread.borrow().first.is_none()
    }

    /// Records that nothing more will arrive.
    pub(super) fn end_of_stream(&self, error: Option<Errno>) {
        self.end.set(error.map_or(End::Closed, End::Failed));
        executor::wake(self.owner.get());
    }

    /// Records that `n` bytes were sent.
    pub(super) fn sent(&self, n: usize) -> SendCompletion {
        let mut sending = self.sending.borrow_mut();
        if let SendState::Block(block) = &mut *sending {
            block.consume(n);
            if !block.is_empty() && n > 0 {
                return SendCompletion::Part;
            }
        }
        if let SendState::BlockAndLast(both) = &mut *sending {
            both.0.consume(n);
            if both.0.is_empty() {
                *sending = SendState::Block(std::mem::take(&mut both.1));
                return SendCompletion::AllButLast;
            }
            if n > 0 {
                return SendCompletion::Part;
            }
        }
        *sending = SendState::Nothing;
        if self.awaits_room.replace(false) {
            executor::wake(self.owner.get());
        }
        SendCompletion::All
    }

    /// Records that nothing more can be sent.
    pub(super) fn send_failed(&self, errno: Errno) {
        *self.sending.borrow_mut() = SendState::Nothing;
        self.send_error.set(Some(errno));
        executor::wake(self.owner.get());
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
