//! Who receives which notifications, and when.

use super::{direct, drained, notification, payload, payloads, run, shared, sharing, with_servers};
use crate::support::bouncer::Start;
use crate::support::raw::{self, Client};
use crate::support::tls_client::{ClientSide, TlsClient};
use crate::support::{eventually, postgres};
use wire::encode;
use wire::startup::Version;

#[test]
fn more_clients_listen_than_the_pool_has_servers() {
    let bouncer = with_servers(2, &[]);
    let mut clients: Vec<Client> =
        (0..8).map(|number| sharing(&bouncer, &format!("more_{}", number % 4))).collect();
    let mut sender = direct();
    for number in 0..8 {
        run(&mut sender, &[&format!("NOTIFY more_{}, '{number}'", number % 4)]);
    }
    for (number, client) in clients.iter_mut().enumerate() {
        let channel = format!("more_{}", number % 4);
        assert_eq!(notification(&client.expect(b'A')), (channel.clone(), (number % 4).to_string()));
        assert_eq!(notification(&client.expect(b'A')), (channel, (number % 4 + 4).to_string()));
        assert_eq!(client.value("SELECT 1"), "1");
    }
    assert_eq!(bouncer.show("SERVERS", "state").iter().filter(|state| *state == "listen").count(), 1);
}

#[test]
fn nothing_is_lost_doubled_or_reordered_while_clients_begin_and_end_to_share() {
    let bouncer = with_servers(3, &["workers = 2"]);
    let (mut first, mut second) = (bouncer.client(), bouncer.client());
    let mut sender = direct();
    run(&mut first, &["LISTEN steady"]);
    run(&mut second, &["LISTEN steady"]);
    let mut sent = 0;
    for round in 0..60 {
        // A block of statements returns the client to a server of its own, and then it shares again.
        let client = if round % 2 == 0 { &mut first } else { &mut second };
        client.send_query("BEGIN; SELECT 1; COMMIT");
        for _ in 0..40 {
            run(&mut sender, &[&format!("NOTIFY steady, '{sent}'")]);
            sent += 1;
        }
    }
    let expected: Vec<String> = (0..sent).map(|number: i32| number.to_string()).collect();
    run(&mut sender, &["NOTIFY steady, 'end'"]);
    for client in [&mut first, &mut second] {
        let mut seen = Vec::new();
        while seen.last().is_none_or(|last| last != "end") {
            let message = client.read().expect("the client stays connected");
            if message.tag == b'A' {
                seen.push(notification(&message).1);
            }
        }
        seen.pop();
        assert_eq!(seen, expected);
    }
}

#[test]
fn a_client_receives_its_own_notification_before_the_end_of_the_answer() {
    let bouncer = with_servers(2, &[]);
    let mut client = sharing(&bouncer, "own");
    for (number, sql) in ["NOTIFY own, 'a'", "SELECT pg_notify('own', 'a')", "BEGIN; NOTIFY own, 'a'; COMMIT"]
        .iter()
        .enumerate()
    {
        shared(&bouncer);
        let messages = client.query(sql);
        assert_eq!(raw::tags(&messages[messages.len() - 2..]), "AZ", "{number}");
        assert_eq!(payloads(&messages), ["a"], "{sql}");
    }
    shared(&bouncer);
    run(&mut client, &["BEGIN", "NOTIFY own, 'rolled back'", "ROLLBACK", "BEGIN", "NOTIFY own, 'b'"]);
    assert_eq!(payloads(&client.query("COMMIT")), ["b"]);
    shared(&bouncer);
    let batch = [raw::parse("", "NOTIFY own, 'c'"), raw::bind("", "", &[]), raw::execute(), raw::sync()];
    client.send(&batch.concat());
    assert_eq!(payloads(&client.until_ready()), ["c"]);
}

#[test]
fn notifications_arrive_between_transactions_only() {
    let bouncer = with_servers(3, &[]);
    let mut client = sharing(&bouncer, "between");
    let mut sender = direct();
    run(&mut client, &["BEGIN", "SELECT 1"]);
    run(&mut sender, &["NOTIFY between, 'a'"]);
    assert_eq!(raw::tags(&client.query("SELECT 1")), "TDCZ");
    assert_eq!(raw::tags(&client.query("COMMIT")), "CAZ");
    assert_eq!(drained(&mut client, &mut sender, "between"), [""; 0]);
}

#[test]
fn what_was_sent_before_the_listen_is_not_delivered() {
    let bouncer = with_servers(3, &[]);
    let mut one = sharing(&bouncer, "later");
    let mut other = bouncer.client();
    let mut sender = direct();
    run(&mut sender, &["NOTIFY later, 'before'"]);
    run(&mut other, &["BEGIN", "LISTEN later"]);
    run(&mut sender, &["NOTIFY later, 'meanwhile'"]);
    run(&mut other, &["COMMIT"]);
    run(&mut sender, &["NOTIFY later, 'after'"]);
    shared(&bouncer);
    assert_eq!(drained(&mut other, &mut sender, "later"), ["after"]);
    assert_eq!(["before", "meanwhile", "after"], [payload(&mut one), payload(&mut one), payload(&mut one)]);
}

