//! What a client's task has to look at besides its connections. Owns its form: one byte, which is compared for each request.

use super::Departure;

/// A departure that was requested, and whether the shared listener may have notifications.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Attention(u8);

const DRAIN: u8 = 1;
const RECONNECT: u8 = 2;
const DEPARTURE: u8 = DRAIN | RECONNECT;
const LISTENS: u8 = 4;

impl Attention {
    pub(super) fn departure(self) -> Departure {
        match self.0 & DEPARTURE {
            0 => Departure::NotRequested,
            DRAIN => Departure::Drain,
            _ => Departure::Reconnect,
        }
    }

    pub(super) fn with_departure(self, departure: Departure) -> Self {
        let bits = match departure {
            Departure::NotRequested => 0,
            Departure::Drain => DRAIN,
            Departure::Reconnect => RECONNECT,
        };
        Self(self.0 & !DEPARTURE | bits)
    }

    pub(super) fn with_listens(self, listens: bool) -> Self {
        Self(if listens { self.0 | LISTENS } else { self.0 & !LISTENS })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_two_do_not_affect_each_other() {
        let both = Attention::default().with_listens(true).with_departure(Departure::Reconnect);
        assert_eq!(both.departure(), Departure::Reconnect);
        assert_eq!(both.with_listens(false).departure(), Departure::Reconnect);
        assert_eq!(both.with_departure(Departure::NotRequested), Attention::default().with_listens(true));
    }
}
