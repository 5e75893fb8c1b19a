//! The io_uring of a worker. Owns the requests submitted to the kernel and their targets; requests are submitted
//! together with the next wait, so that a busy turn costs one system call.
//!
//! A send is attempted when it is submitted, and its completion follows at once, even if the socket has no room: the
//! rest is then sent by a request that waits. So the completions of such attempts are known in advance, and unless a task
//! needs one of them, a wait is for one more than these; otherwise each would end in vain.
//!
//! Only this thread uses the ring, and completions are processed only while it waits (single issuer, deferred task
//! work): nothing changes concurrently between two waits, which [`Ring::has_reaped_all`] relies on.

#![allow(unsafe_code, reason = "requests refer to memory that must stay until they complete")]

use super::channel::{Channel, MAX_UNREAD_BLOCKS, ReceiveState, SendCompletion, SendState};
use super::epoll::Epoll;
use super::provided::{BLOCKS, BufferRing, GROUP};
use crate::worker::mailbox::Mailbox;
use io_uring::{
    CompletionQueue, EnterFlags, IoUring, SubmissionQueue, Submitter, cqueue, opcode, squeue, types,
};
use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// Size of the submission queue.
const SUBMISSIONS: u32 = 1024;
/// Size of the completion queue; the kernel keeps further completions until there is room.
const COMPLETIONS: u32 = 8192;
/// Events that the kernel (since 6.13) turns into completions in one call, if that many are not waited for. Then there may be
/// more, which would be late by a turn for each such number of them.
const EVENTS_PER_CALL: usize = 20;
/// Calls after which other events are left for the next wait.
const MAX_CALLS_PER_WAIT: usize = 256;
/// Waits for unsent bytes when the worker stops.
const MAX_DRAIN_WAITS: usize = 10;
const DRAIN_WAIT: Duration = Duration::from_millis(20);

/// The operation of a request; the low byte of its user data. The rest is the index of a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Op {
    Watched,
    Receive,
    /// A send that completes when it is submitted.
    Attempt,
    /// A send, or a poll, that waits for room.
    Send,
    /// A poll of a socket with flow, which is read directly.
    Readable,
    Cancel,
}

impl Op {
    const ALL: [Self; 6] =
        [Self::Watched, Self::Receive, Self::Attempt, Self::Send, Self::Readable, Self::Cancel];

    fn user_data(self, index: u32) -> u64 {
        u64::from(index) << 8 | self as u64
    }

    fn of(user_data: u64) -> Option<(Self, u32)> {
        let op = *Self::ALL.get((user_data & 0xff) as usize)?;
        Some((op, (user_data >> 8) as u32))
    }
}

/// The ring.
pub(super) struct Ring {
    submitter: Submitter<'static>,
    submissions: SubmissionQueue<'static>,
    completions: CompletionQueue<'static>,
    provided: BufferRing,
    slots: Vec<Option<Rc<Channel>>>,
    free: Vec<u32>,
    completed: Vec<cqueue::Entry>,
    /// Attempts to send whose completions have not been processed.
    attempts: u32,
    /// Something waits for the completion of an attempt.
    is_attempt_awaited: bool,
    /// Channels for whose bytes no block was left, in the order in which they are to receive again.
    starved: VecDeque<Rc<Channel>>,
    /// Closed channels with unsent bytes that have not been attempted yet.
    lingering: Vec<u32>,
    /// Requests were submitted outside a wait: their completions may be unprocessed.
    has_unseen: bool,
    /// Files that are not byte streams: the mailbox's eventfd, listeners, connecting sockets. Not in the ring, which
    /// keeps a file open for a while after the process is killed, so that its successor could not listen at once.
    watched: Epoll,
}

fn build(blocks: u16) -> io::Result<(IoUring, BufferRing)> {
    let ring = IoUring::builder()
        .dontfork()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_submit_all()
        .setup_clamp()
        .setup_cqsize(COMPLETIONS)
        .build(SUBMISSIONS)?;
    let provided = BufferRing::register(&ring, blocks)?;
    Ok((ring, provided))
}

