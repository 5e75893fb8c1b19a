//! Sockets through which data flows fast. Owns which these are, and how long received bytes may wait for more.
//!
//! PostgreSQL writes 8 KiB at a time, and each write wakes a reader that has read the one before: a wake-up, a receive and
//! a send for every 8 KiB. While data flows fast, the kernel reports a socket only with [`LOW_WATER_BYTES`] (SO_RCVLOWAT,
//! socket(7)). The last bytes of a result are fewer: a socket that was not reported for [`MAX_DELAY`] is read anyway. With
//! less than [`FEW_BYTES`], its flow has ended.

#![allow(unsafe_code, reason = "no crate of this project offers the socket option")]

use super::Source;
use super::channel::Channel;
use crate::worker;
use std::cell::{Cell, RefCell};
use std::os::fd::{AsFd, AsRawFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

/// Bytes with which a socket is reported while data flows.
const LOW_WATER_BYTES: usize = 64 * 1024;
/// How long fewer bytes may wait.
const MAX_DELAY: Duration = Duration::from_micros(400);
/// What a flow ends with: fewer bytes than it has at a fraction of the rate with which it has begun.
const FEW_BYTES: usize = LOW_WATER_BYTES / 2;
/// The low-water mark of a socket without flow.
const ANY_BYTES: usize = 1;

/// The flow of one socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FlowState {
    /// Every byte is reported.
    #[default]
    Off,
    /// Only much is reported.
    On,
    /// The same, but little may have waited for long enough.
    Due,
}

/// A socket of either engine.
pub trait Flowing {
    /// Its state.
    fn flow(&self) -> &Cell<FlowState>;
    /// Has its task read it.
    fn read_anyway(&self);
}

struct Flow {
    socket: Rc<dyn Flowing>,
    /// When it was last read, or its flow began.
    read_at: Cell<Instant>,
}

impl Flow {
    /// False once its task has been woken to read. The task may have to wait for the other side first.
    fn is_on(&self) -> bool {
        self.socket.flow().get() == FlowState::On
    }

    fn is_of<S: Flowing>(&self, socket: &S) -> bool {
        std::ptr::addr_eq(Rc::as_ptr(&self.socket), std::ptr::from_ref(socket))
    }
}

thread_local! {
    static FLOWS: RefCell<Vec<Flow>> = const { RefCell::new(Vec::new()) };
}

fn set_low_water(file: impl AsFd, bytes: usize) {
    let value = bytes as libc::c_int;
    // SAFETY: the option is an int, and `value` outlives the call.
    unsafe {
        // A failure, and a UNIX socket, report every byte, which is correct.
        libc::setsockopt(
            file.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVLOWAT,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        );
    }
}

/// Data flows fast through a socket.
pub(super) fn begin<S: Flowing + 'static>(file: impl AsFd, socket: &Rc<S>) {
    if socket.flow().get() != FlowState::Off {
        return;
    }
    set_low_water(file, LOW_WATER_BYTES);
    socket.flow().set(FlowState::On);
    FLOWS.with_borrow_mut(|flows| {
        flows.push(Flow { socket: socket.clone(), read_at: Cell::new(worker::now()) })
    });
}

/// Its flow has ended, if there was one: the next bytes are reported at once.
pub fn end<S: Flowing>(file: impl AsFd, socket: &S) {
    if socket.flow().replace(FlowState::Off) == FlowState::Off {
        return;
    }
    set_low_water(file, ANY_BYTES);
    // The thread may be exiting.
    let _ = FLOWS.try_with(|flows| flows.borrow_mut().retain(|flow| !flow.is_of(socket)));
}

/// A socket with flow was read, with room for `room` bytes. If there were few, they are the last ones for now.
#[cold]
pub fn received<S: Flowing>(file: impl AsFd, socket: &S, n: usize, room: usize) {
    if n < room.min(FEW_BYTES) {
        return end(file, socket);
    }
    socket.flow().set(FlowState::On);
    FLOWS.with_borrow(|flows| {
        if let Some(flow) = flows.iter().find(|flow| flow.is_of(socket)) {
            flow.read_at.set(worker::now());
        }
    });
}

/// The longest wait for events of which the caller wanted at most `wait`.
#[inline]
pub fn limit_wait(wait: Option<Duration>) -> Option<Duration> {
    let is_limited = FLOWS.with_borrow(|flows| flows.iter().any(Flow::is_on));
    if is_limited { Some(wait.map_or(MAX_DELAY, |wait| wait.min(MAX_DELAY))) } else { wait }
}

/// Has the sockets read that were not read for too long. Called after each wait.
#[inline]
pub fn after_wait(now: Instant) {
    FLOWS.with_borrow(|flows| {
        for flow in flows.iter().filter(|flow| flow.is_on()) {
            if now.saturating_duration_since(flow.read_at.get()) >= MAX_DELAY {
                flow.socket.flow().set(FlowState::Due);
                flow.socket.read_anyway();
            }
        }
    });
}

impl Flowing for Source {
    fn flow(&self) -> &Cell<FlowState> {
        &self.flow
    }
    fn read_anyway(&self) {
        self.record_event(true, false, false);
    }
}

impl Flowing for Channel {
    fn flow(&self) -> &Cell<FlowState> {
        &self.flow
    }
    fn read_anyway(&self) {
        self.wake();
    }
}
