//! Who is connected: one record per client, readable by the console, cancel requests and the janitor while the
//! client's own task works. Owns the table, the cancel keys and the notes passed to a client's task.

use crate::client_error::ClientError;
use crate::client_identity::ClientIdentity;
use crate::config::MAX_WORKERS;
use crate::net::Endpoint;
use crate::pool::Pool;
use crate::server::ServerInfo;
use crate::worker::executor::{self, TaskKey};
use std::cell::{Cell, OnceCell, RefCell};
use std::collections::BTreeMap;
use std::net::{SocketAddr, SocketAddrV4};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

/// Bytes of the secret in a cancel key of protocol 3.0.
pub const CANCEL_SECRET_BYTES: usize = 4;
/// Secrets drawn at a time: one call of the random number generator costs more than all the bytes it gives.
const SECRETS_DRAWN: usize = 64;
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

/// The other end, and ours.
type EndPair = (Endpoint, Option<Endpoint>);

/// Both ends of a client's connection, in few bytes.
enum Ends {
    /// What nearly all clients have.
    V4 { remote: SocketAddrV4, local: SocketAddrV4 },
    /// IPv6; and UNIX sockets, which are the same for every client of a listener.
    Other(Rc<EndPair>),
}

/// One client. There are as many as clients, most of them idle: every field counts.
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
    ends: Ends,
    /// Seconds since 1970 when it connected; enough until 2106.
    connected_s: u32,
    identity: RefCell<Rc<ClientIdentity>>,
    /// What it does.
    pub state: Cell<ClientState>,
    /// Its times.
    pub timing: Cell<Timing>,
    /// Its pool, once logged in.
    pub pool: OnceCell<Rc<Pool>>,
    server: Cell<Option<Rc<ServerInfo>>>,
    /// Named statements it has.
    pub prepared_count: Cell<u32>,
    kill: Cell<Option<Box<ClientError>>>,
    cancel_wait: Cell<bool>,
    end_check: Cell<EndCheck>,
}

/// Whether the end of a client that is not read from has to be looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum EndCheck {
    /// It is read from, so its end is noticed.
    NotNeeded,
    /// It is not read from.
    Wanted,
    /// Its task is to look now.
    Due,
}

impl ClientInfo {
    /// Ends the client with this error as soon as its task runs.
    pub fn kill(&self, error: ClientError) {
        // The first reason is the one that is told.
        self.kill.set(self.kill.take().or_else(|| Some(Box::new(error))));
        executor::wake(self.task.get());
    }

    /// Has its task look at what has changed.
    pub fn wake(&self) {
        executor::wake(self.task.get());
    }

    /// The error to end with, if there is one. Called by the client's task at every turn.
    #[inline]
    pub fn take_kill(&self) -> Option<ClientError> {
        self.kill.take().map(|error| *error)
    }

    /// What it has said of itself so far.
    pub fn identity(&self) -> Rc<ClientIdentity> {
        self.identity.borrow().clone()
    }

    /// It has said who it is, or calls itself something else.
    pub fn set_identity(&self, identity: Rc<ClientIdentity>) {
        *self.identity.borrow_mut() = identity;
    }

    /// The server it is linked to.
    pub fn server(&self) -> Option<Rc<ServerInfo>> {
        let server = self.server.take();
        self.server.set(server.clone());
        server
    }

    /// Notes the server it is linked to from now on.
    #[inline]
    pub fn set_server(&self, server: Option<Rc<ServerInfo>>) {
        self.server.set(server);
    }

    /// Other end.
    pub fn remote(&self) -> Endpoint {
        match &self.ends {
            Ends::V4 { remote, .. } => Endpoint::Tcp(SocketAddr::V4(*remote)),
            Ends::Other(ends) => ends.0.clone(),
        }
    }

    /// Our end.
    pub fn local(&self) -> Option<Endpoint> {
        match &self.ends {
            Ends::V4 { local, .. } => Some(Endpoint::Tcp(SocketAddr::V4(*local))),
            Ends::Other(ends) => ends.1.clone(),
        }
    }

