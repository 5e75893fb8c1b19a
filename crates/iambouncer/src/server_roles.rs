//! Whether servers accept writes (`target_session_attrs`). Owns what the hosts of lines have last answered to any worker, the
//! order in which they are tried, and which addresses have changed between primary and standby; asks no server.
//!
//! Only whether a server is a standby is shared. That sessions are read-only may be a setting of one role.

use crate::config::TargetSessionAttrs;
use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A host that cannot be used is not tried again within this time, by any pool: while a line has no server that can be
/// used, a host receives this many logins at most, however many pools wait.
pub const RETRY_INTERVAL: Duration = Duration::from_millis(200);
/// A statement that fails because its transaction is read-only leads to a new login only after this time: clients may want
/// such transactions.
const DOUBT_INTERVAL: Duration = Duration::from_secs(1);
/// Maximum number of hosts, and of addresses. Those that were seen longest ago are forgotten.
const MAX_SERVERS: usize = 4096;

/// The parameter by which a standby reports its promotion (14 and later).
pub const IN_HOT_STANDBY: &str = "in_hot_standby";
/// A standby that was promoted.
pub const PROMOTED: ServerRole = ServerRole { in_recovery: false, read_only: false };

/// What a session is allowed to do, as libpq decides it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerRole {
    /// The server is a standby.
    pub in_recovery: bool,
    /// The session begins with `transaction_read_only`.
    pub read_only: bool,
}

impl ServerRole {
    /// From the parameters that a server has reported at a login; versions before 14 do not report them.
    pub fn reported(reports: &[(String, String)]) -> Option<Self> {
        let is_on = |wanted: &str| {
            reports.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str() == "on")
        };
        let in_recovery = is_on(IN_HOT_STANDBY)?;
        Some(Self { in_recovery, read_only: in_recovery || is_on("default_transaction_read_only")? })
    }

    /// True if such a server is wanted.
    pub fn fits(self, wanted: TargetSessionAttrs) -> bool {
        match wanted {
            TargetSessionAttrs::Any | TargetSessionAttrs::PreferStandby => true,
            TargetSessionAttrs::ReadWrite => !self.read_only,
            TargetSessionAttrs::ReadOnly => self.read_only,
            TargetSessionAttrs::Primary => !self.in_recovery,
            TargetSessionAttrs::Standby => self.in_recovery,
        }
    }
}

/// Completes "the server is …".
impl fmt::Display for ServerRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (self.in_recovery, self.read_only) {
            (true, _) => "a standby",
            (false, true) => "a primary that is read-only (default_transaction_read_only)",
            (false, false) => "a primary",
        })
    }
}

/// True if a standby, or a primary, is what is wanted, as far as that is decided by it.
fn may_fit(in_recovery: bool, wanted: TargetSessionAttrs) -> bool {
    match wanted {
        TargetSessionAttrs::Any | TargetSessionAttrs::PreferStandby | TargetSessionAttrs::ReadOnly => true,
        TargetSessionAttrs::ReadWrite | TargetSessionAttrs::Primary => !in_recovery,
        TargetSessionAttrs::Standby => in_recovery,
    }
}

/// What a server was required to be at its login.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequiredRole {
    /// Host and port, as configured.
    pub host: Arc<str>,
    /// The address that was reached; before the login, the host. A name may have several addresses.
    pub address: Arc<str>,
    /// The requirement.
    pub wanted: TargetSessionAttrs,
}

/// What a host has last answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostAnswer {
    /// It could be used.
    Suitable,
    /// It was something else.
    Unsuitable(ServerRole),
    /// It could not be reached.
    Unreachable,
}

#[derive(Debug, Clone, Copy)]
struct LastAnswer {
    answer: HostAnswer,
    at: Instant,
}

/// The order in which the hosts of a line are tried, as positions in the line.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct HostOrder {
    /// Those to be tried.
    pub tried: Vec<usize>,
    /// How many of these were suitable; they are the first ones.
    pub suitable: usize,
    /// Those that cannot be used according to an answer of a moment ago, or are being asked.
    pub left_out: Vec<(usize, HostAnswer)>,
}

/// The key of a host: what suits one requirement may not suit another.
type HostKey = (Arc<str>, TargetSessionAttrs);

