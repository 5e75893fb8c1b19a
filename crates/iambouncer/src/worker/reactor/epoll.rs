//! The epoll set of a worker. Owns which file is watched; it never reads or writes a byte.
//!
//! Files are watched edge-triggered for reading from the start and never re-armed: a short read proves that the
//! socket is empty, so the usual "read again to see EAGAIN" is saved. Interest in writing is added only after a
//! write was refused, and dropped again, since UNIX sockets report room after every read of the peer.

use super::Source;
use crate::worker::mailbox::Mailbox;
use rustix::event::{Timespec, epoll};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// Most events taken from the kernel per wait.
const MAX_EVENTS: usize = 256;
/// Names the wake_fd of the mailbox among the events.
const BELL: u64 = u64::MAX;
/// Longest wait asked of the kernel; a longer one is done in pieces.
const MAX_WAIT: Duration = Duration::from_secs(24 * 3600);

/// The set, and the sources of the files in it by index.
pub(super) struct Epoll {
    epoll: OwnedFd,
    sources: Vec<Option<Rc<Source>>>,
    free: Vec<u32>,
    events: Vec<epoll::Event>,
    mailbox: Arc<Mailbox>,
}

fn interest(in_writing: bool) -> epoll::EventFlags {
    let reading = epoll::EventFlags::IN | epoll::EventFlags::RDHUP | epoll::EventFlags::ET;
    if in_writing { reading | epoll::EventFlags::OUT } else { reading }
}

impl Epoll {
    /// An empty set that hears the mailbox's wake_fd.
    pub(super) fn create(mailbox: &Arc<Mailbox>) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, mailbox.wake_fd(), epoll::EventData::new_u64(BELL), epoll::EventFlags::IN)?;
        Ok(Self {
            epoll,
            sources: Vec::new(),
            free: Vec::new(),
            events: Vec::with_capacity(MAX_EVENTS),
            mailbox: mailbox.clone(),
        })
    }

    /// Watches `file`, which starts as readable and writable.
    pub(super) fn watch(&mut self, file: BorrowedFd<'_>) -> io::Result<Rc<Source>> {
        let index = self.free.pop().unwrap_or_else(|| {
            self.sources.push(None);
            // Bounded by open files long before 2^32.
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

    /// Hears nothing more of a file.
    pub(super) fn remove(&self, file: BorrowedFd<'_>) {
        let _ = epoll::delete(&self.epoll, file);
    }

    /// Adds or drops interest in writing.
    pub(super) fn watch_writing(
        &self,
        file: BorrowedFd<'_>,
        source: &Source,
        in_writing: bool,
    ) -> io::Result<()> {
        let data = epoll::EventData::new_u64(source.index.get().into());
        Ok(epoll::modify(&self.epoll, file, data, interest(in_writing))?)
    }

    /// The set itself, which can be watched for having news.
    pub(super) fn file(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }

    /// Works off all news there are, without waiting.
    pub(super) fn work_off(&mut self) -> io::Result<()> {
        loop {
            self.wait(Some(Duration::ZERO))?;
            if self.events.len() < MAX_EVENTS {
                return Ok(());
            }
        }
    }

    /// Forgets a file that is about to be closed, and that nothing else refers to: the kernel then forgets it too.
    pub(super) fn forget(&mut self, source: &Source) {
        let index = source.index.get();
        self.sources[index as usize] = None;
        self.free.push(index);
    }

    pub(super) fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        // Rounded up to whole milliseconds, which is what the kernel counts here: a deadline has passed when the
        // wait for it ends.
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
        if index == BELL {
            self.mailbox.deliver();
            return;
        }
        let Some(Some(source)) = self.sources.get(index as usize) else { return };
        let end = epoll::EventFlags::RDHUP | epoll::EventFlags::HUP | epoll::EventFlags::ERR;
        source.tell(
            flags.contains(epoll::EventFlags::IN),
            flags.contains(epoll::EventFlags::OUT),
            flags.intersects(end),
        );
    }
}
