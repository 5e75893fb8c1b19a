//! Connected clients: one record per client, which the console, cancel requests and the janitor can read while the
//! client's own task runs. Owns the table, and requests to a client's task.

mod attention;
mod busy;
mod cancel_key;
mod departures;
mod misleading_key;
mod moving;
mod pin;
mod snapshot;

pub use busy::{none_is_busy, visit_busy};
pub use cancel_key::{CancelKey, KeyForm, KeyOwner};
pub use departures::{Departure, DeparturePeriod, Departures, QUIET, STEP};
pub use moving::ClientInTransit;
pub use pin::Pin;
pub use snapshot::snapshot;

use attention::Attention;

use crate::client_error::ClientError;
use crate::client_identity::ClientIdentity;
use crate::net::{Endpoint, connection_id};
use crate::pool::Pool;
use crate::server::ServerInfo;
use crate::worker::executor::{self, TaskKey};
use sql::Features;
use std::cell::{Cell, OnceCell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{SocketAddr, SocketAddrV4};
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

/// Number of secrets generated at a time: a call of the random number generator costs more than the bytes it returns.
const SECRETS_DRAWN: usize = 64;

/// Clients that are visited in a step: a fraction of a millisecond.
const CLIENTS_PER_STEP: usize = 2000;

/// What a client is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientState {
    /// Handshake and login.
    Login,
    /// Logged in, no server linked.
    Idle,
    /// Waiting for a server.
    Waiting,
    /// Linked to a server.
    Active,
}

impl ClientState {
    /// Its name on the console.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Login => "login",
            Self::Idle => "idle",
            Self::Waiting => "waiting",
            Self::Active => "active",
        }
    }
}

/// What happens to the wait of a client for a server: the NOTICE of `query_wait_notify`, and a cancel request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WaitEvent {
    /// It has not waited long enough for the NOTICE.
    None,
    /// The client's task must send the NOTICE now.
    NoticeDue,
    /// The NOTICE was sent in this wait.
    NoticeSent,
    /// The query is canceled.
    Canceled,
}

/// Times of a client, for the janitor. All times are of the worker's clock.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// Start of the running query, or of the query waiting for a server.
    pub query_at: Option<Instant>,
    /// Start of the running transaction.
    pub transaction_at: Option<Instant>,
    /// End of the last answer, or of the login.
    pub quiet_since: Instant,
}

/// Remote and local endpoint.
type EndPair = (Endpoint, Option<Endpoint>);

/// Both endpoints of a client's connection, stored compactly.
enum Ends {
    /// The usual case.
    V4 { remote: SocketAddrV4, local: SocketAddrV4 },
    /// IPv6, and UNIX sockets, whose endpoints are the same for all clients of a listener. The process of the client is
    /// known for UNIX sockets only.
    Other { ends: Rc<EndPair>, pid: u32 },
}

/// One client. Size matters: there is one record per client, and most are idle.
pub struct ClientInfo {
    /// Unique in this process.
    pub id: u64,
    /// Its slot in the table of its worker.
    pub slot: u32,
    /// Its cancel key.
    pub cancel_key: Cell<CancelKey>,
    /// Its current task: that of the login, then that of the session.
    pub task: Cell<TaskKey>,
    ends: Ends,
    /// Time of the connection, in seconds since 1970; sufficient until 2106.
    connected_s: u32,
    /// Always present, except for a moment.
    identity: Cell<Option<Rc<ClientIdentity>>>,
    /// Its state.
    pub state: Cell<ClientState>,
    /// Its times.
    pub timing: Cell<Timing>,
    /// Its pool, once it has logged in.
    pub pool: OnceCell<Rc<Pool>>,
    server: Cell<Option<Rc<ServerInfo>>>,
    /// Number of its named statements.
    pub prepared_count: Cell<u32>,
    kill: Cell<Option<Box<ClientError>>>,
    wait_event: Cell<WaitEvent>,
    end_check: Cell<EndCheck>,
    attention: Cell<Attention>,
    /// It is in the list of busy clients.
    is_listed: Cell<bool>,
    /// State that its server has for it.
    pins: Cell<Features>,
    /// The same for clients with the same settings.
    pub settings_fingerprint: Cell<u32>,
}

/// Whether the end of a client's connection must be checked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum EndCheck {
    /// The connection is being read, so its end is noticed.
    NotNeeded,
    /// The connection is not being read.
    Requested,
    /// The client's task must check now.
    Due,
}

impl ClientInfo {
    /// Seconds since it connected.
    pub fn age_s(&self) -> u32 {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        (now as u32).saturating_sub(self.connected_s)
    }

