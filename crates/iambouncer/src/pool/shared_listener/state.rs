//! What the shared listener of a pool knows of its clients. Owns the states of a client and of a channel, and what a
//! notification changes; the lock and the wakers are used by [`super::registry`].

use std::sync::Arc;
use std::task::Waker;

/// Bytes of notifications that a client may leave unread; one that has more is disconnected.
pub(super) const MAX_UNREAD_BYTES: usize = 8 * 1024 * 1024;

/// A place in the queue of notifications, or a proof that a server has this queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueMark {
    /// The channel.
    pub channel: Arc<str>,
    /// The payload: the client, and a random number.
    pub payload: Box<str>,
}

impl QueueMark {
    /// Another mark of the client with this id. `None` without random numbers.
    pub fn new(channel: &Arc<str>, id: u64) -> Option<Self> {
        let mut random = [0; 16];
        aws_lc_rs::rand::fill(&mut random).ok()?;
        let payload = format!("{id}.{:032x}", u128::from_be_bytes(random)).into();
        Some(Self { channel: channel.clone(), payload })
    }
}

/// What the listener does for a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum MemberPhase {
    /// It subscribes to the channels. The client's server delivers.
    Subscribing {
        /// Its server has this queue once this has arrived.
        proof: QueueMark,
        is_proven: bool,
        /// The channels are known.
        is_named: bool,
    },
    /// It is subscribed to them. The client's server delivers.
    Subscribed,
    /// It delivers behind the mark.
    DeliversBehind(QueueMark),
    /// It delivers.
    Delivers,
    /// It delivers up to the mark.
    DeliversUpTo(QueueMark),
    /// The mark has passed: a server of the client delivers.
    HasPassed,
    /// It has ended before it delivered anything.
    NotBegun,
    /// It has ended, for this reason: notifications may be missing.
    Lost(Arc<str>),
}

/// A client.
pub(super) struct Member {
    pub(super) phase: MemberPhase,
    pub(super) channels: Vec<Arc<[u8]>>,
    /// Whole messages for it.
    pub(super) unread: Vec<u8>,
    /// Wakes its task.
    pub(super) waker: Option<Waker>,
}

/// A channel.
#[derive(Default)]
pub(super) struct SubscribedChannel {
    /// Sorted.
    members: Vec<u64>,
    /// The server has confirmed the LISTEN.
    is_subscribed: bool,
    /// A LISTEN was sent.
    is_requested: bool,
}

/// Clients and channels, each sorted: compact, and changed rarely.
#[derive(Default)]
pub(super) struct Members {
    clients: Vec<(u64, Member)>,
    channels: Vec<(Arc<[u8]>, SubscribedChannel)>,
}

/// Tasks to wake once the lock is released.
pub(super) type Wakes = Vec<Waker>;

impl Member {
    /// Has its task look at what has changed.
    fn wake(&mut self, wakes: &mut Wakes) {
        wakes.extend(self.waker.take());
    }

    fn set(&mut self, phase: MemberPhase, wakes: &mut Wakes) {
        self.phase = phase;
        self.wake(wakes);
    }

    fn delivers(&self) -> bool {
        matches!(self.phase, MemberPhase::Delivers | MemberPhase::DeliversUpTo(_))
    }

    fn receive(&mut self, message: &[u8], wakes: &mut Wakes) {
        if self.unread.len() + message.len() > MAX_UNREAD_BYTES {
            self.unread = Vec::new();
            return self.set(MemberPhase::Lost("the client has not read its notifications".into()), wakes);
        }
        self.unread.extend_from_slice(message);
        self.wake(wakes);
    }
}

impl Members {
    fn place_of(&self, id: u64) -> Result<usize, usize> {
        self.clients.binary_search_by_key(&id, |(known, _)| *known)
    }

    fn place_of_channel(&self, name: &[u8]) -> Result<usize, usize> {
        self.channels.binary_search_by(|(known, _)| (**known).cmp(name))
    }

    /// A client.
    pub(super) fn get(&self, id: u64) -> Option<&Member> {
        let place = self.place_of(id).ok()?;
        self.clients.get(place).map(|(_, member)| member)
    }

    /// The same, to be changed.
    pub(super) fn get_mut(&mut self, id: u64) -> Option<&mut Member> {
        let place = self.place_of(id).ok()?;
        self.clients.get_mut(place).map(|(_, member)| member)
    }

    fn channel_mut(&mut self, name: &[u8]) -> Option<&mut SubscribedChannel> {
        let place = self.place_of_channel(name).ok()?;
        self.channels.get_mut(place).map(|(_, channel)| channel)
    }

    /// True if there is no client.
    pub(super) fn is_empty(&self) -> bool {
        self.clients.is_empty()
    }

    /// Drops all channels.
    pub(super) fn forget_channels(&mut self) {
        self.channels.clear();
    }

