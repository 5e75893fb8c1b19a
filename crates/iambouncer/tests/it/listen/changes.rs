//! LISTEN, UNLISTEN and DISCARD ALL of clients that share the listener, in every form in which they can be sent.

use super::{code, direct, drained, payload, payloads, run, shared, sharing, with_servers};
use crate::support::raw::{self, Client};
use crate::support::{Bouncer, eventually};

/// The server channels of the listener, as its own session would show them: by who receives what.
fn is_silent(client: &mut Client, sender: &mut Client, channel: &str) {
    run(sender, &[&format!("NOTIFY {channel}, 'lost'")]);
    // A direct session has received nothing either before its next answer.
    assert_eq!(raw::tags(&client.query("SELECT 1")), "TDCZ");
}

fn listeners(bouncer: &Bouncer) -> usize {
    bouncer.show("SERVERS", "state").iter().filter(|state| *state == "listen").count()
}

#[test]
fn unlisten_in_a_batch_that_begins_with_bind_execute_or_close_ends_the_delivery() {
    let bouncer = with_servers(3, &[]);
    let mut sender = direct();
    let mut stays = sharing(&bouncer, "batches");
    for sql in ["UNLISTEN batches", "UNLISTEN *", "DISCARD ALL"] {
        for form in 0..4 {
            let mut client = bouncer.client();
            client.send(&[raw::parse("s", sql), raw::parse("t", "SELECT 1"), raw::sync()].concat());
            client.until_ready();
            run(&mut client, &["LISTEN batches"]);
            shared(&bouncer);
            let ends = [raw::bind("", "s", &[]), raw::execute(), raw::sync()].concat();
            let bytes = match form {
                0 => ends,
                1 => [raw::close_statement("unknown"), ends].concat(),
                2 => [raw::describe_statement("t"), ends].concat(),
                _ if sql == "DISCARD ALL" => continue,
                _ => [raw::bind("", "t", &[]), raw::execute(), ends].concat(),
            };
            client.send(&bytes);
            assert_eq!(code(&client.until_ready()), "", "{sql} {form}");
            is_silent(&mut client, &mut sender, "batches");
            assert_eq!(payload(&mut stays), "lost");
            is_silent(&mut client, &mut sender, "batches");
            assert_eq!(payload(&mut stays), "lost");
        }
    }
}

#[test]
fn savepoints_and_rollbacks_leave_what_they_leave_on_a_direct_connection() {
    let bouncer = with_servers(2, &[]);
    let mut sender = direct();
    let mut client = sharing(&bouncer, "kept");
    run(&mut client, &["BEGIN", "UNLISTEN *", "LISTEN other", "ROLLBACK"]);
    shared(&bouncer);
    run(&mut sender, &["NOTIFY other, 'no'"]);
    assert_eq!(drained(&mut client, &mut sender, "kept"), [""; 0]);
    run(&mut client, &["BEGIN", "SAVEPOINT s", "UNLISTEN kept", "LISTEN other", "ROLLBACK TO s"]);
    run(&mut client, &["LISTEN third", "COMMIT"]);
    shared(&bouncer);
    run(&mut sender, &["NOTIFY other, 'no'", "NOTIFY third, 'third'"]);
    assert_eq!(drained(&mut client, &mut sender, "kept"), ["third"]);
    run(&mut client, &["BEGIN; LISTEN other; COMMIT; BEGIN; UNLISTEN third; ROLLBACK"]);
    shared(&bouncer);
    run(&mut sender, &["NOTIFY other, 'other'", "NOTIFY third, 'third'"]);
    assert_eq!(drained(&mut client, &mut sender, "kept"), ["other", "third"]);
}

#[test]
fn listening_again_does_not_double_notifications() {
    let bouncer = with_servers(2, &[]);
    let mut sender = direct();
    let mut client = sharing(&bouncer, "again");
    for _ in 0..3 {
        run(&mut client, &["LISTEN again", "LISTEN more"]);
        shared(&bouncer);
        run(&mut sender, &["NOTIFY more, 'm'"]);
        assert_eq!(drained(&mut client, &mut sender, "again"), ["m"]);
    }
}

#[test]
fn a_pipeline_behind_listen_runs_in_its_order() {
    let bouncer = with_servers(2, &[]);
    let mut client = sharing(&bouncer, "piped");
    let requests =
        ["SELECT 1", "LISTEN piped_b", "NOTIFY piped, 'a'", "NOTIFY piped_b, 'b'", "BEGIN", "UNLISTEN *"];
    for _ in 0..5 {
        shared(&bouncer);
        let mut bytes: Vec<u8> = requests.iter().flat_map(|sql| raw::query(sql)).collect();
        bytes.extend(raw::query("NOTIFY piped, 'c'"));
        bytes.extend(raw::query("ROLLBACK"));
        client.send(&bytes);
        let messages: Vec<_> = (0..8).flat_map(|_| client.until_ready()).collect();
        assert_eq!(code(&messages), "");
        assert_eq!(payloads(&messages), ["a", "b"]);
    }
}