    /// When it connected, for people.
    pub fn connected_wall(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(self.connected_s.into())
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

    /// Called by the client's task while it does not read from the client: true when it has to look whether the client
    /// has gone.
    pub fn is_end_check_due(&self) -> bool {
        self.end_check.replace(EndCheck::Wanted) == EndCheck::Due
    }

    /// Has the client's task look whether the client has gone, if it would not notice. Called a few times a second.
    pub fn check_end(&self) {
        match self.end_check.get() {
            EndCheck::NotNeeded => {}
            EndCheck::Due => self.end_check.set(EndCheck::NotNeeded),
            EndCheck::Wanted => {
                self.end_check.set(EndCheck::Due);
                executor::wake(self.task.get());
            }
        }
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
    /// For the next clients.
    secrets: RefCell<Vec<[u8; CANCEL_SECRET_BYTES]>>,
    /// Those who have not said yet who they are.
    nobody: Rc<ClientIdentity>,
    /// Of the last client that was not on IPv4.
    last_ends: RefCell<Option<Rc<EndPair>>>,
}

impl ClientTable {
    /// A table for the worker of this number.
    pub fn new(worker: usize) -> Self {
        const { assert!(MAX_WORKERS <= 1 << (i32::BITS - 1 - CLIENT_BITS)) };
        Self {
            worker: worker as u32,
            clients: RefCell::default(),
            next_slot: Cell::new(0),
            secrets: RefCell::default(),
            nobody: Rc::default(),
            last_ends: RefCell::default(),
        }
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
        let secret = self.secret()?;
        let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let info = Rc::new(ClientInfo {
            id: LAST_ID.fetch_add(1, Ordering::Relaxed) + 1,
            slot,
            worker: self.worker,
            secret,
            task: Cell::new(executor::current()),
            ends: self.ends(remote, local),
            connected_s: since_1970.map_or(0, |since| since.as_secs() as u32),
            identity: RefCell::new(self.nobody.clone()),
            state: Cell::new(ClientState::Login),
            timing: Cell::new(Timing { query_at: None, transaction_at: None, quiet_since: now }),
            pool: OnceCell::new(),
            server: Cell::default(),
            prepared_count: Cell::new(0),
            kill: Cell::default(),
            cancel_wait: Cell::new(false),
            end_check: Cell::new(EndCheck::NotNeeded),
        });
        clients.insert(slot, info.clone());
        Some(info)
    }

    fn secret(&self) -> Option<[u8; CANCEL_SECRET_BYTES]> {
        let mut secrets = self.secrets.borrow_mut();
        if secrets.is_empty() {
            let mut drawn = [[0; CANCEL_SECRET_BYTES]; SECRETS_DRAWN];
            aws_lc_rs::rand::fill(drawn.as_flattened_mut()).ok()?;
            secrets.extend(drawn);
        }
        secrets.pop()
    }

    fn ends(&self, remote: Endpoint, local: Option<Endpoint>) -> Ends {
        if let (Endpoint::Tcp(SocketAddr::V4(remote)), Some(Endpoint::Tcp(SocketAddr::V4(local)))) =
            (&remote, &local)
        {
            return Ends::V4 { remote: *remote, local: *local };
        }
        let ends = (remote, local);
        let mut last = self.last_ends.borrow_mut();
        if let Some(last) = last.as_ref().filter(|last| ***last == ends) {
            return Ends::Other(last.clone());
        }
        Ends::Other(last.insert(Rc::new(ends)).clone())
    }

    /// Takes a client out.
    pub fn remove(&self, client: &ClientInfo) {
        self.clients.borrow_mut().remove(&client.slot);
    }

    /// The client in a place of the table.
    pub fn at(&self, slot: u32) -> Option<Rc<ClientInfo>> {
        self.clients.borrow().get(&slot).cloned()
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

    /// Looks at all, without taking them along.
    pub fn visit(&self, mut look: impl FnMut(&ClientInfo)) {
        self.clients.borrow().values().for_each(|client| look(client));
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

#[cfg(test)]
mod tests {
    use super::*;

    fn add(table: &ClientTable, remote: Endpoint, local: Endpoint) -> Rc<ClientInfo> {
        table.add(remote, Some(local), Instant::now()).unwrap()
    }

    #[test]
    fn both_ends_are_kept_whatever_their_kind() {
        let table = ClientTable::new(0);
        let tcp = |text: &str| Endpoint::Tcp(text.parse().unwrap());
        let unix = || Endpoint::Unix("/run/.s.PGSQL.6432".into());
        for (remote, local) in [
            (tcp("10.0.0.7:40000"), tcp("10.0.0.1:6432")),
            (tcp("[::1]:4"), tcp("[::1]:5")),
            (unix(), unix()),
        ] {
            let client = add(&table, remote.clone(), local.clone());
            assert_eq!((client.remote(), client.local()), (remote, Some(local)));
        }
        let shared = |client: &ClientInfo| match &client.ends {
            Ends::V4 { .. } => None,
            Ends::Other(ends) => Some(Rc::as_ptr(ends)),
        };
        let (first, second) = (add(&table, unix(), unix()), add(&table, unix(), unix()));
        assert!(shared(&first).is_some() && shared(&first) == shared(&second));
    }

    #[test]
    fn a_slot_is_not_taken_again_at_once() {
        let table = ClientTable::new(0);
        let end = || Endpoint::Unix("".into());
        let first = add(&table, end(), end());
        table.remove(&first);
        let second = add(&table, end(), end());
        assert_ne!(first.slot, second.slot);
        assert_ne!(first.secret, second.secret);
        assert!(table.by_cancel_key(first.slot, &first.secret).is_none());
        assert!(table.by_cancel_key(second.slot, &second.secret).is_some());
    }

    #[test]
    fn the_first_reason_to_end_is_the_one_that_is_told() {
        let table = ClientTable::new(0);
        let client = add(&table, Endpoint::Unix("".into()), Endpoint::Unix("".into()));
        client.kill(crate::client_error::killed());
        client.kill(crate::client_error::shutting_down());
        assert_eq!(client.take_kill(), Some(crate::client_error::killed()));
        assert_eq!(client.take_kill(), None);
    }
}
