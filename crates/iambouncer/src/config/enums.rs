//! Settings with a fixed set of values, in PgBouncer's spelling.
//!
//! Owns names and parsing only; not the effect of a value.

use std::fmt;
use std::str::FromStr;

use super::value::SettingValue;

macro_rules! words {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name {
            $($(#[$doc])* $variant,)*
        }

        impl $name {
            /// All values, in the order of the documentation.
            pub const WORDS: &'static [&'static str] = &[$($text),*];

            /// The value as spelled in a configuration file.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)*
                }
            }
        }

        impl FromStr for $name {
            type Err = String;
            fn from_str(text: &str) -> Result<Self, String> {
                match text.to_ascii_lowercase().as_str() {
                    $($text => Ok(Self::$variant),)*
                    _ => Err(format!("is not one of {}", Self::WORDS.join(", "))),
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str(self.as_str())
            }
        }

        impl SettingValue for $name {
            type Literal = Self;
            fn of(literal: Self) -> Self {
                literal
            }
            fn parse(text: &str) -> Result<Self, String> {
                text.parse()
            }
            fn text(&self) -> String {
                self.to_string()
            }
        }
    };
}

words! {
    /// How long a client keeps its server.
    PoolMode {
        /// Until the client disconnects.
        Session = "session",
        /// Until the transaction ends.
        Transaction = "transaction",
        /// Until the query ends; transactions of several statements are refused.
        Statement = "statement",
    }
}

words! {
    /// Which of the servers of a line are used, in libpq's words.
    TargetSessionAttrs {
        /// All.
        Any = "any",
        /// Those that accept writes.
        ReadWrite = "read-write",
        /// Those that do not.
        ReadOnly = "read-only",
        /// Those that are not in recovery.
        Primary = "primary",
        /// Those in recovery.
        Standby = "standby",
        /// Those in recovery; others while there is none.
        PreferStandby = "prefer-standby",
    }
}

impl TargetSessionAttrs {
    /// True if there is one such server.
    pub fn is_writer(self) -> bool {
        matches!(self, Self::ReadWrite | Self::Primary)
    }
}

words! {
    /// What happens to the state of a client's session when it changes its server.
    SessionState {
        /// It follows the client, or the client keeps its server.
        Follow = "follow",
        /// As in PgBouncer: only parameters that servers report follow the client.
        Pgbouncer = "pgbouncer",
    }
}

words! {
    /// What happens to a statement for which a client would keep its server.
    PinRule {
        /// The client keeps its server.
        On = "on",
        /// The statement is refused.
        Error = "error",
    }
}

words! {
    /// What is assumed about functions of a database that cannot be examined.
    SessionStateFunctions {
        /// They change nothing.
        Careful = "careful",
        /// They may change anything.
        Strict = "strict",
    }
}

words! {
    /// How clients authenticate.
    AuthType {
        /// No authentication, but the user must exist.
        Trust = "trust",
        /// No authentication, and the user name is ignored; every database line must have a user.
        Any = "any",
        /// Password in clear text.
        Plain = "plain",
        /// Salted MD5, or SCRAM for users whose stored secret is a SCRAM secret.
        Md5 = "md5",
        /// SCRAM-SHA-256.
        ScramSha256 = "scram-sha-256",
        /// An RDS token for the database's endpoint.
        Iam = "iam",
        /// A presigned STS request that proves an AWS identity.
        IamSts = "iam-sts",
        /// Decided per connection by the HBA file.
        Hba = "hba",
        /// TLS client certificate.
        Cert = "cert",
        /// PAM service of the host.
        Pam = "pam",
        /// LDAP directory.
        Ldap = "ldap",
        /// Password in clear text, verified by a login to the database server.
        Server = "server",
    }
}

/// Why a build has no `pam`.
pub const PAM_NEEDS: &str = "needs a build with the feature \"pam\"";

impl AuthType {
    /// True if the method is in this build. The others are rejected when the file is read, since falling back to another
    /// method could let unauthorized clients in.
    pub const fn is_working(self) -> bool {
        if cfg!(feature = "pam") && matches!(self, Self::Pam) {
            return true;
        }
        matches!(
            self,
            Self::Trust
                | Self::Any
                | Self::Plain
                | Self::Md5
                | Self::ScramSha256
                | Self::Iam
                | Self::IamSts
                | Self::Hba
                | Self::Cert
                | Self::Ldap
                | Self::Server
        )
    }
}