/// Builds a ring and receives a byte as workers do.
pub(super) fn probe() -> io::Result<()> {
    let (mut ring, mut provided) = build(1)?;
    let (local, peer) = rustix::net::socketpair(
        rustix::net::AddressFamily::UNIX,
        rustix::net::SocketType::STREAM,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )?;
    rustix::io::write(&peer, b"?")?;
    let request = opcode::RecvMulti::new(types::Fd(local.as_raw_fd()), GROUP).build();
    // SAFETY: the request refers to a list of blocks that is never freed, and to a file that stays open until the
    // completion.
    unsafe { ring.submission().push(&request) }.map_err(io::Error::other)?;
    ring.submit_and_wait(1)?;
    let completion = ring.completion().next().ok_or_else(|| io::Error::other("no completion"))?;
    if completion.result() < 0 {
        return Err(io::Error::from_raw_os_error(-completion.result()));
    }
    let block = cqueue::buffer_select(completion.flags()).and_then(|number| provided.take(number, 1));
    if block.is_some_and(|block| block.bytes() == b"?") && cqueue::more(completion.flags()) {
        Ok(())
    } else {
        Err(io::Error::new(io::ErrorKind::Unsupported, "the kernel does not receive into provided buffers"))
    }
}

impl Ring {
    /// An idle ring that watches the mailbox's eventfd.
    pub(super) fn create(mailbox: &Arc<Mailbox>) -> io::Result<Self> {
        let (ring, provided) = build(BLOCKS)?;
        // Leaked: it lives as long as its worker, which is as long as the process.
        let (mut submitter, submissions, completions) = Box::leak(Box::new(ring)).split();
        // Saves the kernel a look-up per call; unsupported before 5.18.
        let _ = submitter.register_ring_fd();
        let mut ring = Self {
            submitter,
            submissions,
            completions,
            provided,
            slots: Vec::new(),
            free: Vec::new(),
            completed: Vec::new(),
            attempts: 0,
            is_attempt_awaited: false,
            starved: VecDeque::new(),
            lingering: Vec::new(),
            has_unseen: false,
            watched: Epoll::create(mailbox)?,
        };
        ring.watch_epoll()?;
        Ok(ring)
    }

    fn watch_epoll(&mut self) -> io::Result<()> {
        let file = types::Fd(self.watched.file().as_raw_fd());
        let poll = opcode::PollAdd::new(file, u32::from(PollFlags::IN.bits())).multi(true).build();
        self.push(&poll.user_data(Op::Watched.user_data(0)))
    }

    /// The watched files.
    pub(super) fn watched(&mut self) -> &mut Epoll {
        &mut self.watched
    }

    /// Queues a request.
    fn push(&mut self, request: &squeue::Entry) -> io::Result<()> {
        loop {
            // SAFETY: blocks to receive into belong to `provided`, which lives as long as the process; blocks to send
            // belong to a channel that stays in its slot, unmodified, until the request completes.
            if unsafe { self.submissions.push(request) }.is_ok() {
                return Ok(());
            }
            self.has_unseen = true;
            self.submissions.sync();
            self.submitter.submit()?;
            self.submissions.sync();
        }
    }

    fn cancel(&mut self, user_data: u64) -> io::Result<()> {
        self.push(&opcode::AsyncCancel::new(user_data).build().user_data(Op::Cancel.user_data(0)))
    }

