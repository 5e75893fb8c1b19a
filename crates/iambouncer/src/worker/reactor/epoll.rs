//! The epoll set of a worker. Owns which files are watched; it never reads or writes bytes.
//!
//! Files are watched edge-triggered for reading from the start and never re-armed: a short read proves that the socket
//! is empty, which saves the usual "read again until EAGAIN". Interest in writing is added only after a write was
//! refused, and removed again, since UNIX sockets report room after every read of the peer.

use super::Source;
use crate::worker::mailbox::Mailbox;
use rustix::event::{Timespec, epoll};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime,
};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// Maximum number of events taken from the kernel per wait; others are late by a turn. With 256, a query waited for up to
/// forty turns while 10,000 clients logged in.
const MAX_EVENTS: usize = 4096;
/// Identifies the mailbox's eventfd among the events.
const WAKE_KEY: u64 = u64::MAX;
/// Identifies the timer of short waits among the events.
const TIMER_KEY: u64 = u64::MAX - 1;
/// The kernel's unit of a wait; a timer limits shorter ones.
const WAIT_UNIT: Duration = Duration::from_millis(1);
/// Longest wait requested from the kernel; longer ones are split.
const MAX_WAIT: Duration = Duration::from_secs(24 * 3600);

/// The set, and the sources of its files by index.
pub(super) struct Epoll {
    epoll: OwnedFd,
    sources: Vec<Option<Rc<Source>>>,
    free: Vec<u32>,
    events: Vec<epoll::Event>,
    mailbox: Arc<Mailbox>,
    /// Created with the first short wait.
    timer: Option<OwnedFd>,
}

fn interest(in_writing: bool) -> epoll::EventFlags {
    let reading = epoll::EventFlags::IN | epoll::EventFlags::RDHUP | epoll::EventFlags::ET;
    if in_writing { reading | epoll::EventFlags::OUT } else { reading }
}

impl Epoll {
    /// A set that contains only the mailbox's eventfd.
    pub(super) fn create(mailbox: &Arc<Mailbox>) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, mailbox.wake_fd(), epoll::EventData::new_u64(WAKE_KEY), epoll::EventFlags::IN)?;
        Ok(Self {
            epoll,
            sources: Vec::new(),
            free: Vec::new(),
            events: Vec::with_capacity(MAX_EVENTS),
            mailbox: mailbox.clone(),
            timer: None,
        })
    }

    /// Watches `file`, initially assumed to be readable and writable.
    pub(super) fn watch(&mut self, file: BorrowedFd<'_>) -> io::Result<Rc<Source>> {
        let index = self.free.pop().unwrap_or_else(|| {
            self.sources.push(None);
            // Bounded by the number of open files, far below 2^32.
            (self.sources.len() - 1) as u32
        });
        let data = epoll::EventData::new_u64(index.into());
        if let Err(error) = epoll::add(&self.epoll, file, data, interest(false)) {
            self.free.push(index);
            return Err(error.into());
        }
        let source = Source::new();
        source.index.set(index);
        self.sources[index as usize] = Some(source.clone());
        Ok(source)
    }

    pub(super) fn unwatch(&mut self, file: BorrowedFd<'_>, source: &Source) {
        self.remove(file);
        self.forget(source);
    }

    /// Stops watching a file.
    pub(super) fn remove(&self, file: BorrowedFd<'_>) {
        let _ = epoll::delete(&self.epoll, file);
    }

    /// Adds or removes interest in writing.
    pub(super) fn watch_writing(
        &self,
        file: BorrowedFd<'_>,
        source: &Source,
        in_writing: bool,
    ) -> io::Result<()> {
        let data = epoll::EventData::new_u64(source.index.get().into());
        Ok(epoll::modify(&self.epoll, file, data, interest(in_writing))?)
    }

    /// The set itself, which can be polled for pending events.
    pub(super) fn file(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }

    /// Processes all pending events, without waiting.
    pub(super) fn process_events(&mut self) -> io::Result<()> {
        loop {
            self.wait(Some(Duration::ZERO))?;
            if self.events.len() < MAX_EVENTS {
                return Ok(());
            }
        }
    }

    /// Removes a file that is about to be closed and has no other references, so that the kernel removes it too.
    pub(super) fn forget(&mut self, source: &Source) {
        let index = source.index.get();
        self.sources[index as usize] = None;
        self.free.push(index);
    }

    /// Limits the next wait to less than [`WAIT_UNIT`].
    fn set_timer(&mut self, timeout: Duration) -> io::Result<()> {
        let timer = match self.timer.take() {
            Some(timer) => timer,
            None => {
                let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
                let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
                let data = epoll::EventData::new_u64(TIMER_KEY);
                // Each expiration is reported once, and need not be read.
                epoll::add(&self.epoll, &timer, data, epoll::EventFlags::IN | epoll::EventFlags::ET)?;
                timer
            }
        };
        let never = Timespec { tv_sec: 0, tv_nsec: 0 };
        let once = Timespec { tv_sec: 0, tv_nsec: i64::from(timeout.subsec_nanos()) };
        timerfd_settime(
            &timer,
            TimerfdTimerFlags::empty(),
            &Itimerspec { it_interval: never, it_value: once },
        )?;
        self.timer = Some(timer);
        Ok(())
    }

    pub(super) fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        if let Some(short) = timeout.filter(|timeout| !timeout.is_zero() && *timeout < WAIT_UNIT) {
            self.set_timer(short)?;
        }
        // Rounded up to whole milliseconds, the kernel's unit here, so that a deadline has passed when its wait ends.
        let timeout = timeout.map(|timeout| {
            let timeout = timeout.min(MAX_WAIT) + Duration::from_nanos(999_999);
            Timespec {
                tv_sec: timeout.as_secs() as i64,
                tv_nsec: i64::from(timeout.subsec_millis()) * 1_000_000,
            }
        });
        self.events.clear();
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut self.events), timeout.as_ref()) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        for event in &self.events {
            self.dispatch(event);
        }
        Ok(())
    }

    #[inline]
    fn dispatch(&self, event: &epoll::Event) {
        let (data, flags) = (event.data, event.flags);
        let index = data.u64();
        if index == WAKE_KEY {
            self.mailbox.deliver();
            return;
        }
        if index == TIMER_KEY {
            return;
        }
        let Some(Some(source)) = self.sources.get(index as usize) else { return };
        let end = epoll::EventFlags::RDHUP | epoll::EventFlags::HUP | epoll::EventFlags::ERR;
        source.record_event(
            flags.contains(epoll::EventFlags::IN),
            flags.contains(epoll::EventFlags::OUT),
            flags.intersects(end),
        );
    }
}
