//! A client's side of the shared listener. Owns its subscription, which ends with it, and the marks that it sends.

use super::registry::Registry;
use super::state::{MemberPhase, QueueMark};
use std::sync::Arc;
use std::task::Waker;

/// What has happened to a membership that its client waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MembershipChange {
    /// Nothing that it waits for.
    None,
    /// The listener is subscribed to its channels, and has the same queue as the client's server.
    Subscribed,
    /// The listener delivers.
    Delivers,
    /// The mark up to which the listener delivers has passed.
    HasPassed,
    /// The listener has ended before it delivered anything.
    NotBegun,
    /// The listener has ended, for this reason.
    Lost(Arc<str>),
}

/// Whether the listener will deliver up to a mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handover {
    /// It will.
    Agreed,
    /// The mark behind which it delivers has to arrive first.
    NotYet,
    /// It has ended.
    Ended,
}

/// The subscription of one client.
pub struct Membership {
    registry: Arc<Registry>,
    id: u64,
    marks: Arc<str>,
}

impl Membership {
    pub(super) fn new(registry: Arc<Registry>, id: u64, marks: Arc<str>) -> Self {
        Self { registry, id, marks }
    }

    /// The channel for marks.
    pub fn marks(&self) -> &Arc<str> {
        &self.marks
    }

    /// Its channels.
    pub fn channels(&self) -> Vec<Arc<[u8]>> {
        self.registry.channels_of(self.id)
    }

    /// Subscribes to these channels, which the client's server has.
    pub fn subscribe(&self, channels: Vec<Arc<[u8]>>) {
        self.registry.name(self.id, channels);
    }

    /// The state; `waker` is woken when it changes, or when there are messages.
    pub fn change(&self, waker: Option<&Waker>) -> MembershipChange {
        let change = self.registry.with_member(self.id, |phase, _, slot| {
            if let Some(waker) = waker {
                *slot = Some(waker.clone());
            }
            match phase {
                MemberPhase::Subscribed => MembershipChange::Subscribed,
                MemberPhase::Delivers => MembershipChange::Delivers,
                MemberPhase::HasPassed => MembershipChange::HasPassed,
                MemberPhase::NotBegun => MembershipChange::NotBegun,
                MemberPhase::Lost(reason) => MembershipChange::Lost(reason.clone()),
                MemberPhase::Subscribing { .. }
                | MemberPhase::DeliversBehind(_)
                | MemberPhase::DeliversUpTo(_) => MembershipChange::None,
            }
        });
        change.unwrap_or(MembershipChange::NotBegun)
    }

    /// The messages for the client, whole ones.
    pub fn take_messages(&self) -> Vec<u8> {
        self.registry.with_member(self.id, |_, unread, _| std::mem::take(unread)).unwrap_or_default()
    }

    /// The listener delivers behind this mark, which the client's server sends next. False if it has ended.
    pub fn deliver_behind(&self, mark: &QueueMark) -> bool {
        let is_agreed = self.registry.with_member(self.id, |phase, _, _| {
            let is_subscribed = *phase == MemberPhase::Subscribed;
            if is_subscribed {
                *phase = MemberPhase::DeliversBehind(mark.clone());
            }
            is_subscribed
        });
        is_agreed.unwrap_or_default()
    }

    /// The mark has not been sent: the client's server goes on delivering.
    pub fn deliver_nothing(&self) {
        self.registry.with_member(self.id, |phase, unread, _| {
            if matches!(phase, MemberPhase::DeliversBehind(_) | MemberPhase::Delivers) {
                *phase = MemberPhase::Subscribed;
                unread.clear();
            }
        });
    }

    /// The listener delivers up to this mark, which a server of the client sends next.
    pub fn deliver_up_to(&self, mark: &QueueMark) -> Handover {
        let handover = self.registry.with_member(self.id, |phase, _, _| match phase {
            MemberPhase::Delivers => {
                *phase = MemberPhase::DeliversUpTo(mark.clone());
                Handover::Agreed
            }
            MemberPhase::DeliversBehind(_) => Handover::NotYet,
            _ => Handover::Ended,
        });
        handover.unwrap_or(Handover::Ended)
    }

    /// The mark has not been sent, or has not arrived: the listener goes on delivering. False if it has arrived meanwhile, or
    /// if the listener has ended.
    pub fn deliver_on(&self) -> bool {
        let goes_on = self.registry.with_member(self.id, |phase, _, _| {
            if matches!(phase, MemberPhase::DeliversUpTo(_)) {
                *phase = MemberPhase::Delivers;
            }
            *phase == MemberPhase::Delivers
        });
        goes_on.unwrap_or_default()
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.registry.leave(self.id);
    }
}
