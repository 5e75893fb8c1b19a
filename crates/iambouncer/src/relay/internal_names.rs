//! The pooler's internal statement names in server messages. Owns their replacement with the client's names: a client
//! never sees what a statement is called on the server.

use crate::prepared::statement::NAME_PREFIX;

/// Replaces the internal prefix when a client's own name begins with it, so that the name cannot refer to a shared
/// statement: an escaped name never has only digits after the prefix.
const ESCAPED_PREFIX: &str = "iamb__";

/// The name used on the server for a statement that is not shared, if it differs from the client's name.
pub(super) fn escaped(name: &[u8]) -> Option<Vec<u8>> {
    let rest = name.strip_prefix(NAME_PREFIX.as_bytes())?;
    Some([ESCAPED_PREFIX.as_bytes(), rest].concat())
}

/// The name of no statement.
pub(super) const NO_STATEMENT: &[u8] = b"iamb__";

/// Shown in place of a name that the client has dropped.
const UNKNOWN_NAME: &[u8] = b"?";

/// Names replaced in one message; the text after the last of them is left unchanged.
const MAX_REPLACED: usize = 16;

/// The message with the client's names in it, or `None` if nothing is replaced. `name_of` returns the client's name for
/// a shared statement. An unknown name is replaced only in quotes, which is how the server writes statement names:
/// without quotes it may be anything.
pub(super) fn replaced<'a>(message: &[u8], name_of: impl Fn(u64) -> Option<&'a [u8]>) -> Option<Vec<u8>> {
    let prefix = NAME_PREFIX.as_bytes();
    let mut out: Option<Vec<u8>> = None;
    let (mut copied, mut at) = (0, 0);
    for _ in 0..MAX_REPLACED {
        let Some(start) = find(&message[at..], prefix).map(|found| at + found) else { break };
        let rest = &message[start + prefix.len()..];
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        at = start + prefix.len() + digits;
        let is_quoted = start > 0 && message[start - 1] == b'"' && message.get(at) == Some(&b'"');
        let name = if digits > 0 {
            let id = std::str::from_utf8(&rest[..digits]).ok().and_then(|text| text.parse().ok());
            id.and_then(&name_of).or_else(|| is_quoted.then_some(UNKNOWN_NAME))
        } else if message[start..].starts_with(ESCAPED_PREFIX.as_bytes()) {
            at = start + ESCAPED_PREFIX.len();
            Some(prefix)
        } else {
            None
        };
        if let Some(name) = name {
            let out = out.get_or_insert_default();
            out.extend_from_slice(&message[copied..start]);
            out.extend_from_slice(name);
            copied = at;
        }
    }
    let mut out = out?;
    out.extend_from_slice(&message[copied..]);
    // The length word includes itself but not the tag.
    let len = u32::try_from(out.len() - 1).ok()?;
    out.get_mut(1..5)?.copy_from_slice(&len.to_be_bytes());
    Some(out)
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::backend;
    use wire::encode::{self, ErrorReport};

    #[test]
    fn internal_names_are_replaced_with_the_clients() {
        let text = "\"iamb_7\", \"iamb__5\", iamb_x, order iamb_9 and \"iamb_8\"";
        let mut message = Vec::new();
        encode::error_response(&mut message, &ErrorReport::error("26000", text));
        let name_of = |id| (id == 7).then_some(&b"mine"[..]);
        let result = replaced(&message, name_of).unwrap();
        let fields = backend::error_fields(&result).unwrap();
        assert_eq!(fields.message, "\"mine\", \"iamb_5\", iamb_x, order iamb_9 and \"?\"");
        assert_eq!(result.len() - 1, u32::from_be_bytes(result[1..5].try_into().unwrap()) as usize);
        let mut plain = Vec::new();
        encode::error_response(&mut plain, &ErrorReport::error("26000", "iamb_x"));
        assert!(replaced(&plain, name_of).is_none());
    }

    #[test]
    fn a_client_name_cannot_refer_to_a_shared_statement() {
        assert_eq!(escaped(b"iamb_7").as_deref(), Some(&b"iamb__7"[..]));
        assert_eq!(escaped(b"s1"), None);
    }
}
