//! The views of `top`: one table of the console each. Owns which columns are shown, and in which units.

/// How a value is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ShownAs {
    Text,
    Count,
    Seconds,
    Micros,
    Bytes,
    Percent,
}

impl ShownAs {
    /// True if the column is aligned to the right.
    pub(super) fn is_number(self) -> bool {
        self != Self::Text
    }

    /// A value as it is shown. What is not a number is shown as it is.
    pub(super) fn show(self, value: &str) -> String {
        if self == Self::Text {
            return crate::printable::line(value);
        }
        if value.is_empty() {
            return "-".to_owned();
        }
        let Ok(number) = value.parse::<u64>() else { return crate::printable::line(value) };
        match self {
            Self::Text | Self::Count => number.to_string(),
            Self::Percent => format!("{number} %"),
            Self::Seconds if number < 120 => format!("{number} s"),
            Self::Seconds if number < 7200 => format!("{} min", number / 60),
            Self::Seconds => format!("{} h", number / 3600),
            Self::Micros if number < 1000 => format!("{number} µs"),
            Self::Micros if number < 1_000_000 => format!("{:.1} ms", number as f64 / 1e3),
            Self::Micros => format!("{:.1} s", number as f64 / 1e6),
            Self::Bytes if number < 1000 => format!("{number} B"),
            Self::Bytes if number < 1_000_000 => format!("{:.1} kB", number as f64 / 1e3),
            Self::Bytes if number < 1_000_000_000 => format!("{:.1} MB", number as f64 / 1e6),
            Self::Bytes => format!("{:.1} GB", number as f64 / 1e9),
        }
    }
}

/// A column: its title, the console's column, and its unit.
pub(super) type TopColumn = (&'static str, &'static str, ShownAs);

/// A view.
pub(super) struct View {
    pub(super) title: &'static str,
    /// The command whose rows are shown.
    pub(super) command: &'static str,
    pub(super) columns: &'static [TopColumn],
}

use ShownAs::{Bytes, Count, Micros, Percent, Seconds, Text};

/// All views; the digit of a view's place selects it.
pub(super) static VIEWS: [View; 9] = [
    View {
        title: "Pools",
        command: "SHOW POOLS",
        columns: &[
            ("database", "database", Text),
            ("user", "user", Text),
            ("mode", "pool_mode", Text),
            ("clients", "cl_active", Count),
            ("waiting", "cl_waiting", Count),
            ("in use", "sv_active", Count),
            ("idle", "sv_idle", Count),
            ("login", "sv_login", Count),
            ("max wait", "maxwait", Seconds),
        ],
    },
    View {
        title: "Waiting",
        command: "SHOW WAITING",
        columns: &[
            ("database", "database", Text),
            ("user", "user", Text),
            ("client", "addr", Text),
            ("port", "port", Text),
            ("application", "application_name", Text),
            ("waits for", "wait", Seconds),
            ("why", "detail", Text),
        ],
    },
    View {
        title: "Databases",
        command: "SHOW LATENCIES",
        columns: &[
            ("database", "database", Text),
            ("queries/s", "queries_per_s", Count),
            ("xacts/s", "xacts_per_s", Count),
            ("received/s", "received_per_s", Bytes),
            ("sent/s", "sent_per_s", Bytes),
            ("query p50", "query_p50_us", Micros),
            ("p99", "query_p99_us", Micros),
            ("xact p50", "xact_p50_us", Micros),
            ("p99", "xact_p99_us", Micros),
            ("wait p50", "wait_p50_us", Micros),
            ("p99", "wait_p99_us", Micros),
        ],
    },
    View {
        title: "Tokens",
        command: "SHOW TOKENS",
        columns: &[
            ("endpoint", "endpoint", Text),
            ("user", "user", Text),
            ("identity", "identity", Text),
            ("credentials", "provider", Text),
            ("age", "age", Seconds),
            ("left", "left", Seconds),
            ("refused", "refusals", Count),
            ("last error", "last_error", Text),
        ],
    },
    View {
        title: "Failures",
        command: "SHOW LOGIN_FAILURES",
        columns: &[
            ("database", "database", Text),
            ("user", "user", Text),
            ("last", "time", Text),
            ("recovered", "recovered", Text),
            ("cause", "cause", Text),
            ("message", "message", Text),
            ("remedy", "remedy", Text),
        ],
    },
    View {
        title: "Servers",
        command: "SHOW SERVER_AUTH",
        columns: &[
            ("database", "database", Text),
            ("user", "user", Text),
            ("server", "server", Text),
            ("state", "state", Text),
            ("age", "age", Seconds),
            ("pid", "remote_pid", Text),
            ("login", "auth", Text),
            ("identity", "identity", Text),
            ("token age", "token_age", Seconds),
            ("left", "token_left", Seconds),
        ],
    },
    View {
        title: "Workers",
        command: "SHOW WORKERS",
        columns: &[
            ("worker", "worker", Count),
            ("i/o", "io_engine", Text),
            ("clients", "clients", Count),
            ("servers", "servers", Count),
            ("load", "load_percent", Percent),
            ("cpu time", "cpu_time", Micros),
        ],
    },
    View {
        title: "Events",
        command: "SHOW EVENTS",
        columns: &[
            ("time", "time", Text),
            ("event", "event", Text),
            ("database", "database", Text),
            ("user", "user", Text),
            ("times", "count", Count),
            ("message", "message", Text),
            ("hint", "hint", Text),
        ],
    },
    View {
        title: "Settings",
        command: "SHOW SETTINGS",
        columns: &[
            ("setting", "key", Text),
            ("value", "value", Text),
            ("origin", "origin", Text),
            ("default", "default", Text),
        ],
    },
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::TableName;

    #[test]
    fn every_column_of_a_view_exists() {
        for view in &VIEWS {
            let name = view.command.trim_start_matches("SHOW ").to_ascii_lowercase();
            let columns = TableName::find(&name).unwrap().columns();
            for (_, column, _) in view.columns {
                assert!(columns.iter().any(|(name, _)| name == column), "{}: {column}", view.command);
            }
        }
    }

    #[test]
    fn values_have_units_and_control_characters_are_escaped() {
        assert_eq!(ShownAs::Micros.show("1500"), "1.5 ms");
        assert_eq!(
            (ShownAs::Seconds.show("119"), ShownAs::Seconds.show("3600")),
            ("119 s".into(), "60 min".into())
        );
        assert_eq!((ShownAs::Count.show(""), ShownAs::Text.show("")), ("-".into(), String::new()));
        assert_eq!(ShownAs::Text.show("0777"), "0777");
        assert_eq!(ShownAs::Bytes.show("2500000"), "2.5 MB");
        assert!(!ShownAs::Text.show("a\x1b[2Jb").contains('\x1b'));
    }
}
