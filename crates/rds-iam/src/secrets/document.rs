//! The text of a secret: the JSON format shared by RDS, its rotation functions and RDS Proxy.
//!
//! Owns: parsing user name and password. Never: quotes any of it in an error.

use serde::Deserialize;
use zeroize::Zeroizing;

/// Maximum length of the text, in bytes: a quota of Secrets Manager.
const MAX_SECRET_BYTES: usize = 65_536;

/// The relevant keys; host, port, engine and others are taken from the configuration.
#[derive(Deserialize)]
struct Document {
    username: Option<String>,
    password: Option<String>,
}

/// Returns user name and password, or what is missing.
pub(super) fn parse(text: &str) -> Result<(String, Zeroizing<String>), &'static str> {
    if text.len() > MAX_SECRET_BYTES {
        return Err("it is longer than 64 KiB");
    }
    let document: Document = serde_json::from_str(text)
        .map_err(|_| "it is not a JSON object with strings for \"username\" and \"password\"")?;
    let username = document.username.filter(|text| !text.is_empty()).ok_or("\"username\" is missing")?;
    let password = document
        .password
        .map(Zeroizing::new)
        .filter(|text| !text.is_empty())
        .ok_or("\"password\" is missing")?;
    if username.contains('\0') || password.contains('\0') {
        return Err("a NUL byte cannot be part of a login");
    }
    Ok((username, password))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_of_rds_is_parsed() {
        let (user, password) = parse(
            r#"{"engine":"postgres","host":"db","port":5432,"username":"app","password":"p\"w","masterarn":null}"#,
        )
        .unwrap();
        assert_eq!((user.as_str(), password.as_str()), ("app", "p\"w"));
        assert!(parse(r#"{"username":"a","password":"b"}"#).is_ok());
    }

    #[test]
    fn errors_name_the_missing_key_and_quote_nothing() {
        for (text, part) in [
            ("hunter2", "not a JSON object"),
            (r#"{"password":"hunter2"}"#, "username"),
            (r#"{"username":"app"}"#, "password"),
            (r#"{"username":"app","password":""}"#, "password"),
            (r#"{"username":"app","password":7}"#, "strings"),
            (r#"["hunter2"]"#, "not a JSON object"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(part) && !error.contains("hunter2"), "{text}: {error}");
        }
        assert!(parse(&"x".repeat(MAX_SECRET_BYTES + 1)).is_err());
    }
}
