//! The comma-separated attributes of SCRAM messages. Owns parsing and the nonce alphabet.

use super::ScramError;

/// Removes `name=value` from the front of `rest`.
pub(super) fn attribute<'a>(rest: &mut &'a str, name: char) -> Result<&'a str, ScramError> {
    let (field, after) = rest.split_once(',').unwrap_or((*rest, ""));
    let mut chars = field.chars();
    if chars.next() != Some(name) || chars.next() != Some('=') {
        return Err(ScramError::Malformed("attribute missing"));
    }
    *rest = after;
    Ok(chars.as_str())
}

pub(super) fn text(message: &[u8]) -> Result<&str, ScramError> {
    std::str::from_utf8(message).map_err(|_| ScramError::Malformed("not UTF-8"))
}

/// Printable ASCII without comma.
pub(super) fn is_nonce(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| (0x21..=0x7e).contains(&b) && b != b',')
}

/// A new nonce: 18 random bytes in base64.
pub(super) fn fresh_nonce() -> Result<String, ScramError> {
    use base64::Engine;
    let mut bytes = [0; 18];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| ScramError::Random)?;
    Ok(base64::engine::general_purpose::STANDARD.encode(bytes))
}
