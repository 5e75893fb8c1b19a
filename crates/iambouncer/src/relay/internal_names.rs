//! The pooler's own names of statements in messages of the server. Owns their replacement by the client's names: a client
//! must not see how statements are called on the server.

use crate::prepared::ClientNames;
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

/// The message with the client's names in it; `None` if there is nothing to replace. `current` is the client's name in
/// the message that failed, for a name that its map does not have.
pub(super) fn replaced(message: &[u8], names: &ClientNames, current: Option<&[u8]>) -> Option<Vec<u8>> {
    let prefix = NAME_PREFIX.as_bytes();
    let mut out: Option<Vec<u8>> = None;
    let mut rest = message;
    let mut copied = 0;
    while let Some(at) = find(rest, prefix) {
        let start = message.len() - rest.len() + at;
        let behind = &message[start + prefix.len()..];
        let digits = behind.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let (end, name) = if digits > 0 {
            let id = std::str::from_utf8(&behind[..digits]).ok().and_then(|text| text.parse().ok());
            let known = id.and_then(|id| names.name_of(id)).or(current);
            (start + prefix.len() + digits, known.map(<[u8]>::to_vec))
        } else if behind.first() == Some(&b'_') {
            (start + ESCAPED_PREFIX.len(), Some(prefix.to_vec()))
        } else {
            (start + prefix.len(), None)
        };
        if let Some(name) = name {
            let out = out.get_or_insert_default();
            out.extend_from_slice(&message[copied..start]);
            out.extend_from_slice(&name);
            copied = end;
        }
        rest = &message[end..];
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
    use crate::prepared::Interner;
    use wire::backend;
    use wire::encode::{self, ErrorReport};

    #[test]
    fn the_clients_names_stand_in_for_ours() {
        let statement = Interner::default().intern(b"SELECT 'internal names'\0\0\0");
        let mut names = ClientNames::default();
        names.insert(b"mine", statement.clone());
        let ours = String::from_utf8_lossy(&statement.name).into_owned();
        let text = format!("\"{ours}\", \"iamb__5\", iamb_x and \"iamb_999999\"");
        let mut message = Vec::new();
        encode::error_response(&mut message, &ErrorReport::error("26000", &text));
        let seen = replaced(&message, &names, Some(b"other")).unwrap();
        let fields = backend::error_fields(&seen).unwrap();
        assert_eq!(fields.message, "\"mine\", \"iamb_5\", iamb_x and \"other\"");
        assert_eq!(seen.len() - 1, u32::from_be_bytes(seen[1..5].try_into().unwrap()) as usize);
        let mut plain = Vec::new();
        encode::error_response(&mut plain, &ErrorReport::error("26000", "iamb_x"));
        assert!(replaced(&plain, &names, None).is_none());
    }

    #[test]
    fn a_name_like_ours_names_no_shared_statement() {
        assert_eq!(escaped(b"iamb_7").as_deref(), Some(&b"iamb__7"[..]));
        assert_eq!(escaped(b"s1"), None);
    }
}
