//! The service account token (web identity) named by the environment.
//!
//! Owns: reading its expiry. Never: verifies its signature, or grants anything by it.

use std::fs::File;
use std::io::Read as _;
use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::fetch_fault::Variables;

const VARIABLE: &str = "AWS_WEB_IDENTITY_TOKEN_FILE";
/// Maximum number of bytes read from the file.
const MAX_TOKEN_BYTES: u64 = 64 * 1024;

/// A report of the token's expiry, if it has expired at `now`.
pub(crate) fn expired(variables: Variables<'_>, now: SystemTime) -> Option<String> {
    let path = variables(VARIABLE)?;
    let mut text = String::new();
    File::open(&path).ok()?.take(MAX_TOKEN_BYTES).read_to_string(&mut text).ok()?;
    let now = i64::try_from(now.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs()).ok()?;
    let since = now.saturating_sub(expiry_of(&text)?);
    (since > 0).then(|| format!("the token in {path} ({VARIABLE}) ended {} min ago", since / 60))
}

/// The expiry of a JWT, in seconds since 1970.
fn expiry_of(text: &str) -> Option<i64> {
    let claims = URL_SAFE_NO_PAD.decode(text.trim().split('.').nth(1)?).ok()?;
    serde_json::from_slice::<serde_json::Value>(&claims).ok()?.get("exp")?.as_i64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_expiry_of_a_service_account_token_is_read() {
        let jwt = format!("x.{}.y", URL_SAFE_NO_PAD.encode(br#"{"exp":1700000000,"sub":"s"}"#));
        assert_eq!(expiry_of(&jwt), Some(1_700_000_000));
        assert_eq!(expiry_of("not.a.jwt"), None);
    }
}
