//! The token of a service account (web identity) that the environment names.
//!
//! Owns: its end, as far as the file says. Never: checks its signature, or trusts anyone on the strength of it.

use std::fs::File;
use std::io::Read as _;
use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::fetch_fault::Variables;

const VARIABLE: &str = "AWS_WEB_IDENTITY_TOKEN_FILE";
/// How much of a file is read, in bytes.
const MAX_TOKEN_BYTES: u64 = 64 * 1024;

/// Says that the token has ended, if it has at `now`.
pub(crate) fn ended(variables: Variables<'_>, now: SystemTime) -> Option<String> {
    let path = variables(VARIABLE)?;
    let mut text = String::new();
    File::open(&path).ok()?.take(MAX_TOKEN_BYTES).read_to_string(&mut text).ok()?;
    let now = i64::try_from(now.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs()).ok()?;
    let since = now.saturating_sub(end_of(&text)?);
    (since > 0).then(|| format!("the token in {path} ({VARIABLE}) ended {} min ago", since / 60))
}

/// When a JWT ends, in seconds since 1970.
fn end_of(text: &str) -> Option<i64> {
    let claims = URL_SAFE_NO_PAD.decode(text.trim().split('.').nth(1)?).ok()?;
    serde_json::from_slice::<serde_json::Value>(&claims).ok()?.get("exp")?.as_i64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_service_accounts_token_is_read() {
        let jwt = format!("x.{}.y", URL_SAFE_NO_PAD.encode(br#"{"exp":1700000000,"sub":"s"}"#));
        assert_eq!(end_of(&jwt), Some(1_700_000_000));
        assert_eq!(end_of("not.a.jwt"), None);
    }
}