words! {
    /// Required level of TLS; later values are stricter.
    TlsMode {
        /// Never.
        Disable = "disable",
        /// Only if the other side requires it.
        Allow = "allow",
        /// If the other side supports it, without verification.
        Prefer = "prefer",
        /// Always, without verification.
        Require = "require",
        /// Always, with a certificate from a known CA.
        VerifyCa = "verify-ca",
        /// Always, with a certificate from a known CA for exactly this host.
        VerifyFull = "verify-full",
    }
}

impl TlsMode {
    /// True if the certificate of the other side is verified.
    pub fn verifies(self) -> bool {
        self >= Self::VerifyCa
    }

    /// True if the host name in the certificate is verified, too.
    pub fn verifies_name(self) -> bool {
        self == Self::VerifyFull
    }
}

words! {
    /// The kernel interface for I/O.
    IoEngine {
        /// The best one that the kernel supports.
        Auto = "auto",
        /// Readiness with epoll.
        Epoll = "epoll",
        /// Completion with io_uring.
        IoUring = "io_uring",
    }
}

words! {
    /// The layout of log lines.
    LogFormat {
        /// PgBouncer's with a configuration file, `text` without one.
        Auto = "auto",
        /// PgBouncer's: local time, process ID, level, connection, message.
        PgBouncer = "pgbouncer",
        /// Time in UTC, level, message and named values.
        Text = "text",
        /// A JSON object per line.
        Json = "json",
    }
}

words! {
    /// How the pooler logs in to a server.
    ServerAuth {
        /// With the stored password, or none.
        Password = "password",
        /// With an IAM token signed for each login.
        Iam = "iam",
    }
}

words! {
    /// Which host of a list a server login tries first.
    LoadBalanceHosts {
        /// The one after the previous login's.
        RoundRobin = "round-robin",
        /// Always in order: the first that answers.
        Disable = "disable",
    }
}

/// TLS versions allowed; rustls supports 1.2 and 1.3.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsProtocols {
    text: String,
    /// TLS 1.2 is allowed.
    pub tls12: bool,
    /// TLS 1.3 is allowed.
    pub tls13: bool,
}

impl SettingValue for TlsProtocols {
    type Literal = &'static str;
    fn of(literal: &'static str) -> Self {
        Self { text: literal.to_owned(), tls12: true, tls13: true }
    }
    fn parse(text: &str) -> Result<Self, String> {
        let (mut tls12, mut tls13) = (false, false);
        for word in text.split([',', ':', ' ']).map(str::trim).filter(|word| !word.is_empty()) {
            match word.to_ascii_lowercase().as_str() {
                "secure" | "default" | "all" | "legacy" => (tls12, tls13) = (true, true),
                "tlsv1.2" => tls12 = true,
                "tlsv1.3" => tls13 = true,
                "tlsv1.0" | "tlsv1.1" => {}
                "!tlsv1.2" => tls12 = false,
                "!tlsv1.3" => tls13 = false,
                "!tlsv1.0" | "!tlsv1.1" => {}
                _ => return Err("is not secure, all, legacy or a list such as tlsv1.2,tlsv1.3".to_owned()),
            }
        }
        if tls12 || tls13 {
            Ok(Self { text: text.to_owned(), tls12, tls13 })
        } else {
            Err("excludes both TLS 1.2 and TLS 1.3, the supported versions".to_owned())
        }
    }
    fn text(&self) -> String {
        self.text.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_round_trip_in_any_case() {
        assert_eq!("SCRAM-SHA-256".parse(), Ok(AuthType::ScramSha256));
        for word in TlsMode::WORDS {
            assert_eq!(word.parse::<TlsMode>().map(|mode| mode.to_string()), Ok((*word).to_owned()));
        }
        assert!("verify_ca".parse::<TlsMode>().is_err_and(|reason| reason.contains("verify-ca")));
    }

    #[test]
    fn verification_starts_at_verify_ca() {
        assert!(!TlsMode::Require.verifies());
        assert!(TlsMode::VerifyCa.verifies() && !TlsMode::VerifyCa.verifies_name());
        assert!(TlsMode::VerifyFull.verifies_name());
    }

    #[test]
    fn old_tls_versions_are_ignored_but_not_sufficient() {
        let both = TlsProtocols::parse("tlsv1.1,tlsv1.2").expect("1.2 is left");
        assert!(both.tls12 && !both.tls13);
        assert!(TlsProtocols::parse("all:!tlsv1.2").is_ok_and(|versions| !versions.tls12));
        assert!(TlsProtocols::parse("tlsv1.0").is_err());
        assert!(TlsProtocols::parse("sslv3").is_err());
    }
}
