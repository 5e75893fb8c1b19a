//! Where a worker meets the kernel. Owns the choice between the two engines and what both know of a watched file;
//! the engines are `epoll` (readiness, always there) and `ring` (io_uring completions, where the kernel lets us).

pub mod channel;
mod epoll;
mod provided;
mod ring;

use super::executor::{self, TaskKey};
use super::mailbox::Mailbox;
use channel::Channel;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

/// An engine, by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EngineKind {
    /// Tells when a socket is ready; every kernel and container has it.
    Epoll,
    /// Does the work itself and tells when it is done; containers often forbid it.
    IoUring,
}

impl fmt::Display for EngineKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Epoll => "epoll",
            Self::IoUring => "io_uring",
        })
    }
}

/// What is known of one watched file. Shared between the engine and whoever waits for the file.
pub struct Source {
    readable: Cell<bool>,
    writable: Cell<bool>,
    hung_up: Cell<bool>,
    /// The kernel was asked to tell of room.
    wants_room: Cell<bool>,
    owner: Cell<TaskKey>,
    index: Cell<u32>,
}

impl Source {
    /// A file about which nothing is known: the first refusal tells.
    fn new() -> Rc<Self> {
        Rc::new(Self {
            readable: Cell::new(true),
            writable: Cell::new(true),
            hung_up: Cell::new(false),
            wants_room: Cell::new(false),
            owner: Cell::new(TaskKey::NONE),
            index: Cell::new(u32::MAX),
        })
    }

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

    /// True from [`want_write`] to [`stop_wanting_write`].
    #[inline]
    pub fn is_room_wanted(&self) -> bool {
        self.wants_room.get()
    }

    /// Nobody is to be woken.
    pub fn clear_waker(&self) {
        self.owner.set(TaskKey::NONE);
    }

    /// Names the running task as the one to wake.
    #[inline]
    pub fn set_waker(&self) {
        self.owner.set(executor::current());
    }

    /// Marks what the kernel has told, and wakes the owner.
    #[inline]
    fn tell(&self, readable: bool, writable: bool, hung_up: bool) {
        if readable || hung_up {
            self.readable.set(true);
        }
        if writable || hung_up {
            self.writable.set(true);
        }
        if hung_up {
            self.hung_up.set(true);
        }
        executor::wake(self.owner.get());
    }
}

enum Engine {
    Epoll(epoll::Epoll),
    Ring(Box<ring::Ring>),
}

thread_local! {
    static ENGINE: RefCell<Option<Engine>> = const { RefCell::new(None) };
}

fn not_a_worker() -> io::Error {
    io::Error::other("sockets can be used on worker threads only")
}

/// Gives this thread an engine.
///
/// # Errors
/// The kernel refuses it.
pub(super) fn install(kind: EngineKind, mailbox: &Arc<Mailbox>) -> io::Result<()> {
    let engine = match kind {
        EngineKind::Epoll => Engine::Epoll(epoll::Epoll::create(mailbox)?),
        EngineKind::IoUring => Engine::Ring(Box::new(ring::Ring::create(mailbox)?)),
    };
    ENGINE.with(|slot| *slot.borrow_mut() = Some(engine));
    Ok(())
}

/// Lets what is on its way go, for a moment, and takes the engine away.
pub(super) fn remove() {
    let drained = with(|engine| match engine {
        Engine::Epoll(_) => Ok(()),
        Engine::Ring(ring) => ring.drain(),
    });
    if let Err(error) = drained {
        tracing::debug!(%error, "last bytes may not have gone out");
    }
    ENGINE.with(|slot| slot.borrow_mut().take());
}

fn with<T>(use_it: impl FnOnce(&mut Engine) -> io::Result<T>) -> io::Result<T> {
    // A socket may be dropped while the thread ends and its locals are gone.
    ENGINE
        .try_with(|slot| use_it(slot.borrow_mut().as_mut().ok_or_else(not_a_worker)?))
        .unwrap_or_else(|_| Err(not_a_worker()))
}

