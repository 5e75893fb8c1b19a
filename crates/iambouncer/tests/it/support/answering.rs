//! A server that PostgreSQL cannot imitate: it logs clients in and answers each message as the test
//! specifies. Owns its listener; its connections end with the pooler's.

use super::raw::Message;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use wire::encode;

/// Returns the bytes to send in answer to a message.
pub type Script = Arc<dyn Fn(&Message) -> Vec<u8> + Send + Sync>;

/// The length of an SSLRequest without its length field: shorter than any startup packet.
const SSL_REQUEST_BYTES: usize = 4;

/// Listens on a free port and answers with `script`; where that returns `None`, as a server would that
/// accepts everything.
pub fn server(script: impl Fn(&Message) -> Option<Vec<u8>> + Send + Sync + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let script: Script =
        Arc::new(move |message| script(message).unwrap_or_else(|| usual_answer(message.tag)));
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let script = script.clone();
            std::thread::spawn(move || serve(stream, &script));
        }
    });
    port
}

pub fn serve(mut stream: TcpStream, script: &Script) -> Option<()> {
    while packet(&mut stream)?.len() == SSL_REQUEST_BYTES {
        stream.write_all(b"N").ok()?;
    }
    let mut out = Vec::new();
    encode::authentication_ok(&mut out);
    for (name, value) in [("client_encoding", "UTF8"), ("server_version", "17.0"), ("TimeZone", "UTC")] {
        encode::parameter_status(&mut out, name, value);
    }
    encode::backend_key_data(&mut out, 1, b"key!");
    encode::ready_for_query(&mut out);
    stream.write_all(&out).ok()?;
    loop {
        let mut header = [0; 5];
        stream.read_exact(&mut header).ok()?;
        let mut bytes = header.to_vec();
        bytes.resize(u32::from_be_bytes(header[1..].try_into().ok()?) as usize + 1, 0);
        stream.read_exact(&mut bytes[5..]).ok()?;
        stream.write_all(&script(&Message { tag: header[0], bytes })).ok()?;
    }
}

/// The body of a packet during startup.
fn packet(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut length = [0; 4];
    stream.read_exact(&mut length).ok()?;
    let mut packet = vec![0; u32::from_be_bytes(length) as usize - 4];
    stream.read_exact(&mut packet).ok()?;
    Some(packet)
}

/// The usual successful answer without rows.
pub fn usual_answer(tag: u8) -> Vec<u8> {
    let mut out = Vec::new();
    match tag {
        b'Q' => {
            encode::command_complete(&mut out, "SET");
            encode::ready_for_query(&mut out);
        }
        b'S' => encode::ready_for_query(&mut out),
        b'P' => encode::empty(&mut out, b'1'),
        b'B' => encode::empty(&mut out, b'2'),
        b'C' => encode::empty(&mut out, b'3'),
        b'D' => encode::empty(&mut out, b'n'),
        b'E' => encode::command_complete(&mut out, "SELECT 0"),
        _ => {}
    }
    out
}
