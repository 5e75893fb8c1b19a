//! The pooler's own names of statements in messages of the server. Owns their replacement by the client's names: a client
//! must not see how statements are called on the server.

use crate::prepared::statement::NAME_PREFIX;

/// What a client's own name that begins like ours is changed to on the way to the server, so that it cannot name a shared
/// statement: it never has digits only behind the prefix.
const ESCAPED_PREFIX: &str = "iamb__";

/// The name under which the server is asked for a statement that is not a shared one, if that is another than the
/// client's.
pub(super) fn escaped(name: &[u8]) -> Option<Vec<u8>> {
    let rest = name.strip_prefix(NAME_PREFIX.as_bytes())?;
    Some([ESCAPED_PREFIX.as_bytes(), rest].concat())
}

/// No statement has this name.
pub(super) const NO_STATEMENT: &[u8] = b"iamb__";

/// Stands in for a name that the client has given up meanwhile.
const GIVEN_UP: &[u8] = b"?";

/// Names replaced in one message; what stands behind them is left as it is.
const MAX_REPLACED: usize = 16;

/// The message with the client's names in it; `None` if there is nothing to replace. `name_of` knows the client's name of
/// a shared statement. A name that nobody knows is replaced only in quotes, as the server writes names of statements: it
/// may be anything else.
pub(super) fn replaced<'a>(message: &[u8], name_of: impl Fn(u64) -> Option<&'a [u8]>) -> Option<Vec<u8>> {
    let prefix = NAME_PREFIX.as_bytes();
    let mut out: Option<Vec<u8>> = None;
    let (mut copied, mut at) = (0, 0);
    for _ in 0..MAX_REPLACED {
        let Some(start) = find(&message[at..], prefix).map(|found| at + found) else { break };
        let behind = &message[start + prefix.len()..];
        let digits = behind.iter().take_while(|byte| byte.is_ascii_digit()).count();
        at = start + prefix.len() + digits;
        let is_quoted = start > 0 && message[start - 1] == b'"' && message.get(at) == Some(&b'"');
        let name = if digits > 0 {
            let id = std::str::from_utf8(&behind[..digits]).ok().and_then(|text| text.parse().ok());
            id.and_then(&name_of).or_else(|| is_quoted.then_some(GIVEN_UP))
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
    // The length word counts itself and not the tag.
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
    fn the_clients_names_stand_in_for_ours() {
        let text = "\"iamb_7\", \"iamb__5\", iamb_x, order iamb_9 and \"iamb_8\"";
        let mut message = Vec::new();
        encode::error_response(&mut message, &ErrorReport::error("26000", text));
        let name_of = |id| (id == 7).then_some(&b"mine"[..]);
        let seen = replaced(&message, name_of).unwrap();
        let fields = backend::error_fields(&seen).unwrap();
        assert_eq!(fields.message, "\"mine\", \"iamb_5\", iamb_x, order iamb_9 and \"?\"");
        assert_eq!(seen.len() - 1, u32::from_be_bytes(seen[1..5].try_into().unwrap()) as usize);
        let mut plain = Vec::new();
        encode::error_response(&mut plain, &ErrorReport::error("26000", "iamb_x"));
        assert!(replaced(&plain, name_of).is_none());
    }

    #[test]
    fn a_name_like_ours_names_no_shared_statement() {
        assert_eq!(escaped(b"iamb_7").as_deref(), Some(&b"iamb__7"[..]));
        assert_eq!(escaped(b"s1"), None);
    }
}
