//! The clients of one shared listener, at all workers. Owns the lock under which its task and theirs meet, and who founds
//! it; nothing here is used by a client that does not listen.

use super::membership::Membership;
use super::state::{MemberPhase, Members, QueueMark, Wakes};
use crate::limits::Permit;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

/// The connection.
enum ListenerConnection {
    None,
    /// A client is about to give its server.
    BeingFounded,
    Open(OpenConnection),
}

struct OpenConnection {
    marks: Arc<str>,
    /// `client_encoding`: the server converts names and payloads.
    encoding: Box<str>,
    /// Wakes its task.
    waker: Option<Waker>,
}

struct RegistryState {
    connection: ListenerConnection,
    members: Members,
}

/// Of one database and user.
pub struct Registry(Mutex<RegistryState>);

impl Default for Registry {
    fn default() -> Self {
        Self(Mutex::new(RegistryState { connection: ListenerConnection::None, members: Members::default() }))
    }
}

/// What a client that listens can do.
pub enum ListenerOffer {
    /// Its server becomes the listener.
    Found(Founding),
    /// It shares the listener with this channel for marks.
    Share(Arc<str>),
    /// Another client is about to found it.
    Wait,
    /// The listener has another `client_encoding`.
    OtherEncoding,
}

/// What the listener's task has to do.
#[derive(Default)]
pub(super) struct ListenerWork {
    pub(super) listen: Vec<Arc<[u8]>>,
    pub(super) unlisten: Vec<Arc<[u8]>>,
}

/// The right to found the listener. Dropped, another client has it.
pub struct Founding {
    registry: Arc<Registry>,
    /// The channel for marks.
    pub marks: Arc<str>,
    /// Its places among the listeners.
    pub places: Vec<Permit>,
    is_done: bool,
}

impl Founding {
    /// The founder's server becomes the listener: it is subscribed to these channels and to that for marks.
    pub fn complete(mut self, id: u64, channels: Vec<Arc<[u8]>>, encoding: &str) -> Membership {
        self.is_done = true;
        let mut state = self.registry.lock();
        let marks = self.marks.clone();
        state.connection = ListenerConnection::Open(OpenConnection {
            marks: marks.clone(),
            encoding: encoding.into(),
            waker: None,
        });
        state.members.add(id, channels, MemberPhase::Delivers);
        let new = state.members.take_new();
        state.members.subscribed(&new, &mut Wakes::new());
        drop(state);
        Membership::new(self.registry.clone(), id, marks)
    }
}

impl Drop for Founding {
    fn drop(&mut self) {
        if !self.is_done {
            self.registry.lock().connection = ListenerConnection::None;
        }
    }
}

/// What names of channels for marks begin with.
const MARKS_PREFIX: &[u8] = b"iambouncer_";
/// Hexadecimal digits that follow.
const MARKS_DIGITS: usize = 32;

/// A random name, which no client can guess.
fn random_name() -> Option<String> {
    let mut random = [0; MARKS_DIGITS / 2];
    aws_lc_rs::rand::fill(&mut random).ok()?;
    Some(format!("iambouncer_{:0MARKS_DIGITS$x}", u128::from_be_bytes(random)))
}

/// True for a name of this form: a client may be subscribed to the marks of a listener, also of an earlier one, by a step that
/// was canceled, or on purpose. They are never a client's channel.
pub fn is_for_marks(channel: &[u8]) -> bool {
    let digits = channel.strip_prefix(MARKS_PREFIX);
    digits.is_some_and(|digits| digits.len() == MARKS_DIGITS && digits.iter().all(u8::is_ascii_hexdigit))
}

impl Registry {
    fn lock(&self) -> MutexGuard<'_, RegistryState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a client whose server has this `client_encoding` can do.
    pub fn offer(self: &Arc<Self>, encoding: &str) -> ListenerOffer {
        let mut state = self.lock();
        match &state.connection {
            ListenerConnection::None => {
                let Some(name) = random_name() else { return ListenerOffer::Wait };
                state.connection = ListenerConnection::BeingFounded;
                drop(state);
                let (registry, marks) = (self.clone(), name.into());
                ListenerOffer::Found(Founding { registry, marks, places: Vec::new(), is_done: false })
            }
            ListenerConnection::BeingFounded => ListenerOffer::Wait,
            ListenerConnection::Open(open) if open.encoding.eq_ignore_ascii_case(encoding) => {
                ListenerOffer::Share(open.marks.clone())
            }
            ListenerConnection::Open(_) => ListenerOffer::OtherEncoding,
        }
    }

