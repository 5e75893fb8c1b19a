//! Servers that close right after an answer, simulated by the test: PostgreSQL cannot be made to close at a
//! chosen byte.

use crate::support::raw::tags;
use crate::support::{TIMEOUT, bouncer::Start};
use iambouncer::client_error;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use wire::encode;

/// Reads one message; the first one of a connection has no tag.
fn read_message(stream: &mut TcpStream, has_tag: bool) -> Option<u8> {
    let mut header = [0; 5];
    let header = if has_tag { &mut header[..] } else { &mut header[1..] };
    stream.read_exact(header).ok()?;
    let tag = header[0];
    let len = header[header.len() - 4..].try_into().map(u32::from_be_bytes).unwrap();
    stream.read_exact(&mut vec![0; len as usize - 4]).ok()?;
    Some(tag)
}

/// Logs in any client and answers one query, followed by a FATAL error in the same packet.
fn serve_one_query(mut stream: TcpStream) {
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    read_message(&mut stream, false);
    let mut greeting = Vec::new();
    encode::authentication_ok(&mut greeting);
    encode::backend_key_data(&mut greeting, 1, &[1, 2, 3, 4]);
    encode::ready_for_query(&mut greeting);
    stream.write_all(&greeting).unwrap();
    if read_message(&mut stream, true) != Some(b'Q') {
        return;
    }
    let mut answer = Vec::new();
    encode::command_complete(&mut answer, "SELECT 0");
    encode::ready_for_query(&mut answer);
    client_error::killed().encode_fatal(&mut answer);
    stream.write_all(&answer).unwrap();
}

#[test]
fn a_fatal_error_after_a_complete_answer_is_not_forwarded() {
    const QUERIES: usize = 5;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming().take(QUERIES) {
            serve_one_query(stream.unwrap());
        }
    });
    let databases = format!("app = host=127.0.0.1 port={port}");
    let start = Start::databases(&databases).set("server_tls_sslmode = disable").set("default_pool_size = 1");
    let bouncer = start.start();
    let mut client = bouncer.client();
    for turn in 0..QUERIES {
        // Regression test: the client received the FATAL error, and the next client got the closed server.
        assert_eq!(tags(&client.query("SELECT")), "CZ", "turn {turn}");
        assert!(!client.has_pending_input(), "turn {turn}");
    }
}
