//! A server that sends a message that no request waits for is never used again, and no client receives that
//! message.

use crate::support::raw::{self, Message};
use crate::support::{Bouncer, answering, eventually, http};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use wire::encode;

fn bouncer(port: u16, settings: &[&str]) -> Bouncer {
    let databases = format!("app = host=127.0.0.1 port={port} dbname=app");
    let start = crate::support::bouncer::Start::databases(&databases)
        .set("default_pool_size = 1")
        .set("http_port = auto");
    settings.iter().fold(start, |start, line| start.set(line)).start()
}

/// The text of a Query.
fn text(message: &Message) -> String {
    String::from_utf8_lossy(&message.bytes[5..message.bytes.len() - 1]).into_owned()
}

/// An answer of one row, followed by a surplus message.
fn answer_and(surplus: impl Fn(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    encode::row_description(&mut out, &[("c", encode::ColumnType::Text)], |_| wire::frontend::Format::Text);
    encode::data_row(&mut out, [Some(&b"right"[..])].into_iter());
    encode::command_complete(&mut out, "SELECT 1");
    encode::ready_for_query(&mut out);
    surplus(&mut out);
    out
}

fn surplus_is_noticed(surplus: fn(&mut Vec<u8>), settings: &[&str]) {
    let misbehaves = AtomicBool::new(true);
    let port = answering::server(move |message| {
        (message.tag == b'Q').then(|| {
            let once = text(message) == "SELECT 'bad'" && misbehaves.swap(false, Ordering::SeqCst);
            if once { answer_and(surplus) } else { answer_and(|_| ()) }
        })
    });
    let bouncer = bouncer(port, settings);
    let mut client = bouncer.client();
    client.send_query("SELECT 'bad'");
    let messages = client.until_end();
    let (code, _) = messages.iter().find(|message| message.tag == b'E').expect("an error").error();
    assert_eq!(code, "08P01");
    let mut next = bouncer.client();
    assert_eq!(next.value("SELECT 'good'"), "right");
    let line = bouncer.wait_for_line("server out of step");
    assert!(!line.contains("right"), "data in the log: {line}");
    let scrape = http::scrape(bouncer.http_port());
    assert_eq!(scrape.sum("iambouncer_protocol_mismatches_total", &[]), Some(1.0));
}

#[test]
fn a_second_ready_for_query_is_noticed() {
    surplus_is_noticed(encode::ready_for_query, &[]);
}

#[test]
fn a_second_ready_for_query_is_noticed_in_session_pooling() {
    surplus_is_noticed(encode::ready_for_query, &["pool_mode = session"]);
}

#[test]
fn a_row_without_a_request_is_noticed() {
    surplus_is_noticed(|out| encode::data_row(out, [Some(&b"right"[..])].into_iter()), &[]);
}

#[test]
fn a_completion_without_a_request_is_noticed() {
    surplus_is_noticed(|out| encode::command_complete(out, "SELECT 1"), &[]);
}

#[test]
fn an_authentication_request_after_the_login_is_noticed() {
    surplus_is_noticed(encode::authentication_cleartext, &[]);
}

#[test]
fn an_error_without_a_request_is_noticed() {
    surplus_is_noticed(|out| encode::error_response(out, &encode::ErrorReport::error("XX000", "right")), &[]);
}

#[test]
fn a_message_of_an_idle_server_is_not_used_as_the_next_answer() {
    // The surplus message is sent later, when the server is in the pool.
    let late: Arc<Mutex<Option<std::net::TcpStream>>> = Arc::default();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let keep = late.clone();
    std::thread::spawn(move || {
        for (number, stream) in listener.incoming().map_while(Result::ok).enumerate() {
            if number == 0 {
                *keep.lock().unwrap() = stream.try_clone().ok();
            }
            std::thread::spawn(move || {
                answering::serve(stream, &(Arc::new(|_: &Message| answer_and(|_| ())) as answering::Script))
            });
        }
    });
    let bouncer = bouncer(port, &[]);
    let mut client = bouncer.client();
    assert_eq!(client.value("SELECT 'first'"), "right");
    let mut surplus = Vec::new();
    encode::data_row(&mut surplus, [Some(&b"wrong"[..])].into_iter());
    std::io::Write::write_all(late.lock().unwrap().as_mut().unwrap(), &surplus).unwrap();
    bouncer.wait_for_line("server out of step");
    assert_eq!(client.value("SELECT 'second'"), "right");
}

#[test]
fn notices_and_notifications_between_answers_are_passed_on() {
    let port = answering::server(|message| {
        (message.tag == b'Q').then(|| {
            answer_and(|out| {
                encode::notice_response(out, &encode::ErrorReport::notice("between"));
                encode::parameter_status(out, "TimeZone", "Europe/Berlin");
                out.extend_from_slice(b"A\0\0\0\x0c\0\0\0\x01c\0p\0");
            })
        })
    });
    let bouncer = bouncer(port, &["pool_mode = session"]);
    let mut client = bouncer.client();
    for _ in 0..3 {
        client.send_query("SELECT 1");
    }
    let tags: String = (0..3).map(|_| raw::tags(&client.until_ready())).collect();
    assert_eq!(tags.replace(['N', 'S', 'A'], ""), "TDCZTDCZTDCZ");
    assert!(!bouncer.log().contains("out of step"), "{}", bouncer.log());
    let mut console = bouncer.console();
    eventually("the server is there", || console.column("SHOW SERVERS", "state").len() == 1);
}
