//! The effect of each client message while the server reads COPY data is the same as on a direct connection.
//! docs/protocol.md has the table.

use crate::support::raw::{self, Client};
use crate::support::{Bouncer, postgres};

/// Starts a COPY, sends a message during it, ends the COPY, and returns the answers: tags, and the SQLSTATE
/// of errors. The end of the connection is `!`.
fn answers_in_copy(port: u16, extended: bool, message: &[u8]) -> String {
    let mut client = Client::log_in(port, "app", "app");
    client.query("CREATE TEMP TABLE IF NOT EXISTS in_copy (n int)");
    let copy = "COPY in_copy FROM STDIN";
    if extended {
        client.send(&[raw::parse("", copy), raw::bind("", "", &[]), raw::execute(), raw::flush()].concat());
        client.expect(b'1');
        client.expect(b'2');
    } else {
        client.send_query(copy);
    }
    client.expect(b'G');
    client.send(message);
    let mut seen = String::new();
    // The server may have closed the connection meanwhile.
    let _ = std::io::Write::write_all(&mut client.stream, &[raw::copy_done(), raw::sync()].concat());
    loop {
        match client.read() {
            None => {
                seen.push('!');
                return seen;
            }
            Some(message) if message.tag == b'E' => seen.push_str(&format!("E{} ", message.error().0)),
            Some(message) => seen.push(message.tag as char),
        }
        if seen.ends_with('Z') && !client_has_more(&mut client) {
            return seen;
        }
    }
}

/// Checks with a query whose answer is known that nothing else follows the last ReadyForQuery; always false.
fn client_has_more(client: &mut Client) -> bool {
    client.send_query("SELECT 'mark'");
    let messages = client.until_ready();
    assert!(raw::tags(&messages) == "TDCZ" || raw::tags(&messages) == "Z", "{}", raw::tags(&messages));
    if raw::tags(&messages) == "Z" {
        // That was the answer to the Sync; the query's answer follows.
        client.until_ready();
    }
    false
}

fn same_as_direct_connection(message: &[u8]) -> (String, String) {
    let bouncer = Bouncer::in_front_of(postgres(), &["default_pool_size = 1", "pool_mode = session"]);
    let mut both = Vec::new();
    for extended in [false, true] {
        let directly = answers_in_copy(postgres().port(), extended, message);
        let pooled = answers_in_copy(bouncer.port, extended, message);
        assert_eq!(pooled, directly, "extended: {extended}");
        both.push(pooled);
    }
    assert_eq!(bouncer.client().value("SELECT 'next'"), "next");
    assert!(!bouncer.log().contains("out of step"), "{}", bouncer.log());
    (both[0].clone(), both[1].clone())
}

macro_rules! in_copy {
    ($($name:ident: $message:expr;)*) => {
        $(
            #[test]
            fn $name() {
                same_as_direct_connection(&$message);
            }
        )*
    };
}

in_copy! {
    copy_data_in_copy_is_read: raw::copy_data(b"1\n");
    bad_copy_data_in_copy_fails_it: raw::copy_data(b"x\n");
    copy_done_in_copy_ends_it: raw::copy_done();
    copy_fail_in_copy_fails_it: raw::copy_fail("no");
    flush_in_copy_is_ignored: raw::flush();
    query_in_copy_ends_the_connection: raw::query("SELECT 1");
    parse_in_copy_ends_the_connection: raw::parse("", "SELECT 1");
    bind_in_copy_ends_the_connection: raw::bind("", "", &[]);
    describe_in_copy_ends_the_connection: raw::describe_statement("");
    execute_in_copy_ends_the_connection: raw::execute();
    close_in_copy_ends_the_connection: raw::close_statement("");
    function_call_in_copy_ends_the_connection: [&b"F\0\0\0\x0e"[..], &[0; 10]].concat();
}

#[test]
fn sync_in_copy_is_ignored() {
    let (simple, extended) = same_as_direct_connection(&raw::sync());
    assert_eq!((simple.as_str(), extended.as_str()), ("CZ", "CZ"));
}

#[test]
fn terminate_in_copy_ends_the_connection_and_copies_nothing() {
    let bouncer = Bouncer::in_front_of(postgres(), &["default_pool_size = 1"]);
    postgres().sql_in("app", "DROP TABLE IF EXISTS in_copy_terminated").unwrap();
    postgres()
        .sql_in("app", "CREATE TABLE in_copy_terminated (n int); GRANT ALL ON in_copy_terminated TO app")
        .unwrap();
    let mut client = bouncer.client();
    client.send_query("COPY in_copy_terminated FROM STDIN");
    client.expect(b'G');
    client.send(&[raw::copy_data(b"1\n"), raw::terminate()].concat());
    assert_eq!(client.read(), None);
    assert_eq!(bouncer.client().value("SELECT count(*) FROM in_copy_terminated"), "0");
}