    /// Takes ownership of a connected socket.
    pub(super) fn open(&mut self, fd: OwnedFd) -> Rc<Channel> {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            // Bounded by the number of open files, far below 2^32.
            (self.slots.len() - 1) as u32
        });
        let channel = Rc::new(Channel::new(fd, index));
        self.slots[index as usize] = Some(channel.clone());
        channel
    }

    /// True when all received bytes have been processed, so that a direct read keeps their order.
    pub(super) fn has_reaped_all(&self) -> bool {
        !self.has_unseen
    }

    /// Starts the multishot receive.
    pub(super) fn start_receiving(&mut self, channel: &Channel) -> io::Result<()> {
        let file = types::Fd(channel.as_fd().as_raw_fd());
        let user_data = Op::Receive.user_data(channel.index());
        self.push(&opcode::RecvMulti::new(file, GROUP).build().user_data(user_data))?;
        channel.set_receiving(ReceiveState::On);
        Ok(())
    }

    /// Reports when a socket with flow can be read.
    pub(super) fn poll_readable(&mut self, channel: &Channel) -> io::Result<()> {
        let file = types::Fd(channel.as_fd().as_raw_fd());
        let events = u32::from((PollFlags::IN | PollFlags::RDHUP).bits());
        let poll = opcode::PollAdd::new(file, events).build();
        self.push(&poll.user_data(Op::Readable.user_data(channel.index())))?;
        channel.set_polling(true);
        Ok(())
    }

    /// Cancels [`Ring::poll_readable`].
    pub(super) fn stop_polling(&mut self, channel: &Channel) -> io::Result<()> {
        if channel.is_polling() { self.cancel(Op::Readable.user_data(channel.index())) } else { Ok(()) }
    }

    /// Attempts the send that the channel holds.
    pub(super) fn attempt_sending(&mut self, channel: &Channel) -> io::Result<()> {
        let file = types::Fd(channel.as_fd().as_raw_fd());
        let flags = (SendFlags::NOSIGNAL | SendFlags::DONTWAIT).bits() as i32;
        let request = channel.with_sending(|sending| match sending {
            SendState::Block(block) => {
                let bytes = block.bytes();
                let send = opcode::Send::new(file, bytes.as_ptr(), bytes.len() as u32).flags(flags).build();
                Some(send.user_data(Op::Attempt.user_data(channel.index())))
            }
            _ => None,
        });
        let Some(request) = request else { return self.start_sending(channel) };
        self.push(&request)?;
        self.attempts += 1;
        Ok(())
    }

    /// The next wait ends when an attempt has completed.
    pub(super) fn await_attempt(&mut self) {
        self.is_attempt_awaited = true;
    }

    /// Starts the send that the channel holds, which waits for room.
    pub(super) fn start_sending(&mut self, channel: &Channel) -> io::Result<()> {
        let file = types::Fd(channel.as_fd().as_raw_fd());
        let user_data = Op::Send.user_data(channel.index());
        // One completion for all of it, unless the connection fails.
        let flags = (SendFlags::NOSIGNAL.bits() | RecvFlags::WAITALL.bits()) as i32;
        let request = channel.with_sending(|sending| {
            let block = match sending {
                SendState::Block(block) => block,
                SendState::BlockAndLast(both) => &both.0,
                SendState::Room => {
                    let poll = opcode::PollAdd::new(file, u32::from(PollFlags::OUT.bits())).build();
                    return Some(poll.user_data(user_data));
                }
                SendState::Nothing => return None,
            };
            let bytes = block.bytes();
            let send = opcode::Send::new(file, bytes.as_ptr(), bytes.len() as u32).flags(flags).build();
            Some(send.user_data(user_data))
        });
        request.map_or(Ok(()), |request| self.push(&request))
    }

    /// Cancels the multishot receive.
    pub(super) fn stop_receiving(&mut self, channel: &Channel) -> io::Result<()> {
        if channel.receiving() == ReceiveState::On {
            channel.set_receiving(ReceiveState::Stopping);
            self.cancel(Op::Receive.user_data(channel.index()))?;
        }
        Ok(())
    }

    /// Closes a channel. Its slot, and with it the file, is kept until all requests have completed.
    pub(super) fn close(&mut self, channel: &Channel) -> io::Result<()> {
        let index = channel.index();
        self.stop_receiving(channel)?;
        self.stop_polling(channel)?;
        if channel.is_busy() {
            self.is_attempt_awaited = true;
            self.lingering.push(index);
        }
        self.free_if_idle(index);
        Ok(())
    }

    fn free_if_idle(&mut self, index: u32) {
        let slot = &mut self.slots[index as usize];
        if slot.as_ref().is_some_and(|channel| channel.is_closed() && !channel.is_busy()) {
            *slot = None;
            self.free.push(index);
        }
    }

    /// Submits what is queued, waits, and processes all completions.
    pub(super) fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.provided.replenish();
        self.feed_starved()?;
        self.submissions.sync();
        let timeout = if !self.starved.is_empty() { Some(Duration::ZERO) } else { timeout };
        let timespec = timeout.map(types::Timespec::from);
        let waits = timeout.is_none_or(|timeout| !timeout.is_zero());
        let known_completions = if self.is_attempt_awaited { 0 } else { self.attempts };
        let min_completions = if waits { known_completions + 1 } else { 0 };
        self.is_attempt_awaited = false;
        self.enter(min_completions, timespec.as_ref())?;
        self.submissions.sync();
        self.reap()?;
        self.cancel_stuck_sends()
    }

    /// Starts receiving on as many starved channels as there are blocks; more would find none again, and be submitted again
    /// and again.
    fn feed_starved(&mut self) -> io::Result<()> {
        let mut started = 0;
        while started < BLOCKS
            && let Some(channel) = self.starved.pop_front()
        {
            if !channel.is_closed() && channel.receiving() == ReceiveState::Off && channel.wants_more() {
                self.start_receiving(&channel)?;
                started += 1;
            }
        }
        Ok(())
    }

    /// Enters the kernel, which delivers completions even without waiting.
    fn enter(&self, min_completions: u32, timespec: Option<&types::Timespec>) -> io::Result<()> {
        let queued = self.submissions.len() as u32;
        // SAFETY: everything referenced lives until the call returns.
        let entered = unsafe {
            match timespec {
                Some(timespec) => {
                    let flags = EnterFlags::GETEVENTS | EnterFlags::EXT_ARG;
                    let arguments = types::SubmitArgs::new().timespec(timespec);
                    self.submitter.enter(queued, min_completions, flags.bits(), Some(&arguments))
                }
                None => {
                    self.submitter.enter::<()>(queued, min_completions, EnterFlags::GETEVENTS.bits(), None)
                }
            }
        };
        match entered {
            Ok(_) => Ok(()),
            Err(error) => match Errno::from_io_error(&error) {
                // Timeout, full completion queue or signal: process what is there.
                Some(Errno::TIME | Errno::INTR | Errno::BUSY | Errno::AGAIN) => Ok(()),
                _ => Err(error),
            },
        }
    }

    fn reap(&mut self) -> io::Result<()> {
        let mut calls = 1;
        loop {
            let mut completed = std::mem::take(&mut self.completed);
            self.completions.sync();
            completed.extend(&mut self.completions);
            self.completions.sync();
            self.has_unseen = false;
            let attempts = self.attempts;
            for completion in &completed {
                self.dispatch(completion)?;
            }
            let events = completed.len().saturating_sub(attempts.saturating_sub(self.attempts) as usize);
            completed.clear();
            self.completed = completed;
            let may_be_more = events >= EVENTS_PER_CALL && calls < MAX_CALLS_PER_WAIT;
            calls += 1;
            // The kernel keeps completions that found no room and delivers them on request.
            if may_be_more || self.submissions.cq_overflow() {
                self.provided.replenish();
                self.submissions.sync();
                self.enter(0, None)?;
                self.submissions.sync();
            } else if !self.has_unseen {
                return Ok(());
            }
        }
    }

    /// Cancels sends of closed channels that did not complete when submitted: the reader is gone or stuck. Repeats the
    /// cancel until they complete: io_uring may miss a request that is being issued.
    fn cancel_stuck_sends(&mut self) -> io::Result<()> {
        if self.lingering.is_empty() {
            return Ok(());
        }
        let mut stuck = std::mem::take(&mut self.lingering);
        stuck.retain(|&index| {
            self.slots[index as usize].as_ref().is_some_and(|channel| {
                channel.is_closed() && !channel.with_sending(|sending| matches!(sending, SendState::Nothing))
            })
        });
        for &index in &stuck {
            self.cancel(Op::Send.user_data(index))?;
        }
        self.lingering = stuck;
        Ok(())
    }

    /// Waits briefly for unsent bytes of closed channels.
    pub(super) fn drain(&mut self) -> io::Result<()> {
        for _ in 0..MAX_DRAIN_WAITS {
            self.wait(Some(Duration::ZERO))?;
            if self.slots.iter().all(Option::is_none) {
                break;
            }
            self.wait(Some(DRAIN_WAIT))?;
        }
        Ok(())
    }

    #[inline]
    fn dispatch(&mut self, completion: &cqueue::Entry) -> io::Result<()> {
        let Some((op, index)) = Op::of(completion.user_data()) else { return Ok(()) };
        let (result, flags) = (completion.result(), completion.flags());
        match op {
            Op::Receive => self.on_receive(index, result, flags),
            Op::Attempt => self.on_attempt(index, result),
            Op::Send => self.on_send(index, result),
            Op::Readable => {
                let Some(Some(channel)) = self.slots.get(index as usize) else { return Ok(()) };
                channel.set_polling(false);
                self.free_if_idle(index);
                Ok(())
            }
            Op::Watched => {
                self.watched.process_events()?;
                if cqueue::more(flags) { Ok(()) } else { self.watch_epoll() }
            }
            Op::Cancel => Ok(()),
        }
    }

    fn on_receive(&mut self, index: u32, result: i32, flags: u32) -> io::Result<()> {
        let n = usize::try_from(result).unwrap_or(0);
        let block = cqueue::buffer_select(flags).and_then(|number| self.provided.take(number, n));
        let Some(Some(channel)) = self.slots.get(index as usize) else { return Ok(()) };
        let channel = channel.clone();
        let waiting = match block {
            Some(block) if n > 0 => channel.received(block),
            _ => 0,
        };
        if cqueue::more(flags) {
            return if waiting >= MAX_UNREAD_BLOCKS { self.stop_receiving(&channel) } else { Ok(()) };
        }
        let was = channel.receiving();
        channel.set_receiving(ReceiveState::Off);
        if channel.is_closed() {
            self.free_if_idle(index);
            return Ok(());
        }
        match result {
            0 => channel.end_of_stream(None),
            // Stopped because the bytes are not read: the next read restarts it.
            _ if was == ReceiveState::Stopping && !channel.wants_more() => {}
            n if n > 0 => return self.start_receiving(&channel),
            n => match Errno::from_raw_os_error(-n) {
                // Blocks are returned before the next wait.
                Errno::NOBUFS => self.starved.push_back(channel),
                Errno::CANCELED | Errno::INTR | Errno::AGAIN => return self.start_receiving(&channel),
                errno => channel.end_of_stream(Some(errno)),
            },
        }
        Ok(())
    }

    fn on_attempt(&mut self, index: u32, result: i32) -> io::Result<()> {
        self.attempts = self.attempts.saturating_sub(1);
        if result != -Errno::AGAIN.raw_os_error() {
            return self.on_send(index, result);
        }
        let Some(Some(channel)) = self.slots.get(index as usize) else { return Ok(()) };
        let channel = channel.clone();
        if !channel.is_closed() {
            return self.start_sending(&channel);
        }
        channel.send_failed(Errno::AGAIN);
        self.free_if_idle(index);
        Ok(())
    }

    fn on_send(&mut self, index: u32, result: i32) -> io::Result<()> {
        let Some(Some(channel)) = self.slots.get(index as usize) else { return Ok(()) };
        let channel = channel.clone();
        match usize::try_from(result) {
            // The result of a poll is a set of flags, not a number of bytes.
            Ok(n) => match channel.sent(n) {
                SendCompletion::AllButLast => {
                    if channel.is_closed() {
                        self.lingering.push(index);
                    }
                    return self.start_sending(&channel);
                }
                SendCompletion::Part if !channel.is_closed() => return self.start_sending(&channel),
                // Canceled after a part was sent: the rest never will be.
                SendCompletion::Part => channel.send_failed(Errno::CANCELED),
                SendCompletion::All => {}
            },
            Err(_) => channel.send_failed(Errno::from_raw_os_error(-result)),
        }
        if channel.is_closed() {
            self.free_if_idle(index);
        }
        Ok(())
    }
}

impl Drop for Ring {
    /// Memory that the kernel may still access is never freed.
    fn drop(&mut self) {
        for channel in self.slots.drain(..).flatten() {
            if channel.is_busy() {
                std::mem::forget(channel);
            }
        }
    }
}
