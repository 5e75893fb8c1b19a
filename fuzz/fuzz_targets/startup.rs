//! Fuzzes the first packet of a connection. Owns two properties: nothing panics, and a parsed packet encodes to the
//! same bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wire::encode;
use wire::startup::{self, Request};

/// Size of the length field, which `packet_len` validates and `parse` ignores.
const LENGTH_WORD_BYTES: usize = 4;

fuzz_target!(|packet: &[u8]| {
    let len = startup::packet_len(packet);
    if let Some(word) = packet.get(..LENGTH_WORD_BYTES) {
        assert_eq!(startup::packet_len(word), len, "the length depends on bytes after its field");
    } else {
        assert_eq!(len, Ok(None));
    }
    let Ok(request) = startup::parse(packet) else { return };
    let mut again = Vec::new();
    match request {
        Request::Ssl => encode::ssl_request(&mut again),
        // The pooler never sends one, so there is no encoder.
        Request::Gss => return,
        Request::Cancel { pid, key } => encode::cancel_request(&mut again, pid, key),
        Request::Startup(session) => {
            let parameters: Vec<_> = session.parameters().collect();
            encode::startup(&mut again, session.version, &parameters);
        }
    }
    assert_eq!(again[LENGTH_WORD_BYTES..], packet[LENGTH_WORD_BYTES..]);
    assert_eq!(startup::parse(&again), startup::parse(packet));
});