    /// Closes the client with this error as soon as its task runs.
    pub fn kill(&self, error: ClientError) {
        // The first error is the one sent to the client.
        self.kill.set(self.kill.take().or_else(|| Some(Box::new(error))));
        executor::wake(self.task.get());
    }

    /// Has its task close the client between two transactions. The first reason is the one that the client receives.
    pub fn request_departure(&self, reason: Departure) {
        if self.departure() == Departure::NotRequested {
            self.attention.set(self.attention.get().with_departure(reason));
        }
    }

    /// Whether the shared listener may have notifications for it.
    pub fn set_listens(&self, listens: bool) {
        self.attention.set(self.attention.get().with_listens(listens));
    }

    /// True if it is to be closed between two transactions, or may have notifications.
    #[inline]
    pub fn needs_attention(&self) -> bool {
        self.attention.get() != Attention::default()
    }

    /// Whether it is to be closed between two transactions.
    pub fn departure(&self) -> Departure {
        self.attention.get().departure()
    }

    /// Wakes its task to check for changes.
    pub fn wake(&self) {
        executor::wake(self.task.get());
    }

    /// The error to close with, if any. Checked by the client's task whenever it runs.
    #[inline]
    pub fn take_kill(&self) -> Option<ClientError> {
        self.kill.take().map(|error| *error)
    }

    /// Its identity as known so far.
    pub fn identity(&self) -> Rc<ClientIdentity> {
        let identity = self.identity.take();
        self.identity.set(identity.clone());
        identity.unwrap_or_default()
    }

    /// Sets or changes its identity.
    pub fn set_identity(&self, identity: Rc<ClientIdentity>) {
        self.identity.set(Some(identity));
    }

    /// The server linked to it.
    pub fn server(&self) -> Option<Rc<ServerInfo>> {
        let server = self.server.take();
        self.server.set(server.clone());
        server
    }

    /// Sets the server linked to it.
    #[inline]
    pub fn set_server(&self, server: Option<Rc<ServerInfo>>) {
        self.server.set(server);
    }

    /// Remote endpoint.
    pub fn remote(&self) -> Endpoint {
        match &self.ends {
            Ends::V4 { remote, .. } => Endpoint::Tcp(SocketAddr::V4(*remote)),
            Ends::Other { ends, .. } => ends.0.clone(),
        }
    }

    /// The client's process, on the host of the pooler; 0 if it is not known.
    pub fn pid(&self) -> u32 {
        match self.ends {
            Ends::V4 { .. } => 0,
            Ends::Other { pid, .. } => pid,
        }
    }

    /// Local endpoint.
    pub fn local(&self) -> Option<Endpoint> {
        match &self.ends {
            Ends::V4 { local, .. } => Some(Endpoint::Tcp(SocketAddr::V4(*local))),
            Ends::Other { ends, .. } => ends.1.clone(),
        }
    }

    /// Time of the connection as wall time.
    pub fn connected_wall(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(self.connected_s.into())
    }

    /// Cancels the query that waits for a server.
    pub fn cancel_wait(&self) {
        self.wait_event.set(WaitEvent::Canceled);
        executor::wake(self.task.get());
    }

    /// True once after [`ClientInfo::cancel_wait`].
    #[inline]
    pub fn take_cancel_wait(&self) -> bool {
        let is_canceled = self.wait_event.get() == WaitEvent::Canceled;
        if is_canceled {
            self.wait_event.set(WaitEvent::None);
        }
        is_canceled
    }

    /// The client begins to wait for a server, or for its startup response.
    pub fn begin_wait(self: &Rc<Self>, now: Instant) {
        self.begin_busy(ClientState::Waiting);
        self.wait_event.set(WaitEvent::None);
        self.time(|timing| timing.query_at = Some(now));
    }

    /// Has the client's task send the NOTICE about its wait, once per wait.
    pub fn notify_of_wait(&self) {
        if self.wait_event.get() == WaitEvent::None {
            self.wait_event.set(WaitEvent::NoticeDue);
            executor::wake(self.task.get());
        }
    }

    /// True once after [`ClientInfo::notify_of_wait`].
    pub fn take_wait_notice(&self) -> bool {
        let is_due = self.wait_event.get() == WaitEvent::NoticeDue;
        if is_due {
            self.wait_event.set(WaitEvent::NoticeSent);
        }
        is_due
    }

    /// Called by the client's task while it does not read from the client. True if it must check whether the client
    /// has disconnected.
    pub fn is_end_check_due(&self) -> bool {
        self.end_check.replace(EndCheck::Requested) == EndCheck::Due
    }

    /// Has the client's task check for a disconnect that it would not notice. Called a few times per second.
    pub fn check_end(&self) {
        match self.end_check.get() {
            EndCheck::NotNeeded => {}
            EndCheck::Due => self.end_check.set(EndCheck::NotNeeded),
            EndCheck::Requested => {
                self.end_check.set(EndCheck::Due);
                executor::wake(self.task.get());
            }
        }
    }

