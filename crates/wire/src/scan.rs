//! Splits a byte stream into messages. Owns framing only: never parses a body and never stores bytes;
//! unconsumed bytes stay in the caller's buffer and are passed again with more appended.
//!
//! Most traffic is rows. Messages whose tag is opaque in the [`Interest`] table are merged into one
//! [`Event::Run`], which may end inside a message; the rest of that message is then reported as
//! [`Event::Tail`].

use crate::limits::{HEADER_BYTES, MAX_WHOLE_BYTES, MIN_LENGTH_WORD};
use crate::tag::{backend, frontend};

/// How a scanner treats a message type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Treatment {
    /// The tag does not exist in this direction.
    Unknown,
    /// Merge into runs.
    Opaque,
    /// Report the message when its header is complete; the body may be streamed.
    Head,
    /// Report the message when it is complete, if it is at most [`MAX_WHOLE_BYTES`] long; else like `Head`.
    Whole,
}

/// The tags of interest in one direction.
pub struct Interest([Treatment; 256]);

impl Interest {
    const fn new(opaque: &[u8], head: &[u8], whole: &[u8]) -> Self {
        Self([Treatment::Unknown; 256])
            .with(opaque, Treatment::Opaque)
            .with(head, Treatment::Head)
            .with(whole, Treatment::Whole)
    }

    /// The same, except for these tags.
    const fn with(&self, tags: &[u8], treatment: Treatment) -> Self {
        let mut table = self.0;
        let mut i = 0;
        while i < tags.len() {
            table[tags[i] as usize] = treatment;
            i += 1;
        }
        Self(table)
    }
}

/// From server to client, for a pooler.
pub static FROM_SERVER: Interest = Interest::new(
    &[
        backend::DATA_ROW,
        backend::COPY_DATA,
        backend::COPY_DONE,
        backend::NOTIFICATION_RESPONSE,
        backend::FUNCTION_CALL_RESPONSE,
    ],
    &[
        backend::PARSE_COMPLETE,
        backend::BIND_COMPLETE,
        backend::CLOSE_COMPLETE,
        backend::NO_DATA,
        backend::PORTAL_SUSPENDED,
        backend::EMPTY_QUERY_RESPONSE,
        backend::COPY_IN_RESPONSE,
        backend::COPY_OUT_RESPONSE,
        backend::COPY_BOTH_RESPONSE,
        backend::AUTHENTICATION,
        backend::BACKEND_KEY_DATA,
        backend::NEGOTIATE_PROTOCOL_VERSION,
    ],
    &[
        backend::READY_FOR_QUERY,
        backend::NOTICE_RESPONSE,
        backend::PARAMETER_STATUS,
        backend::ERROR_RESPONSE,
        backend::COMMAND_COMPLETE,
        backend::PARAMETER_DESCRIPTION,
        backend::ROW_DESCRIPTION,
    ],
);

/// From server to client, while the pooler reads the rows of a query of its own.
pub static ROWS_FROM_SERVER: Interest = FROM_SERVER
    .with(&[backend::COPY_DATA, backend::COPY_DONE, backend::FUNCTION_CALL_RESPONSE], Treatment::Head)
    .with(&[backend::DATA_ROW, backend::NOTIFICATION_RESPONSE], Treatment::Whole);

/// From server to client, while the pooler decides about each notification.
pub static NOTIFICATIONS_FROM_SERVER: Interest =
    FROM_SERVER.with(&[backend::NOTIFICATION_RESPONSE], Treatment::Whole);

/// From client to server, for a pooler.
pub static FROM_CLIENT: Interest = Interest::new(
    &[frontend::COPY_DATA],
    &[
        frontend::QUERY,
        frontend::PARSE,
        frontend::BIND,
        frontend::DESCRIBE,
        frontend::CLOSE,
        frontend::EXECUTE,
        frontend::FLUSH,
        frontend::SYNC,
        frontend::FUNCTION_CALL,
        frontend::COPY_DONE,
        frontend::COPY_FAIL,
        frontend::PASSWORD,
        frontend::TERMINATE,
    ],
    &[],
);

/// The header of an unconsumed message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    /// Tag byte.
    pub tag: u8,
    /// Length of the whole message in bytes, header included.
    pub len: usize,
}

/// What is at the front of the bytes passed to [`Scanner::next`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// This many bytes complete or continue the message whose start was consumed before. Consumed.
    Tail(usize),
    /// This many bytes of opaque messages. Consumed.
    Run(usize),
    /// A message of interest starts here. Not consumed: see [`Scanner::consume`].
    Message(Frame),
    /// At least this many bytes must be in the buffer for the next event.
    Incomplete(usize),
}

