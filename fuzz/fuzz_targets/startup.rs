//! Fuzzes the first packet of a connection: nothing panics, and what is read can be written back unchanged.
//! Owns these two properties.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wire::encode;
use wire::startup::{self, Request};

/// Bytes of the length word, which `parse` leaves to `packet_len`.
const LENGTH_WORD_BYTES: usize = 4;

fuzz_target!(|packet: &[u8]| {
    let told = startup::packet_len(packet);
    if let Some(word) = packet.get(..LENGTH_WORD_BYTES) {
        assert_eq!(startup::packet_len(word), told, "the length depends on more than its word");
    } else {
        assert_eq!(told, Ok(None));
    }
    let Ok(request) = startup::parse(packet) else { return };
    let mut again = Vec::new();
    match request {
        Request::Ssl => encode::ssl_request(&mut again),
        // We never send one, so there is nothing to write it with.
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
