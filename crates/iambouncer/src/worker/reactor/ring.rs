//! The io_uring of a worker. Owns the requests given to the kernel and what they are about; a request is submitted
//! with the next wait, together with all others, so that a busy turn costs one system call.
//!
//! The ring is used by this thread alone and completions are worked off only while it waits (single issuer, deferred
//! task work): between two waits nothing changes behind our back, which [`Ring::has_reaped_all`] relies on.

#![allow(unsafe_code, reason = "requests point to memory that must stay until the kernel has answered")]

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
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// Requests collected before the kernel has to be called.
const SUBMISSIONS: u32 = 1024;
/// Answers the kernel can leave; more are kept by it until there is room.
const COMPLETIONS: u32 = 8192;
/// Waits for the last bytes when the worker ends.
const MAX_DRAIN_WAITS: usize = 10;
const DRAIN_WAIT: Duration = Duration::from_millis(20);

/// What a request does; the low byte of its name. The rest is the index of a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Op {
    Watched,
    Receive,
    Send,
    Cancel,
}

impl Op {
    const ALL: [Self; 4] = [Self::Watched, Self::Receive, Self::Send, Self::Cancel];

    fn name(self, index: u32) -> u64 {
        u64::from(index) << 8 | self as u64
    }

    fn of(name: u64) -> Option<(Self, u32)> {
        let op = *Self::ALL.get((name & 0xff) as usize)?;
        Some((op, (name >> 8) as u32))
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
    answers: Vec<cqueue::Entry>,
    /// Closed channels whose last bytes have had no chance yet.
    lingering: Vec<u32>,
    /// Requests were submitted outside of a wait: their answers may lie there unseen.
    has_unseen: bool,
    /// Files that are not streams of bytes: the mailbox's wake_fd, listeners, sockets that connect. Not in the ring, which
    /// keeps a file open for a while when a process is killed: its successor could not listen at once.
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

/// Builds a ring and receives a byte the way workers do.
pub(super) fn probe() -> io::Result<()> {
    let (mut ring, mut provided) = build(1)?;
    let (near, far) = rustix::net::socketpair(
        rustix::net::AddressFamily::UNIX,
        rustix::net::SocketType::STREAM,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )?;
    rustix::io::write(&far, b"?")?;
    let request = opcode::RecvMulti::new(types::Fd(near.as_raw_fd()), GROUP).build();
    // SAFETY: the request names a list of blocks that is never freed, and a file that is open until the answer.
    unsafe { ring.submission().push(&request) }.map_err(io::Error::other)?;
    ring.submit_and_wait(1)?;
    let answer = ring.completion().next().ok_or_else(|| io::Error::other("no answer"))?;
    if answer.result() < 0 {
        return Err(io::Error::from_raw_os_error(-answer.result()));
    }
    let block = cqueue::buffer_select(answer.flags()).and_then(|number| provided.take(number, 1));
    if block.is_some_and(|block| block.bytes() == b"?") && cqueue::more(answer.flags()) {
        Ok(())
    } else {
        Err(io::Error::new(io::ErrorKind::Unsupported, "the kernel does not receive into lent blocks"))
    }
}

impl Ring {
    /// An idle ring that hears the mailbox's wake_fd.
    pub(super) fn create(mailbox: &Arc<Mailbox>) -> io::Result<Self> {
        let (ring, provided) = build(BLOCKS)?;
        // As long as its worker, which is as long as the process.
        let (mut submitter, submissions, completions) = Box::leak(Box::new(ring)).split();
        // Saves the kernel a look-up per call; kernels before 5.18 do without.
        let _ = submitter.register_ring_fd();
        let mut ring = Self {
            submitter,
            submissions,
            completions,
            provided,
            slots: Vec::new(),
            free: Vec::new(),
            answers: Vec::new(),
            lingering: Vec::new(),
            has_unseen: false,
            watched: Epoll::create(mailbox)?,
        };
        ring.watch_watched()?;
        Ok(ring)
    }

    fn watch_watched(&mut self) -> io::Result<()> {
        let file = types::Fd(self.watched.file().as_raw_fd());
        let poll = opcode::PollAdd::new(file, u32::from(PollFlags::IN.bits())).multi(true).build();
        self.push(&poll.user_data(Op::Watched.name(0)))
    }

    /// The files that are watched.
    pub(super) fn watched(&mut self) -> &mut Epoll {
        &mut self.watched
    }

    /// Queues a request.
    fn push(&mut self, request: &squeue::Entry) -> io::Result<()> {
        loop {
            // SAFETY: blocks to receive into are `provided`'s, which lives as long as the process; blocks to send
            // belong to a channel that stays in its slot, untouched, until the kernel has answered.
            if unsafe { self.submissions.push(request) }.is_ok() {
                return Ok(());
            }
            self.has_unseen = true;
            self.submissions.sync();
            self.submitter.submit()?;
            self.submissions.sync();
        }
    }

    fn cancel(&mut self, name: u64) -> io::Result<()> {
        self.push(&opcode::AsyncCancel::new(name).build().user_data(Op::Cancel.name(0)))
    }

    /// Takes over a connected socket.
    pub(super) fn open(&mut self, fd: OwnedFd) -> Rc<Channel> {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            // Bounded by open files long before 2^32.
            (self.slots.len() - 1) as u32
        });
        let channel = Rc::new(Channel::new(fd, index));
        self.slots[index as usize] = Some(channel.clone());
        channel
    }