/// Bytes that are not a message. The peer that sent them is at fault; the connection must be closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A tag that does not exist in this direction.
    #[error("unknown message type {0:#04x}")]
    UnknownTag(u8),
    /// A length field below four.
    #[error("message type {tag:#04x} has an impossible length of {length}")]
    TooShort {
        /// Tag byte.
        tag: u8,
        /// The length field as sent.
        length: u32,
    },
    /// A message larger than the configured limit.
    #[error("message type {tag:#04x} of {length} bytes is larger than the limit of {limit}")]
    TooLong {
        /// Tag byte.
        tag: u8,
        /// The length field as sent.
        length: u32,
        /// The limit, in bytes.
        limit: u32,
    },
}

/// Framing state of one direction of a connection: how much of the current message is still to come.
pub struct Scanner {
    interest: &'static Interest,
    max_message_bytes: u32,
    tail_bytes: usize,
}

impl Scanner {
    /// A scanner at a message boundary. `max_message_bytes` limits the length field.
    pub fn new(interest: &'static Interest, max_message_bytes: u32) -> Self {
        Self { interest, max_message_bytes, tail_bytes: 0 }
    }

    /// Treats the next messages differently.
    pub fn set_interest(&mut self, interest: &'static Interest) {
        self.interest = interest;
    }

    /// True at a message boundary.
    pub fn at_boundary(&self) -> bool {
        self.tail_bytes == 0
    }

    /// Reports what is at the front of `bytes`.
    ///
    /// # Errors
    /// Bytes that are not a message of this direction, or a message above the size limit.
    #[inline]
    pub fn next(&mut self, bytes: &[u8]) -> Result<Event, FrameError> {
        if self.tail_bytes > 0 {
            if bytes.is_empty() {
                return Ok(Event::Incomplete(1));
            }
            let n = self.tail_bytes.min(bytes.len());
            self.tail_bytes -= n;
            return Ok(Event::Tail(n));
        }
        let mut run = 0;
        loop {
            let Some(header) = bytes[run..].first_chunk::<HEADER_BYTES>() else {
                return Ok(if run > 0 { Event::Run(run) } else { Event::Incomplete(HEADER_BYTES) });
            };
            let frame = match self.frame(header) {
                Ok(frame) => frame,
                // The messages before the invalid bytes are valid and reported first.
                Err(_) if run > 0 => return Ok(Event::Run(run)),
                Err(error) => return Err(error),
            };
            let here = bytes.len() - run;
            match self.interest.0[usize::from(frame.tag)] {
                Treatment::Opaque if frame.len <= here => run += frame.len,
                Treatment::Opaque => {
                    self.tail_bytes = frame.len - here;
                    return Ok(Event::Run(bytes.len()));
                }
                _ if run > 0 => return Ok(Event::Run(run)),
                Treatment::Whole if frame.len <= MAX_WHOLE_BYTES as usize && frame.len > here => {
                    return Ok(Event::Incomplete(frame.len));
                }
                _ => return Ok(Event::Message(frame)),
            }
        }
    }

    /// Consumes the message reported by [`Event::Message`] and returns how many of its bytes are among the
    /// `available` ones; the others will be reported as [`Event::Tail`].
    pub fn consume(&mut self, frame: Frame, available: usize) -> usize {
        let n = frame.len.min(available);
        self.tail_bytes = frame.len - n;
        n
    }

    #[inline]
    fn frame(&self, header: &[u8; HEADER_BYTES]) -> Result<Frame, FrameError> {
        let tag = header[0];
        let length = u32::from_be_bytes([header[1], header[2], header[3], header[4]]);
        if self.interest.0[usize::from(tag)] == Treatment::Unknown {
            return Err(FrameError::UnknownTag(tag));
        }
        if length < MIN_LENGTH_WORD {
            return Err(FrameError::TooShort { tag, length });
        }
        if length > self.max_message_bytes {
            return Err(FrameError::TooLong { tag, length, limit: self.max_message_bytes });
        }
        Ok(Frame { tag, len: length as usize + 1 })
    }
}

