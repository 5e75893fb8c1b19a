//! The sections and tables of the report. Owns their titles, their order and their assignment; never stores
//! figures.

use crate::storm_phases::{self, StormPhase, StormRank};

/// A section of the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MetricsSection {
    /// Queries with a full pool.
    Queries,
    /// Logins.
    Logins,
    /// Many logins at once.
    Storms,
    /// Idle clients.
    Idle,
    /// One large result.
    Bulk,
    /// A large result beside short queries.
    Beside,
    /// Increasing numbers of clients.
    Sweep,
    /// More than one thread.
    Cores,
}

impl MetricsSection {
    /// All sections, in the order of the report.
    pub(crate) const ALL: [Self; 8] = [
        Self::Queries,
        Self::Logins,
        Self::Storms,
        Self::Idle,
        Self::Bulk,
        Self::Beside,
        Self::Sweep,
        Self::Cores,
    ];

    /// Heading of the section.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Queries => "Queries",
            Self::Logins => "Logins",
            Self::Storms => "Login storms",
            Self::Idle => "Idle clients",
            Self::Bulk => "Large results and COPY",
            Self::Beside => "A large result beside OLTP",
            Self::Sweep => "More and more clients",
            Self::Cores => "All cores",
        }
    }

    /// Its tables, in the order of the report. The phases of a storm are lines of a table of their own.
    pub(crate) fn metrics(self) -> &'static [ParsedMetric] {
        use ParsedMetric as M;
        match self {
            Self::Queries => &[M::CpuPerTransaction, M::Throughput, M::LatencyMedian, M::LatencyP99],
            Self::Logins => &[M::CpuPerLogin, M::Logins],
            Self::Storms => {
                &[M::CpuPerStormLogin, M::FailedLogins, M::StormTime, M::P99Alone, M::P99Beside, M::P99Growth]
            }
            Self::Idle => &[M::PssPerClient, M::RssPerClient, M::PssAfterBurst],
            Self::Bulk => &[M::CpuPerMegabyte, M::MegabytesPerSecond],
            Self::Beside => &[M::PeakGrowth, M::P99Alone, M::P99Beside, M::P99Raise],
            Self::Sweep => &[M::Throughput, M::LatencyP99],
            Self::Cores => &[M::Throughput, M::CpuPerTransaction, M::LatencyP99],
        }
    }
}

/// A table of the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ParsedMetric {
    /// CPU time of the pooler per transaction.
    CpuPerTransaction,
    /// Transactions per second.
    Throughput,
    /// Median of the transactions' latencies.
    LatencyMedian,
    /// 99th percentile of the transactions' latencies.
    LatencyP99,
    /// CPU time of the pooler per login.
    CpuPerLogin,
    /// Logins per second.
    Logins,
    /// CPU time of the pooler per login of a storm.
    CpuPerStormLogin,
    /// Clients of a storm that could not log in.
    FailedLogins,
    /// Time until all clients of a storm are logged in.
    StormTime,
    /// Time from connect to the end of a phase, of the clients of a storm.
    StormLogin(StormPhase, StormRank),
    /// Growth of PSS per idle client.
    PssPerClient,
    /// Growth of RSS per idle client.
    RssPerClient,
    /// Growth of PSS that remains after the idle clients have disconnected.
    PssAfterBurst,
    /// CPU time of the pooler per megabyte of a large result.
    CpuPerMegabyte,
    /// Megabytes per second of a large result.
    MegabytesPerSecond,
    /// Growth of the pooler's peak memory by a large result.
    PeakGrowth,
    /// 99th percentile without the large result, or before the storm.
    P99Alone,
    /// 99th percentile while the large result is read, or during the storm.
    P99Beside,
    /// The ratio of the two.
    P99Raise,
    /// The difference of the two.
    P99Growth,
}

impl ParsedMetric {
    /// Heading of the table.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::CpuPerTransaction => "CPU time of the pooler per transaction, µs (less is better)",
            Self::Throughput => "Transactions per second (more is better)",
            Self::LatencyMedian => "Latency: median, ms (less is better)",
            Self::LatencyP99 => "Latency: p99, ms (less is better)",
            Self::CpuPerLogin => "CPU time of the pooler per login, query and logout, µs (less is better)",
            Self::Logins => "Logins per second (more is better)",
            Self::CpuPerStormLogin => "CPU time of the pooler per login, µs (less is better)",
            Self::FailedLogins => "Clients that could not log in (less is better)",
            Self::StormTime => "Time until all are logged in, s (less is better)",
            Self::StormLogin(phase, rank) => storm_phases::names(phase, rank).0,
            Self::PssPerClient => "Memory per idle client: growth of PSS, KiB (less is better)",
            Self::RssPerClient => "Memory per idle client: growth of RSS, KiB (less is better)",
            Self::PssAfterBurst => "Memory after a burst: growth of PSS that stays, MiB (less is better)",
            Self::CpuPerMegabyte => "CPU time of the pooler per MB, µs (less is better)",
            Self::MegabytesPerSecond => "MB per second (more is better)",
            Self::PeakGrowth => "Growth of the pooler's peak memory, MiB (less is better)",
            Self::P99Alone => "p99 of OLTP before, ms",
            Self::P99Beside => "p99 of OLTP meanwhile, ms (less is better)",
            Self::P99Raise => "p99 of OLTP: meanwhile over before (less is better)",
            Self::P99Growth => "p99 of OLTP: meanwhile minus before, ms (less is better)",
        }
    }

    /// The figure in a few words.
    pub(crate) fn short(self) -> &'static str {
        self.title().split([',', '(']).next().unwrap_or_default().trim_end()
    }

    /// Name in the raw file.
    pub(crate) fn key(self) -> &'static str {
        match self {
            Self::CpuPerTransaction => "cpu_us_per_transaction",
            Self::Throughput => "transactions_per_s",
            Self::LatencyMedian => "latency_median_ms",
            Self::LatencyP99 => "latency_p99_ms",
            Self::CpuPerLogin => "cpu_us_per_login",
            Self::Logins => "logins_per_s",
            Self::CpuPerStormLogin => "cpu_us_per_storm_login",
            Self::FailedLogins => "failed_logins",
            Self::StormTime => "storm_s",
            Self::StormLogin(phase, rank) => storm_phases::names(phase, rank).1,
            Self::PssPerClient => "pss_kib_per_client",
            Self::RssPerClient => "rss_kib_per_client",
            Self::PssAfterBurst => "pss_mib_after_burst",
            Self::CpuPerMegabyte => "cpu_us_per_mb",
            Self::MegabytesPerSecond => "mb_per_s",
            Self::PeakGrowth => "peak_growth_mib",
            Self::P99Alone => "p99_alone_ms",
            Self::P99Beside => "p99_beside_ms",
            Self::P99Raise => "p99_raise",
            Self::P99Growth => "p99_growth_ms",
        }
    }

    /// True if the ratio of two contenders' figures is meaningful: not if zero is the goal, and not if the
    /// figure is itself a ratio.
    pub(crate) fn has_ratio(self) -> bool {
        let is_without =
            matches!(self, Self::PssAfterBurst | Self::PeakGrowth | Self::P99Alone | Self::P99Raise)
                || matches!(self, Self::FailedLogins | Self::P99Growth);
        !is_without
    }
}
