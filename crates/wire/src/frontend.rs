//! Borrowed views of the client messages that a pooler reads. Owns parsing of message heads; never parses
//! parameter values: forwarding a Bind requires only its beginning.

use crate::FormatError;
use crate::cursor::Cursor;
use crate::limits::HEADER_BYTES;

/// Statement or portal, in Describe and Close.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NamedKind {
    /// `S`.
    Statement,
    /// `P`.
    Portal,
}

/// A whole Parse message.
#[derive(Debug, PartialEq, Eq)]
pub struct Parse<'a> {
    /// Statement name; empty for the unnamed one.
    pub name: &'a [u8],
    /// Everything after the name: the query text with its terminator, and the parameter types. Two statements
    /// are equal exactly if these bytes are.
    pub body: &'a [u8],
}

/// The beginning of a Bind message.
#[derive(Debug, PartialEq, Eq)]
pub struct BindHead<'a> {
    /// Portal name.
    pub portal: &'a [u8],
    /// Statement name.
    pub statement: &'a [u8],
    /// Length of the message up to and including the statement's terminator, including the header.
    pub head_len: usize,
}

/// A whole Describe or Close message.
#[derive(Debug, PartialEq, Eq)]
pub struct Named<'a> {
    /// The kind of name.
    pub target: NamedKind,
    /// The name.
    pub name: &'a [u8],
}

/// True if a Parse message with its beginning in `message` has a statement name; `None` means that more bytes
/// are needed.
pub fn parse_is_named(message: &[u8]) -> Option<bool> {
    message.get(HEADER_BYTES).map(|&first| first != 0)
}

/// Reads a whole Parse message.
///
/// # Errors
/// The message is malformed.
pub fn parse(message: &[u8]) -> Result<Parse<'_>, FormatError> {
    let mut cursor = Cursor::new(message.get(HEADER_BYTES..).ok_or(FormatError::Truncated)?);
    let name = cursor.name_in_part()?.ok_or(FormatError::UnterminatedString)?;
    let body = cursor.rest();
    cursor.c_bytes()?;
    Ok(Parse { name, body })
}

/// Reads the beginning of a Bind message of `len` bytes from its first bytes in `part`; `None` means that
/// more are needed.
///
/// # Errors
/// The names are too long or do not end within the message.
pub fn bind_head(part: &[u8], len: usize) -> Result<Option<BindHead<'_>>, FormatError> {
    let complete = part.len() >= len;
    let part = &part[..part.len().min(len)];
    let Some(body) = part.get(HEADER_BYTES..) else { return Ok(None) };
    let mut cursor = Cursor::new(body);
    let more = || if complete { Err(FormatError::UnterminatedString) } else { Ok(None) };
    let Some(portal) = cursor.name_in_part()? else { return more() };
    let Some(statement) = cursor.name_in_part()? else { return more() };
    Ok(Some(BindHead { portal, statement, head_len: part.len() - cursor.rest().len() }))
}

/// The format of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum Format {
    /// Text format.
    Text = 0,
    /// The binary format of the type.
    Binary = 1,
}

/// The rest of a whole Bind message.
#[derive(Debug, PartialEq, Eq)]
pub struct BindTail {
    /// Number of parameters.
    pub parameters: u16,
    /// Result formats: none means text, one applies to all columns.
    pub result_formats: Vec<Format>,
}

/// Reads what follows the first `head_len` bytes of a whole Bind message.
///
/// # Errors
/// The message is malformed.
pub fn bind_tail(message: &[u8], head_len: usize) -> Result<BindTail, FormatError> {
    let mut cursor = Cursor::new(message.get(head_len..).ok_or(FormatError::Truncated)?);
    for _ in 0..cursor.u16()? {
        cursor.u16()?;
    }
    let parameters = cursor.u16()?;
    for _ in 0..parameters {
        let len = cursor.u32()?;
        if len != u32::MAX {
            cursor.bytes(len as usize)?;
        }
    }
    let count = cursor.u16()?;
    let mut result_formats = Vec::new();
    for _ in 0..count {
        result_formats.push(match cursor.u16()? {
            0 => Format::Text,
            1 => Format::Binary,
            other => return Err(FormatError::UnknownKind(other.to_be_bytes()[1])),
        });
    }
    Ok(BindTail { parameters, result_formats })
}

/// Reads a whole Describe or Close message.
///
/// # Errors
/// The message is malformed.
pub fn named(message: &[u8]) -> Result<Named<'_>, FormatError> {
    let mut cursor = Cursor::new(message.get(HEADER_BYTES..).ok_or(FormatError::Truncated)?);
    let target = match cursor.u8()? {
        b'S' => NamedKind::Statement,
        b'P' => NamedKind::Portal,
        other => return Err(FormatError::UnknownKind(other)),
    };
    let name = cursor.name_in_part()?.ok_or(FormatError::UnterminatedString)?;
    Ok(Named { target, name })
}

