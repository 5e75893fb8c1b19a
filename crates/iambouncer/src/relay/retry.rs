//! A second try for a batch whose first message named a statement that the server turned out not to have. Owns the
//! batch's bytes until its first answer, and which errors allow the try; the answers expected are
//! [`crate::answers`]'s.
//!
//! A statement can be dropped where it is not seen: by a DISCARD ALL in a function, for example. The client prepared it
//! and must not notice. Only a batch outside a transaction is sent again, and only while nothing of it was executed.

use wire::backend;

/// Longest batch that is kept for a second try, in bytes.
const MAX_KEPT_BYTES: usize = 16 * 1024;

/// Where the record of a batch stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum RetryStage {
    /// There is nothing to be sent again.
    #[default]
    None,
    /// The batch goes on.
    Open,
    /// Its Sync was sent.
    Complete,
}

/// The bytes of a batch, as they were sent to the server.
#[derive(Default)]
pub(super) struct Retry {
    stage: RetryStage,
    bytes: Vec<u8>,
    /// Bytes that go out before the batch.
    skipped: usize,
}

/// What the server's error says of the statement it was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stale {
    /// It does not have it, so others may be gone as well.
    Missing,
    /// It has it, and cannot use it any more.
    Outdated,
}

impl Stale {
    /// Reads an ErrorResponse to a Bind or Describe of a shared statement.
    pub(super) fn of(error: &[u8]) -> Option<Self> {
        let field = |kind| backend::error_field(error, kind).unwrap_or_default();
        match field(b'C') {
            b"26000" => Some(Self::Missing),
            // "cached plan must not change result type", in whatever language.
            b"0A000" if field(b'R') == b"RevalidateCachedQuery" => Some(Self::Outdated),
            b"XX000" if field(b'M').starts_with(b"cache lookup failed for type") => Some(Self::Outdated),
            _ => None,
        }
    }
}

impl Retry {
    /// A batch begins that can be sent again. Its first message is put behind `unsent` bytes that are not its own.
    #[inline]
    pub(super) fn begin(&mut self, unsent: usize) {
        self.bytes.clear();
        self.skipped = unsent;
        self.stage = RetryStage::Open;
    }

    /// Another message of the client comes. One behind the batch could be overtaken by a second try.
    #[inline]
    pub(super) fn next_message(&mut self) {
        if self.stage == RetryStage::Complete {
            self.forget();
        }
    }

    /// True while what is sent belongs to the batch.
    #[inline]
    pub(super) fn records(&self) -> bool {
        self.stage != RetryStage::None
    }

    /// Records bytes that go out now: those of ours, and those of the client behind them.
    #[inline]
    pub(super) fn record(&mut self, head: &[u8], body: &[u8]) {
        // What is not of the batch was put aside before it, so it is in the head.
        let skipped = std::mem::take(&mut self.skipped).min(head.len());
        let head = &head[skipped..];
        let len = head.len() + body.len();
        if self.bytes.len() + len > MAX_KEPT_BYTES {
            return self.forget();
        }
        self.bytes.reserve(len);
        self.bytes.extend_from_slice(head);
        self.bytes.extend_from_slice(body);
    }

    /// The last bytes have not gone out after all.
    pub(super) fn unrecord(&mut self, bytes: usize) {
        match self.bytes.len().checked_sub(bytes) {
            Some(left) => self.bytes.truncate(left),
            None => self.forget(),
        }
    }

    /// The Sync of the batch is sent.
    #[inline]
    pub(super) fn complete_if_open(&mut self) {
        if self.stage == RetryStage::Open {
            self.stage = RetryStage::Complete;
        }
    }

    /// Something of the batch was answered, or cannot be sent twice.
    #[inline]
    pub(super) fn forget(&mut self) {
        self.stage = RetryStage::None;
    }

    /// What to send again, and whether the server still lacks the Sync of the first try. Once per batch.
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
    fn only_errors_about_the_statement_itself_allow_a_second_try() {
        assert_eq!(Stale::of(&error("26000", "gone")), Some(Stale::Missing));
        assert_eq!(Stale::of(&error("XX000", "cache lookup failed for type 7")), Some(Stale::Outdated));
        assert_eq!(Stale::of(&error("XX000", "something else")), None);
        assert_eq!(Stale::of(&error("0A000", "not supported")), None);
        assert_eq!(Stale::of(&error("22P02", "invalid input syntax")), None);
    }

    #[test]
    fn only_what_has_gone_out_of_the_batch_itself_is_recorded() {
        let mut retry = Retry::default();
        retry.begin(3);
        retry.record(b"SETbind", b"");
        retry.record(b"", b"execute");
        retry.unrecord(3);
        assert_eq!(retry.take(), Some((&b"bindexec"[..], true)));
    }

    #[test]
    fn a_batch_is_given_out_once_and_only_while_it_is_small() {
        let mut retry = Retry::default();
        assert!(retry.take().is_none());
        retry.begin(0);
        retry.record(b"bind", b"");
        assert_eq!(retry.take(), Some((&b"bind"[..], true)));
        assert!(retry.take().is_none());
        retry.begin(0);
        retry.record(b"bind", b"");
        retry.complete_if_open();
        assert_eq!(retry.take(), Some((&b"bind"[..], false)));
        retry.begin(0);
        retry.record(b"", &[0; MAX_KEPT_BYTES + 1]);
        assert!(retry.take().is_none());
    }
}
