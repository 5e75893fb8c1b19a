//! The interface between a worker and the kernel. Owns the choice between the two engines and their common state of
//! watched files; the engines are `epoll` (readiness, always available) and `ring` (io_uring completions, where
//! permitted).

pub mod channel;
mod epoll;
pub mod flow;
mod provided;
mod ring;

use super::executor::{self, TaskKey};
use super::mailbox::Mailbox;
use channel::Channel;
use flow::FlowState;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

/// An engine, by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EngineKind {
    /// Reports when a socket is ready; available on every kernel and in every container.
    Epoll,
    /// Performs the I/O itself and reports completion; often forbidden in containers.
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

/// The state of one watched file, shared between the engine and the task that waits for it.
pub struct Source {
    readable: Cell<bool>,
    writable: Cell<bool>,
    hung_up: Cell<bool>,
    /// An event was requested for when there is room.
    awaits_room: Cell<bool>,
    owner: Cell<TaskKey>,
    index: Cell<u32>,
    flow: Cell<FlowState>,
}

impl Source {
    /// A file in unknown state: the first EAGAIN determines it.
    fn new() -> Rc<Self> {
        Rc::new(Self {
            readable: Cell::new(true),
            writable: Cell::new(true),
            hung_up: Cell::new(false),
            awaits_room: Cell::new(false),
            owner: Cell::new(TaskKey::NONE),
            index: Cell::new(u32::MAX),
            flow: Cell::default(),
        })
    }

    /// False if a read would certainly find nothing.
    #[inline]
    pub fn is_readable(&self) -> bool {
        self.readable.get()
    }

    /// A read found nothing, or less than it had room for. After a hang-up the end of file is still to be read.
    #[inline]
    pub fn drained(&self) {
        if !self.hung_up.get() {
            self.readable.set(false);
        }
    }

    /// A read was refused with EAGAIN: nothing is available, whatever was reported before.
    #[inline]
    pub fn refused_read(&self) {
        self.readable.set(false);
    }

    /// True if data flows fast through the socket.
    #[inline]
    pub fn has_flow(&self) -> bool {
        self.flow.get() != FlowState::Off
    }

    /// False after a refused write until the kernel has room again.
    #[inline]
    pub fn is_writable(&self) -> bool {
        self.writable.get()
    }

    /// True between [`want_write`] and [`stop_wanting_write`].
    #[inline]
    pub fn is_room_wanted(&self) -> bool {
        self.awaits_room.get()
    }

    /// No task is to be woken.
    pub fn clear_waker(&self) {
        self.owner.set(TaskKey::NONE);
    }

    /// Sets the running task as the one to wake.
    #[inline]
    pub fn set_waker(&self) {
        self.owner.set(executor::current());
    }

