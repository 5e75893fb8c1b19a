//! New heads for messages whose statement name differs between client and server. Owns the computation of the
//! length field; never copies the unchanged part of a message.

use crate::tag::frontend;

/// Appends a whole Parse for `name` with the query and types of `body` (see [`crate::frontend::Parse::body`]).
pub fn parse(out: &mut Vec<u8>, name: &[u8], body: &[u8]) {
    head(out, frontend::PARSE, name.len() + 1 + body.len());
    out.extend_from_slice(name);
    out.push(0);
    out.extend_from_slice(body);
}

/// Appends a whole Query with this text, which ends with a zero byte.
pub fn query(out: &mut Vec<u8>, text: &[u8]) {
    head(out, frontend::QUERY, text.len());
    out.extend_from_slice(text);
}

/// Appends the head of a Parse for `name`; `body_len` bytes of query and types must follow it.
pub fn parse_head(out: &mut Vec<u8>, name: &[u8], body_len: usize) {
    head(out, frontend::PARSE, name.len() + 1 + body_len);
    out.extend_from_slice(name);
    out.push(0);
}

/// Appends the head of a Bind of `statement` to `portal`. `tail_len` bytes must follow it: what follows the
/// old head in the client's message, unchanged.
pub fn bind(out: &mut Vec<u8>, portal: &[u8], statement: &[u8], tail_len: usize) {
    head(out, frontend::BIND, portal.len() + 1 + statement.len() + 1 + tail_len);
    out.extend_from_slice(portal);
    out.push(0);
    out.extend_from_slice(statement);
    out.push(0);
}

/// Appends a Describe of a statement.
pub fn describe_statement(out: &mut Vec<u8>, name: &[u8]) {
    named_statement(out, frontend::DESCRIBE, name);
}

/// Appends a Close of a statement.
pub fn close_statement(out: &mut Vec<u8>, name: &[u8]) {
    named_statement(out, frontend::CLOSE, name);
}

fn named_statement(out: &mut Vec<u8>, tag: u8, name: &[u8]) {
    head(out, tag, 1 + name.len() + 1);
    out.push(b'S');
    out.extend_from_slice(name);
    out.push(0);
}

/// Body lengths are bounded by the length fields they were read from, so the sum fits 32 bits; otherwise the
/// conversion saturates rather than wraps.
fn head(out: &mut Vec<u8>, tag: u8, body_len: usize) {
    out.push(tag);
    out.extend_from_slice(&u32::try_from(body_len + 4).unwrap_or(u32::MAX).to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frontend as view;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_renamed_bind_differs_only_in_its_name(
            portal in "[a-z]{0,9}", old in "[a-z]{1,9}", new in "[a-z]{1,20}",
            tail in proptest::collection::vec(any::<u8>(), 0..50),
        ) {
            let mut message = Vec::new();
            head(&mut message, b'B', portal.len() + old.len() + 2 + tail.len());
            for name in [&portal, &old] {
                message.extend_from_slice(name.as_bytes());
                message.push(0);
            }
            message.extend_from_slice(&tail);
            let before = view::bind_head(&message, message.len()).unwrap().unwrap();
            let mut renamed = Vec::new();
            bind(&mut renamed, before.portal, new.as_bytes(), message.len() - before.head_len);
            renamed.extend_from_slice(&message[before.head_len..]);
            let len = u32::from_be_bytes(renamed[1..5].try_into().unwrap()) as usize + 1;
            prop_assert_eq!(len, renamed.len());
            let after = view::bind_head(&renamed, len).unwrap().unwrap();
            prop_assert_eq!(after.portal, portal.as_bytes());
            prop_assert_eq!(after.statement, new.as_bytes());
            prop_assert_eq!(&renamed[after.head_len..], &tail[..]);
        }

        #[test]
        fn a_renamed_parse_keeps_its_body(name in "[a-z]{0,9}", body in "[a-z ]{1,40}") {
            let body = format!("{body}\0\0\0");
            let mut out = Vec::new();
            parse(&mut out, name.as_bytes(), body.as_bytes());
            let parsed = view::parse(&out).unwrap();
            prop_assert_eq!(parsed.name, name.as_bytes());
            prop_assert_eq!(parsed.body, body.as_bytes());
        }
    }
}
