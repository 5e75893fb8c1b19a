//! The epoll set of this thread. Owns which file is watched and what the kernel last said of it; it never reads
//! or writes a byte.
//!
//! Files are watched edge-triggered for reading from the start and never re-armed: a short read proves that the
//! socket is empty, so the usual "read again to see EAGAIN" is saved. Interest in writing is added only after a
//! write was refused, and dropped again, since UNIX sockets report room after every read of the peer.

use super::executor::{self, TaskKey};
use super::mailbox::Mailbox;
use rustix::event::{Timespec, epoll};
use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// Most events taken from the kernel per wait.
const MAX_EVENTS: usize = 256;
/// Names the bell of the mailbox among the events.
const BELL: u64 = u64::MAX;

/// What is known of one watched file. Shared between the reactor and the socket on top.
pub struct Source {
    readable: Cell<bool>,
    writable: Cell<bool>,
    hung_up: Cell<bool>,
    owner: Cell<TaskKey>,
    index: Cell<usize>,
}

impl Source {
    /// False when a read would certainly find nothing.
    #[inline]
    pub fn is_readable(&self) -> bool {
        self.readable.get()
    }

    /// A read found nothing, or less than it had room for. After a hang-up the end is still to be read.
    #[inline]
    pub fn drained(&self) {
        if !self.hung_up.get() {
            self.readable.set(false);
        }
    }

    /// A read was refused with EAGAIN: nothing is there whatever was said before.
    #[inline]
    pub fn refused_read(&self) {
        self.readable.set(false);
    }

    /// False after a refused write until the kernel has room again.
    #[inline]
    pub fn is_writable(&self) -> bool {
        self.writable.get()
    }

    /// Nobody is to be woken.
    pub fn disown(&self) {
        self.owner.set(TaskKey::NONE);
    }

    /// Names the running task as the one to wake.
    #[inline]
    pub fn own(&self) {
        self.owner.set(executor::current());
    }
}

struct Reactor {
    epoll: OwnedFd,
    sources: Vec<Option<Rc<Source>>>,
    free: Vec<usize>,
    mailbox: Arc<Mailbox>,
}

thread_local! {
    static REACTOR: RefCell<Option<Reactor>> = const { RefCell::new(None) };
    static EVENTS: RefCell<Vec<epoll::Event>> = const { RefCell::new(Vec::new()) };
}

fn not_a_worker() -> io::Error {
    io::Error::other("sockets can be used on worker threads only")
}

pub(super) fn install(mailbox: &Arc<Mailbox>) -> io::Result<()> {
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(&epoll, mailbox.bell(), epoll::EventData::new_u64(BELL), epoll::EventFlags::IN)?;
    let reactor = Reactor { epoll, sources: Vec::new(), free: Vec::new(), mailbox: mailbox.clone() };
    REACTOR.with(|r| *r.borrow_mut() = Some(reactor));
    EVENTS.with(|events| events.borrow_mut().reserve_exact(MAX_EVENTS));
    Ok(())
}

fn read_interest() -> epoll::EventFlags {
    epoll::EventFlags::IN | epoll::EventFlags::RDHUP | epoll::EventFlags::ET
}

/// Watches `file`, which starts as readable and writable: the first refusal tells otherwise.
///
/// # Errors
/// The kernel refuses, or this is no worker thread.
pub fn watch(file: impl AsFd) -> io::Result<Rc<Source>> {
    REACTOR.with(|r| {
        let mut r = r.borrow_mut();
        let r = r.as_mut().ok_or_else(not_a_worker)?;
        let index = r.free.pop().unwrap_or_else(|| {
            r.sources.push(None);
            r.sources.len() - 1
        });
        if let Err(error) =
            epoll::add(&r.epoll, file, epoll::EventData::new_u64(index as u64), read_interest())
        {
            r.free.push(index);
            return Err(error.into());
        }
        let source = Rc::new(Source {
            readable: Cell::new(true),
            writable: Cell::new(true),
            hung_up: Cell::new(false),
            owner: Cell::new(TaskKey::NONE),
            index: Cell::new(index),
        });
        r.sources[index] = Some(source.clone());
        Ok(source)
    })
}

/// Forgets `file`. It must be called before the file is closed, which the socket's `Drop` does.
pub fn unwatch(file: impl AsFd, source: &Source) {
    let _ = REACTOR.try_with(|r| {
        if let Ok(mut r) = r.try_borrow_mut()
            && let Some(r) = r.as_mut()
        {
            let _ = epoll::delete(&r.epoll, file);
            r.sources[source.index.get()] = None;
            r.free.push(source.index.get());
        }
    });
}

/// A write was refused: asks the kernel to tell when there is room.
///
/// # Errors
/// The kernel refuses.
pub fn want_write(file: impl AsFd, source: &Source) -> io::Result<()> {
    source.writable.set(false);
    set_interest(file, source, read_interest() | epoll::EventFlags::OUT)
}

/// Takes back [`want_write`] once a write has gone through.
///
/// # Errors
/// The kernel refuses.
pub fn stop_wanting_write(file: impl AsFd, source: &Source) -> io::Result<()> {
    set_interest(file, source, read_interest())
}

fn set_interest(file: impl AsFd, source: &Source, flags: epoll::EventFlags) -> io::Result<()> {
    REACTOR.with(|r| {
        let r = r.borrow();
        let r = r.as_ref().ok_or_else(not_a_worker)?;
        let data = epoll::EventData::new_u64(source.index.get() as u64);
        Ok(epoll::modify(&r.epoll, file, data, flags)?)
    })
}

/// Waits for events, marks their sources and wakes the owners. All sources are marked before any task runs.
pub(super) fn wait(timeout: Option<Duration>) -> io::Result<()> {
    // Rounded up, so that a deadline has passed when the wait for it ends.
    let timeout = timeout.map(|t| {
        let ms = t.as_nanos().div_ceil(1_000_000).min(i32::MAX as u128) as i64;
        Timespec { tv_sec: ms / 1000, tv_nsec: (ms % 1000) * 1_000_000 }
    });
    EVENTS.with(|events| {
        let mut events = events.borrow_mut();
        events.clear();
        REACTOR.with(|r| {
            let r = r.borrow();
            let r = r.as_ref().ok_or_else(not_a_worker)?;
            match epoll::wait(&r.epoll, rustix::buffer::spare_capacity(&mut events), timeout.as_ref()) {
                Ok(_) => {}
                Err(rustix::io::Errno::INTR) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
            for event in events.iter() {
                dispatch(r, event);
            }
            Ok(())
        })
    })
}

#[inline]
fn dispatch(r: &Reactor, event: &epoll::Event) {
    let (data, flags) = (event.data, event.flags);
    let index = data.u64();
    if index == BELL {
        r.mailbox.deliver();
        return;
    }
    let Some(Some(source)) = r.sources.get(index as usize) else { return };
    let end = epoll::EventFlags::RDHUP | epoll::EventFlags::HUP | epoll::EventFlags::ERR;
    if flags.intersects(epoll::EventFlags::IN | end) {
        source.readable.set(true);
    }
    if flags.intersects(end) {
        source.hung_up.set(true);
        source.writable.set(true);
    }
    if flags.contains(epoll::EventFlags::OUT) {
        source.writable.set(true);
    }
    executor::wake(source.owner.get());
}
