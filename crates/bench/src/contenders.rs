//! The contenders: one table of names and capabilities, used by the runs and the columns of the report. Owns
//! the list; never starts anything.

/// A program, or setup, that is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Contender {
    /// iambouncer with the I/O engine it selects by default.
    Iambouncer,
    /// iambouncer with `io_engine = epoll`.
    Epoll,
    /// The reference for all ratios.
    PgBouncer,
    /// A byte relay: a lower bound for the cost of a program in between.
    HaProxy,
    /// PostgreSQL without a program in between.
    Direct,
    /// PgCat, if a binary is given.
    PgCat,
    /// PgDog, if a binary is given.
    PgDog,
    /// pg_doorman, if a binary is given.
    PgDoorman,
    /// Odyssey, if a binary is given.
    Odyssey,
    /// The alternative design for several threads: the example `mutex_pool`, if it is built.
    MutexPool,
}

/// How a contender handles connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ContenderKind {
    /// Shares a few server connections among many clients.
    Pooler,
    /// Opens a server connection for each client.
    Relay,
    /// No program in between.
    Nothing,
}

/// The names of a contender.
struct ContenderNames {
    /// Column heading in the report.
    column: &'static str,
    /// Short name in the heading of a ratio.
    short: &'static str,
    /// Base name of its files.
    file: &'static str,
}

impl Contender {
    /// All contenders, in the order of measurements and columns.
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

    /// The base of all ratios.
    pub(crate) const BASE: Self = Self::PgBouncer;

    /// Display name and column heading.
    pub(crate) fn name(self) -> &'static str {
        self.names().column
    }

    /// Short name in the heading of a ratio.
    pub(crate) fn short(self) -> &'static str {
        self.names().short
    }

    /// Base name of its files.
    pub(crate) fn file(self) -> &'static str {
        self.names().file
    }

    /// How it handles connections.
    pub(crate) fn kind(self) -> ContenderKind {
        match self {
            Self::HaProxy => ContenderKind::Relay,
            Self::Direct => ContenderKind::Nothing,
            _ => ContenderKind::Pooler,
        }
    }

    /// True if it reads PgBouncer's INI file, so that all settings of a row apply to it.
    pub(crate) fn reads_ini(self) -> bool {
        matches!(self, Self::Iambouncer | Self::Epoll | Self::PgBouncer)
    }

    /// True if it can be configured to verify the server's certificate with a private CA.
    pub(crate) fn verifies_servers(self) -> bool {
        self.kind() == ContenderKind::Pooler && self != Self::PgCat && !self.is_spike()
    }

    /// True for the spike, which exists for one comparison only: no TLS, no logins, one pool, one mode.
    pub(crate) fn is_spike(self) -> bool {
        self == Self::MutexPool
    }

    /// True if it takes part only when its program is given or built.
    pub(crate) fn is_optional(self) -> bool {
        self.is_spike() || matches!(self, Self::PgCat | Self::PgDog | Self::PgDoorman | Self::Odyssey)
    }

    /// The option that prints the version.
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
    fn names_are_unique_per_contender() {
        for name in [Contender::name, Contender::short, Contender::file] {
            let names: BTreeSet<_> = Contender::ALL.into_iter().map(name).collect();
            assert_eq!(names.len(), Contender::ALL.len());
        }
    }
}
