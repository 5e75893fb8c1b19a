//! Sending a batch again when its first message names a statement that the server turns out not to have. Owns the bytes
//! of the batch until its first answer, and decides which errors allow a retry; the expected answers belong to
//! [`crate::answers`].
//!
//! A statement can be dropped without the pooler seeing it, for example by a DISCARD ALL in a function. The client has
//! prepared it and must not notice. A batch is sent again only outside a transaction, and only if no part of it has
//! been executed.

use wire::backend;

/// Longest batch that is kept for a retry, in bytes.
const MAX_KEPT_BYTES: usize = 16 * 1024;

/// State of the recording.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum RetryStage {
    /// Nothing is recorded.
    #[default]
    None,
    /// The batch is being recorded.
    Open,
    /// The Sync of the batch was sent.
    Complete,
}

/// The bytes of a batch, as sent to the server.
#[derive(Default)]
pub(super) struct Retry {
    stage: RetryStage,
    bytes: Vec<u8>,
    /// Pending bytes that are sent before the batch.
    skipped: usize,
    /// The client does not know the result of the statement, or asks for its description in the batch.
    may_change_result: bool,
}

/// What the server's error reveals about the statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stale {
    /// The server does not have it, so others may be missing too.
    Missing,
    /// The server has it but can no longer use it.
    Outdated,
}

impl Stale {
    /// Classifies an ErrorResponse to a Bind or Describe of a shared statement.
    pub(super) fn of(error: &[u8]) -> Option<Self> {
        let field = |kind| backend::error_field(error, kind).unwrap_or_default();
        match field(b'C') {
            b"26000" => Some(Self::Missing),
            // "cached plan must not change result type", in any language.
            b"0A000" if field(b'R') == b"RevalidateCachedQuery" => Some(Self::Outdated),
            b"XX000" if field(b'M').starts_with(b"cache lookup failed for type") => Some(Self::Outdated),
            _ => None,
        }
    }
}

impl Retry {
    /// Begins recording a batch. Its first message follows `unsent` bytes that do not belong to it.
    #[inline]
    pub(super) fn begin(&mut self, unsent: usize, may_change_result: bool) {
        self.bytes.clear();
        self.skipped = unsent;
        self.may_change_result = may_change_result;
        self.stage = RetryStage::Open;
    }

    /// True if the batch may be sent again although the statement has another result then.
    pub(super) fn may_change_result(&self) -> bool {
        self.may_change_result
    }

    /// Another client message begins. A retry must not overtake a message that follows the batch.
    #[inline]
    pub(super) fn next_message(&mut self) {
        if self.stage == RetryStage::Complete {
            self.clear();
        }
    }

    /// True while the bytes being sent belong to the batch.
    #[inline]
    pub(super) fn is_recording(&self) -> bool {
        self.stage != RetryStage::None
    }

    /// Records bytes that are being sent: the pooler's, then the client's.
    #[inline]
    pub(super) fn record(&mut self, head: &[u8], body: &[u8]) {
        // Bytes that precede the batch are in the head.
        let skipped = std::mem::take(&mut self.skipped).min(head.len());
        let head = &head[skipped..];
        let len = head.len() + body.len();
        if self.bytes.len() + len > MAX_KEPT_BYTES {
            return self.clear();
        }
        self.bytes.reserve(len);
        self.bytes.extend_from_slice(head);
        self.bytes.extend_from_slice(body);
    }

    /// The last bytes were not sent after all.
    pub(super) fn unrecord(&mut self, bytes: usize) {
        match self.bytes.len().checked_sub(bytes) {
            Some(left) => self.bytes.truncate(left),
            None => self.clear(),
        }
    }

    /// The Sync of the batch is sent.
    #[inline]
    pub(super) fn complete_if_open(&mut self) {
        if self.stage == RetryStage::Open {
            self.stage = RetryStage::Complete;
        }
    }

    /// Part of the batch was answered, or cannot be sent twice.
    #[inline]
    pub(super) fn clear(&mut self) {
        self.stage = RetryStage::None;
    }

    /// The bytes to send again, and true if the first attempt's Sync has not been sent. At most once per batch.
    pub(super) fn take(&mut self) -> Option<(&[u8], bool)> {
        let lacks_sync = match std::mem::take(&mut self.stage) {
            RetryStage::None => return None,
            RetryStage::Open => true,
            RetryStage::Complete => false,
        };
        Some((&self.bytes, lacks_sync))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::encode::{self, ErrorReport};

    fn error(code: &str, message: &str) -> Vec<u8> {
        let mut out = Vec::new();
        encode::error_response(&mut out, &ErrorReport::error(code, message));
        out
    }

    #[test]
    fn only_errors_about_the_statement_allow_a_retry() {
        assert_eq!(Stale::of(&error("26000", "gone")), Some(Stale::Missing));
        assert_eq!(Stale::of(&error("XX000", "cache lookup failed for type 7")), Some(Stale::Outdated));
        assert_eq!(Stale::of(&error("XX000", "something else")), None);
        assert_eq!(Stale::of(&error("0A000", "not supported")), None);
        assert_eq!(Stale::of(&error("22P02", "invalid input syntax")), None);
    }

    #[test]
    fn only_sent_bytes_of_the_batch_are_recorded() {
        let mut retry = Retry::default();
        retry.begin(3, true);
        retry.record(b"SETbind", b"");
        retry.record(b"", b"execute");
        retry.unrecord(3);
        assert_eq!(retry.take(), Some((&b"bindexec"[..], true)));
    }

    #[test]
    fn a_batch_is_retried_once_and_only_if_it_is_small() {
        let mut retry = Retry::default();
        assert!(retry.take().is_none());
        retry.begin(0, true);
        retry.record(b"bind", b"");
        assert_eq!(retry.take(), Some((&b"bind"[..], true)));
        assert!(retry.take().is_none());
        retry.begin(0, true);
        retry.record(b"bind", b"");
        retry.complete_if_open();
        assert_eq!(retry.take(), Some((&b"bind"[..], false)));
        retry.begin(0, true);
        retry.record(b"", &[0; MAX_KEPT_BYTES + 1]);
        assert!(retry.take().is_none());
    }
}
