//! The relay: every type of message between a client and a server, and invalid ones.

use crate::support::raw::{self, Client, tags};
use crate::support::{Bouncer, postgres};
use std::io::Read;

#[test]
fn simple_queries_of_every_kind_are_answered() {
    let bouncer = Bouncer::in_front_of(postgres(), &[]);
    let mut client = bouncer.client();
    assert_eq!(tags(&client.query("SELECT 1")), "TDCZ");
    assert_eq!(tags(&client.query("")), "IZ");
    assert_eq!(tags(&client.query("SELECT 1; SELECT 2; SELECT 3")), "TDCTDCTDCZ");
    assert_eq!(tags(&client.query("SELECT 1/0")), "EZ");
    assert_eq!(tags(&client.query("SELECT 1; SELECT 1/0; SELECT 2")), "TDCEZ");
    assert_eq!(tags(&client.query("DO $$ BEGIN RAISE NOTICE 'hello'; END $$")), "NCZ");
    assert_eq!(client.value("SELECT 'still here'"), "still here");
    assert_eq!(bouncer.show("SERVERS", "state"), ["idle"]);
}

#[test]
fn a_result_larger_than_any_buffer_arrives_whole() {
    let bouncer = Bouncer::in_front_of(postgres(), &[]);
    let mut client = bouncer.client();
    let messages = client.query("SELECT i, repeat(chr(65 + i % 26), 500) FROM generate_series(1, 20000) i");
    let rows: Vec<_> = messages.iter().filter(|message| message.tag == b'D').map(|m| m.row()).collect();
    assert_eq!(rows.len(), 20_000);
    assert_eq!(rows[19_999][0].as_deref(), Some("20000"));
    assert!(rows.iter().all(|row| row[1].as_ref().unwrap().len() == 500));
    let big = client.value("SELECT repeat('x', 3000000)");
    assert_eq!(big.len(), 3_000_000);
}

#[test]
fn a_query_larger_than_any_buffer_arrives_whole() {
    let bouncer = Bouncer::in_front_of(postgres(), &[]);
    let mut client = bouncer.client();
    let literal = "y".repeat(2_000_000);
    assert_eq!(client.value(&format!("SELECT length('{literal}')")), "2000000");
}

#[test]
fn a_request_sent_byte_by_byte_holds_no_server_until_it_is_complete() {
    let bouncer = Bouncer::in_front_of(postgres(), &["default_pool_size = 1"]);
    let mut slow = bouncer.client();
    let mut other = bouncer.client();
    let request = raw::query("SELECT 'slow'");
    for byte in &request[..request.len() - 1] {
        slow.send(&[*byte]);
        assert_eq!(other.value("SELECT 'other'"), "other");
    }
    slow.send(&request[request.len() - 1..]);
    assert_eq!(tags(&slow.until_ready()), "TDCZ");
}

#[test]
fn pipelined_batches_continue_after_an_error_in_the_middle() {
    let bouncer = Bouncer::in_front_of(postgres(), &[]);
    let mut client = bouncer.client();
    let one = |sql: &str| [raw::parse("", sql), raw::bind("", "", &[]), raw::execute()].concat();
    let batch = [one("SELECT 1"), one("SELECT 2"), raw::sync()].concat();
    client.send(&batch);
    assert_eq!(tags(&client.until_ready()), "12DC12DCZ");
    // Three batches in one packet; the error in the second discards messages up to its own Sync only.
    let pipeline = [
        one("SELECT 1"),
        raw::sync(),
        one("SELECT 1 / (length(current_user) * 0)"),
        one("SELECT 3"),
        raw::sync(),
        one("SELECT 4"),
        raw::sync(),
    ]
    .concat();
    client.send(&pipeline);
    assert_eq!(tags(&client.until_ready()), "12DCZ");
    assert_eq!(tags(&client.until_ready()), "12EZ");
    assert_eq!(tags(&client.until_ready()), "12DCZ");
    assert_eq!(bouncer.show("SERVERS", "state"), ["idle"]);
}

#[test]
fn an_error_before_the_sync_is_sent_keeps_the_server_until_the_sync() {
    let bouncer = Bouncer::in_front_of(postgres(), &["default_pool_size = 1"]);
    let mut client = bouncer.client();
    client.send(&[raw::parse("", "SELECT broken"), raw::flush()].concat());
    client.expect(b'E');
    client.send(&[raw::bind("", "", &[]), raw::execute()].concat());
    client.send(&raw::sync());
    assert_eq!(tags(&client.until_ready()), "Z");
    assert_eq!(client.value("SELECT 5"), "5");
}

