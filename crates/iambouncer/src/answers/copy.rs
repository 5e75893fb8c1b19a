//! COPY FROM STDIN. Owns when a Sync of the client is held, and what becomes of it.
//!
//! While the server reads COPY data it ignores Sync; once the COPY has failed it answers each. Which of the two happens
//! to a Sync behind a COPY depends on when the server noticed the error, so it is not sent before the COPY is answered:
//! CommandComplete means that the server would have ignored it, an error or ReadyForQuery that it has to be sent. A Sync
//! behind the client's CopyDone or CopyFail is an ordinary one, unless a simple query may begin another COPY there.
//!
//! One Sync is ignored even before an error: that which stands directly behind the Execute, where libpq and others put it,
//! while the COPY fails by the data behind it. Such a client sends another at the end of its data and expects one answer.

use super::entry::{Answer, ExpectedAnswer};
use super::queue::{ExpectedAnswers, Mismatch, MismatchCause, Tail};

impl ExpectedAnswers {
    /// True when a COPY that the server may be reading could ignore a Sync that is sent now.
    pub fn may_ignore_sync(&self) -> bool {
        self.tail != Tail::Other && !self.skip_to_sync
    }

    /// A COPY may be running that would read a message which is sent now.
    #[inline]
    pub fn may_be_copying(&self) -> bool {
        self.tail != Tail::Other
    }

    /// The server reads COPY data, and the client has sent no end of them.
    pub fn is_copy_unended(&self) -> bool {
        self.copying && self.queue.len() == self.held_syncs + 1
    }

    /// A Sync is held until the COPY before it is answered: messages that would be answered behind it have to wait.
    #[inline]
    pub fn holds_sync(&self) -> bool {
        self.held_syncs > 0
    }

    /// The server may keep the answer that decides about a held Sync in its buffer: only a Flush makes it send that.
    pub fn held_sync_needs_flush(&self) -> bool {
        self.holds_sync() && self.batch_open
    }

    /// COPY data is sent to the server.
    #[inline]
    pub fn copy_data_sent(&mut self) {
        self.data_sent = true;
    }

    /// A Sync of the client is held.
    pub fn hold_sync(&mut self) {
        self.push(ExpectedAnswer::HeldSync { after_data: self.data_sent });
    }

    /// The COPY at the front has failed. Syncs that the server would have read before the first of its data were ignored,
    /// as far as there was any.
    pub(super) fn drop_ignored_syncs(&mut self) {
        if self.held_syncs == 0
            || !(self.data_sent
                || matches!(self.queue.get(1 + self.held_syncs), Some(ExpectedAnswer::CopyEnd)))
        {
            return;
        }
        while let Some(ExpectedAnswer::HeldSync { after_data: false }) = self.queue.get(1) {
            self.queue.remove(1);
            self.held_syncs -= 1;
        }
    }

    /// CommandComplete ends the COPY at the front: what the client sent before its CopyDone was ignored.
    pub(super) fn end_copy_in(&mut self) -> Result<(), Mismatch> {
        self.copying = false;
        while let Some(entry) = self.queue.get(1) {
            let is_end = match entry {
                ExpectedAnswer::CopyEnd => true,
                ExpectedAnswer::HeldSync { .. } => false,
                _ => break,
            };
            if !is_end {
                self.held_syncs -= 1;
            }
            self.queue.remove(1);
            if is_end {
                return Ok(());
            }
        }
        // It cannot have ended before we sent the end.
        Err(self.mismatch(MismatchCause::CopyNotEnded))
    }

    /// The COPY before the held Syncs is answered: they have to be sent now, and their answers are expected from now on.
    #[inline(never)]
    pub(super) fn release_due_syncs(&mut self) {
        self.due_syncs += self.release_syncs(0);
    }

    /// The number of Syncs that were held and have to be sent now.
    #[inline]
    pub fn take_due_syncs(&mut self) -> usize {
        std::mem::take(&mut self.due_syncs)
    }

    /// True when [`ExpectedAnswers::take_due_syncs`] has something to give.
    #[inline]
    pub fn has_due_syncs(&self) -> bool {
        self.due_syncs > 0
    }

    /// The client sends a message that the server answers, into a COPY that it has not ended. Either the COPY reads it and
    /// the server ends the connection, or the COPY has failed. Returns how many held Syncs have to be sent before it;
    /// `None` while it has to wait for the beginning or the end of the COPY.
    pub fn take_syncs_before_message(&mut self) -> Option<usize> {
        if !self.is_copy_unended() {
            return None;
        }
        self.drop_ignored_syncs();
        Some(self.release_syncs(1))
    }

    /// Expects the answers of the held Syncs from this entry on, up to one that waits for another COPY.
    fn release_syncs(&mut self, mut at: usize) -> usize {
        let mut due = 0;
        loop {
            match self.queue.get_mut(at) {
                Some(entry @ ExpectedAnswer::HeldSync { .. }) => {
                    *entry = ExpectedAnswer::Sync(Answer::Forward);
                    due += 1;
                    at += 1;
                }
                Some(ExpectedAnswer::Sync(_)) => at += 1,
                Some(ExpectedAnswer::CopyEnd) => {
                    self.queue.remove(at);
                }
                _ => break,
            }
        }
        if due == 0 {
            return 0;
        }
        self.held_syncs -= due;
        self.tail = Tail::Other;
        self.batch_open = false;
        self.batch_sent = false;
        self.skip_to_sync = false;
        self.unsettled.seal();
        due
    }
}
