//! Definition of settings: the macro that turns one table into struct, parser, defaults and listing.
//!
//! Contains no settings; these are in `settings_table`.

use super::nearest::nearest;

/// Rows: variant, its word in the reference page, and when a changed value takes effect.
macro_rules! applied_by {
    ($($(#[$doc:meta])* $variant:ident = $word:literal, $effect:literal;)*) => {
        /// Who applies a setting that has changed, and when.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum AppliedBy {
            $($(#[$doc])* $variant,)*
        }

        impl AppliedBy {
            /// All of them, in the order of the reference page.
            pub(super) const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The word in the reference page.
            pub(super) const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }

            /// When a changed value takes effect.
            pub(super) const fn effect(self) -> &'static str {
                match self { $(Self::$variant => $effect,)* }
            }
        }
    };
}

applied_by! {
    /// The process, when it starts.
    Start = "restart", "At the next start. RELOAD warns, and keeps the value";
    /// RELOAD itself.
    Reload = "at once", "With RELOAD: log, listeners, pools and caches of the process adopt it";
    /// The janitor, which compares with the present value.
    Janitor = "at once, all", "Within 0.2 seconds, also for the clients and servers that are connected";
    /// The code that needs it, each time.
    Use = "next use", "The next time that it is needed, also for the clients and servers that are connected";
    /// Whatever opens or accepts a TCP connection.
    Connection = "new connections", "For connections of clients and to servers that are opened afterwards";
    /// The handshake with a client.
    ClientConnection = "new clients", "For clients that connect afterwards";
    /// Logins of both kinds.
    Login = "logins", "For logins of clients and to servers that begin afterwards";
    /// The login of a client.
    ClientLogin = "client logins", "For clients that log in afterwards";
    /// The login to a server.
    ServerLogin = "server logins", "For servers that are opened afterwards; RECONNECT replaces the others";
    /// Sessions, when they have no server.
    Release = "next release", "For new sessions, and for each session in progress when it next releases its server";
    /// No code reads it.
    Nothing = "never", "Nothing uses it; only SHOW CONFIG shows it";
}

/// How far a setting is supported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SettingStatus {
    /// Supported.
    Working,
    /// Not applicable to this program; accepted so that files need no change.
    Ignored,
}

/// One row of the table, for listings.
#[derive(Clone, Debug)]
pub struct SettingInfo {
    /// Key in the file; in upper case with the prefix `IAMBOUNCER_` also the variable.
    pub name: &'static str,
    /// The default as shown by `SHOW CONFIG`.
    pub default_text: String,
    /// Who applies a changed value, and when.
    pub applied: AppliedBy,
    /// Its level of support.
    pub status: SettingStatus,
    /// Description in one line.
    pub text: &'static str,
}

impl SettingInfo {
    /// True if `RELOAD` and `SET` can change it.
    pub fn reloadable(&self) -> bool {
        self.applied != AppliedBy::Start
    }

    /// The environment variable that sets it.
    pub fn variable(&self) -> String {
        format!("{}{}", super::environment::PREFIX, self.name.to_ascii_uppercase())
    }
}

/// Why a setting was rejected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingError {
    /// There is no setting with this name.
    #[error("unknown setting \"{key}\"")]
    Unknown {
        /// The given name.
        key: String,
        /// The known name that is closest to it.
        nearest: Option<&'static str>,
    },
    /// The value is invalid.
    #[error("{key}: value \"{value}\" {reason}")]
    Invalid {
        /// The name of the setting.
        key: &'static str,
        /// The given value.
        value: String,
        /// Completes the sentence "value …".
        reason: String,
    },
}

impl SettingError {
    pub(super) fn unknown(key: &str, names: impl IntoIterator<Item = &'static str>) -> Self {
        Self::Unknown { key: key.to_owned(), nearest: nearest(key, names) }
    }

    /// A suggestion, if there is one.
    pub fn help(&self) -> Option<String> {
        match self {
            Self::Unknown { nearest, .. } => nearest.map(|name| format!("did you mean \"{name}\"?")),
            Self::Invalid { .. } => None,
        }
    }
}

/// The parts of a comma-separated list, without spaces and empty parts.
pub fn split_list(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|part| !part.is_empty())
}

/// Rows have the form `name: type = default, AppliedBy, SettingStatus, "text"[, lowest..=highest];`.
macro_rules! settings {
    ($($name:ident: $ty:ty = $default:expr, $applied:ident, $status:ident, $text:literal $(, $range:expr)?;)*) => {
        /// All settings with their types. Zero durations mean off; empty text means unset.
        #[derive(Clone, Debug, PartialEq)]
        pub struct Settings {
            $(#[doc = $text] pub $name: $ty,)*
        }

        impl Default for Settings {
            fn default() -> Self {
                Self { $($name: <$ty as SettingValue>::of($default),)* }
            }
        }

        impl Settings {
            /// Sets one by name. On error, nothing has changed.
            pub fn set(&mut self, key: &str, value: &str) -> Result<(), SettingError> {
                match key {
                    $(stringify!($name) => {
                        let parsed = <$ty as SettingValue>::parse(value)
                            $(.and_then(|parsed| within(parsed, $range)))?;
                        self.$name = parsed.map_err(|reason| SettingError::Invalid {
                            key: stringify!($name),
                            value: <$ty as SettingValue>::displayed(value),
                            reason,
                        })?;
                    })*
                    _ => return Err(SettingError::unknown(key, NAMES.iter().copied())),
                }
                Ok(())
            }

            /// Keeps the values of `running` for all settings that require a restart. Returns the names of those that
            /// differed.
            pub fn keep_restart_only(&mut self, running: &Self) -> Vec<&'static str> {
                let mut kept = Vec::new();
                $(if AppliedBy::$applied == AppliedBy::Start && self.$name != running.$name {
                    self.$name = running.$name.clone();
                    kept.push(stringify!($name));
                })*
                kept
            }

            /// The value as shown by `SHOW CONFIG`; `None` for unknown names.
            pub fn get_text(&self, key: &str) -> Option<String> {
                match key {
                    $(stringify!($name) => Some(self.$name.text()),)*
                    _ => None,
                }
            }
        }

        /// The value of a setting as shown in messages.
        pub(super) fn displayed(key: &str, value: &str) -> String {
            match key {
                $(stringify!($name) => <$ty as SettingValue>::displayed(value),)*
                _ => value.to_owned(),
            }
        }

        const NAMES: &[&str] = &[$(stringify!($name)),*];

        static TABLE: LazyLock<Vec<SettingInfo>> = LazyLock::new(|| {
            let defaults = Settings::default();
            vec![$(SettingInfo {
                name: stringify!($name),
                default_text: defaults.$name.text(),
                applied: AppliedBy::$applied,
                status: SettingStatus::$status,
                text: $text,
            },)*]
        });
    };
}

pub(super) use settings;