#[test]
fn flush_returns_answers_without_a_sync() {
    let bouncer = Bouncer::in_front_of(postgres(), &[]);
    let mut client = bouncer.client();
    client.send(&[raw::parse("", "SELECT 7"), raw::flush()].concat());
    client.expect(b'1');
    client.send(&[raw::bind("", "", &[]), raw::execute(), raw::flush()].concat());
    client.expect(b'2');
    client.expect(b'D');
    client.expect(b'C');
    client.send(&raw::sync());
    client.expect(b'Z');
}

#[test]
fn function_calls_are_forwarded() {
    let bouncer = Bouncer::in_front_of(postgres(), &[]);
    let mut client = bouncer.client();
    let oid: u32 = client.value("SELECT 'pg_catalog.int4pl'::regproc::oid::int").parse().unwrap();
    let mut body = oid.to_be_bytes().to_vec();
    body.extend_from_slice(&[0, 1, 0, 1, 0, 2]);
    for n in [40u32, 2] {
        body.extend_from_slice(&4u32.to_be_bytes());
        body.extend_from_slice(&n.to_be_bytes());
    }
    body.extend_from_slice(&[0, 1]);
    let mut message = vec![b'F'];
    message.extend_from_slice(&(body.len() as u32 + 4).to_be_bytes());
    message.extend_from_slice(&body);
    client.send(&message);
    let answer = client.expect(b'V');
    assert_eq!(&answer.bytes[answer.bytes.len() - 4..], &42u32.to_be_bytes());
    client.expect(b'Z');
    assert_eq!(bouncer.show("SERVERS", "state"), ["idle"]);
}

#[test]
fn tracked_parameters_are_applied_to_each_server_of_a_client() {
    let bouncer = Bouncer::in_front_of(postgres(), &["default_pool_size = 1"]);
    let mut a = Client::log_in_with(
        bouncer.port,
        &[("user", "app"), ("database", "app"), ("TimeZone", "Asia/Tokyo"), ("application_name", "first")],
    );
    let mut b = bouncer.client();
    assert_eq!(a.reported("TimeZone").as_deref(), Some("Asia/Tokyo"));
    assert_eq!(a.value("SHOW TimeZone"), "Asia/Tokyo");
    let zone = b.value("SHOW TimeZone");
    assert_ne!(zone, "Asia/Tokyo");
    assert_eq!(a.value("SHOW application_name"), "first");
    assert_eq!(tags(&a.query("SET TimeZone = 'America/Lima'")), "CSZ");
    assert_eq!(b.value("SHOW TimeZone"), zone);
    assert_eq!(a.value("SHOW TimeZone"), "America/Lima");
    assert_eq!(a.value("SHOW application_name"), "first");
    assert_eq!(tags(&b.query("SET IntervalStyle = 'iso_8601'")), "CSZ");
    assert_ne!(a.value("SHOW IntervalStyle"), "iso_8601");
    assert_eq!(b.value("SHOW IntervalStyle"), "iso_8601");
}

#[test]
fn a_refused_parameter_value_is_reported_before_any_query_runs() {
    let bouncer = Bouncer::in_front_of(postgres(), &[]);
    postgres().sql_in("app", "CREATE TABLE IF NOT EXISTS never (n int)").unwrap();
    let parameters = [("user", "app"), ("database", "app"), ("TimeZone", "Mars/Olympus")];
    let mut client = Client::log_in_with(bouncer.port, &parameters);
    client.send_query("INSERT INTO never VALUES (1)");
    let messages = client.until_end();
    let (code, text) = messages.last().unwrap().explained();
    assert_eq!(code, "22023");
    assert!(text.contains("TimeZone"), "{text}");
    assert_eq!(postgres().sql_in("app", "SELECT count(*) FROM never").unwrap().trim(), "0");
    assert_eq!(bouncer.client().value("SELECT 1"), "1");
}

#[test]
fn unknown_startup_parameters_are_refused_or_ignored_as_configured() {
    let bouncer = Bouncer::in_front_of(postgres(), &["ignore_startup_parameters = extra_float_digits"]);
    let with = |name| [("user", "app"), ("database", "app"), (name, "2")];
    Client::log_in_with(bouncer.port, &with("extra_float_digits"));
    let mut refused = Client::start(bouncer.port, &with("geqo"));
    let (code, text) = refused.read().unwrap().error();
    assert_eq!((code.as_str(), text.as_str()), ("08P01", "unsupported startup parameter: geqo"));
}

