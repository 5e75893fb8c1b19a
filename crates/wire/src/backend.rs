//! Borrowed views of the server messages that a pooler reads. Owns their parsing; never parses rows.

use crate::FormatError;
use crate::cursor::Cursor;
use crate::limits::{HEADER_BYTES, MAX_CANCEL_KEY_BYTES};
use std::borrow::Cow;

/// Transaction state in ReadyForQuery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TxStatus {
    /// `I`: not in a transaction.
    Idle,
    /// `T`: in a transaction.
    Open,
    /// `E`: in a failed transaction.
    Failed,
}

/// The server's authentication request or result.
#[derive(Debug, PartialEq, Eq)]
pub enum Authentication<'a> {
    /// Done.
    Ok,
    /// The cleartext password; for RDS IAM, the token.
    Cleartext,
    /// MD5 over this salt.
    Md5([u8; 4]),
    /// One of these SASL mechanisms (zero-separated list).
    Sasl(&'a [u8]),
    /// The server's challenge.
    SaslContinue(&'a [u8]),
    /// The server's proof.
    SaslFinal(&'a [u8]),
    /// The code of GSS, SSPI, SCM …
    Unsupported(u32),
}

/// Process ID and secret key for cancel requests.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyData<'a> {
    /// Process ID.
    pub pid: u32,
    /// Secret.
    pub key: &'a [u8],
}

fn body(message: &[u8]) -> Result<Cursor<'_>, FormatError> {
    Ok(Cursor::new(message.get(HEADER_BYTES..).ok_or(FormatError::Truncated)?))
}

/// Reads a whole ReadyForQuery.
///
/// # Errors
/// Empty body or an unknown state.
#[inline]
pub fn ready_for_query(message: &[u8]) -> Result<TxStatus, FormatError> {
    match message.get(HEADER_BYTES).ok_or(FormatError::Truncated)? {
        b'I' => Ok(TxStatus::Idle),
        b'T' => Ok(TxStatus::Open),
        b'E' => Ok(TxStatus::Failed),
        &other => Err(FormatError::UnknownKind(other)),
    }
}

/// Reads a whole ParameterStatus: name and value.
///
/// # Errors
/// Not terminated or not UTF-8.
pub fn parameter_status(message: &[u8]) -> Result<(&str, &str), FormatError> {
    let mut cursor = body(message)?;
    Ok((cursor.c_str()?, cursor.c_str()?))
}

/// Reads a whole Authentication message.
///
/// # Errors
/// The message is malformed.
pub fn authentication(message: &[u8]) -> Result<Authentication<'_>, FormatError> {
    let mut cursor = body(message)?;
    Ok(match cursor.u32()? {
        0 => Authentication::Ok,
        3 => Authentication::Cleartext,
        5 => Authentication::Md5(*cursor.bytes(4)?.first_chunk().ok_or(FormatError::Truncated)?),
        10 => Authentication::Sasl(cursor.rest()),
        11 => Authentication::SaslContinue(cursor.rest()),
        12 => Authentication::SaslFinal(cursor.rest()),
        other => Authentication::Unsupported(other),
    })
}

/// Reads a whole BackendKeyData.
///
/// # Errors
/// The key is missing or longer than the limit.
pub fn key_data(message: &[u8]) -> Result<KeyData<'_>, FormatError> {
    let mut cursor = body(message)?;
    let pid = cursor.u32()?;
    let key = cursor.rest();
    if key.len() < 4 || key.len() > MAX_CANCEL_KEY_BYTES {
        return Err(FormatError::Truncated);
    }
    Ok(KeyData { pid, key })
}

/// The command tag of a whole CommandComplete, as bytes.
///
/// # Errors
/// The tag is not terminated.
pub fn command_tag(message: &[u8]) -> Result<&[u8], FormatError> {
    body(message)?.c_bytes()
}