/// The portal of an Execute message of `len` bytes with its first bytes in `part`; `None` means that more are
/// needed.
///
/// # Errors
/// The name is too long or does not end within the message.
pub fn execute_portal(part: &[u8], len: usize) -> Result<Option<&[u8]>, FormatError> {
    let complete = part.len() >= len;
    let part = &part[..part.len().min(len)];
    let Some(body) = part.get(HEADER_BYTES..) else { return Ok(None) };
    match Cursor::new(body).name_in_part()? {
        None if complete => Err(FormatError::UnterminatedString),
        name => Ok(name),
    }
}

/// The text of a whole Query message.
///
/// # Errors
/// The text is not terminated or not UTF-8.
pub fn query(message: &[u8]) -> Result<&str, FormatError> {
    Cursor::new(message.get(HEADER_BYTES..).ok_or(FormatError::Truncated)?).c_str()
}

/// The secret in a whole PasswordMessage, without its terminator.
///
/// # Errors
/// The secret is not terminated.
pub fn password(message: &[u8]) -> Result<&[u8], FormatError> {
    Cursor::new(message.get(HEADER_BYTES..).ok_or(FormatError::Truncated)?).c_bytes()
}

/// A whole SASLInitialResponse: mechanism and the client's first message.
///
/// # Errors
/// The message is malformed.
pub fn sasl_initial(message: &[u8]) -> Result<(&str, &[u8]), FormatError> {
    let mut cursor = Cursor::new(message.get(HEADER_BYTES..).ok_or(FormatError::Truncated)?);
    let mechanism = cursor.c_str()?;
    let len = cursor.u32()?;
    if len == u32::MAX {
        return Ok((mechanism, &[]));
    }
    Ok((mechanism, cursor.bytes(len as usize)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::MAX_NAME_BYTES;
    use proptest::prelude::*;

    fn bind(portal: &str, statement: &str, tail: &[u8]) -> Vec<u8> {
        let mut body = Vec::new();
        body.extend_from_slice(portal.as_bytes());
        body.push(0);
        body.extend_from_slice(statement.as_bytes());
        body.push(0);
        body.extend_from_slice(tail);
        let mut out = vec![b'B'];
        out.extend_from_slice(&u32::try_from(body.len() + 4).unwrap().to_be_bytes());
        out.extend_from_slice(&body);
        out
    }

    #[test]
    fn a_bind_is_parsed_from_its_head() {
        let message = bind("p", "stmt", &[0; 1000]);
        assert_eq!(bind_head(&message[..7], message.len()), Ok(None));
        let head = bind_head(&message[..20], message.len()).unwrap().unwrap();
        assert_eq!((head.portal, head.statement, head.head_len), (&b"p"[..], &b"stmt"[..], 12));
    }

    #[test]
    fn the_tail_of_a_bind_contains_the_result_formats() {
        let message =
            bind("", "", &[0, 1, 0, 0, 0, 2, 0, 0, 0, 1, b'x', 255, 255, 255, 255, 0, 2, 0, 1, 0, 0]);
        let tail = bind_tail(&message, 7).unwrap();
        assert_eq!((tail.parameters, tail.result_formats), (2, vec![Format::Binary, Format::Text]));
        assert!(bind_tail(&message[..message.len() - 1], 7).is_err());
        assert_eq!(bind_tail(&bind("", "", &[0, 0, 0, 0, 0, 1, 0, 7]), 7), Err(FormatError::UnknownKind(7)));
    }

    #[test]
    fn a_bind_with_unterminated_names_is_an_error() {
        let message = [b'B', 0, 0, 0, 6, b'p', b'q'];
        assert_eq!(bind_head(&message, 7), Err(FormatError::UnterminatedString));
    }

    #[test]
    fn an_overlong_name_is_an_error_before_it_is_complete() {
        let message = vec![b'x'; 2 * MAX_NAME_BYTES];
        assert_eq!(bind_head(&message, 1 << 20), Err(FormatError::NameTooLong));
    }

    proptest! {
        #[test]
        fn no_message_panics(bytes in proptest::collection::vec(any::<u8>(), 0..64), len in 0usize..100) {
            let _ = parse(&bytes);
            let _ = bind_head(&bytes, len);
            let _ = bind_tail(&bytes, len);
            let _ = named(&bytes);
            let _ = query(&bytes);
            let _ = password(&bytes);
            let _ = sasl_initial(&bytes);
        }
    }
}
