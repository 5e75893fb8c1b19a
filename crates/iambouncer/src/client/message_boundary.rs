//! Where a stream of the server's messages stands: between two messages or inside one, and in a replication stream or not.
//! Owns the count of bytes; stores no message.

use wire::limits::HEADER_BYTES;
use wire::tag::backend;

/// Follows the messages that a client receives.
#[derive(Debug, Default)]
pub(super) struct MessageBoundary {
    header: [u8; HEADER_BYTES],
    /// Bytes of the header that have been seen.
    header_bytes: usize,
    /// Bytes of the body that are still to come.
    body_bytes: usize,
    is_streaming: bool,
}

impl MessageBoundary {
    /// The next bytes of the stream.
    pub(super) fn advance(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.body_bytes > 0 {
                let skipped = self.body_bytes.min(bytes.len());
                self.body_bytes -= skipped;
                bytes = &bytes[skipped..];
                continue;
            }
            let read = (HEADER_BYTES - self.header_bytes).min(bytes.len());
            self.header[self.header_bytes..self.header_bytes + read].copy_from_slice(&bytes[..read]);
            self.header_bytes += read;
            bytes = &bytes[read..];
            if self.header_bytes == HEADER_BYTES {
                self.header_bytes = 0;
                self.begin_message();
            }
        }
    }

    fn begin_message(&mut self) {
        let [tag, length @ ..] = self.header;
        // The length counts itself.
        self.body_bytes = (u32::from_be_bytes(length) as usize).saturating_sub(length.len());
        match tag {
            backend::COPY_BOTH_RESPONSE => self.is_streaming = true,
            backend::READY_FOR_QUERY => self.is_streaming = false,
            _ => {}
        }
    }

    /// True if the client can receive an ErrorResponse now. In a replication stream, clients expect only data.
    pub(super) fn admits_error(&self) -> bool {
        self.header_bytes == 0 && self.body_bytes == 0 && !self.is_streaming
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(tag: u8, body: &[u8]) -> Vec<u8> {
        let mut bytes = vec![tag];
        bytes.extend((body.len() as u32 + 4).to_be_bytes());
        bytes.extend(body);
        bytes
    }

    #[test]
    fn an_error_is_admitted_between_messages_outside_of_a_stream() {
        let before = [message(b'T', b"columns"), message(b'D', &[7; 300]), message(b'Z', b"I")].concat();
        let stream = [message(b'W', &[0, 0, 0]), message(b'd', b"wal")].concat();
        let after = [message(b'c', b""), message(b'C', b"COPY 0\0"), message(b'Z', b"I")].concat();
        let all = [before.clone(), stream, after].concat();
        for piece_bytes in [1, 2, 5, 7, all.len()] {
            let mut boundary = MessageBoundary::default();
            assert!(boundary.admits_error());
            for (at, piece) in all.chunks(piece_bytes).enumerate() {
                boundary.advance(piece);
                let seen = (at * piece_bytes + piece.len()).min(all.len());
                // Boundaries: after T, D, Z of the first part, and at the end.
                let ends = [12, 12 + 305, before.len(), all.len()];
                assert_eq!(
                    boundary.admits_error(),
                    ends.contains(&seen),
                    "{seen} bytes in pieces of {piece_bytes}"
                );
            }
        }
    }
}