#[test]
fn a_client_with_other_settings_than_its_server_returns() {
    let bouncer = with_servers(2, &[]);
    let mut client = bouncer.client();
    run(&mut client, &["SET app.tenant = 'a'", "SET work_mem = '1MB'", "LISTEN settings"]);
    shared(&bouncer);
    let mut other = bouncer.client();
    let mut sender = direct();
    for round in 0..10 {
        run(&mut other, &["SET app.tenant = 'b'", "SET work_mem = '2MB'"]);
        shared(&bouncer);
        run(&mut client, &["BEGIN"]);
        assert_eq!(client.value("SELECT current_setting('app.tenant')"), "a");
        run(&mut client, &[&format!("NOTIFY settings, '{round}'")]);
        assert_eq!(payloads(&client.query("COMMIT")), [round.to_string()]);
    }
    assert_eq!(drained(&mut client, &mut sender, "settings"), [""; 0]);
}

#[test]
fn the_listener_is_closed_when_no_client_listens() {
    let bouncer = with_servers(2, &[]);
    let mut client = sharing(&bouncer, "closing");
    run(&mut client, &["UNLISTEN *"]);
    eventually("the listener is closed", || listeners(&bouncer) == 0);
    bouncer.wait_for_line("no client listens");
    run(&mut client, &["LISTEN closing"]);
    shared(&bouncer);
    let gone = sharing(&bouncer, "closing");
    drop((gone, client));
    eventually("the listener is closed again", || listeners(&bouncer) == 0);
}

#[test]
fn listen_is_not_refused_by_pin_error_but_what_would_keep_a_server_is() {
    let bouncer = with_servers(2, &["pin = error"]);
    let mut client = sharing(&bouncer, "refused");
    run(&mut client, &["BEGIN", "LISTEN refused_too", "COMMIT"]);
    assert_eq!(code(&client.query("SELECT pg_advisory_lock(1)")), "0A000");
    // 2880 is pg_advisory_lock: a function by its number may be any.
    client.send(&raw::call_function(2880));
    assert_eq!(code(&client.until_ready()), "0A000");
    shared(&bouncer);
    client.send(&raw::call_function(2880));
    assert_eq!(code(&client.until_ready()), "0A000");
    let mut sender = direct();
    run(&mut sender, &["NOTIFY refused_too, 'x'"]);
    assert_eq!(drained(&mut client, &mut sender, "refused"), ["x"]);
}

#[test]
fn with_the_setting_off_a_client_keeps_its_server() {
    let bouncer = with_servers(2, &["shared_listener = off"]);
    let mut client = bouncer.client();
    run(&mut client, &["LISTEN off"]);
    let mut other = bouncer.client();
    (0..20).for_each(|_| run(&mut other, &["SELECT pg_sleep(0.01)"]));
    assert_eq!((bouncer.show("PINS", "reasons"), listeners(&bouncer)), (vec!["listen".to_owned()], 0));
    let bouncer = with_servers(2, &["shared_listener = off", "pin = error"]);
    assert_eq!(code(&bouncer.client().query("LISTEN off")), "0A000");
}

#[test]
fn a_pool_that_may_have_one_server_only_has_no_listener() {
    for bouncer in [
        with_servers(1, &[]),
        with_servers(3, &["max_db_connections = 1"]),
        with_servers(3, &["max_user_connections = 1"]),
    ] {
        let mut client = bouncer.client();
        run(&mut client, &["LISTEN single"]);
        (0..20).for_each(|_| run(&mut client, &["SELECT pg_sleep(0.01)"]));
        assert_eq!((bouncer.show("PINS", "reasons"), listeners(&bouncer)), (vec!["listen".to_owned()], 0));
    }
}

/// Two listeners would have both places, and no query of any client a server.
#[test]
fn listeners_of_two_users_do_not_fill_a_limit_that_they_share() {
    let bouncer = with_servers(2, &["max_db_connections = 2"]);
    let mut first = sharing(&bouncer, "two_users");
    let mut second = Client::log_in(bouncer.port, "other", "app");
    run(&mut second, &["LISTEN two_users", "SELECT 1"]);
    // It would share after a tenth of a second.
    run(&mut direct(), &["SELECT pg_sleep(0.3)"]);
    assert_eq!(listeners(&bouncer), 1);
    run(&mut direct(), &["NOTIFY two_users, 'x'"]);
    assert_eq!((payload(&mut first), payload(&mut second)), ("x".to_owned(), "x".to_owned()));
    run(&mut second, &["UNLISTEN *"]);
    run(&mut first, &["SELECT 1"]);
}

#[test]
fn the_listener_is_given_up_when_a_limit_leaves_no_other_server() {
    let bouncer = with_servers(2, &[]);
    let mut client = sharing(&bouncer, "limited");
    run(&mut bouncer.console(), &["SET default_pool_size = 1"]);
    let messages = client.until_end();
    assert_eq!(code(&messages), "57P01");
    assert_eq!(bouncer.client().value("SELECT 1"), "1");
}
