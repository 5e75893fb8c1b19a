//! Fuzzes the framing of messages: any bytes, cut anywhere, give the same events as the bytes in one piece.
//! Owns that property; it never looks into a message.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wire::scan::{Event, FROM_CLIENT, FROM_SERVER, FrameError, Interest, Scanner};

/// What a relay would have seen. Neighbouring byte counts are one: where they meet depends on the cuts.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Message(u8, usize),
    Bytes(usize),
}

/// Everything one walk tells, to compare with another.
#[derive(Debug, PartialEq, Eq)]
struct Walk {
    seen: Vec<Seen>,
    error: Option<FrameError>,
    left_bytes: usize,
    at_boundary: bool,
}

fuzz_target!(|input: (bool, u16, Vec<u16>, &[u8])| {
    let (from_server, max_message_bytes, cuts, stream) = input;
    let interest = if from_server { &FROM_SERVER } else { &FROM_CLIENT };
    let whole = walk(stream, &[stream.len()], interest, max_message_bytes.into());
    let mut points: Vec<usize> = cuts.iter().map(|&cut| usize::from(cut) % (stream.len() + 1)).collect();
    points.sort_unstable();
    points.push(stream.len());
    assert_eq!(walk(stream, &points, interest, max_message_bytes.into()), whole);
});

/// Shows `stream` piece by piece, each up to the next of `points`, keeping what is not consumed.
fn walk(stream: &[u8], points: &[usize], interest: &'static Interest, max_message_bytes: u32) -> Walk {
    let mut scanner = Scanner::new(interest, max_message_bytes);
    let mut seen = Vec::new();
    let mut at = 0;
    for &end in points {
        loop {
            let here = &stream[at..end];
            let n = match scanner.next(here) {
                Ok(Event::Tail(n) | Event::Run(n)) => n,
                Ok(Event::Message(frame)) => {
                    seen.push(Seen::Message(frame.tag, frame.len));
                    scanner.consume(frame, here.len())
                }
                Ok(Event::Incomplete(need)) => {
                    assert!(need > here.len(), "asks for {need} bytes and has {}", here.len());
                    break;
                }
                Err(error) => {
                    return Walk {
                        seen,
                        error: Some(error),
                        left_bytes: stream.len() - at,
                        at_boundary: scanner.at_boundary(),
                    };
                }
            };
            assert!(0 < n && n <= here.len(), "an event without progress");
            at += n;
            match seen.last_mut() {
                Some(Seen::Bytes(total)) => *total += n,
                _ => seen.push(Seen::Bytes(n)),
            }
        }
    }
    Walk { seen, error: None, left_bytes: stream.len() - at, at_boundary: scanner.at_boundary() }
}
