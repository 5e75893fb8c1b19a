//! Fuzzes message framing. Owns one property: a byte stream split at arbitrary points produces the same events as the
//! unsplit stream. Never parses a message.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wire::scan::{Event, FROM_CLIENT, FROM_SERVER, FrameError, Interest, Scanner};

/// An event as a relay sees it. Adjacent byte counts are merged, because their boundary depends on the split points.
#[derive(Debug, PartialEq, Eq)]
enum Observed {
    Message(u8, usize),
    Bytes(usize),
}

/// The full result of one scan, for comparison with another.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    events: Vec<Observed>,
    error: Option<FrameError>,
    left_bytes: usize,
    at_boundary: bool,
}

fuzz_target!(|input: (bool, u16, Vec<u16>, &[u8])| {
    let (from_server, max_message_bytes, cuts, stream) = input;
    let interest = if from_server { &FROM_SERVER } else { &FROM_CLIENT };
    let whole = scan_pieces(stream, &[stream.len()], interest, max_message_bytes.into());
    let mut points: Vec<usize> = cuts.iter().map(|&cut| usize::from(cut) % (stream.len() + 1)).collect();
    points.sort_unstable();
    points.push(stream.len());
    assert_eq!(scan_pieces(stream, &points, interest, max_message_bytes.into()), whole);
});

/// Scans `stream` in pieces that end at `points`; unconsumed bytes are presented again with the next piece.
fn scan_pieces(
    stream: &[u8],
    points: &[usize],
    interest: &'static Interest,
    max_message_bytes: u32,
) -> Outcome {
    let mut scanner = Scanner::new(interest, max_message_bytes);
    let mut events = Vec::new();
    let mut at = 0;
    for &end in points {
        loop {
            let here = &stream[at..end];
            let n = match scanner.next(here) {
                Ok(Event::Tail(n) | Event::Run(n)) => n,
                Ok(Event::Message(frame)) => {
                    events.push(Observed::Message(frame.tag, frame.len));
                    scanner.consume(frame, here.len())
                }
                Ok(Event::Incomplete(need)) => {
                    assert!(need > here.len(), "requests {need} bytes but has {}", here.len());
                    break;
                }
                Err(error) => {
                    return Outcome {
                        events,
                        error: Some(error),
                        left_bytes: stream.len() - at,
                        at_boundary: scanner.at_boundary(),
                    };
                }
            };
            assert!(0 < n && n <= here.len(), "an event made no progress");
            at += n;
            match events.last_mut() {
                Some(Observed::Bytes(total)) => *total += n,
                _ => events.push(Observed::Bytes(n)),
            }
        }
    }
    Outcome { events, error: None, left_bytes: stream.len() - at, at_boundary: scanner.at_boundary() }
}
