//! Cancel keys: the eight bytes that a client receives at login and that a cancel request contains. Owns what their bits
//! mean; finds no client.
//!
//! A process without peers puts the worker (7 bits) and the client (24 bits) into the process ID; the secret has 32
//! bits. A client of session pooling may have the process ID of its server instead (`misleading_key`). A process with a `peer_id` uses PgBouncer's form, so that PgBouncer can be its peer:
//!
//! | Byte | Contents |
//! |---:|---|
//! | 0 | 0 (one bit), 7 bits that are equal to the number of the worker modulo the number of workers |
//! | 1, 2 | the peer ID, low byte first |
//! | 3 | random |
//! | 4–7 | random (30 bits), number of times that the key may still be forwarded (2 bits) |
//!
//! All of it is random but the peer ID, the number in the last two bits, and what byte 0 says about the worker: a guess is
//! right for one of N clients with a probability of N / 2^45, whatever the number of workers, as in PgBouncer.

use crate::config::MAX_WORKERS;

/// Length of the secret in a cancel key of protocol 3.0, in bytes.
pub(super) const SECRET_BYTES: usize = 4;
/// Length of a key.
const KEY_BYTES: usize = 4 + SECRET_BYTES;
/// Bits of the process ID that identify the client of a process without peers; the higher ones identify its worker.
const CLIENT_BITS: u32 = 24;
/// Number of clients that a cancel key can identify.
const MAX_CLIENT_SLOTS: u32 = 1 << CLIENT_BITS;
/// Values of the first byte of a key: its sign bit is clear, since a process ID is positive.
const FIRST_BYTES: usize = 1 << 7;
/// The bits of the last byte that say how often a key may still be forwarded. Keys of clients have the maximum.
const FORWARD_MASK: u8 = 0b11;

/// A cancel key. It is a secret, and so has no `Debug`.
#[derive(Clone, Copy)]
pub struct CancelKey([u8; KEY_BYTES]);

impl CancelKey {
    /// The key of a request; `None` if it is not one of this program or PgBouncer.
    pub fn of_request(pid: u32, secret: &[u8]) -> Option<Self> {
        let secret: [u8; SECRET_BYTES] = secret.try_into().ok()?;
        Some(Self::from_halves(pid.to_be_bytes(), secret))
    }

    fn from_halves([a, b, c, d]: [u8; 4], [e, f, g, h]: [u8; 4]) -> Self {
        Self([a, b, c, d, e, f, g, h])
    }

    fn halves(&self) -> ([u8; 4], [u8; 4]) {
        let [a, b, c, d, e, f, g, h] = self.0;
        ([a, b, c, d], [e, f, g, h])
    }

    /// The first half, which clients regard as a process ID.
    pub fn pid(&self) -> u32 {
        u32::from_be_bytes(self.halves().0)
    }

    /// A key with the same secret and another first half.
    pub(super) fn with_pid(self, pid: u32) -> Self {
        Self::from_halves(pid.to_be_bytes(), self.halves().1)
    }

    /// The second half.
    pub fn secret(&self) -> &[u8] {
        &self.0[4..]
    }

    /// The key as forwarded to the peer that it names, which may forward it in turn; `None` if it has been forwarded too
    /// often.
    pub fn for_owner(mut self) -> Option<Self> {
        self.is_forwardable().then(|| {
            self.0[KEY_BYTES - 1] -= 1;
            self
        })
    }

    /// The key as sent to a peer that must not forward it.
    pub fn for_the_last_peer(mut self) -> Option<Self> {
        self.is_forwardable().then(|| {
            self.0[KEY_BYTES - 1] &= !FORWARD_MASK;
            self
        })
    }

    fn is_forwardable(&self) -> bool {
        self.0[KEY_BYTES - 1] & FORWARD_MASK > 0
    }
}

/// Who has the client of a cancel key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyOwner {
    /// The worker of this process with this number, if any worker.
    Worker(usize),
    /// Another process.
    Peer(u16),
}

/// How a process makes cancel keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyForm {
    /// Without peers.
    Alone,
    /// As PgBouncer with a `peer_id`.
    Peered {
        /// That of this process.
        id: u16,
        /// Its number of workers.
        workers: usize,
    },
}

impl KeyForm {
    /// The form for a `peer_id`, which is 0 without peers, and a number of workers.
    pub fn of(peer_id: u16, workers: usize) -> Self {
        const { assert!(MAX_WORKERS <= FIRST_BYTES) };
        match peer_id {
            0 => Self::Alone,
            id => Self::Peered { id, workers: workers.clamp(1, MAX_WORKERS) },
        }
    }

    /// True if requests can be forwarded to this peer: this process has a number, and it is another. All processes may
    /// share a file that lists them all.
    pub fn is_other(self, peer: u16) -> bool {
        matches!(self, Self::Peered { id, .. } if id != peer)
    }

    /// Maximum number of clients of a worker.
    pub(super) fn max_clients(self) -> u32 {
        MAX_CLIENT_SLOTS - 1
    }

