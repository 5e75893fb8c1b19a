//! Configuration: from text (INI file, environment, flags) to a validated [`Config`].
//!
//! Owns the table of settings, the parsers and all checks that need no network. Never opens a socket, and accesses
//! the host only in `load` and `ProcessEnvironment`.

mod build;
mod check;
mod check_aws;
mod check_traces;
mod connstr;
pub(crate) mod diagnostics;
mod enums;
pub(crate) mod environment;
pub(crate) mod ini;
mod keys;
mod ldap_options;
mod ldap_url;
pub(crate) mod load;
mod model;
mod nearest;
mod own_listener;
mod ports;
mod redact;
pub(crate) mod reference;
mod secret;
mod settings;
mod settings_table;
mod tls_ciphers;
pub(crate) mod userlist;
mod value;
pub(crate) mod zero_config;

pub use build::CONSOLE_DATABASE;
pub use check::first_new_error;
#[cfg(feature = "otlp")]
pub use check_traces::otlp_uri;
pub use diagnostics::ConfigReport;
pub use enums::{
    AuthType, IoEngine, LoadBalanceHosts, LogFormat, PAM_NEEDS, PinRule, PoolMode, ServerAuth, SessionState,
    SessionStateFunctions, TargetSessionAttrs, TlsMode, TlsProtocols,
};
pub use environment::{
    CONFIG_VARIABLE, Environment, MapEnvironment, ProcessEnvironment, settings_from_variables,
};
pub use ldap_options::{
    LdapLookup, LdapOptions, LdapScope, LdapSetting, LdapTransport, USERNAME_PLACEHOLDER,
};
pub use load::{FileStamp, load_file, load_user_list, read_text};
pub use model::{Config, Database, Host, Origin, Peer, PoolRules, UserOverrides};
pub use own_listener::is_local;
pub use ports::PortList;
pub use reference::settings_markdown;
pub use secret::Secret;
pub use settings::{SettingError, SettingInfo, SettingStatus, split_list};
pub use settings_table::{DrainPeriod, MAX_PEER_ID, Settings, table};
pub use tls_ciphers::{Tls12Ciphers, Tls13Ciphers, TlsGroups, cipher_name};
pub use userlist::{UserEntry, UserList, users_with_tokens};
pub use value::{DrainLimit, HttpPort, MAX_WORKERS};
pub use zero_config::{MODE_SOCKET_DIR, ZeroConfigFlags, parse_endpoint, zero_config};