#[test]
fn malformed_messages_disconnect_only_their_client() {
    let bouncer = Bouncer::in_front_of(postgres(), &["max_packet_size = 100000"]);
    let mut bystander = bouncer.client();
    let cases: [(&[u8], &str); 5] = [
        (b"Q\0\0\0\x03", "impossible length"),
        (b"Q\x7f\xff\xff\xff", "larger than the limit"),
        (b"!\0\0\0\x04", "unknown message type"),
        (b"p\0\0\0\x06x\0", "a password message outside of authentication"),
        (b"D\0\0\0\x06Q\0", "unknown kind byte"),
    ];
    for (bytes, expected) in cases {
        let mut client = bouncer.client();
        client.send(&[bytes, &raw::sync()].concat());
        let messages = client.until_end();
        let (code, text) = messages.last().expect("an error").explained();
        assert_eq!(code, "08P01");
        assert!(text.contains(expected), "{text}");
        assert_eq!(bystander.value("SELECT 1"), "1");
    }
    assert!(bouncer.show("SERVERS", "state").len() <= 2);
}

#[test]
fn a_server_that_dies_in_a_query_is_reported_and_replaced() {
    let bouncer = Bouncer::in_front_of(postgres(), &["default_pool_size = 2"]);
    let mut bystander = bouncer.client();
    let mut client = bouncer.client();
    client.query("BEGIN");
    let pid = client.value("SELECT pg_backend_pid()");
    client.send_query("SELECT pg_sleep(60)");
    postgres().sql(&format!("SELECT pg_terminate_backend({pid})")).unwrap();
    let messages = client.until_end();
    let (code, _) = messages.iter().find(|message| message.tag == b'E').unwrap().error();
    assert_eq!(code, "57P01");
    assert_eq!(bystander.value("SELECT 1"), "1");
    assert_eq!(bouncer.client().value("SELECT 1"), "1");
}

#[test]
fn a_server_that_died_while_idle_is_never_assigned() {
    let bouncer = Bouncer::in_front_of(postgres(), &["default_pool_size = 1"]);
    let mut client = bouncer.client();
    for _ in 0..5 {
        let pid = client.value("SELECT pg_backend_pid()");
        postgres().sql(&format!("SELECT pg_terminate_backend({pid}, 5000)")).unwrap();
        assert_ne!(client.value("SELECT pg_backend_pid()"), pid);
    }
}

#[test]
fn protocol_3_2_is_accepted_and_newer_versions_and_options_are_negotiated() {
    const V3_0: u32 = 0x3_0000;
    const V3_2: u32 = 0x3_0002;
    let bouncer = Bouncer::in_front_of(postgres(), &[]);
    let unknown = ("_pq_.new_thing", "on");
    // The version requested, an option, and the version of NegotiateProtocolVersion if it is sent.
    for (requested, option, offered) in [
        (V3_0, None, None),
        (V3_2, None, None),
        (0x3_270f, None, Some(V3_2)),
        (V3_0, Some(unknown), Some(V3_0)),
        (V3_2, Some(unknown), Some(V3_2)),
    ] {
        let mut client = Client::connect(bouncer.port);
        let parameters: Vec<_> = [("user", "app"), ("database", "app")].into_iter().chain(option).collect();
        let mut packet = Vec::new();
        wire::encode::startup(&mut packet, wire::startup::Version(requested), &parameters);
        client.send(&packet);
        client.greeting = client.until_ready();
        let first = &client.greeting[0];
        let negotiated =
            (first.tag == b'v').then(|| u32::from_be_bytes(first.bytes[5..9].try_into().unwrap()));
        assert_eq!(negotiated, offered, "{requested:#x} {option:?}");
        let names_option = first.bytes.windows(14).any(|window| window == b"_pq_.new_thing");
        assert_eq!(names_option, option.is_some());
        assert_eq!(client.value("SELECT 1"), "1");
    }
}

#[test]
fn a_startup_packet_of_protocol_two_is_answered_as_postgresql_does() {
    let bouncer = Bouncer::in_front_of(postgres(), &[]);
    let answer = |port: u16, version: [u8; 4]| {
        // The fixed length of protocol 2.0: database, user, options and two that were never used.
        let mut packet = vec![0; 296];
        packet[..4].copy_from_slice(&296u32.to_be_bytes());
        packet[4..8].copy_from_slice(&version);
        packet[8..11].copy_from_slice(b"app");
        packet[72..75].copy_from_slice(b"app");
        let mut client = Client::connect(port);
        client.send(&packet);
        let mut bytes = Vec::new();
        client.stream.read_to_end(&mut bytes).unwrap();
        bytes
    };
    let (theirs, ours) = (answer(postgres().port(), [0, 2, 0, 0]), answer(bouncer.port, [0, 2, 0, 0]));
    let range_at = theirs.windows(8).position(|part| part == b"supports").unwrap();
    assert_eq!(ours[..range_at], theirs[..range_at]);
    assert_eq!(ours[range_at..], *b"supports 3.0 to 3.2\n\0");
    assert_eq!(ours[..8], *b"EFATAL: ");
    // Newer ones, which are not there yet, get today's form.
    for port in [postgres().port(), bouncer.port] {
        assert_eq!(answer(port, [0, 4, 0, 0])[..2], [b'E', 0]);
    }
}
