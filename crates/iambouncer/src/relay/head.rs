//! Bytes of ours on their way: what goes out before the bytes that are sent on in place. Owns a buffer and how much
//! of it has gone; gives large memory back as soon as it is empty.

/// Memory kept for the next time, in bytes.
const MAX_KEPT_BYTES: usize = 16 * 1024;

/// Pending bytes.
#[derive(Default)]
pub(super) struct Head {
    bytes: Vec<u8>,
    sent: usize,
}

impl Head {
    /// What is still to be sent.
    #[inline]
    pub(super) fn pending(&self) -> &[u8] {
        &self.bytes[self.sent..]
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.sent == self.bytes.len()
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len() - self.sent
    }

    /// Where encoders append.
    pub(super) fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// `n` bytes have gone.
    #[inline]
    pub(super) fn advance(&mut self, n: usize) {
        self.sent += n;
        if self.is_empty() {
            self.sent = 0;
            if self.bytes.capacity() > MAX_KEPT_BYTES {
                self.bytes = Vec::new();
            } else {
                self.bytes.clear();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_memory_goes_back_when_all_is_sent() {
        let mut head = Head::default();
        head.buffer().extend_from_slice(&[7; 100_000]);
        head.advance(99_999);
        assert_eq!(head.pending(), [7]);
        head.advance(1);
        assert!(head.is_empty() && head.bytes.capacity() == 0);
    }
}