    /// A client is about to share the listener; its server sends the proof next. `None` if the listener has ended meanwhile.
    pub fn join(self: &Arc<Self>, id: u64, proof: QueueMark) -> Option<Membership> {
        let mut state = self.lock();
        match &state.connection {
            ListenerConnection::Open(open) if open.marks == proof.channel => {}
            _ => return None,
        }
        let marks = proof.channel.clone();
        state.members.add(
            id,
            Vec::new(),
            MemberPhase::Subscribing { proof, is_proven: false, is_named: false },
        );
        drop(state);
        Some(Membership::new(self.clone(), id, marks))
    }

    /// The channels of a client that joins.
    pub(super) fn name(&self, id: u64, channels: Vec<Arc<[u8]>>) {
        self.change(|state, wakes| {
            state.members.name(id, channels, wakes);
            if let ListenerConnection::Open(open) = &mut state.connection {
                wakes.extend(open.waker.take());
            }
        });
    }

    /// Passes a client's phase and messages.
    pub(super) fn with_member<T>(
        &self,
        id: u64,
        look: impl FnOnce(&mut MemberPhase, &mut Vec<u8>, &mut Option<Waker>) -> T,
    ) -> Option<T> {
        let mut state = self.lock();
        let member = state.members.get_mut(id)?;
        Some(look(&mut member.phase, &mut member.unread, &mut member.waker))
    }

    /// The channels of a client.
    pub(super) fn channels_of(&self, id: u64) -> Vec<Arc<[u8]>> {
        self.lock().members.get(id).map(|member| member.channels.clone()).unwrap_or_default()
    }

    pub(super) fn leave(&self, id: u64) {
        self.lock().members.remove(id);
    }

    /// What the listener's task has to do; `waker` wakes it when there is more.
    pub(super) fn work(&self, waker: &Waker, drops_unused: bool) -> ListenerWork {
        let mut state = self.lock();
        if let ListenerConnection::Open(open) = &mut state.connection {
            open.waker = Some(waker.clone());
        }
        let unlisten = if drops_unused { state.members.take_unused() } else { Vec::new() };
        ListenerWork { listen: state.members.take_new(), unlisten }
    }

    pub(super) fn subscribed(&self, channels: &[Arc<[u8]>]) {
        self.change(|state, wakes| state.members.subscribed(channels, wakes));
    }

    pub(super) fn mark_arrived(&self, payload: &str) {
        self.change(|state, wakes| state.members.mark_arrived(payload, wakes));
    }

    pub(super) fn deliver(&self, channel: &[u8], message: &[u8]) -> usize {
        self.change(|state, wakes| state.members.deliver(channel, message, wakes))
    }

    /// True if no client uses the listener; then none can from now on.
    pub(super) fn end_if_unused(&self) -> bool {
        let mut state = self.lock();
        let is_unused = state.members.is_empty();
        if is_unused {
            state.connection = ListenerConnection::None;
            state.members.forget_channels();
        }
        is_unused
    }

    pub(super) fn is_unused(&self) -> bool {
        self.lock().members.is_empty()
    }

    /// The listener has ended. Clients to which it delivers are disconnected with this reason.
    pub(super) fn end(&self, reason: &Arc<str>) {
        self.change(|state, wakes| {
            // At once: another listener may be founded as soon as this one has ended.
            state.connection = ListenerConnection::None;
            state.members.end(reason, wakes);
        });
    }

    /// Changes the state, then wakes tasks.
    fn change<T>(&self, change: impl FnOnce(&mut RegistryState, &mut Wakes) -> T) -> T {
        let mut wakes = Wakes::new();
        let outcome = change(&mut self.lock(), &mut wakes);
        wakes.into_iter().for_each(Waker::wake);
        outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_channel_for_marks_is_recognized() {
        assert!(is_for_marks(random_name().unwrap().as_bytes()));
        for name in ["iambouncer_", "iambouncer_jobs", "jobs", "iambouncer_0123456789abcdef0123456789abcdeg"]
        {
            assert!(!is_for_marks(name.as_bytes()), "{name}");
        }
    }
}
