//! The query sent to a server after login. Owns the query, its one row, and the finding that follows from it.

use super::checks::{Check, Finding};
use crate::login_failure::LoginFailure;
use crate::net::{Inbound, Stream};
use wire::limits::HEADER_BYTES;
use wire::{backend, encode, tag};

/// Largest message that is read, in bytes.
const MAX_ANSWER_BYTES: u32 = 64 * 1024;
/// Maximum number of messages in an answer: description, row, tag, ready, and some notices.
const MAX_MESSAGES: usize = 64;
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
    let row = first_row(stream, QUESTIONS).await?;
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

/// The first row of a query's result, in text format.
async fn first_row(stream: &mut Stream, sql: &str) -> Result<Vec<Option<String>>, String> {
    let mut message = Vec::new();
    encode::query(&mut message, sql);
    stream.send_all(&message).await.map_err(|error| error.to_string())?;
    let mut inbound = Inbound::default();
    let mut row = None;
    let mut failure = None;
    for _ in 0..MAX_MESSAGES {
        let frame =
            stream.recv_message(&mut inbound, MAX_ANSWER_BYTES).await.map_err(|error| error.to_string())?;
        let message = &inbound.bytes()[..frame.len];
        match frame.tag {
            tag::backend::DATA_ROW => row = row.or_else(|| Some(columns(message))),
            tag::backend::ERROR_RESPONSE => {
                let fields = backend::error_fields(message).unwrap_or_default();
                failure = Some(fields.message.into_owned());
            }
            tag::backend::READY_FOR_QUERY => {
                return match failure {
                    Some(reason) => Err(reason),
                    None => row.flatten().ok_or_else(|| "the query returned no row".to_owned()),
                };
            }
            _ => {}
        }
        inbound.consume(frame.len);
    }
    Err("the answer has too many messages".to_owned())
}

/// The columns of a DataRow; `None` if it is malformed.
fn columns(message: &[u8]) -> Option<Vec<Option<String>>> {
    let mut rest = message.get(HEADER_BYTES..)?;
    let count = u16::from_be_bytes(*rest.split_off(..2)?.first_chunk()?);
    let mut columns = Vec::new();
    for _ in 0..count {
        let length = i32::from_be_bytes(*rest.split_off(..4)?.first_chunk()?);
        columns.push(match usize::try_from(length) {
            Ok(length) => Some(String::from_utf8_lossy(rest.split_off(..length)?).into_owned()),
            Err(_null) => None,
        });
    }
    Some(columns)
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
        let cause = |finding: Finding| finding.verdict.map(|verdict| verdict.cause);
        assert_eq!(cause(evaluated(|_, e| e.is_iam = false)), Some(LoginFailure::InheritedGrant));
        assert_eq!(cause(evaluated(|a, _| a.is_standby = true)), Some(LoginFailure::ServerBusy));
        assert_eq!(cause(evaluated(|a, _| a.role_limit = Some(5))), Some(LoginFailure::ServerBusy));
        let full = evaluated(|a, _| a.places = Some(19)).verdict.map(|verdict| verdict.hint);
        assert!(full.is_some_and(|hint| hint.contains("max_connections allows 19")));
    }

    #[test]
    fn rows_are_parsed_and_malformed_ones_are_none() {
        let mut message = vec![b'D', 0, 0, 0, 0, 0, 2, 0, 0, 0, 1, b'x', 0xff, 0xff, 0xff, 0xff];
        assert_eq!(columns(&message), Some(vec![Some("x".to_owned()), None]));
        message[10] = 9;
        assert_eq!(columns(&message), None);
    }
}