#[test]
fn names_that_need_quotes_are_long_or_not_ascii_are_delivered() {
    let bouncer = with_servers(2, &[]);
    let mut sender = direct();
    let long = "l".repeat(80);
    let names = ["Two Words", "a\"\"b", "comma,\"\"semi;colon", "ключ", "back\\slash", "it's", &*long];
    let mut client = bouncer.client();
    for name in names {
        run(&mut client, &[&format!("LISTEN \"{name}\"")]);
    }
    shared(&bouncer);
    for name in names {
        run(&mut sender, &[&format!("NOTIFY \"{name}\", 'x'")]);
        let (channel, payload) = notification(&client.expect(b'A'));
        let expected: String = name.replace("\"\"", "\"").chars().take(63).collect();
        assert_eq!((channel.as_str(), payload.as_str()), (expected.as_str(), "x"));
    }
}

#[test]
fn a_client_with_another_encoding_keeps_its_server() {
    let bouncer = with_servers(3, &[]);
    let mut shares = sharing(&bouncer, "encoded");
    let parameters = [("user", "app"), ("database", "app"), ("client_encoding", "LATIN1")];
    let mut other = Client::log_in_with(bouncer.port, &parameters);
    run(&mut other, &["LISTEN encoded"]);
    let mut sender = direct();
    run(&mut sender, &["NOTIFY encoded, 'é'"]);
    let message = other.expect(b'A');
    assert!(message.bytes.ends_with(b"encoded\0\xe9\0"), "{:?}", message.bytes.escape_ascii().to_string());
    assert_eq!(payload(&mut shares), "é");
    assert_eq!(bouncer.show("PINS", "reasons"), ["listen"]);
    // One that changes its encoding while it shares.
    run(&mut shares, &["SET client_encoding = 'LATIN1'"]);
    run(&mut sender, &["NOTIFY encoded, 'ü'"]);
    assert!(shares.expect(b'A').bytes.ends_with(b"\0\xfc\0"));
    assert!(other.expect(b'A').bytes.ends_with(b"\0\xfc\0"));
}

#[test]
fn a_client_that_shares_sees_its_own_channels() {
    let bouncer = with_servers(3, &[]);
    let mut other = sharing(&bouncer, "seen_by_another");
    let mut client = sharing(&bouncer, "seen");
    let sql = "SELECT string_agg(c, ',') FROM pg_listening_channels() AS c";
    assert_eq!(client.value(sql), "seen");
    shared(&bouncer);
    client.send(&[raw::parse("", sql), raw::bind("", "", &[]), raw::execute(), raw::sync()].concat());
    let messages = client.until_ready();
    assert_eq!(messages.iter().find(|message| message.tag == b'D').unwrap().row()[0], Some("seen".into()));
    assert_eq!(other.value(sql), "seen_by_another");
}

#[test]
fn the_channel_for_marks_is_not_visible_to_clients() {
    let bouncer = with_servers(3, &[]);
    let (mut one, mut other) = (sharing(&bouncer, "visible"), sharing(&bouncer, "visible"));
    for client in [&mut one, &mut other] {
        run(client, &["BEGIN"]);
        assert_eq!(client.value("SELECT string_agg(c, ',') FROM pg_listening_channels() AS c"), "visible");
        run(client, &["COMMIT"]);
    }
    shared(&bouncer);
    let mut sender = direct();
    assert_eq!(drained(&mut one, &mut sender, "visible"), [""; 0]);
    assert_eq!(payload(&mut other), "end of test");
}

#[test]
fn a_flood_of_notifications_does_not_keep_other_clients_waiting() {
    let bouncer = with_servers(3, &[]);
    let mut clients: Vec<Client> = (0..20).map(|_| sharing(&bouncer, "flood")).collect();
    let mut sender = direct();
    let mut other = bouncer.client();
    sender.send_query(
        "SELECT pg_notify('flood', n::text || repeat('x', 500)) FROM generate_series(1, 20000) AS n",
    );
    // The answer shows that the worker serves others meanwhile; all of it is delivered all the same.
    while !sender.has_pending_input() {
        assert_eq!(other.value("SELECT 1"), "1");
    }
    assert_eq!(other.value("SELECT 1"), "1");
    for client in &mut clients {
        for number in 1..=20000 {
            assert!(payload(client).starts_with(&format!("{number}x")));
        }
    }
}