/// Reads the header at the front of `bytes`, for code that handles one message at a time (logins).
///
/// # Errors
/// As [`Scanner::next`]; tags are not checked.
pub fn header(bytes: &[u8], max_message_bytes: u32) -> Result<Option<Frame>, FrameError> {
    let Some(header) = bytes.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
    let tag = header[0];
    let length = u32::from_be_bytes([header[1], header[2], header[3], header[4]]);
    if length < MIN_LENGTH_WORD {
        return Err(FrameError::TooShort { tag, length });
    }
    if length > max_message_bytes {
        return Err(FrameError::TooLong { tag, length, limit: max_message_bytes });
    }
    Ok(Some(Frame { tag, len: length as usize + 1 }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::MAX_MESSAGE_BYTES;
    use proptest::prelude::*;

    fn message(tag: u8, body: &[u8]) -> Vec<u8> {
        let mut out = vec![tag];
        out.extend_from_slice(&u32::try_from(body.len() + 4).unwrap().to_be_bytes());
        out.extend_from_slice(body);
        out
    }

    #[derive(Debug, PartialEq, Eq, Clone)]
    enum Observed {
        Message(u8, usize),
        Bytes(usize),
    }

    /// Passes `stream` in parts as a relay would, keeping unconsumed bytes; merges adjacent byte counts.
    fn walk(
        stream: &[u8],
        cuts: &[usize],
        interest: &'static Interest,
    ) -> (Vec<Observed>, Option<FrameError>) {
        let mut scanner = Scanner::new(interest, MAX_MESSAGE_BYTES);
        let mut events = Vec::new();
        let mut buffer: Vec<u8> = Vec::new();
        let mut points: Vec<usize> = cuts.iter().map(|c| c % (stream.len() + 1)).collect();
        points.push(stream.len());
        points.sort_unstable();
        let mut from = 0;
        for to in points {
            buffer.extend_from_slice(&stream[from..to]);
            from = to;
            let mut at = 0;
            loop {
                match scanner.next(&buffer[at..]) {
                    Ok(Event::Tail(n) | Event::Run(n)) => {
                        at += n;
                        match events.last_mut() {
                            Some(Observed::Bytes(total)) => *total += n,
                            _ => events.push(Observed::Bytes(n)),
                        }
                    }
                    Ok(Event::Message(frame)) => {
                        let n = scanner.consume(frame, buffer.len() - at);
                        at += n;
                        events.push(Observed::Message(frame.tag, frame.len));
                        events.push(Observed::Bytes(n));
                    }
                    Ok(Event::Incomplete(need)) => {
                        assert!(need > buffer.len() - at);
                        break;
                    }
                    Err(error) => return (events, Some(error)),
                }
            }
            buffer.drain(..at);
        }
        (events, None)
    }

    fn any_message() -> impl Strategy<Value = Vec<u8>> {
        let tags = b"DDDDdTC12tnIsEZSNAKGHWV".to_vec();
        (proptest::sample::select(tags), proptest::collection::vec(any::<u8>(), 0..60))
            .prop_map(|(tag, body)| message(tag, &body))
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_events(
            messages in proptest::collection::vec(any_message(), 0..20),
            cuts in proptest::collection::vec(any::<usize>(), 0..30),
        ) {
            let stream = messages.concat();
            prop_assert_eq!(walk(&stream, &cuts, &FROM_SERVER), walk(&stream, &[], &FROM_SERVER));
        }

        #[test]
        fn any_split_of_random_bytes_gives_the_same_events(
            noise in proptest::collection::vec(any::<u8>(), 0..200),
            cuts in proptest::collection::vec(any::<usize>(), 0..30),
        ) {
            prop_assert_eq!(walk(&noise, &cuts, &FROM_CLIENT), walk(&noise, &[], &FROM_CLIENT));
        }
    }

    #[test]
    fn rows_are_one_run_and_the_end_is_reported() {
        let mut stream = message(b'D', b"abc");
        stream.extend(message(b'D', b"def"));
        let rows = stream.len();
        stream.extend(message(b'Z', b"I"));
        let mut scanner = Scanner::new(&FROM_SERVER, MAX_MESSAGE_BYTES);
        assert_eq!(scanner.next(&stream), Ok(Event::Run(rows)));
        assert_eq!(scanner.next(&stream[rows..]), Ok(Event::Message(Frame { tag: b'Z', len: 6 })));
    }

    #[test]
    fn a_row_may_span_buffers() {
        let stream = message(b'D', &[7; 100]);
        let mut scanner = Scanner::new(&FROM_SERVER, MAX_MESSAGE_BYTES);
        assert_eq!(scanner.next(&stream[..40]), Ok(Event::Run(40)));
        assert!(!scanner.at_boundary());
        assert_eq!(scanner.next(&stream[40..]), Ok(Event::Tail(65)));
        assert!(scanner.at_boundary());
    }

    #[test]
    fn lengths_and_tags_are_checked() {
        let mut scanner = Scanner::new(&FROM_CLIENT, 100);
        assert_eq!(scanner.next(&[b'Q', 0, 0, 0, 3]), Err(FrameError::TooShort { tag: b'Q', length: 3 }));
        assert_eq!(
            scanner.next(&[b'Q', 0, 0, 0, 101]),
            Err(FrameError::TooLong { tag: b'Q', length: 101, limit: 100 })
        );
        assert_eq!(scanner.next(&[b'!', 0, 0, 0, 4]), Err(FrameError::UnknownTag(b'!')));
    }

    #[test]
    fn an_error_too_long_to_parse_is_streamed() {
        let stream = message(b'E', &[b'x'; 20_000]);
        let mut scanner = Scanner::new(&FROM_SERVER, MAX_MESSAGE_BYTES);
        let Ok(Event::Message(frame)) = scanner.next(&stream[..10]) else { panic!("head expected") };
        assert_eq!(scanner.consume(frame, 10), 10);
    }
}
