//! The sections and tables of the report. Owns their titles, their order and their assignment; never stores
//! figures.

/// A section of the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MetricsSection {
    /// Queries with a full pool.
    Queries,
    /// Logins.
    Logins,
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
    pub(crate) const ALL: [Self; 7] =
        [Self::Queries, Self::Logins, Self::Idle, Self::Bulk, Self::Beside, Self::Sweep, Self::Cores];

    /// Heading of the section.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Queries => "Queries",
            Self::Logins => "Logins",
            Self::Idle => "Idle clients",
            Self::Bulk => "Large results and COPY",
            Self::Beside => "A large result beside OLTP",
            Self::Sweep => "More and more clients",
            Self::Cores => "All cores",
        }
    }

    /// Its tables, in the order of the report.
    pub(crate) fn metrics(self) -> &'static [ParsedMetric] {
        use ParsedMetric as M;
        match self {
            Self::Queries => &[M::CpuPerTransaction, M::Throughput, M::LatencyMedian, M::LatencyP99],
            Self::Logins => &[M::CpuPerLogin, M::Logins],
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
    /// 99th percentile without the large result.
    P99Alone,
    /// 99th percentile while the large result is read.
    P99Beside,
    /// The ratio of the two.
    P99Raise,
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
            Self::PssPerClient => "Memory per idle client: growth of PSS, KiB (less is better)",
            Self::RssPerClient => "Memory per idle client: growth of RSS, KiB (less is better)",
            Self::PssAfterBurst => "Memory after a burst: growth of PSS that stays, MiB (less is better)",
            Self::CpuPerMegabyte => "CPU time of the pooler per MB, µs (less is better)",
            Self::MegabytesPerSecond => "MB per second (more is better)",
            Self::PeakGrowth => "Growth of the pooler's peak memory, MiB (less is better)",
            Self::P99Alone => "p99 of OLTP before, ms",
            Self::P99Beside => "p99 of OLTP meanwhile, ms (less is better)",
            Self::P99Raise => "p99 of OLTP: meanwhile over before (less is better)",
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
            Self::PssPerClient => "pss_kib_per_client",
            Self::RssPerClient => "rss_kib_per_client",
            Self::PssAfterBurst => "pss_mib_after_burst",
            Self::CpuPerMegabyte => "cpu_us_per_mb",
            Self::MegabytesPerSecond => "mb_per_s",
            Self::PeakGrowth => "peak_growth_mib",
            Self::P99Alone => "p99_alone_ms",
            Self::P99Beside => "p99_beside_ms",
            Self::P99Raise => "p99_raise",
        }
    }

    /// True if the ratio of two contenders' figures is meaningful: not if zero is the goal, and not if the
    /// figure is itself a ratio.
    pub(crate) fn has_ratio(self) -> bool {
        !matches!(self, Self::PssAfterBurst | Self::PeakGrowth | Self::P99Alone | Self::P99Raise)
    }
}
