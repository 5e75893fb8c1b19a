//! What `doctor` looks at, in the order in which one thing needs the other: the one table of checks, and the form of
//! what comes of them. Owns names and shapes; looks at nothing itself.

use crate::login_failure::{LoginFailure, section_url};
use std::time::Duration;

macro_rules! checks {
    ($($name:ident = $id:literal, $title:literal;)*) => {
        /// One thing that is looked at.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Check {
            $(#[doc = $title] $name,)*
        }

        impl Check {
            /// All of them, in order.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// Its name in output; never given to another check.
            pub const fn id(self) -> &'static str {
                match self { $(Self::$name => $id,)* }
            }

            /// What is looked at, in a few words.
            pub const fn title(self) -> &'static str {
                match self { $(Self::$name => $title,)* }
            }
        }
    };
}

checks! {
    Config = "config", "the configuration and the files it names";
    Passwords = "passwords", "no token is stored where a password should be";
    Credentials = "credentials", "AWS credentials, their source and their end";
    Identity = "identity", "who AWS takes us for";
    Clock = "clock", "this machine's clock next to AWS's";
    Dns = "dns", "addresses and aliases of the host";
    Secret = "secret", "the secret of Secrets Manager, and whom it names";
    Token = "token", "the token, and what it is made for";
    Tcp = "tcp", "a connection to the server";
    Tls = "tls", "encryption and the server's certificate";
    Request = "request", "what the server asks this user for";
    Login = "login", "the login";
    Sql = "sql", "what the server says once we are in";
}

impl Check {
    /// Its section in the document about the doctor.
    pub fn url(self) -> String {
        section_url("doctor.md", &format!("{}: {}", self.id(), self.title()))
    }
}

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum CheckStatus {
    /// An earlier check keeps this one from being made, or it does not apply.
    NotReached,
    /// As it should be.
    Pass,
    /// It works, and something about it is worth knowing.
    Warning,
    /// No login comes about this way.
    Failure,
}

impl CheckStatus {
    /// Its sign in the text.
    pub const fn sign(self) -> char {
        match self {
            Self::NotReached => '–',
            Self::Pass => '✔',
            Self::Warning => '⚠',
            Self::Failure => '✘',
        }
    }

    /// Its name in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NotReached => "skipped",
            Self::Pass => "pass",
            Self::Warning => "warning",
            Self::Failure => "failure",
        }
    }
}

/// What is behind a warning or a failure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckOutcome {
    /// The cause.
    pub cause: LoginFailure,
    /// What was found and what to do, ending with the cause's number.
    pub hint: String,
}

/// One check and how it came out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Which check.
    pub check: Check,
    /// How it came out.
    pub status: CheckStatus,
    /// What was found, in one line.
    pub summary: String,
    /// Time it took, where that tells something.
    pub took: Option<Duration>,
    /// Why it is not as it should be.
    pub verdict: Option<CheckOutcome>,
}

impl Finding {
    /// As it should be.
    pub fn pass(check: Check, summary: impl Into<String>) -> Self {
        Self { check, status: CheckStatus::Pass, summary: summary.into(), took: None, verdict: None }
    }

    /// Not made.
    pub fn not_reached(check: Check, why: impl Into<String>) -> Self {
        Self { status: CheckStatus::NotReached, ..Self::pass(check, why) }
    }

    /// Worth knowing. `found` is what is wrong in this very case.
    pub fn warning(
        check: Check,
        summary: impl Into<String>,
        cause: LoginFailure,
        found: Option<&str>,
    ) -> Self {
        let verdict = Some(CheckOutcome { cause, hint: cause.hint(found) });
        Self { status: CheckStatus::Warning, verdict, ..Self::pass(check, summary) }
    }

    /// In the way of a login. `found` is what is wrong in this very case.
    pub fn failure(
        check: Check,
        summary: impl Into<String>,
        cause: LoginFailure,
        found: Option<&str>,
    ) -> Self {
        Self { status: CheckStatus::Failure, ..Self::warning(check, summary, cause, found) }
    }

    /// With the time it took.
    #[must_use]
    pub fn took(self, took: Duration) -> Self {
        Self { took: Some(took), ..self }
    }
}

/// All that was found about one way to a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetReport {
    /// Name clients use for the database.
    pub database: String,
    /// Host, as configured.
    pub host: String,
    /// Port.
    pub port: u16,
    /// User on the server, if one is known.
    pub user: Option<String>,
    /// The checks in order.
    pub findings: Vec<Finding>,
}

/// What `doctor` has to say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DoctorReport {
    /// What concerns the configuration as a whole.
    pub general: Vec<Finding>,
    /// Each way to a server.
    pub targets: Vec<TargetReport>,
}

impl DoctorReport {
    /// All checks, in order.
    pub fn findings(&self) -> impl Iterator<Item = &Finding> {
        self.general.iter().chain(self.targets.iter().flat_map(|target| &target.findings))
    }

    /// The worst of all checks.
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
    fn the_worst_check_counts() {
        let with = |findings: Vec<Finding>| DoctorReport { general: findings, targets: Vec::new() }.status();
        let pass = || Finding::pass(Check::Tcp, "");
        let warning = || Finding::warning(Check::Tls, "", LoginFailure::TlsOff, None);
        assert_eq!(with(vec![Finding::not_reached(Check::Sql, "")]), CheckStatus::Pass);
        assert_eq!(with(vec![pass(), warning()]), CheckStatus::Warning);
        let failure = Finding::failure(Check::Login, "", LoginFailure::Other, Some("It is so."));
        assert!(failure.verdict.as_ref().is_some_and(|v| v.hint.starts_with("It is so. ")));
        assert_eq!(with(vec![failure, warning()]), CheckStatus::Failure);
    }
}
