//! Configuration: from text (INI file, environment, flags) to a validated [`Config`].
//!
//! Owns the table of settings, the parsers and all checks that need no network. Never opens a socket, and accesses
//! the host only in `load` and `ProcessEnvironment`.

mod build;
mod check;
mod check_aws;
mod check_unsupported;
pub mod connstr;
pub mod diagnostics;
mod enums;
pub mod environment;
pub mod ini;
mod keys;
pub mod load;
mod model;
mod nearest;
mod own_listener;
mod redact;
pub mod reference;
mod secret;
mod settings;
mod settings_table;
pub mod userlist;
mod value;
pub mod zero_config;

pub use build::build;
pub use check::first_new_error;
pub use diagnostics::{ConfigReport, Diagnostic, Severity, Sources, Span};
pub use enums::{AuthType, IoEngine, LoadBalanceHosts, PoolMode, ServerAuth, TlsMode, TlsProtocols};
pub use environment::{Environment, MapEnvironment, ProcessEnvironment};
pub use keys::{DATABASE_KEYS, KeyInfo, PEER_KEYS, USER_KEYS};
pub use load::{CheckedConfig, load_file, load_user_list};
pub use model::{Config, Database, Host, Origin, Peer, PoolRules, UserOverrides};
pub use nearest::nearest;
pub use reference::settings_markdown;
pub use secret::Secret;
pub use settings::{Reload, SettingError, SettingInfo, SettingStatus, split_list};
pub use settings_table::{Settings, table};
pub use userlist::{UserEntry, UserList};
pub use value::{FileMode, HttpPort, MAX_WORKERS, WorkerCount};
pub use zero_config::{ZeroConfigFlags, ZeroConfigResult, zero_config};