    /// Updates the times.
    #[inline]
    pub fn time(&self, change: impl FnOnce(&mut Timing)) {
        let mut timing = self.timing.get();
        change(&mut timing);
        self.timing.set(timing);
    }
}

/// All clients of a worker.
pub struct ClientTable {
    worker: usize,
    /// How cancel keys of this process are made.
    pub key_form: KeyForm,
    clients: RefCell<BTreeMap<u32, Rc<ClientInfo>>>,
    /// Clients that their cancel keys do not lead to: the process ID in the key, and the slot.
    misleading: RefCell<BTreeSet<(u32, u32)>>,
    next_slot: Cell<u32>,
    /// Secrets for the next clients.
    secrets: RefCell<Vec<[u8; cancel_key::SECRET_BYTES]>>,
    /// The identity of clients whose identity is not known yet.
    unidentified: Rc<ClientIdentity>,
    /// Endpoints of the last client that did not use IPv4.
    last_ends: RefCell<Option<Rc<EndPair>>>,
}

impl ClientTable {
    /// The table of the worker with this number.
    pub fn new(worker: usize, key_form: KeyForm) -> Self {
        Self {
            worker,
            key_form,
            clients: RefCell::default(),
            misleading: RefCell::default(),
            next_slot: Cell::new(0),
            secrets: RefCell::default(),
            unidentified: Rc::default(),
            last_ends: RefCell::default(),
        }
    }

    /// Adds the client of the running task; `pid` is its process, or 0. `None` if no random numbers or slots are available.
    pub fn add(
        &self,
        remote: Endpoint,
        local: Option<Endpoint>,
        pid: u32,
        now: Instant,
    ) -> Option<Rc<ClientInfo>> {
        let secret = self.secret()?;
        let slot = self.free_slot()?;
        let cancel_key = self.key_form.compose(self.worker, slot, secret);
        let ends = self.ends(remote, local, pid);
        let info = Rc::new(self.record(connection_id::next(), slot, cancel_key, ends, now));
        self.clients.borrow_mut().insert(slot, info.clone());
        Some(info)
    }

    /// A slot that no client has; `None` if there is none.
    fn free_slot(&self) -> Option<u32> {
        let clients = self.clients.borrow();
        if clients.len() >= self.key_form.max_clients() as usize {
            return None;
        }
        let mut slot = self.next_slot.get();
        loop {
            slot = self.key_form.slot_after(slot, || self.secret().map(u32::from_be_bytes))?;
            if slot != 0 && !clients.contains_key(&slot) {
                break;
            }
        }
        self.next_slot.set(slot);
        Some(slot)
    }

    /// The record of a client that has just connected; its task is the running one.
    fn record(&self, id: u64, slot: u32, cancel_key: CancelKey, ends: Ends, now: Instant) -> ClientInfo {
        let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        ClientInfo {
            id,
            slot,
            cancel_key: Cell::new(cancel_key),
            task: Cell::new(executor::current()),
            ends,
            connected_s: since_1970.map_or(0, |since| since.as_secs() as u32),
            identity: Cell::new(Some(self.unidentified.clone())),
            state: Cell::new(ClientState::Login),
            timing: Cell::new(Timing { query_at: None, transaction_at: None, quiet_since: now }),
            pool: OnceCell::new(),
            server: Cell::default(),
            prepared_count: Cell::new(0),
            kill: Cell::default(),
            wait_event: Cell::new(WaitEvent::None),
            end_check: Cell::new(EndCheck::NotNeeded),
            attention: Cell::default(),
            is_listed: Cell::new(false),
            pins: Cell::default(),
            settings_fingerprint: Cell::default(),
        }
    }

    fn secret(&self) -> Option<[u8; cancel_key::SECRET_BYTES]> {
        let mut secrets = self.secrets.borrow_mut();
        if secrets.is_empty() {
            let mut generated = [[0; cancel_key::SECRET_BYTES]; SECRETS_DRAWN];
            aws_lc_rs::rand::fill(generated.as_flattened_mut()).ok()?;
            secrets.extend(generated);
        }
        secrets.pop()
    }

    fn ends(&self, remote: Endpoint, local: Option<Endpoint>, pid: u32) -> Ends {
        if let (Endpoint::Tcp(SocketAddr::V4(remote)), Some(Endpoint::Tcp(SocketAddr::V4(local)))) =
            (&remote, &local)
        {
            return Ends::V4 { remote: *remote, local: *local };
        }
        let ends = (remote, local);
        let mut last = self.last_ends.borrow_mut();
        if let Some(last) = last.as_ref().filter(|last| ***last == ends) {
            return Ends::Other { ends: last.clone(), pid };
        }
        Ends::Other { ends: last.insert(Rc::new(ends)).clone(), pid }
    }

