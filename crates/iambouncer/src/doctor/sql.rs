//! The query sent to a server after login. Owns the query, its one row, and the finding that follows from it.

use super::checks::{Check, Finding};
use crate::login_failure::LoginFailure;
use crate::net::{Inbound, Stream};
use crate::sql_client::{self, AnswerLimits};

/// Limits for description, row, tag, ready, and some notices.
const LIMITS: AnswerLimits =
    AnswerLimits { message_bytes: 64 * 1024, messages: 64, rows: 1, bytes: 64 * 1024 };
/// One row: version, role of the server, user, connection slots, the role's limit, and the path to `rds_iam`.
const QUESTIONS: &str = "\
SELECT current_setting('server_version'), pg_is_in_recovery(), current_user, \
 current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int, \
 (SELECT rolconnlimit FROM pg_catalog.pg_roles WHERE rolname = current_user), \
 (WITH RECURSIVE up AS ( \
   SELECT m.roleid, r.rolname::text AS path, 1 AS depth FROM pg_catalog.pg_auth_members m \
     JOIN pg_catalog.pg_roles r ON r.oid = m.roleid \
     WHERE m.member = (SELECT oid FROM pg_catalog.pg_roles WHERE rolname = current_user) \
   UNION ALL \
   SELECT m.roleid, up.path || ' > ' || r.rolname, up.depth + 1 FROM up \
     JOIN pg_catalog.pg_auth_members m ON m.member = up.roleid \
     JOIN pg_catalog.pg_roles r ON r.oid = m.roleid WHERE up.depth < 16) \
  SELECT path FROM up JOIN pg_catalog.pg_roles r ON r.oid = up.roleid \
    WHERE r.rolname = 'rds_iam' ORDER BY up.depth LIMIT 1)";

/// What the result of the query is compared with.
pub(super) struct LoginExpectation {
    /// True if the login was by IAM.
    pub(super) is_iam: bool,
    /// True if the endpoint is a writer endpoint.
    pub(super) is_writer: bool,
    /// Servers the pool may open.
    pub(super) pool_size: u32,
}

/// The values of the row.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Answers {
    version: String,
    is_standby: bool,
    user: String,
    places: Option<u32>,
    /// Connections the role may have; `None` if unlimited.
    role_limit: Option<u32>,
    /// The path of role memberships to `rds_iam`, if there is one.
    iam_path: Option<String>,
}

/// Sends the query and evaluates the row.
pub(super) async fn check(stream: &mut Stream, expected: &LoginExpectation) -> Finding {
    match ask(stream).await {
        Ok(answers) => evaluate(&answers, expected),
        Err(reason) => Finding::failure(Check::Sql, reason, LoginFailure::Protocol, None),
    }
}

fn evaluate(answers: &Answers, expected: &LoginExpectation) -> Finding {
    let state = if answers.is_standby { "read-only standby" } else { "takes writes" };
    let summary = format!("PostgreSQL {}, {state}, user {}", answers.version, answers.user);
    if !expected.is_iam
        && let Some(path) = &answers.iam_path
    {
        let found =
            format!("This user logged in with a password but is a member of rds_iam through: {path}.");
        let summary = format!("{summary}, member of {path}");
        return Finding::warning(Check::Sql, summary, LoginFailure::InheritedGrant, Some(&found));
    }
    if answers.is_standby && expected.is_writer {
        let found = "The endpoint is a writer endpoint, but a read-only server answered: DNS or a failover lags behind.";
        return Finding::warning(Check::Sql, summary, LoginFailure::ServerBusy, Some(found));
    }
    let limits = [("the role's CONNECTION LIMIT", answers.role_limit), ("max_connections", answers.places)];
    for (what, limit) in limits {
        if let Some(limit) = limit.filter(|limit| *limit < expected.pool_size) {
            let found =
                format!("The pool may open {} servers, but {what} allows {limit}.", expected.pool_size);
            return Finding::warning(Check::Sql, summary, LoginFailure::ServerBusy, Some(&found));
        }
    }
    let path = answers.iam_path.as_deref().map(|path| format!(", member of {path}")).unwrap_or_default();
    Finding::pass(Check::Sql, summary + &path)
}

async fn ask(stream: &mut Stream) -> Result<Answers, String> {
    let answer = sql_client::query(stream, &mut Inbound::default(), QUESTIONS, LIMITS, |_| {})
        .await
        .map_err(|error| error.to_string())?;
    let row = answer.rows.into_iter().next().ok_or_else(|| "the query returned no row".to_owned())?;
    let [version, standby, user, places, role_limit, iam_path] = <[Option<String>; 6]>::try_from(row)
        .map_err(|_| "the answer has an unexpected number of columns".to_owned())?;
    let number = |text: Option<String>| text.and_then(|text| text.parse::<i64>().ok());
    let limit = |text| number(text).and_then(|n| u32::try_from(n).ok());
    Ok(Answers {
        version: version.unwrap_or_default(),
        is_standby: standby.as_deref() == Some("t"),
        user: user.unwrap_or_default(),
        places: limit(places),
        role_limit: limit(role_limit),
        iam_path,
    })
}

#[cfg(test)]
mod tests {
    use super::super::checks::CheckStatus;
    use super::*;

    fn answers() -> Answers {
        Answers {
            version: "16.3".into(),
            is_standby: false,
            user: "app".into(),
            places: Some(97),
            role_limit: None,
            iam_path: Some("workers > rds_iam".into()),
        }
    }

    fn evaluated(change: impl FnOnce(&mut Answers, &mut LoginExpectation)) -> Finding {
        let (mut answers, mut expected) =
            (answers(), LoginExpectation { is_iam: true, is_writer: true, pool_size: 20 });
        change(&mut answers, &mut expected);
        evaluate(&answers, &expected)
    }

    #[test]
    fn future_problems_are_reported() {
        let fine = evaluated(|_, _| {});
        assert_eq!(fine.status, CheckStatus::Pass);
        assert_eq!(fine.summary, "PostgreSQL 16.3, takes writes, user app, member of workers > rds_iam");
        let cause = |finding: Finding| finding.outcome.map(|outcome| outcome.cause);
        assert_eq!(cause(evaluated(|_, e| e.is_iam = false)), Some(LoginFailure::InheritedGrant));
        assert_eq!(cause(evaluated(|a, _| a.is_standby = true)), Some(LoginFailure::ServerBusy));
        assert_eq!(cause(evaluated(|a, _| a.role_limit = Some(5))), Some(LoginFailure::ServerBusy));
        let full = evaluated(|a, _| a.places = Some(19)).outcome.map(|outcome| outcome.hint);
        assert!(full.is_some_and(|hint| hint.contains("max_connections allows 19")));
    }
}