    /// True when no bytes can have been received that we have not seen: a direct read keeps their order.
    pub(super) fn has_reaped_all(&self) -> bool {
        !self.has_unseen
    }

    /// Asks for all that comes.
    pub(super) fn start_receiving(&mut self, channel: &Channel) -> io::Result<()> {
        let file = types::Fd(channel.as_fd().as_raw_fd());
        let name = Op::Receive.name(channel.index());
        self.push(&opcode::RecvMulti::new(file, GROUP).build().user_data(name))?;
        channel.set_receiving(ReceiveState::On);
        Ok(())
    }

    /// Sends what the channel holds for that.
    pub(super) fn start_sending(&mut self, channel: &Channel) -> io::Result<()> {
        let file = types::Fd(channel.as_fd().as_raw_fd());
        let name = Op::Send.name(channel.index());
        // All of it in one answer, unless the connection fails.
        let flags = (SendFlags::NOSIGNAL.bits() | RecvFlags::WAITALL.bits()) as i32;
        let request = channel.with_sending(|sending| {
            let block = match sending {
                SendState::Block(block) => block,
                SendState::BlockAndLast(both) => &both.0,
                SendState::Room => {
                    let poll = opcode::PollAdd::new(file, u32::from(PollFlags::OUT.bits())).build();
                    return Some(poll.user_data(name));
                }
                SendState::Nothing => return None,
            };
            let bytes = block.bytes();
            let send = opcode::Send::new(file, bytes.as_ptr(), bytes.len() as u32).flags(flags).build();
            Some(send.user_data(name))
        });
        request.map_or(Ok(()), |request| self.push(&request))
    }

    /// Takes the standing request back.
    pub(super) fn stop_receiving(&mut self, channel: &Channel) -> io::Result<()> {
        if channel.receiving() == ReceiveState::On {
            channel.set_receiving(ReceiveState::Stopping);
            self.cancel(Op::Receive.name(channel.index()))?;
        }
        Ok(())
    }

    /// A channel is not used any more. Its slot, and with it the file, is kept until the kernel has answered all.
    pub(super) fn close(&mut self, channel: &Channel) -> io::Result<()> {
        let index = channel.index();
        self.stop_receiving(channel)?;
        if channel.is_busy() {
            self.lingering.push(index);
        }
        self.free_if_quiet(index);
        Ok(())
    }

    fn free_if_quiet(&mut self, index: u32) {
        let slot = &mut self.slots[index as usize];
        if slot.as_ref().is_some_and(|channel| channel.is_closed() && !channel.is_busy()) {
            *slot = None;
            self.free.push(index);
        }
    }