/// The fields of a whole ErrorResponse or NoticeResponse that a pooler forwards or logs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ErrorFields<'a> {
    /// Field `V`, or `S` without it: ERROR, FATAL, PANIC, WARNING …
    pub severity: Cow<'a, str>,
    /// SQLSTATE.
    pub code: Cow<'a, str>,
    /// Primary message.
    pub message: Cow<'a, str>,
    /// Detail.
    pub detail: Option<Cow<'a, str>>,
    /// Hint.
    pub hint: Option<Cow<'a, str>>,
}

/// Reads a whole ErrorResponse or NoticeResponse. Unknown fields are ignored, as the manual requires; text in
/// an encoding other than UTF-8 is returned with replacement characters.
///
/// # Errors
/// A field is not terminated.
pub fn error_fields(message: &[u8]) -> Result<ErrorFields<'_>, FormatError> {
    let mut cursor = body(message)?;
    let mut fields = ErrorFields::default();
    loop {
        let kind = cursor.u8()?;
        if kind == 0 {
            return Ok(fields);
        }
        let value = String::from_utf8_lossy(cursor.c_bytes()?);
        match kind {
            b'V' => fields.severity = value,
            b'S' if fields.severity.is_empty() => fields.severity = value,
            b'C' => fields.code = value,
            b'M' => fields.message = value,
            b'D' => fields.detail = Some(value),
            b'H' => fields.hint = Some(value),
            _ => {}
        }
    }
}

/// One field of a whole ErrorResponse or NoticeResponse, as bytes.
pub fn error_field(message: &[u8], kind: u8) -> Option<&[u8]> {
    let mut cursor = body(message).ok()?;
    loop {
        let here = cursor.u8().ok()?;
        if here == 0 {
            return None;
        }
        let value = cursor.c_bytes().ok()?;
        if here == kind {
            return Some(value);
        }
    }
}

/// The severity of an ErrorResponse: the untranslated one (field `V`), or else the translated one (`S`), if
/// it is within `message`, which may be only the beginning of it.
pub fn severity(message: &[u8]) -> Option<&[u8]> {
    let mut cursor = body(message).ok()?;
    let mut translated = None;
    loop {
        let Ok(kind) = cursor.u8() else { return translated };
        let value = match kind {
            0 => return translated,
            _ => cursor.c_bytes().ok(),
        };
        match (kind, value) {
            (b'V', Some(value)) => return Some(value),
            (b'S', Some(value)) => translated = Some(value),
            (_, None) => return translated,
            _ => {}
        }
    }
}

/// The SQLSTATE of an ErrorResponse, if it is within `message`, which may be only the beginning of it.
pub fn sqlstate(message: &[u8]) -> Option<[u8; 5]> {
    let mut cursor = body(message).ok()?;
    loop {
        match cursor.u8().ok()? {
            0 => return None,
            b'C' => return cursor.c_bytes().ok()?.try_into().ok(),
            _ => {
                cursor.c_bytes().ok()?;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encode::{self, ErrorReport};
    use proptest::prelude::*;

    #[test]
    fn an_encoded_error_is_parsed() {
        let mut out = Vec::new();
        encode::error_response(
            &mut out,
            &ErrorReport { hint: Some("try later"), ..ErrorReport::fatal("53300", "too many clients") },
        );
        let fields = error_fields(&out).unwrap();
        assert_eq!(fields.severity, "FATAL");
        assert_eq!(fields.code, "53300");
        assert_eq!(fields.message, "too many clients");
        assert_eq!(fields.hint.as_deref(), Some("try later"));
        assert_eq!(sqlstate(&out), Some(*b"53300"));
        assert_eq!(severity(&out), Some(&b"FATAL"[..]));
        assert_eq!(severity(&out[..14]), Some(&b"FATAL"[..]));
    }

    proptest! {
        #[test]
        fn no_message_panics(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = error_fields(&bytes);
            let _ = sqlstate(&bytes);
            let _ = error_field(&bytes, b'M');
            let _ = severity(&bytes);
            let _ = parameter_status(&bytes);
            let _ = authentication(&bytes);
            let _ = key_data(&bytes);
            let _ = command_tag(&bytes);
            let _ = ready_for_query(&bytes);
        }
    }
}