    /// Removes a client.
    pub fn remove(&self, client: &ClientInfo) {
        self.clients.borrow_mut().remove(&client.slot);
        self.forget_key(client);
        client.forget_pin();
    }

    /// The client in a slot.
    pub fn at(&self, slot: u32) -> Option<Rc<ClientInfo>> {
        self.clients.borrow().get(&slot).cloned()
    }

    /// The client of a cancel key.
    pub fn by_cancel_key(&self, key: &CancelKey) -> Option<Rc<ClientInfo>> {
        let of_this_slot = self.at(self.key_form.slot_of(key));
        of_this_slot.filter(|client| self.has_key(client, key)).or_else(|| self.misleading_with_key(key))
    }

    /// True if this client has this cancel key.
    fn has_key(&self, client: &ClientInfo, key: &CancelKey) -> bool {
        self.key_form.is_same(&client.cancel_key.get(), *key)
    }

    /// All clients.
    pub fn list(&self) -> Vec<Rc<ClientInfo>> {
        self.clients.borrow().values().cloned().collect()
    }

    /// Calls a function for each client.
    pub fn visit(&self, mut each: impl FnMut(&ClientInfo)) {
        self.clients.borrow().values().for_each(|client| each(client));
    }

    /// Calls a function for at most `most` clients from a slot on. Returns the slot of the next one, if there are more.
    pub fn visit_from(&self, slot: u32, most: usize, mut each: impl FnMut(&Rc<ClientInfo>)) -> Option<u32> {
        let clients = self.clients.borrow();
        let mut rest = clients.range(slot..);
        rest.by_ref().take(most).for_each(|(_, client)| each(client));
        rest.next().map(|(slot, _)| *slot)
    }

    /// Calls a function for each client, in steps between which the worker's other tasks run.
    pub async fn visit_in_steps(&self, mut each: impl FnMut(&Rc<ClientInfo>)) {
        let mut next = self.visit_from(0, CLIENTS_PER_STEP, &mut each);
        while let Some(slot) = next {
            executor::yield_now().await;
            next = self.visit_from(slot, CLIENTS_PER_STEP, &mut each);
        }
    }

    /// Number of clients.
    pub fn count(&self) -> usize {
        self.clients.borrow().len()
    }

    /// True if no client is connected.
    pub fn is_empty(&self) -> bool {
        self.clients.borrow().is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(table: &ClientTable, remote: Endpoint, local: Endpoint) -> Rc<ClientInfo> {
        table.add(remote, Some(local), 7, Instant::now()).unwrap()
    }

    #[test]
    fn both_endpoints_are_stored_for_every_kind_of_socket() {
        let table = ClientTable::new(0, KeyForm::Alone);
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
            Ends::Other { ends, .. } => Some(Rc::as_ptr(ends)),
        };
        let (first, second) = (add(&table, unix(), unix()), add(&table, unix(), unix()));
        assert!(shared(&first).is_some() && shared(&first) == shared(&second));
        assert_eq!(first.pid(), 7);
    }

    #[test]
    fn a_slot_is_not_reused_at_once() {
        let table = ClientTable::new(0, KeyForm::Alone);
        let end = || Endpoint::Unix("".into());
        let first = add(&table, end(), end());
        table.remove(&first);
        let second = add(&table, end(), end());
        assert_ne!(first.slot, second.slot);
        let (first, second) = (first.cancel_key.get(), second.cancel_key.get());
        assert_ne!(first.secret(), second.secret());
        assert!(table.by_cancel_key(&first).is_none());
        assert!(table.by_cancel_key(&second).is_some());
    }

    #[test]
    fn clients_are_visited_in_parts() {
        let table = ClientTable::new(0, KeyForm::Alone);
        let end = || Endpoint::Unix("".into());
        let all: Vec<u64> = (0..5).map(|_| add(&table, end(), end()).id).collect();
        let (mut seen, mut next) = (Vec::new(), Some(0));
        while let Some(slot) = next {
            let before = seen.len();
            next = table.visit_from(slot, 2, |client| seen.push(client.id));
            assert!(seen.len() - before <= 2);
        }
        assert_eq!(seen, all);
    }

    #[test]
    fn the_first_kill_error_is_the_one_sent() {
        let table = ClientTable::new(0, KeyForm::Alone);
        let client = add(&table, Endpoint::Unix("".into()), Endpoint::Unix("".into()));
        client.kill(crate::client_error::killed());
        client.kill(crate::client_error::shutting_down());
        assert_eq!(client.take_kill(), Some(crate::client_error::killed()));
        assert_eq!(client.take_kill(), None);
    }
}