    /// Submits what is queued, waits, and works off all answers.
    pub(super) fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.provided.replenish();
        self.submissions.sync();
        let timespec = timeout.map(types::Timespec::from);
        let want = u32::from(timeout.is_none_or(|timeout| !timeout.is_zero()));
        self.enter(want, timespec.as_ref())?;
        self.submissions.sync();
        self.reap()?;
        self.let_go()
    }

    /// Calls the kernel. It works off what has come even when nothing is waited for.
    fn enter(&self, want: u32, timespec: Option<&types::Timespec>) -> io::Result<()> {
        let queued = self.submissions.len() as u32;
        // SAFETY: all that is pointed to lives until the call is over.
        let entered = unsafe {
            match timespec {
                Some(timespec) => {
                    let flags = EnterFlags::GETEVENTS | EnterFlags::EXT_ARG;
                    let arguments = types::SubmitArgs::new().timespec(timespec);
                    self.submitter.enter(queued, want, flags.bits(), Some(&arguments))
                }
                None => self.submitter.enter::<()>(queued, want, EnterFlags::GETEVENTS.bits(), None),
            }
        };
        match entered {
            Ok(_) => Ok(()),
            Err(error) => match Errno::from_io_error(&error) {
                // Out of time, out of room for answers, or a signal: what is there is to be worked off.
                Some(Errno::TIME | Errno::INTR | Errno::BUSY | Errno::AGAIN) => Ok(()),
                _ => Err(error),
            },
        }
    }

    fn reap(&mut self) -> io::Result<()> {
        loop {
            let mut answers = std::mem::take(&mut self.answers);
            self.completions.sync();
            answers.extend(&mut self.completions);
            self.completions.sync();
            self.has_unseen = false;
            for answer in &answers {
                self.dispatch(answer)?;
            }
            answers.clear();
            self.answers = answers;
            // The kernel keeps what found no room and hands it over when asked.
            if self.submissions.cq_overflow() {
                self.submissions.sync();
                self.enter(0, None)?;
                self.submissions.sync();
            } else if !self.has_unseen {
                return Ok(());
            }
        }
    }

    /// Gives up last bytes the kernel did not take when they were submitted: their reader is gone or stuck. Until the
    /// kernel has answered, since a request is hard to find while it is being tried.
    fn let_go(&mut self) -> io::Result<()> {
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
            self.cancel(Op::Send.name(index))?;
        }
        self.lingering = stuck;
        Ok(())
    }

    /// Waits a moment for the bytes of channels that are closed.
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
    fn dispatch(&mut self, answer: &cqueue::Entry) -> io::Result<()> {
        let Some((op, index)) = Op::of(answer.user_data()) else { return Ok(()) };
        let (result, flags) = (answer.result(), answer.flags());
        match op {
            Op::Receive => self.on_receive(index, result, flags),
            Op::Send => self.on_send(index, result),
            Op::Watched => {
                self.watched.work_off()?;
                if cqueue::more(flags) { Ok(()) } else { self.watch_watched() }
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
            self.free_if_quiet(index);
            return Ok(());
        }
        match result {
            0 => channel.ended(None),
            // It was stopped because nobody reads: whoever reads again starts it.
            _ if was == ReceiveState::Stopping && !channel.wants_more() => {}
            n if n > 0 => return self.start_receiving(&channel),
            n => match Errno::from_raw_os_error(-n) {
                // When all blocks were out, they are back with the next wait.
                Errno::CANCELED | Errno::NOBUFS | Errno::INTR | Errno::AGAIN => {
                    return self.start_receiving(&channel);
                }
                errno => channel.ended(Some(errno)),
            },
        }
        Ok(())
    }

    fn on_send(&mut self, index: u32, result: i32) -> io::Result<()> {
        let Some(Some(channel)) = self.slots.get(index as usize) else { return Ok(()) };
        let channel = channel.clone();
        match usize::try_from(result) {
            // The answer to a poll is a set of flags, not a number of bytes.
            Ok(n) => match channel.sent(n) {
                SendCompletion::AllButLast => {
                    if channel.is_closed() {
                        self.lingering.push(index);
                    }
                    return self.start_sending(&channel);
                }
                SendCompletion::Part if !channel.is_closed() => return self.start_sending(&channel),
                // Taken back when a part had gone out: the rest never will.
                SendCompletion::Part => channel.send_failed(Errno::CANCELED),
                SendCompletion::All => {}
            },
            Err(_) => channel.send_failed(Errno::from_raw_os_error(-result)),
        }
        if channel.is_closed() {
            self.free_if_quiet(index);
        }
        Ok(())
    }
}

impl Drop for Ring {
    /// What the kernel may still look at is never freed.
    fn drop(&mut self) {
        for channel in self.slots.drain(..).flatten() {
            if channel.is_busy() {
                std::mem::forget(channel);
            }
        }
    }
}
