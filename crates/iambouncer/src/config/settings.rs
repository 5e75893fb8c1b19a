//! What a setting is: the macro that turns one table into struct, parser, defaults and listing.
//!
//! Never lists a setting: the rows are in `settings_table`, and only there.

use super::nearest::nearest;

/// Whether a setting can change while the pooler runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reload {
    /// `RELOAD` and `SET` change it.
    Live,
    /// Only a restart changes it.
    Restart,
}

/// How far a setting has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SettingStatus {
    /// Does what it says.
    Working,
    /// Understood and checked, without effect so far.
    NotYet,
    /// Without effect so far, and an operator who sets it relies on it: an error unless it has its default.
    Unsupported,
    /// Has no meaning in this program and never will; accepted so that files need no change.
    Ignored,
}

/// One row of the table, for listings.
#[derive(Clone, Debug)]
pub struct SettingInfo {
    /// Key in the file; in upper case behind `IAMBOUNCER_` also the variable.
    pub name: &'static str,
    /// The default as `SHOW CONFIG` prints it.
    pub default_text: String,
    /// Whether it can change without a restart.
    pub reload: Reload,
    /// Whether it works.
    pub status: SettingStatus,
    /// One line for people.
    pub text: &'static str,
}

impl SettingInfo {
    /// Whether `RELOAD` and `SET` change it.
    pub fn reloadable(&self) -> bool {
        self.reload == Reload::Live
    }

    /// The environment variable that sets it.
    pub fn variable(&self) -> String {
        format!("{}{}", super::environment::PREFIX, self.name.to_ascii_uppercase())
    }
}

/// Why a setting was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingError {
    /// No row has this name.
    #[error("unknown setting \"{key}\"")]
    Unknown {
        /// The name as given.
        key: String,
        /// The known name it resembles.
        nearest: Option<&'static str>,
    },
    /// The row exists, the value does not fit.
    #[error("{key}: value \"{value}\" {reason}")]
    Invalid {
        /// The name of the setting.
        key: &'static str,
        /// The value as given.
        value: String,
        /// Completes the sentence "value …".
        reason: String,
    },
}

impl SettingError {
    pub(super) fn unknown(key: &str, names: impl IntoIterator<Item = &'static str>) -> Self {
        Self::Unknown { key: key.to_owned(), nearest: nearest(key, names) }
    }

    /// What to write instead, when it can be guessed.
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

/// Rows read `name: type = default, Reload, SettingStatus, "text"[, lowest..=highest];`.
macro_rules! settings {
    ($($name:ident: $ty:ty = $default:expr, $reload:ident, $status:ident, $text:literal $(, $range:expr)?;)*) => {
        /// Every setting with its type. Durations of zero mean off; empty text means unset.
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
            /// Sets one by name. On error nothing has changed.
            pub fn set(&mut self, key: &str, value: &str) -> Result<(), SettingError> {
                match key {
                    $(stringify!($name) => {
                        let parsed = <$ty as SettingValue>::parse(value)
                            $(.and_then(|parsed| within(parsed, $range)))?;
                        self.$name = parsed.map_err(|reason| SettingError::Invalid {
                            key: stringify!($name),
                            value: value.to_owned(),
                            reason,
                        })?;
                    })*
                    _ => return Err(SettingError::unknown(key, NAMES.iter().copied())),
                }
                Ok(())
            }

            /// Keeps the values of `running` for all settings that only a restart changes. Returns the names of those that
            /// differed.
            pub fn keep_restart_only(&mut self, running: &Self) -> Vec<&'static str> {
                let mut kept = Vec::new();
                $(if Reload::$reload == Reload::Restart && self.$name != running.$name {
                    self.$name = running.$name.clone();
                    kept.push(stringify!($name));
                })*
                kept
            }

            /// The value as `SHOW CONFIG` prints it; `None` when no setting has this name.
            pub fn get_text(&self, key: &str) -> Option<String> {
                match key {
                    $(stringify!($name) => Some(self.$name.text()),)*
                    _ => None,
                }
            }
        }

        const NAMES: &[&str] = &[$(stringify!($name)),*];

        static TABLE: LazyLock<Vec<SettingInfo>> = LazyLock::new(|| {
            let defaults = Settings::default();
            vec![$(SettingInfo {
                name: stringify!($name),
                default_text: defaults.$name.text(),
                reload: Reload::$reload,
                status: SettingStatus::$status,
                text: $text,
            },)*]
        });
    };
}

pub(super) use settings;