/// Runs `use_it` with the set of files that are watched: a ring has one inside, for what is not a stream of bytes.
fn with_watched<T>(use_it: impl FnOnce(&mut epoll::Epoll) -> io::Result<T>) -> io::Result<T> {
    with(|engine| match engine {
        Engine::Epoll(epoll) => use_it(epoll),
        Engine::Ring(ring) => use_it(ring.watched()),
    })
}

/// Runs `use_it` with this thread's ring.
fn with_ring<T>(use_it: impl FnOnce(&mut ring::Ring) -> io::Result<T>) -> io::Result<T> {
    with(|engine| match engine {
        Engine::Ring(ring) => use_it(ring),
        Engine::Epoll(_) => Err(io::Error::other("this worker has no ring")),
    })
}

/// As a connected socket is used on this thread.
pub enum SocketBackend {
    /// Reads and writes are system calls of their own, when the source says that they are worth it.
    Ready(OwnedFd, Rc<Source>),
    /// The ring reads and writes.
    Ring(Rc<Channel>),
}

/// Takes over a connected, non-blocking stream socket.
///
/// # Errors
/// The kernel refuses, or this is no worker thread.
pub fn attach(fd: OwnedFd) -> io::Result<SocketBackend> {
    with(|engine| match engine {
        Engine::Epoll(epoll) => {
            let source = epoll.watch(fd.as_fd())?;
            Ok(SocketBackend::Ready(fd, source))
        }
        Engine::Ring(ring) => Ok(SocketBackend::Ring(ring.open(fd))),
    })
}

/// Watches `file` for reading, such as a listener.
///
/// # Errors
/// The kernel refuses, or this is no worker thread.
pub fn watch(file: impl AsFd) -> io::Result<Rc<Source>> {
    with_watched(|watched| watched.watch(file.as_fd()))
}

/// Forgets a watched file.
pub fn unwatch(file: impl AsFd, source: &Source) {
    source.clear_waker();
    let _ = with_watched(|watched| {
        watched.unwatch(file.as_fd(), source);
        Ok(())
    });
}

/// Takes a file off the set although it stays open elsewhere. Its source is still to be forgotten.
pub(crate) fn stop_watching(file: impl AsFd) {
    let _ = with_watched(|watched| {
        watched.remove(file.as_fd());
        Ok(())
    });
}

/// Forgets a watched file that is closed next, and that nothing else refers to. Saves the kernel a call.
pub fn forget(source: &Source) {
    source.clear_waker();
    let _ = with_watched(|watched| {
        watched.forget(source);
        Ok(())
    });
}

/// A write was refused: asks the kernel to tell when there is room.
///
/// # Errors
/// The kernel refuses.
pub fn want_write(file: impl AsFd, source: &Source) -> io::Result<()> {
    source.writable.set(false);
    source.wants_room.set(true);
    with_watched(|watched| watched.watch_writing(file.as_fd(), source, true))
}

/// Takes back [`want_write`] once a write has gone through.
///
/// # Errors
/// The kernel refuses.
pub fn stop_wanting_write(file: impl AsFd, source: &Source) -> io::Result<()> {
    source.wants_room.set(false);
    with_watched(|watched| watched.watch_writing(file.as_fd(), source, false))
}

/// Waits until a connecting socket is connected, or has failed to.
///
/// # Errors
/// The kernel refuses to watch it.
pub async fn connected(file: impl AsFd) -> io::Result<()> {
    struct Watched<F: AsFd>(F, Rc<Source>);
    impl<F: AsFd> Drop for Watched<F> {
        fn drop(&mut self) {
            unwatch(&self.0, &self.1);
        }
    }
    let source = watch(&file)?;
    let watched = Watched(file, source);
    want_write(&watched.0, &watched.1)?;
    poll_fn(|_| {
        watched.1.set_waker();
        if watched.1.is_writable() { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    Ok(())
}

/// Waits for news, marks what they are about and wakes the owners; all of that before any task runs.
pub(super) fn wait(timeout: Option<Duration>) -> io::Result<()> {
    with(|engine| match engine {
        Engine::Epoll(epoll) => epoll.wait(timeout),
        Engine::Ring(ring) => ring.wait(timeout),
    })
}

/// Whether this kernel and container let us use a ring in the way we want.
///
/// # Errors
/// They do not, and why.
pub fn probe_ring() -> io::Result<()> {
    ring::probe()
}