    /// Adds a client. The channels that are new have to be subscribed to.
    pub(super) fn add(&mut self, id: u64, names: Vec<Arc<[u8]>>, phase: MemberPhase) {
        names.iter().for_each(|name| self.add_to_channel(name, id));
        let member = Member { phase, channels: names, unread: Vec::new(), waker: None };
        match self.place_of(id) {
            Ok(place) => self.clients[place].1 = member,
            Err(place) => self.clients.insert(place, (id, member)),
        }
    }

    fn add_to_channel(&mut self, name: &Arc<[u8]>, id: u64) {
        let place = self.place_of_channel(name).unwrap_or_else(|place| {
            self.channels.insert(place, (name.clone(), SubscribedChannel::default()));
            place
        });
        let members = &mut self.channels[place].1.members;
        if let Err(place) = members.binary_search(&id) {
            members.insert(place, id);
        }
    }

    /// The channels of a client that subscribes.
    pub(super) fn name(&mut self, id: u64, names: Vec<Arc<[u8]>>, wakes: &mut Wakes) {
        let Some(member) = self.get_mut(id) else { return };
        let MemberPhase::Subscribing { is_named, .. } = &mut member.phase else { return };
        *is_named = true;
        member.channels.clone_from(&names);
        names.iter().for_each(|name| self.add_to_channel(name, id));
        self.settle(id, wakes);
    }

    /// Removes a client. Channels remain until [`Members::take_unused`].
    pub(super) fn remove(&mut self, id: u64) {
        let Ok(place) = self.place_of(id) else { return };
        let (_, member) = self.clients.remove(place);
        for name in &member.channels {
            if let Some(channel) = self.channel_mut(name) {
                channel.members.retain(|known| *known != id);
            }
        }
    }

    /// Channels for which a LISTEN has to be sent now.
    pub(super) fn take_new(&mut self) -> Vec<Arc<[u8]>> {
        let new = self.channels.iter_mut().filter(|(_, channel)| !channel.is_requested);
        new.map(|(name, channel)| {
            channel.is_requested = true;
            name.clone()
        })
        .collect()
    }

    /// Channels that no client has any more, for which an UNLISTEN has to be sent now.
    pub(super) fn take_unused(&mut self) -> Vec<Arc<[u8]>> {
        let mut names = Vec::new();
        self.channels.retain(|(name, channel)| {
            let is_unused = channel.members.is_empty() && channel.is_subscribed;
            if is_unused {
                names.push(name.clone());
            }
            !is_unused
        });
        names
    }

    /// The server has confirmed these LISTENs.
    pub(super) fn subscribed(&mut self, names: &[Arc<[u8]>], wakes: &mut Wakes) {
        let mut concerned = Vec::new();
        for name in names {
            if let Some(channel) = self.channel_mut(name) {
                channel.is_subscribed = true;
                concerned.extend_from_slice(&channel.members);
            }
        }
        concerned.into_iter().for_each(|id| self.settle(id, wakes));
    }

    /// A client whose channels and proof are there is subscribed.
    fn settle(&mut self, id: u64, wakes: &mut Wakes) {
        let Some(member) = self.get(id) else { return };
        let MemberPhase::Subscribing { is_proven: true, is_named: true, .. } = member.phase else { return };
        let is_subscribed = |name: &Arc<[u8]>| {
            self.place_of_channel(name).is_ok_and(|place| self.channels[place].1.is_subscribed)
        };
        if member.channels.iter().all(is_subscribed)
            && let Some(member) = self.get_mut(id)
        {
            member.set(MemberPhase::Subscribed, wakes);
        }
    }

    /// A mark has arrived.
    pub(super) fn mark_arrived(&mut self, payload: &str, wakes: &mut Wakes) {
        let Some(id) = payload.split_once('.').and_then(|(id, _)| id.parse().ok()) else { return };
        let Some(member) = self.get_mut(id) else { return };
        match &mut member.phase {
            MemberPhase::Subscribing { proof, is_proven, .. } if *proof.payload == *payload => {
                *is_proven = true;
                self.settle(id, wakes);
            }
            MemberPhase::DeliversBehind(mark) if *mark.payload == *payload => {
                member.set(MemberPhase::Delivers, wakes)
            }
            MemberPhase::DeliversUpTo(mark) if *mark.payload == *payload => {
                member.set(MemberPhase::HasPassed, wakes)
            }
            _ => {}
        }
    }

    /// A notification has arrived. Returns to how many clients it was given.
    pub(super) fn deliver(&mut self, channel: &[u8], message: &[u8], wakes: &mut Wakes) -> usize {
        let Ok(place) = self.place_of_channel(channel) else { return 0 };
        let Some((_, channel)) = self.channels.get(place) else { return 0 };
        for id in &channel.members {
            let known = self.clients.binary_search_by_key(id, |(known, _)| *known);
            if let Some((_, member)) = known.ok().and_then(|place| self.clients.get_mut(place))
                && member.delivers()
            {
                member.receive(message, wakes);
            }
        }
        channel.members.len()
    }

