//! The query of a presigned request (Signature Version 4, "Adding signing information to the query string") from an
//! untrusted peer. Owns its syntax and validity period; callers define the required parameters.

use super::ProofError;
use percent_encoding::percent_decode_str;
use time::PrimitiveDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;

/// Longest lifetime of a presigned request, in seconds.
pub const MAX_LIFE_SECONDS: i64 = 900;
/// How far the signer's clock may be ahead, in seconds; AWS's own tolerance.
pub const MAX_FUTURE_SECONDS: i64 = 300;
/// More parameters than any presigned request has.
const MAX_PARAMETERS: usize = 16;
/// Longest name or value shown in an error, in characters.
const MAX_SHOWN_CHARS: usize = 80;
/// `X-Amz-Date`.
const DATE: &[BorrowedFormatItem<'_>] = format_description!("[year][month][day]T[hour][minute][second]Z");
/// The only value that may contain any character but NUL, as names of PostgreSQL roles may.
const USER: &str = "DBUser";
/// Hexadecimal digits of a signature.
const SIGNATURE_CHARS: usize = 64;

/// The value of `X-Amz-Date`, in seconds since 1970.
pub fn date_seconds(date: &str) -> Option<i64> {
    Some(PrimitiveDateTime::parse(date, DATE).ok()?.assume_utc().unix_timestamp())
}

/// Decoded parameters without duplicates. Debug shows names only.
pub struct Query(Vec<(String, String)>);

impl std::fmt::Debug for Query {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}

/// The scope in `X-Amz-Credential`, without the access key.
#[derive(Debug, PartialEq, Eq)]
pub struct Scope<'a> {
    /// Region.
    pub region: &'a str,
    /// Service.
    pub service: &'a str,
}

/// Signing and expiry time of a presigned request, in seconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    /// `X-Amz-Date`.
    pub made_at: i64,
    /// The signing time plus the lifetime.
    pub expires_at: i64,
}

impl Query {
    /// Parses `name=value&…`. Every name must be one of `allowed`, spelled exactly so, and unique.
    ///
    /// # Errors
    /// See [`ProofError`].
    pub fn parse(text: &str, allowed: &[&'static str]) -> Result<Self, ProofError> {
        let mut found: Vec<(String, String)> = Vec::new();
        for pair in text.split('&') {
            let (name, value) =
                pair.split_once('=').ok_or(ProofError::Invalid("query of a presigned request"))?;
            let (Some(name), Some(value)) = (percent_decode(name), percent_decode(value)) else {
                return Err(ProofError::Invalid("percent-encoded query"));
            };
            if name != USER && value.chars().any(char::is_control) {
                return Err(ProofError::Invalid("percent-encoded query"));
            }
            if found.iter().any(|(known, _)| known.eq_ignore_ascii_case(&name)) {
                return Err(ProofError::Repeated(shown(&name)));
            }
            if !allowed.contains(&name.as_str()) || found.len() >= MAX_PARAMETERS {
                return Err(ProofError::UnknownParameter(shown(&name)));
            }
            found.push((name, value));
        }
        Ok(Self(found))
    }

    /// A parameter's value.
    pub fn get(&self, name: &'static str) -> Result<&str, ProofError> {
        let found = self.0.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str()).ok_or(ProofError::Missing(name))
    }

    /// All parameters, in the order received.
    pub fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Requires a value.
    pub fn expect(&self, name: &'static str, expected: &str) -> Result<(), ProofError> {
        expect(name, self.get(name)?, expected)
    }

