//! Process-wide counters of clients: how logins end, and errors that the pooler sends. Owns atomics that all workers
//! update; both are rare, unlike queries.

use super::logins::LabelledCounters;

/// How the login of a client ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientLoginResult {
    /// It has received its startup response.
    Ok,
    /// It was rejected, or its connection was closed because of what it sent.
    Refused,
    /// It disconnected.
    Abandoned,
    /// `client_login_timeout`.
    Timeout,
    /// It was closed to make room for others.
    Evicted,
}

impl ClientLoginResult {
    const ALL: [Self; 5] = [Self::Ok, Self::Refused, Self::Abandoned, Self::Timeout, Self::Evicted];

    const fn label(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Refused => "refused",
            Self::Abandoned => "abandoned",
            Self::Timeout => "timeout",
            Self::Evicted => "evicted",
        }
    }
}

/// Classes of SQLSTATE in errors of the pooler itself. Others are those of servers that have refused a login.
const CLASSES: [&str; 15] =
    ["08", "0A", "22", "25", "26", "28", "34", "3D", "42", "53", "54", "55", "57", "58", "XX"];

/// All counters of clients.
pub struct ClientCounters {
    /// Logins by result.
    pub logins: LabelledCounters,
    /// Errors sent to clients by class.
    pub errors: LabelledCounters,
}

impl Default for ClientCounters {
    fn default() -> Self {
        Self {
            logins: LabelledCounters::new(ClientLoginResult::ALL.map(ClientLoginResult::label)),
            errors: LabelledCounters::new(CLASSES),
        }
    }
}

impl ClientCounters {
    /// Counts the end of a login.
    pub fn count_login(&self, result: ClientLoginResult) {
        self.logins.count(result.label());
    }

    /// Counts an error with this SQLSTATE.
    pub fn count_error(&self, code: &str) {
        self.errors.count(code.get(..2).unwrap_or_default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_counted_by_class_and_results_by_label() {
        let counters = ClientCounters::default();
        for code in ["08P01", "57P01", "57014", "P0001", "", "ä"] {
            counters.count_error(code);
        }
        let counted: Vec<_> = counters.errors.read().into_iter().filter(|(_, count)| *count > 0).collect();
        assert_eq!(counted, [("08", 1), ("57", 2), ("unknown", 3)]);
        ClientLoginResult::ALL.into_iter().for_each(|result| counters.count_login(result));
        assert!(counters.logins.read().iter().all(|(label, count)| (*count == 1) == (*label != "unknown")));
    }
}