    /// The listener has ended.
    pub(super) fn end(&mut self, reason: &Arc<str>, wakes: &mut Wakes) {
        self.channels.clear();
        for (_, member) in &mut self.clients {
            let phase = match &member.phase {
                MemberPhase::Subscribing { .. } | MemberPhase::Subscribed => MemberPhase::NotBegun,
                // Its server delivers already.
                MemberPhase::HasPassed | MemberPhase::Lost(_) | MemberPhase::NotBegun => continue,
                MemberPhase::DeliversBehind(_) | MemberPhase::Delivers | MemberPhase::DeliversUpTo(_) => {
                    MemberPhase::Lost(reason.clone())
                }
            };
            member.set(phase, wakes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(payload: &str) -> QueueMark {
        QueueMark { channel: "marks".into(), payload: payload.into() }
    }

    fn members(phase: MemberPhase) -> Members {
        let mut members = Members::default();
        members.add(7, vec![b"a"[..].into()], phase);
        members
    }

    fn unread(members: &Members) -> &[u8] {
        &members.get(7).unwrap().unread
    }

    #[test]
    fn a_client_receives_what_is_between_its_marks() {
        let mut wakes = Wakes::new();
        let phase = MemberPhase::Subscribing { proof: mark("7.0"), is_proven: false, is_named: false };
        let mut members = members(phase);
        members.name(7, vec![b"a"[..].into()], &mut wakes);
        members.deliver(b"a", b"before", &mut wakes);
        members.mark_arrived("7.1", &mut wakes);
        members.subscribed(&[b"a"[..].into()], &mut wakes);
        assert_ne!(members.get(7).unwrap().phase, MemberPhase::Subscribed, "it is not proven");
        members.mark_arrived("7.0", &mut wakes);
        assert_eq!(members.get(7).unwrap().phase, MemberPhase::Subscribed);
        members.get_mut(7).unwrap().phase = MemberPhase::DeliversBehind(mark("7.1"));
        members.deliver(b"a", b"by its server", &mut wakes);
        members.mark_arrived("7.1", &mut wakes);
        members.deliver(b"a", b"one ", &mut wakes);
        members.deliver(b"b", b"of another channel", &mut wakes);
        members.get_mut(7).unwrap().phase = MemberPhase::DeliversUpTo(mark("7.2"));
        members.deliver(b"a", b"two", &mut wakes);
        members.mark_arrived("7.2", &mut wakes);
        members.deliver(b"a", b"by its next server", &mut wakes);
        assert_eq!(unread(&members), b"one two");
        assert_eq!(members.get(7).unwrap().phase, MemberPhase::HasPassed);
    }

    #[test]
    fn a_client_that_does_not_read_is_bounded_and_others_are_not_concerned() {
        let mut wakes = Wakes::new();
        let mut members = members(MemberPhase::Delivers);
        let message = vec![0; MAX_UNREAD_BYTES / 4];
        for _ in 0..4 {
            assert_eq!(members.deliver(b"a", &message, &mut wakes), 1);
        }
        members.add(8, vec![b"a"[..].into()], MemberPhase::Delivers);
        assert_eq!(members.deliver(b"a", b"x", &mut wakes), 2);
        assert!(matches!(members.get(7).unwrap().phase, MemberPhase::Lost(_)) && unread(&members).is_empty());
        assert_eq!(members.get(8).unwrap().unread, b"x");
    }

    #[test]
    fn a_channel_is_unused_once_its_last_client_has_left() {
        let mut members = members(MemberPhase::Delivers);
        assert_eq!(members.take_new().len(), 1);
        assert!(members.take_new().is_empty());
        members.subscribed(&[b"a"[..].into()], &mut Wakes::new());
        assert!(members.take_unused().is_empty());
        members.remove(7);
        assert_eq!(members.take_unused().len(), 1);
        assert!(members.channels.is_empty());
    }

    #[test]
    fn only_clients_that_it_delivers_to_are_lost_with_the_listener() {
        for (phase, expected) in [
            (MemberPhase::Subscribed, MemberPhase::NotBegun),
            (MemberPhase::DeliversBehind(mark("7.1")), MemberPhase::Lost("gone".into())),
            (MemberPhase::Delivers, MemberPhase::Lost("gone".into())),
            (MemberPhase::HasPassed, MemberPhase::HasPassed),
        ] {
            let mut members = members(phase);
            members.end(&"gone".into(), &mut Wakes::new());
            assert_eq!(members.get(7).unwrap().phase, expected);
        }
    }
}