    /// Checks the form of algorithm, signature and scope, and returns the scope.
    pub fn scope(&self) -> Result<Scope<'_>, ProofError> {
        self.expect("X-Amz-Algorithm", "AWS4-HMAC-SHA256")?;
        let signature = self.get("X-Amz-Signature")?;
        if signature.len() != SIGNATURE_CHARS || !signature.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(ProofError::Invalid("signature"));
        }
        let date = self.get("X-Amz-Date")?;
        let parts: Vec<&str> = self.get("X-Amz-Credential")?.split('/').collect();
        let [key, day, region, service, "aws4_request"] = parts[..] else {
            return Err(ProofError::Invalid("credential scope"));
        };
        if key.is_empty() || !key.bytes().all(|b| b.is_ascii_alphanumeric()) {
            return Err(ProofError::Invalid("access key"));
        }
        expect("the day in X-Amz-Credential", day, date.get(..8).unwrap_or_default())?;
        Ok(Scope { region, service })
    }

    /// Checks signing time and lifetime by the local clock. The lifetime of a presigned STS request is not enforced
    /// elsewhere.
    pub fn times(&self, now_seconds: i64) -> Result<Times, ProofError> {
        let date = self.get("X-Amz-Date")?;
        let made_at = date_seconds(date).ok_or(ProofError::Invalid("date"))?;
        let life: i64 = self.get("X-Amz-Expires")?.parse().map_err(|_| ProofError::Invalid("lifetime"))?;
        if !(1..=MAX_LIFE_SECONDS).contains(&life) {
            return Err(ProofError::Lifetime(life));
        }
        if made_at - now_seconds > MAX_FUTURE_SECONDS {
            return Err(ProofError::Future(made_at - now_seconds));
        }
        let expires_at = made_at + life;
        if expires_at <= now_seconds {
            return Err(ProofError::Expired(now_seconds - expires_at));
        }
        Ok(Times { made_at, expires_at })
    }
}

/// Requires that `given` equals `expected`.
pub fn expect(what: &'static str, given: &str, expected: &str) -> Result<(), ProofError> {
    if given == expected {
        return Ok(());
    }
    Err(ProofError::Mismatch { what, given: shown(given), expected: expected.to_owned() })
}

/// Shortens and cleans a peer's text for an error message.
fn shown(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(MAX_SHOWN_CHARS).collect()
}

/// Decodes `%41`; `None` for malformed escapes, NUL and invalid UTF-8. `+` is a plus.
fn percent_decode(text: &str) -> Option<String> {
    let is_escape =
        |part: &str| part.as_bytes().get(..2).is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit));
    // The decoder would keep a malformed escape as it is.
    if !text.split('%').skip(1).all(is_escape) {
        return None;
    }
    let decoded = percent_decode_str(text).decode_utf8().ok()?;
    Some(decoded.into_owned()).filter(|text| !text.contains('\0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: &[&str] = &["Action", "DBUser", "X-Amz-Date", "X-Amz-Expires"];

    #[test]
    fn names_are_unique_in_any_spelling() {
        let parse = |text: &str| Query::parse(text, NAMES).map(|query| query.pairs().count());
        assert_eq!(parse("Action=connect&X-Amz-Date=1"), Ok(2));
        assert_eq!(parse("DBUser=line%0Abreak"), Ok(1), "valid in PostgreSQL");
        assert_eq!(parse("Action=a&Action=b"), Err(ProofError::Repeated("Action".into())));
        assert_eq!(parse("Action=a&action=b"), Err(ProofError::Repeated("action".into())));
        assert_eq!(parse("Action=a&%41ction=b"), Err(ProofError::Repeated("Action".into())));
        assert_eq!(parse("action=a"), Err(ProofError::UnknownParameter("action".into())));
        assert_eq!(parse("Other=a"), Err(ProofError::UnknownParameter("Other".into())));
        for broken in [
            "",
            "Action",
            "Action=%4",
            "Action=%zz",
            "Action=%00",
            "Action=%0a",
            "DBUser=%00",
            "Action=%ff",
            "Action=a&",
        ] {
            assert!(parse(broken).is_err(), "{broken}");
        }
    }

    #[test]
    fn validity_is_enforced_locally() {
        let made_at = 1_705_322_096;
        let times = |life: &str, now| {
            let text = format!("X-Amz-Date=20240115T123456Z&X-Amz-Expires={life}");
            Query::parse(&text, NAMES).unwrap().times(now)
        };
        assert_eq!(times("900", made_at), Ok(Times { made_at, expires_at: made_at + 900 }));
        assert_eq!(times("900", made_at + 900), Err(ProofError::Expired(0)));
        assert_eq!(times("60", made_at + 100), Err(ProofError::Expired(40)));
        assert_eq!(times("901", made_at), Err(ProofError::Lifetime(901)));
        assert_eq!(times("0", made_at), Err(ProofError::Lifetime(0)));
        assert_eq!(times("-1", made_at), Err(ProofError::Lifetime(-1)));
        assert_eq!(times("900", made_at - 301), Err(ProofError::Future(301)));
        assert!(times("900", made_at - 300).is_ok());
        assert!(times("nine", made_at).is_err());
    }

    #[test]
    fn debug_shows_no_values() {
        let query = Query::parse("Action=secret", NAMES).unwrap();
        assert!(!format!("{query:?}").contains("secret"));
    }
}
