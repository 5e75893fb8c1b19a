//! Who is connected: one record per client, readable by the console, cancel requests and the janitor while the
//! client's own task works. Owns the table, the cancel keys and the notes passed to a client's task.

use crate::config::MAX_WORKERS;
use crate::faults::Fault;
use crate::net::Endpoint;
use crate::pool::Pool;
use crate::server::ServerInfo;
use crate::worker::executor::{self, TaskKey};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime};

/// Bytes of the secret in a cancel key of protocol 3.0.
pub const CANCEL_SECRET_BYTES: usize = 4;
/// Bits of the process ID in a cancel key that name the client; those above name its worker.
const CLIENT_BITS: u32 = 24;
/// Clients that can be told apart in a cancel key.
const MAX_CLIENT_SLOTS: u32 = 1 << CLIENT_BITS;

/// What a client is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientState {
    /// Handshake and login.
    Login,
    /// Logged in, no server linked.
    Idle,
    /// In a pool's queue.
    Waiting,
    /// Linked to a server.
    Active,
}

impl ClientState {
    /// The console's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Login => "login",
            Self::Idle => "idle",
            Self::Waiting => "waiting",
            Self::Active => "active",
        }
    }
}

/// What the janitor needs to know of a client's time. All moments are the worker's clock.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// The running query began, or the one that waits for a server.
    pub query_at: Option<Instant>,
    /// The running transaction began.
    pub transaction_at: Option<Instant>,
    /// The last answer was complete, or the login was.
    pub quiet_since: Instant,
}

/// One client.
pub struct ClientInfo {
    /// Unique in this process.
    pub id: u64,
    /// Its place in the table of its worker.
    pub slot: u32,
    /// Its worker's number.
    worker: u32,
    /// Secret of its cancel key.
    pub secret: [u8; CANCEL_SECRET_BYTES],
    /// Its task: one for the login, then one for the session.
    pub task: Cell<TaskKey>,
    /// Other end.
    pub remote: Endpoint,
    /// Our end.
    pub local: Option<Endpoint>,
    /// When it connected, for people.
    pub connected_wall: SystemTime,
    /// TLS version and suite, or empty.
    pub tls: RefCell<String>,
    /// Name it logged in with.
    pub user: RefCell<Rc<str>>,
    /// Database it named.
    pub database: RefCell<Rc<str>>,
    /// `application_name` it gave.
    pub application_name: RefCell<String>,
    /// What it does.
    pub state: Cell<ClientState>,
    /// Its times.
    pub timing: Cell<Timing>,
    /// Its pool, once logged in.
    pub pool: RefCell<Option<Rc<Pool>>>,
    /// The server it is linked to.
    pub server: RefCell<Option<Rc<ServerInfo>>>,
    /// Named statements it has.
    pub prepared_count: Cell<usize>,
    kill: RefCell<Option<Fault>>,
    cancel_wait: Cell<bool>,
}

impl ClientInfo {
    /// Ends the client with this fault as soon as its task runs.
    pub fn kill(&self, fault: Fault) {
        self.kill.borrow_mut().get_or_insert(fault);
        executor::wake(self.task.get());
    }

    /// The fault to end with, if there is one. Called by the client's task at every turn.
    #[inline]
    pub fn take_kill(&self) -> Option<Fault> {
        if self.kill.borrow().is_none() { None } else { self.kill.borrow_mut().take() }
    }

    /// The query that waits for a server is not wanted any more.
    pub fn cancel_wait(&self) {
        self.cancel_wait.set(true);
        executor::wake(self.task.get());
    }

    /// True once after [`ClientInfo::cancel_wait`].
    #[inline]
    pub fn take_cancel_wait(&self) -> bool {
        self.cancel_wait.replace(false)
    }

    /// Process ID of the cancel key.
    pub fn cancel_pid(&self) -> u32 {
        self.worker << CLIENT_BITS | self.slot
    }

    /// Changes the times.
    #[inline]
    pub fn time(&self, change: impl FnOnce(&mut Timing)) {
        let mut timing = self.timing.get();
        change(&mut timing);
        self.timing.set(timing);
    }
}

/// The number of the worker that knows the client of a cancel key.
pub fn worker_of(cancel_pid: u32) -> usize {
    (cancel_pid >> CLIENT_BITS) as usize
}

static LAST_ID: AtomicU64 = AtomicU64::new(0);

/// All clients of a worker.
pub struct ClientTable {
    worker: u32,
    clients: RefCell<BTreeMap<u32, Rc<ClientInfo>>>,
    next_slot: Cell<u32>,
}

impl ClientTable {
    /// A table for the worker of this number.
    pub fn new(worker: usize) -> Self {
        const { assert!(MAX_WORKERS <= 1 << (i32::BITS - 1 - CLIENT_BITS)) };
        Self { worker: worker as u32, clients: RefCell::default(), next_slot: Cell::new(0) }
    }

    /// Adds the running task's client. `None` when there is no randomness or no slot left.
    pub fn add(&self, remote: Endpoint, local: Option<Endpoint>, now: Instant) -> Option<Rc<ClientInfo>> {
        let mut clients = self.clients.borrow_mut();
        if clients.len() >= MAX_CLIENT_SLOTS as usize - 1 {
            return None;
        }
        // Slots are taken in turn, so that an old cancel key does not soon mean somebody else.
        let mut slot = self.next_slot.get();
        loop {
            slot = (slot + 1) % MAX_CLIENT_SLOTS;
            if slot != 0 && !clients.contains_key(&slot) {
                break;
            }
        }
        self.next_slot.set(slot);
        let mut secret = [0; CANCEL_SECRET_BYTES];
        aws_lc_rs::rand::fill(&mut secret).ok()?;
        let info = Rc::new(ClientInfo {
            id: LAST_ID.fetch_add(1, Ordering::Relaxed) + 1,
            slot,
            worker: self.worker,
            secret,
            task: Cell::new(executor::current()),
            remote,
            local,
            connected_wall: SystemTime::now(),
            tls: RefCell::default(),
            user: RefCell::new("".into()),
            database: RefCell::new("".into()),
            application_name: RefCell::default(),
            state: Cell::new(ClientState::Login),
            timing: Cell::new(Timing { query_at: None, transaction_at: None, quiet_since: now }),
            pool: RefCell::default(),
            server: RefCell::default(),
            prepared_count: Cell::new(0),
            kill: RefCell::default(),
            cancel_wait: Cell::new(false),
        });
        clients.insert(slot, info.clone());
        Some(info)
    }

    /// Takes a client out.
    pub fn remove(&self, client: &ClientInfo) {
        self.clients.borrow_mut().remove(&client.slot);
    }

    /// The client a cancel key belongs to. Secrets are compared in constant time.
    pub fn by_cancel_key(&self, pid: u32, key: &[u8]) -> Option<Rc<ClientInfo>> {
        let clients = self.clients.borrow();
        let client = clients.get(&(pid % MAX_CLIENT_SLOTS))?;
        let matches = aws_lc_rs::constant_time::verify_slices_are_equal(&client.secret, key).is_ok();
        matches.then(|| client.clone())
    }

    /// All clients.
    pub fn list(&self) -> Vec<Rc<ClientInfo>> {
        self.clients.borrow().values().cloned().collect()
    }

    /// Number of clients, those still logging in included.
    pub fn len(&self) -> usize {
        self.clients.borrow().len()
    }

    /// True when nobody is connected.
    pub fn is_empty(&self) -> bool {
        self.clients.borrow().is_empty()
    }
}