    /// The slot to try after `last` for a client. Without peers, slots are used in turn, so that an old key does not soon
    /// match another client. With peers a slot is a part of the secret. `None` if there are no random numbers.
    pub(super) fn slot_after(self, last: u32, random: impl FnOnce() -> Option<u32>) -> Option<u32> {
        match self {
            Self::Alone => Some((last + 1) % MAX_CLIENT_SLOTS),
            Self::Peered { .. } => Some(random()? >> FORWARD_MASK.count_ones()),
        }
    }

    /// The key of a client.
    pub(super) fn compose(self, worker: usize, slot: u32, secret: [u8; SECRET_BYTES]) -> CancelKey {
        match self {
            Self::Alone => {
                CancelKey::from_halves(((worker as u32) << CLIENT_BITS | slot).to_be_bytes(), secret)
            }
            Self::Peered { id, workers } => {
                let [high, low, random, _] = secret;
                let values = (FIRST_BYTES - 1 - worker) / workers + 1;
                let first = worker + workers * (usize::from(u16::from_be_bytes([high, low])) % values);
                let [id_low, id_high] = id.to_le_bytes();
                let rest = slot << FORWARD_MASK.count_ones() | u32::from(FORWARD_MASK);
                CancelKey::from_halves([first as u8, id_low, id_high, random], rest.to_be_bytes())
            }
        }
    }

    /// The slot of the client that may have this key.
    pub(super) fn slot_of(self, key: &CancelKey) -> u32 {
        match self {
            Self::Alone => key.pid() % MAX_CLIENT_SLOTS,
            Self::Peered { .. } => u32::from_be_bytes(key.halves().1) >> FORWARD_MASK.count_ones(),
        }
    }

    /// True if the key of a request is that of a client, however often it has been forwarded. Compares in constant time.
    pub(super) fn is_same(self, of_client: &CancelKey, mut of_request: CancelKey) -> bool {
        if matches!(self, Self::Peered { .. }) {
            of_request.0[KEY_BYTES - 1] |= FORWARD_MASK;
        }
        aws_lc_rs::constant_time::verify_slices_are_equal(&of_client.0, &of_request.0).is_ok()
    }

    /// Who has the client of a key.
    pub fn owner_of(self, key: &CancelKey) -> KeyOwner {
        match self {
            Self::Alone => KeyOwner::Worker((key.pid() >> CLIENT_BITS) as usize),
            Self::Peered { id, workers } => {
                let [first, id_low, id_high, _] = key.halves().0;
                match u16::from_le_bytes([id_low, id_high]) {
                    given if given == id => KeyOwner::Worker(usize::from(first) % workers),
                    other => KeyOwner::Peer(other),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_without_peers_names_its_worker_and_client() {
        let key = KeyForm::Alone.compose(5, 77, *b"\x01\x02\x03\x04");
        assert_eq!((key.pid(), key.secret()), (5 << 24 | 77, &b"\x01\x02\x03\x04"[..]));
        assert_eq!(KeyForm::Alone.owner_of(&key), KeyOwner::Worker(5));
        assert_eq!(KeyForm::Alone.slot_of(&key), 77);
        let other = CancelKey::of_request(key.pid(), b"\x01\x02\x03\x05").unwrap();
        assert!(KeyForm::Alone.is_same(&key, key) && !KeyForm::Alone.is_same(&key, other));
        assert!(CancelKey::of_request(1, b"longer").is_none());
    }

    #[test]
    fn a_key_with_peers_has_the_layout_of_pgbouncer() {
        let key = KeyForm::of(0x1234, 1).compose(0, 0x2abc_def0, [0xff, 0xff, 0xee, 0]);
        let [first, low, high, random, rest @ ..] = key.0;
        assert!(first < 128);
        assert_eq!((low, high, random), (0x34, 0x12, 0xee));
        assert_eq!(u32::from_be_bytes(rest), 0x2abc_def0 << 2 | 3);
    }

    #[test]
    fn every_worker_finds_its_clients() {
        for workers in [1, 2, 3, 64, MAX_WORKERS] {
            let form = KeyForm::of(7, workers);
            for worker in 0..workers {
                for random in [0_u16, 1, 255, 256, 40_000, u16::MAX] {
                    let [high, low] = random.to_be_bytes();
                    let key = form.compose(worker, (1 << 30) - 1, [high, low, 9, 9]);
                    assert_eq!(form.owner_of(&key), KeyOwner::Worker(worker));
                    assert_eq!(form.slot_of(&key), (1 << 30) - 1);
                    assert!(key.pid() <= i32::MAX as u32);
                    assert_eq!(KeyForm::of(8, workers).owner_of(&key), KeyOwner::Peer(7));
                }
            }
        }
    }

    #[test]
    fn a_key_is_forwarded_three_times_and_stays_the_same() {
        let form = KeyForm::of(9, 1);
        let key = form.compose(0, 12345, *b"abcd");
        let mut forwarded = key;
        for _ in 0..3 {
            forwarded = forwarded.for_owner().unwrap();
            assert!(form.is_same(&key, forwarded));
        }
        assert!(forwarded.for_owner().is_none() && forwarded.for_the_last_peer().is_none());
        let last = key.for_the_last_peer().unwrap();
        assert!(form.is_same(&key, last) && last.for_owner().is_none());
    }
}
