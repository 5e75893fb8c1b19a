//! Fuzzes message views and the rewriting of message heads. Owns three properties: nothing panics, a view of a prefix
//! agrees with the view of the whole message, and a rewritten message differs only in its name.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wire::frontend::{self, NamedKind};
use wire::limits::{HEADER_BYTES, MAX_MESSAGE_BYTES};
use wire::{backend, encode, rewrite, scan};

fuzz_target!(|input: (Vec<u8>, u8, Vec<u8>)| {
    let (mut name, tag, body) = input;
    // Statement names of the pooler are short and contain no zero byte.
    name.retain(|&byte| byte != 0);
    name.truncate(63);
    let mut message = vec![tag];
    message.extend_from_slice(&(body.len() as u32 + 4).to_be_bytes());
    message.extend_from_slice(&body);

    parse(&message, &name);
    bind(&message, &name);
    named(&message, &name);
    client_views(&message);
    server_views(&message);
    // The same views of input without a valid header.
    client_views(&body);
    server_views(&body);
});

/// Checks that the length field of `message` is correct.
fn check_length(message: &[u8]) {
    let frame = scan::header(message, MAX_MESSAGE_BYTES).unwrap().unwrap();
    assert_eq!(frame.len, message.len());
}

fn parse(message: &[u8], name: &[u8]) {
    let Ok(before) = frontend::parse(message) else { return };
    assert_eq!(frontend::parse_is_named(message), Some(!before.name.is_empty()));
    let mut renamed = Vec::new();
    rewrite::parse(&mut renamed, name, before.body);
    check_length(&renamed);
    let after = frontend::parse(&renamed).unwrap();
    assert_eq!((after.name, after.body), (name, before.body));
}

fn bind(message: &[u8], name: &[u8]) {
    let whole = frontend::bind_head(message, message.len());
    for end in 0..message.len() {
        match frontend::bind_head(&message[..end], message.len()) {
            Ok(None) => {}
            early => assert_eq!(early, whole, "a prefix of {end} bytes gives a different result"),
        }
    }
    let Ok(Some(before)) = whole else { return };
    let mut renamed = Vec::new();
    rewrite::bind(&mut renamed, before.portal, name, message.len() - before.head_len);
    renamed.extend_from_slice(&message[before.head_len..]);
    check_length(&renamed);
    let after = frontend::bind_head(&renamed, renamed.len()).unwrap().unwrap();
    assert_eq!((after.portal, after.statement), (before.portal, name));
    assert_eq!(renamed[after.head_len..], message[before.head_len..]);
}

fn named(message: &[u8], name: &[u8]) {
    let _ = frontend::named(message);
    for write in [rewrite::describe_statement, rewrite::close_statement] {
        let mut out = Vec::new();
        write(&mut out, name);
        check_length(&out);
        let view = frontend::named(&out).unwrap();
        assert_eq!((view.target, view.name), (NamedKind::Statement, name));
    }
}

fn client_views(message: &[u8]) {
    let _ = frontend::parse(message);
    let _ = frontend::query(message);
    let _ = frontend::password(message);
    let _ = frontend::sasl_initial(message);
}

fn server_views(message: &[u8]) {
    let _ = backend::ready_for_query(message);
    let _ = backend::authentication(message);
    let _ = backend::command_tag(message);
    let _ = backend::error_fields(message);
    let _ = backend::sqlstate(message);
    if let Ok((name, value)) = backend::parameter_status(message) {
        let mut again = Vec::new();
        encode::parameter_status(&mut again, name, value);
        assert_eq!(backend::parameter_status(&again), Ok((name, value)));
    }
    if let Ok(data) = backend::key_data(message) {
        let mut again = Vec::new();
        encode::backend_key_data(&mut again, data.pid, data.key);
        assert_eq!(again[HEADER_BYTES..], message[HEADER_BYTES..]);
    }
}
