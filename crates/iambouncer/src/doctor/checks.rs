//! The table of `doctor`'s checks, in order of dependency, and the types of their results. Owns names and types;
//! checks nothing itself.

use crate::login_failure::{LoginFailure, section_url};
use std::time::Duration;

macro_rules! checks {
    ($($name:ident = $id:literal, $title:literal;)*) => {
        /// One check.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Check {
            $(#[doc = $title] $name,)*
        }

        impl Check {
            /// All checks, in order.
            #[cfg(test)]
            const ALL: &'static [Self] = &[$(Self::$name),*];

            /// Its name in output; never reused for another check.
            pub const fn id(self) -> &'static str {
                match self { $(Self::$name => $id,)* }
            }

            /// What is checked, in a few words.
            pub const fn title(self) -> &'static str {
                match self { $(Self::$name => $title,)* }
            }
        }
    };
}

checks! {
    Config = "config", "the configuration and the files it names";
    Passwords = "passwords", "no token is stored where a password should be";
    Credentials = "credentials", "AWS credentials, their source and expiry";
    Identity = "identity", "the AWS identity";
    Clock = "clock", "the local clock compared with AWS's";
    Dns = "dns", "addresses and aliases of the host";
    Secret = "secret", "the secret of Secrets Manager, and its user";
    Token = "token", "the token, and what it is signed for";
    Tcp = "tcp", "a connection to the server";
    Tls = "tls", "encryption and the server's certificate";
    Request = "request", "the authentication that the server requests";
    Login = "login", "the login";
    Sql = "sql", "the state of the server after login";
}

impl Check {
    /// The URL of its section in the documentation.
    pub fn url(self) -> String {
        section_url("doctor.md", &format!("{}: {}", self.id(), self.title()))
    }
}

/// Result of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum CheckStatus {
    /// Not applicable, or an earlier check failed.
    NotReached,
    /// Successful.
    Pass,
    /// It works, but something deserves attention.
    Warning,
    /// The login cannot succeed.
    Failure,
}

impl CheckStatus {
    /// Its symbol in the text output.
    pub const fn sign(self) -> char {
        match self {
            Self::NotReached => '–',
            Self::Pass => '✔',
            Self::Warning => '⚠',
            Self::Failure => '✘',
        }
    }

    /// Its name in the JSON output.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NotReached => "skipped",
            Self::Pass => "pass",
            Self::Warning => "warning",
            Self::Failure => "failure",
        }
    }
}

/// The cause of a warning or a failure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckOutcome {
    /// The cause.
    pub cause: LoginFailure,
    /// What was found and what to do, ending with the number of the cause.
    pub hint: String,
}

/// One check and its result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Which check.
    pub check: Check,
    /// The result.
    pub status: CheckStatus,
    /// What was found, in one line.
    pub summary: String,
    /// Time it took, if relevant.
    pub took: Option<Duration>,
    /// The cause of a warning or failure.
    pub outcome: Option<CheckOutcome>,
}

impl Finding {
    /// A passed check.
    pub fn pass(check: Check, summary: impl Into<String>) -> Self {
        Self { check, status: CheckStatus::Pass, summary: summary.into(), took: None, outcome: None }
    }

    /// A check that was not made.
    pub fn not_reached(check: Check, why: impl Into<String>) -> Self {
        Self { status: CheckStatus::NotReached, ..Self::pass(check, why) }
    }

    /// A warning. `found` is what is wrong in this case.
    pub fn warning(
        check: Check,
        summary: impl Into<String>,
        cause: LoginFailure,
        found: Option<&str>,
    ) -> Self {
        let outcome = Some(CheckOutcome { cause, hint: cause.hint(found) });
        Self { status: CheckStatus::Warning, outcome, ..Self::pass(check, summary) }
    }

    /// A failure. `found` is what is wrong in this case.
    pub fn failure(
        check: Check,
        summary: impl Into<String>,
        cause: LoginFailure,
        found: Option<&str>,
    ) -> Self {
        Self { status: CheckStatus::Failure, ..Self::warning(check, summary, cause, found) }
    }

    /// Sets the time it took.
    #[must_use]
    pub fn took(self, took: Duration) -> Self {
        Self { took: Some(took), ..self }
    }
}

/// All findings about one target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetReport {
    /// Name by which clients request the database.
    pub database: String,
    /// Host, as configured.
    pub host: String,
    /// Port.
    pub port: u16,
    /// User on the server, if known.
    pub user: Option<String>,
    /// The checks in order.
    pub findings: Vec<Finding>,
}

/// All results of `doctor`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DoctorReport {
    /// Findings about the configuration as a whole.
    pub general: Vec<Finding>,
    /// Findings for each target.
    pub targets: Vec<TargetReport>,
}

impl DoctorReport {
    /// All checks, in order.
    pub fn findings(&self) -> impl Iterator<Item = &Finding> {
        self.general.iter().chain(self.targets.iter().flat_map(|target| &target.findings))
    }

    /// The worst result of all checks.
    pub fn status(&self) -> CheckStatus {
        self.findings()
            .map(|finding| finding.status)
            .max()
            .unwrap_or(CheckStatus::Pass)
            .max(CheckStatus::Pass)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_check_has_a_section_in_the_document() {
        let page = include_str!("../../../../docs/doctor.md");
        for check in Check::ALL {
            let heading = format!("### {}: {}\n", check.id(), check.title());
            assert!(page.contains(&heading), "missing: {heading}");
        }
    }

    #[test]
    fn the_status_of_a_report_is_its_worst_finding() {
        let with = |findings: Vec<Finding>| DoctorReport { general: findings, targets: Vec::new() }.status();
        let pass = || Finding::pass(Check::Tcp, "");
        let warning = || Finding::warning(Check::Tls, "", LoginFailure::TlsOff, None);
        assert_eq!(with(vec![Finding::not_reached(Check::Sql, "")]), CheckStatus::Pass);
        assert_eq!(with(vec![pass(), warning()]), CheckStatus::Warning);
        let failure = Finding::failure(Check::Login, "", LoginFailure::Other, Some("It is so."));
        assert!(failure.outcome.as_ref().is_some_and(|v| v.hint.starts_with("It is so. ")));
        assert_eq!(with(vec![failure, warning()]), CheckStatus::Failure);
    }
}
