//! Who is compared: one table of names and abilities, from which come the runs and the columns of the report.
//! Owns the list; it starts nothing.

/// One that is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Contender {
    /// Ours, with the I/O engine it chooses by itself.
    Iambouncer,
    /// Ours, with `io_engine = epoll`.
    Epoll,
    /// The one to compare with.
    PgBouncer,
    /// A relay of bytes: the floor for everything in between.
    HaProxy,
    /// Nothing in between.
    Direct,
    /// PgCat, where a binary is given.
    PgCat,
    /// PgDog, where a binary is given.
    PgDog,
    /// pg_doorman, where a binary is given.
    PgDoorman,
    /// Odyssey, where a binary is given.
    Odyssey,
    /// The other design for several threads: the example `mutex_pool`, where it is built.
    MutexPool,
}

/// What a contender does with connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ContenderKind {
    /// Shares few server connections among many clients.
    Pooler,
    /// Opens a server connection for each client.
    Relay,
    /// Is not there.
    Nothing,
}

/// What a contender is called.
struct ContenderNames {
    /// Column of the report.
    column: &'static str,
    /// In the heading of a ratio.
    short: &'static str,
    /// Files of the run.
    file: &'static str,
}

impl Contender {
    /// All, in the order in which they are measured and shown.
    pub(crate) const ALL: [Self; 10] = [
        Self::Iambouncer,
        Self::Epoll,
        Self::PgBouncer,
        Self::HaProxy,
        Self::Direct,
        Self::PgCat,
        Self::PgDog,
        Self::PgDoorman,
        Self::Odyssey,
        Self::MutexPool,
    ];

    /// The one that all others are divided by.
    pub(crate) const BASE: Self = Self::PgBouncer;

    /// Name for people, and heading of the column.
    pub(crate) fn name(self) -> &'static str {
        self.names().column
    }

    /// Name in the heading of a ratio.
    pub(crate) fn short(self) -> &'static str {
        self.names().short
    }

    /// Name of its files.
    pub(crate) fn file(self) -> &'static str {
        self.names().file
    }

    /// What it does with connections.
    pub(crate) fn kind(self) -> ContenderKind {
        match self {
            Self::HaProxy => ContenderKind::Relay,
            Self::Direct => ContenderKind::Nothing,
            _ => ContenderKind::Pooler,
        }
    }

    /// Whether it can be told to verify the server's certificate by an authority of our own.
    pub(crate) fn verifies_servers(self) -> bool {
        self.kind() == ContenderKind::Pooler && self != Self::PgCat && !self.is_spike()
    }

    /// Whether it answers one question and is no pooler to use: no TLS, no logins, one pool, one mode.
    pub(crate) fn is_spike(self) -> bool {
        self == Self::MutexPool
    }

    /// Whether a run is complete without it: it takes part only where its program is named or built.
    pub(crate) fn is_optional(self) -> bool {
        self.is_spike() || matches!(self, Self::PgCat | Self::PgDog | Self::PgDoorman | Self::Odyssey)
    }

    /// How its program is asked for its version.
    pub(crate) fn version_option(self) -> &'static str {
        if self == Self::HaProxy { "-v" } else { "--version" }
    }

    fn names(self) -> ContenderNames {
        let (column, short, file) = match self {
            Self::Iambouncer => ("iambouncer", "iambouncer", "iambouncer"),
            Self::Epoll => ("iambouncer epoll", "epoll", "iambouncer-epoll"),
            Self::PgBouncer => ("PgBouncer", "PgBouncer", "pgbouncer"),
            Self::HaProxy => ("HAProxy", "HAProxy", "haproxy"),
            Self::Direct => ("direct", "direct", "direct"),
            Self::PgCat => ("PgCat", "PgCat", "pgcat"),
            Self::PgDog => ("PgDog", "PgDog", "pgdog"),
            Self::PgDoorman => ("pg_doorman", "pg_doorman", "pg_doorman"),
            Self::Odyssey => ("Odyssey", "Odyssey", "odyssey"),
            Self::MutexPool => ("tokio, mutex per pool", "mutex", "mutex-pool"),
        };
        ContenderNames { column, short, file }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn no_two_share_a_name() {
        for name in [Contender::name, Contender::short, Contender::file] {
            let names: BTreeSet<_> = Contender::ALL.into_iter().map(name).collect();
            assert_eq!(names.len(), Contender::ALL.len());
        }
    }
}