    /// Records an event and wakes the owner.
    #[inline]
    fn record_event(&self, readable: bool, writable: bool, hung_up: bool) {
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

/// The engine of this thread.
///
/// # Errors
/// The thread is not a worker.
pub fn kind() -> io::Result<EngineKind> {
    with(|engine| match engine {
        Engine::Epoll(_) => Ok(EngineKind::Epoll),
        Engine::Ring(_) => Ok(EngineKind::IoUring),
    })
}

/// Waits briefly for pending sends, then removes the engine.
pub(super) fn remove() {
    let drained = with(|engine| match engine {
        Engine::Epoll(_) => Ok(()),
        Engine::Ring(ring) => ring.drain(),
    });
    if let Err(error) = drained {
        tracing::debug!(%error, "some final bytes may not have been sent");
    }
    ENGINE.with(|slot| slot.borrow_mut().take());
}

fn with<T>(use_it: impl FnOnce(&mut Engine) -> io::Result<T>) -> io::Result<T> {
    // A socket may be dropped while the thread exits and its locals are gone.
    ENGINE
        .try_with(|slot| use_it(slot.borrow_mut().as_mut().ok_or_else(not_a_worker)?))
        .unwrap_or_else(|_| Err(not_a_worker()))
}

/// Calls `use_it` with the epoll set; a ring contains one for files that are not byte streams.
fn with_watched<T>(use_it: impl FnOnce(&mut epoll::Epoll) -> io::Result<T>) -> io::Result<T> {
    with(|engine| match engine {
        Engine::Epoll(epoll) => use_it(epoll),
        Engine::Ring(ring) => use_it(ring.watched()),
    })
}

/// Calls `use_it` with this thread's ring.
fn with_ring<T>(use_it: impl FnOnce(&mut ring::Ring) -> io::Result<T>) -> io::Result<T> {
    with(|engine| match engine {
        Engine::Ring(ring) => use_it(ring),
        Engine::Epoll(_) => Err(io::Error::other("this worker has no ring")),
    })
}

/// How a connected socket is used on this thread.
pub enum SocketBackend {
    /// With its own system calls, when the source is ready.
    Ready(OwnedFd, Rc<Source>),
    /// By the ring.
    Ring(Rc<Channel>),
    /// As `Ready`, and by the ring once the client has logged in. Boxed, for the size of a session.
    Login(Box<LoginSocket>),
}

/// A socket that changes from readiness to the ring.
pub struct LoginSocket {
    /// Owns the file; nothing is requested from the ring yet.
    pub channel: Rc<Channel>,
    /// Reports when the file is ready.
    pub source: Rc<Source>,
}

/// Takes ownership of a connected, non-blocking stream socket.
///
/// # Errors
/// The kernel refuses, or this is not a worker thread.
pub fn attach(fd: OwnedFd) -> io::Result<SocketBackend> {
    with(|engine| match engine {
        Engine::Epoll(epoll) => {
            let source = epoll.watch(fd.as_fd())?;
            Ok(SocketBackend::Ready(fd, source))
        }
        Engine::Ring(ring) => Ok(SocketBackend::Ring(ring.open(fd))),
    })
}

/// The same for a client that has not logged in, which is watched for readiness with either engine.
///
/// # Errors
/// As [`attach`].
pub fn attach_login(fd: OwnedFd) -> io::Result<SocketBackend> {
    if kind()? == EngineKind::Epoll {
        return attach(fd);
    }
    with_ring(|ring| {
        let source = ring.watched().watch(fd.as_fd())?;
        Ok(SocketBackend::Login(Box::new(LoginSocket { channel: ring.open(fd), source })))
    })
}

impl SocketBackend {
    /// The file and its source, unless the ring is used.
    pub fn readiness(&self) -> Option<(BorrowedFd<'_>, &Rc<Source>)> {
        match self {
            Self::Ring(_) => None,
            Self::Ready(fd, source) => Some((fd.as_fd(), source)),
            Self::Login(login) => Some((login.channel.as_fd(), &login.source)),
        }
    }

    /// Data flows fast through the socket: see [`flow`].
    pub fn begin_flow(&self) {
        match self {
            Self::Ready(fd, source) => flow::begin(fd, source),
            Self::Ring(channel) => flow::begin(&**channel, channel),
            Self::Login(login) => flow::begin(&*login.channel, &login.source),
        }
    }

    /// The next bytes are reported at once.
    pub fn end_flow(&self) {
        match self {
            Self::Ready(fd, source) => flow::end(fd, &**source),
            Self::Ring(channel) => channel.end_flow(),
            Self::Login(login) => flow::end(&*login.channel, &*login.source),
        }
    }

    /// True if data flows fast through the socket.
    #[inline]
    pub fn has_flow(&self) -> bool {
        match self {
            Self::Ready(_, source) => source.has_flow(),
            Self::Login(login) => login.source.has_flow(),
            Self::Ring(channel) => channel.has_flow(),
        }
    }
}

/// Watches `file`, such as a listener, for reading.
///
/// # Errors
/// The kernel refuses, or this is not a worker thread.
pub fn watch(file: impl AsFd) -> io::Result<Rc<Source>> {
    with_watched(|watched| watched.watch(file.as_fd()))
}

/// Stops watching a file and drops its source.
pub fn unwatch(file: impl AsFd, source: &Source) {
    source.clear_waker();
    let _ = with_watched(|watched| {
        watched.unwatch(file.as_fd(), source);
        Ok(())
    });
}

/// Removes a file from the set although it stays open elsewhere. Its source must be dropped separately.
pub(crate) fn stop_watching(file: impl AsFd) {
    let _ = with_watched(|watched| {
        watched.remove(file.as_fd());
        Ok(())
    });
}

/// Drops the source of a file that is closed next and has no other references. Saves a system call.
pub fn forget(source: &Source) {
    source.clear_waker();
    let _ = with_watched(|watched| {
        watched.forget(source);
        Ok(())
    });
}

/// A write was refused: requests an event for when there is room.
///
/// # Errors
/// The kernel refuses.
pub fn want_write(file: impl AsFd, source: &Source) -> io::Result<()> {
    source.writable.set(false);
    source.awaits_room.set(true);
    with_watched(|watched| watched.watch_writing(file.as_fd(), source, true))
}

/// Undoes [`want_write`] after a successful write.
///
/// # Errors
/// The kernel refuses.
pub fn stop_wanting_write(file: impl AsFd, source: &Source) -> io::Result<()> {
    source.awaits_room.set(false);
    with_watched(|watched| watched.watch_writing(file.as_fd(), source, false))
}

/// Waits until a connecting socket is connected or has failed.
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

/// Waits for events, records them and wakes the owners, all before any task runs.
pub(super) fn wait(timeout: Option<Duration>) -> io::Result<()> {
    with(|engine| match engine {
        Engine::Epoll(epoll) => epoll.wait(timeout),
        Engine::Ring(ring) => ring.wait(timeout),
    })
}

/// Checks whether this kernel and container permit the kind of ring that workers use.
///
/// # Errors
/// They do not, with the reason.
pub fn probe_ring() -> io::Result<()> {
    ring::probe()
}