#[test]
fn a_client_that_does_not_read_its_notifications_is_disconnected_and_others_are_served() {
    let bouncer = with_servers(3, &[]);
    let silent = sharing(&bouncer, "unread");
    let mut reader = sharing(&bouncer, "unread");
    let mut sender = direct();
    let many =
        "SELECT count(pg_notify('unread', n::text || repeat('x', 7000))) FROM generate_series(1, 1000) AS n";
    // Besides what the pooler keeps for a client, the kernel keeps some megabytes.
    eventually("the client is disconnected", || {
        run(&mut sender, &[many]);
        for number in 1..=1000 {
            assert!(payload(&mut reader).starts_with(&format!("{number}x")));
        }
        bouncer.log().contains("notifications may have been lost")
    });
    // It has not read its final message either.
    drop(silent);
    assert_eq!(drained(&mut reader, &mut sender, "unread"), [""; 0]);
}

#[test]
fn clients_of_all_workers_share_one_listener() {
    let bouncer = with_servers(4, &["workers = 3"]);
    let mut clients: Vec<Client> = (0..9).map(|_| bouncer.client()).collect();
    for client in &mut clients {
        run(client, &["LISTEN of_all"]);
    }
    shared(&bouncer);
    run(&mut direct(), &["NOTIFY of_all, 'x'"]);
    for client in &mut clients {
        assert_eq!(payload(client), "x");
    }
    assert_eq!(bouncer.show("SERVERS", "state").iter().filter(|state| *state == "listen").count(), 1);
}

#[test]
fn clients_over_tls_and_of_protocol_3_2_share_too() {
    let side = ClientSide::new();
    let databases = format!("app = host=127.0.0.1 port={} dbname=app", postgres().port());
    let start = Start::databases(&databases).set("session_state = follow").set("default_pool_size = 2");
    let bouncer = side.set(start, "allow").start();
    let mut packet = Vec::new();
    encode::startup(&mut packet, Version::V3_2, &[("user", "app"), ("database", "app")]);
    let mut newer = Client::connect(bouncer.port);
    newer.send(&packet);
    newer.until_ready();
    run(&mut newer, &["LISTEN versions"]);
    let mut encrypted = TlsClient::log_in(bouncer.port, side.config(), "app", "app").unwrap();
    assert_eq!(encrypted.query("LISTEN versions").len(), 2);
    shared(&bouncer);
    let mut sender = direct();
    for number in 0..50 {
        let text = format!("{number}{}", "x".repeat(number * 100));
        run(&mut sender, &[&format!("NOTIFY versions, '{text}'")]);
        assert_eq!(payload(&mut newer), text);
        assert_eq!(notification(&encrypted.read().unwrap()).1, text);
    }
    assert_eq!(encrypted.value("SELECT 1"), "1");
}

#[test]
fn a_client_that_moves_with_its_server_keeps_its_channels() {
    let databases = format!("app = host=127.0.0.1 port={} dbname=app user=app", postgres().port());
    let start = Start::databases(&databases).set("session_state = follow").set("default_pool_size = 3");
    let bouncer = start.set("workers = 1-3").env("TEST_MOVE_CLIENTS", "1").start();
    let mut sender = direct();
    let mut client = sharing(&bouncer, "kept_moving");
    for number in 0..10 {
        // It leaves the listener, and keeps its server for another reason.
        run(&mut client, &["CREATE TEMP TABLE moving (a int)", "SELECT 1"]);
        run(&mut sender, &[&format!("NOTIFY kept_moving, '{number}'")]);
        assert_eq!(payload(&mut client), number.to_string());
        run(&mut client, &["SELECT 1 FROM moving", "DROP TABLE moving"]);
        if number % 2 == 0 {
            shared(&bouncer);
        }
        run(&mut sender, &[&format!("NOTIFY kept_moving, '{number} again'")]);
        assert_eq!(payload(&mut client), format!("{number} again"));
    }
}

#[test]
fn clients_that_move_between_workers_take_their_channels_along() {
    let databases = format!("app = host=127.0.0.1 port={} dbname=app user=app", postgres().port());
    let start = Start::databases(&databases).set("session_state = follow").set("default_pool_size = 3");
    let bouncer = start.set("workers = 1-3").env("TEST_MOVE_CLIENTS", "1").start();
    let mut clients: Vec<Client> = (0..3).map(|_| sharing(&bouncer, "moving")).collect();
    let mut sender = direct();
    for number in 0..60 {
        run(&mut sender, &[&format!("NOTIFY moving, '{number}'")]);
        for (at, client) in clients.iter_mut().enumerate() {
            client.send_query(["SELECT 1", "BEGIN; COMMIT"][(at + number) % 5 / 4]);
        }
        run(&mut sender, &[&format!("NOTIFY moving, '{number} again'")]);
        for client in &mut clients {
            let (mut seen, mut is_answered) = (Vec::new(), false);
            while seen.len() < 2 || !is_answered {
                let message = client.read().unwrap();
                match message.tag {
                    b'A' => seen.push(notification(&message).1),
                    b'Z' => is_answered = true,
                    _ => {}
                }
            }
            assert_eq!(seen, [number.to_string(), format!("{number} again")]);
        }
    }
}