#[derive(Default)]
struct KnownServers {
    hosts: HashMap<HostKey, LastAnswer>,
    /// By address: whether it is a standby.
    addresses: HashMap<Arc<str>, (bool, Instant)>,
    /// When a server at an address was last doubted.
    doubted: HashMap<Arc<str>, Instant>,
}

/// The servers of all lines that require a role.
#[derive(Default)]
pub struct ServerRoles {
    known: Mutex<KnownServers>,
    changes: AtomicU64,
}

impl ServerRoles {
    fn known(&self) -> MutexGuard<'_, KnownServers> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Advances whenever an address is that of a standby instead of a primary, or the other way round.
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// A host has answered a login that required `wanted`. Nothing is recorded of one that is unsuitable only because of the
    /// settings of the role.
    pub fn record_answer(
        &self,
        host: &Arc<str>,
        wanted: TargetSessionAttrs,
        answer: HostAnswer,
        now: Instant,
    ) {
        if matches!(answer, HostAnswer::Unsuitable(role) if may_fit(role.in_recovery, wanted)) {
            return;
        }
        let hosts = &mut self.known().hosts;
        make_room(hosts, |last| last.at);
        hosts.insert((host.clone(), wanted), LastAnswer { answer, at: now });
    }

    /// A server at this address is a standby, or is none.
    pub fn record_address(&self, address: &Arc<str>, in_recovery: bool, now: Instant) {
        let addresses = &mut self.known().addresses;
        make_room(addresses, |(_, at)| *at);
        let before = addresses.insert(address.clone(), (in_recovery, now));
        if before.is_some_and(|(before, _)| before != in_recovery) {
            self.changes.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// False if the server at this address, which was as required, is known to be something else now.
    pub fn still_fits(&self, required: &RequiredRole) -> bool {
        let known = self.known();
        known
            .addresses
            .get(&required.address)
            .is_none_or(|(in_recovery, _)| may_fit(*in_recovery, required.wanted))
    }

    /// True once in a while for each address: a statement has failed there that a primary would not have refused.
    pub fn may_doubt(&self, address: &Arc<str>, now: Instant) -> bool {
        let doubted = &mut self.known().doubted;
        if doubted.get(address).is_some_and(|at| now.saturating_duration_since(*at) < DOUBT_INTERVAL) {
            return false;
        }
        make_room(doubted, |at| *at);
        doubted.insert(address.clone(), now);
        true
    }

    /// The order for servers that fit `wanted`: first those that were suitable; then unknown ones, those that were
    /// something else, and those that could not be reached. Otherwise the order of `hosts` is kept, but of several that
    /// have accepted writes, the last one comes first. The caller tries them: others leave out the unsuitable ones for a
    /// while.
    pub fn order(&self, hosts: &[Arc<str>], wanted: TargetSessionAttrs, now: Instant) -> HostOrder {
        let known = &mut self.known().hosts;
        let mut order = HostOrder::default();
        let mut ranked = Vec::with_capacity(hosts.len());
        for (at, host) in hosts.iter().enumerate() {
            let Some(last) = known.get_mut(&(host.clone(), wanted)) else {
                ranked.push(((1, Duration::ZERO), at));
                continue;
            };
            let age = now.saturating_duration_since(last.at);
            let rank = match last.answer {
                HostAnswer::Suitable => (0, if wanted.is_writer() { age } else { Duration::ZERO }),
                answer if age < RETRY_INTERVAL => {
                    order.left_out.push((at, answer));
                    continue;
                }
                HostAnswer::Unsuitable(_) => (2, Duration::ZERO),
                HostAnswer::Unreachable => (3, Duration::ZERO),
            };
            if rank.0 > 0 {
                last.at = now;
            }
            ranked.push((rank, at));
        }
        ranked.sort();
        order.suitable = ranked.iter().filter(|((rank, _), _)| *rank == 0).count();
        order.tried = ranked.into_iter().map(|(_, at)| at).collect();
        order
    }
}

/// Removes the oldest entry of a full table.
fn make_room<K: Clone + Eq + std::hash::Hash, V>(table: &mut HashMap<K, V>, at: impl Fn(&V) -> Instant) {
    if table.len() < MAX_SERVERS {
        return;
    }
    if let Some(oldest) = table.iter().min_by_key(|(_, value)| at(value)).map(|(key, _)| key.clone()) {
        table.remove(&oldest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use TargetSessionAttrs::{Any, PreferStandby, Primary, ReadOnly, ReadWrite, Standby};

    const PRIMARY: ServerRole = ServerRole { in_recovery: false, read_only: false };
    const STANDBY: ServerRole = ServerRole { in_recovery: true, read_only: true };
    const QUIET: ServerRole = ServerRole { in_recovery: false, read_only: true };

    fn hosts(names: &[&str]) -> Vec<Arc<str>> {
        names.iter().map(|name| Arc::from(*name)).collect()
    }

    #[test]
    fn a_role_fits_as_in_libpq() {
        let fitting = |role: ServerRole| -> Vec<_> {
            [Any, ReadWrite, ReadOnly, Primary, Standby, PreferStandby]
                .into_iter()
                .filter(|wanted| role.fits(*wanted))
                .collect()
        };
        assert_eq!(fitting(PRIMARY), [Any, ReadWrite, Primary, PreferStandby]);
        assert_eq!(fitting(STANDBY), [Any, ReadOnly, Standby, PreferStandby]);
        assert_eq!(fitting(QUIET), [Any, ReadOnly, Primary, PreferStandby]);
    }

    #[test]
    fn roles_are_read_from_what_a_server_reports() {
        let of = |reports: &[(&str, &str)]| {
            let owned: Vec<_> = reports.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
            ServerRole::reported(&owned)
        };
        assert_eq!(of(&[("in_hot_standby", "on"), ("default_transaction_read_only", "off")]), Some(STANDBY));
        assert_eq!(of(&[("in_hot_standby", "off"), ("default_transaction_read_only", "off")]), Some(PRIMARY));
        assert_eq!(of(&[("in_hot_standby", "off"), ("default_transaction_read_only", "on")]), Some(QUIET));
        assert_eq!(of(&[("server_version", "13.4")]), None);
    }

    #[test]
    fn hosts_that_fit_are_tried_first_and_others_by_one_pool_at_a_time() {
        let roles = ServerRoles::default();
        let names = hosts(&["down", "standby", "new", "old", "primary"]);
        let began = Instant::now();
        let unsuitable = HostAnswer::Unsuitable(STANDBY);
        let record = |at: usize, answer, when| roles.record_answer(&names[at], ReadWrite, answer, when);
        record(0, HostAnswer::Unreachable, began);
        record(1, unsuitable, began);
        record(3, HostAnswer::Suitable, began);
        record(4, HostAnswer::Suitable, began + Duration::from_millis(1));
        let soon = roles.order(&names, ReadWrite, began + Duration::from_millis(2));
        let left_out = vec![(0, HostAnswer::Unreachable), (1, unsuitable)];
        assert_eq!(soon, HostOrder { tried: vec![4, 3, 2], suitable: 2, left_out: left_out.clone() });
        let later = began + RETRY_INTERVAL;
        assert_eq!(roles.order(&names, ReadWrite, later).tried, [4, 3, 2, 1, 0]);
        assert_eq!(roles.order(&names, ReadWrite, later).left_out, left_out, "another pool asks them");
        assert_eq!(roles.order(&names, Standby, later).tried, [0, 1, 2, 3, 4], "of another requirement");
        record(4, HostAnswer::Unsuitable(QUIET), later);
        assert_eq!(roles.order(&names, ReadWrite, later).suitable, 2, "that is a setting of one role");
    }

    #[test]
    fn only_a_promotion_or_its_opposite_is_a_change() {
        let roles = ServerRoles::default();
        let address: Arc<str> = Arc::from("10.0.0.1:5432");
        let required = |wanted| RequiredRole { host: address.clone(), address: address.clone(), wanted };
        let now = Instant::now();
        roles.record_address(&address, false, now);
        roles.record_address(&address, false, now);
        assert!(roles.changes() == 0 && roles.still_fits(&required(ReadWrite)));
        roles.record_address(&address, true, now);
        assert_eq!(roles.changes(), 1);
        let fits = |wanted| roles.still_fits(&required(wanted));
        assert!(!fits(ReadWrite) && !fits(Primary) && fits(Standby) && fits(ReadOnly) && fits(PreferStandby));
        assert!(roles.may_doubt(&address, now) && !roles.may_doubt(&address, now));
        assert!(roles.may_doubt(&address, now + DOUBT_INTERVAL));
    }
}
