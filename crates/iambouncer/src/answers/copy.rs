//! COPY FROM STDIN. Owns when a client's Sync is held, and whether it is sent or dropped.
//!
//! While the server reads COPY data it ignores Sync; once the COPY has failed it answers each Sync. Which of the two
//! happens to a Sync after a COPY depends on when the server noticed the error, so the Sync is not sent before the COPY
//! is answered: CommandComplete means that the server would have ignored it, an error or ReadyForQuery that it has to
//! be sent. A Sync after the client's CopyDone or CopyFail is an ordinary one, unless a simple query may begin another
//! COPY there.
//!
//! One Sync is ignored even before an error: one directly after the Execute, where libpq and others put it, if the COPY
//! fails because of later data. Such a client sends another Sync after its data and expects one answer.

use super::entry::{Answer, ExpectedAnswer};
use super::queue::{ExpectedAnswers, Mismatch, MismatchCause, Tail};

impl ExpectedAnswers {
    /// True while the server reads COPY data.
    pub fn is_copying(&self) -> bool {
        self.copying
    }

    /// True if a COPY that the server may be reading could ignore a Sync sent now.
    pub fn may_ignore_sync(&self) -> bool {
        self.tail != Tail::Other && !self.skip_to_sync
    }

    /// True if a COPY may be running that would read a message sent now.
    #[inline]
    pub fn may_be_copying(&self) -> bool {
        self.tail != Tail::Other
    }

    /// True if the server reads COPY data and the client has not ended it.
    pub fn is_copy_unended(&self) -> bool {
        self.copying && self.queue.len() == self.held_syncs + 1
    }

    /// True if a Sync is held until the preceding COPY is answered: messages with later answers have to wait.
    #[inline]
    pub fn holds_sync(&self) -> bool {
        self.held_syncs > 0
    }

    /// True if the server may buffer the answer that decides about a held Sync, so that only a Flush makes it send the
    /// answer.
    pub fn held_sync_needs_flush(&self) -> bool {
        self.holds_sync() && self.batch_open
    }

    /// Records that COPY data is sent to the server.
    #[inline]
    pub fn copy_data_sent(&mut self) {
        self.data_sent = true;
    }

    /// Holds a client's Sync.
    pub fn hold_sync(&mut self) {
        self.push(ExpectedAnswer::HeldSync { after_data: self.data_sent });
    }

    /// Called when the COPY at the front has failed: drops the Syncs that the server has read, and ignored, before the
    /// first COPY data or the end of the COPY.
    pub(super) fn drop_ignored_syncs(&mut self) {
        if self.held_syncs == 0
            || !(self.data_sent
                || matches!(self.answer_at(1 + self.held_syncs), Some(ExpectedAnswer::CopyEnd)))
        {
            return;
        }
        while let Some(ExpectedAnswer::HeldSync { after_data: false }) = self.answer_at(1) {
            self.queue.remove(1);
            self.held_syncs -= 1;
        }
    }

    /// CommandComplete ends the COPY at the front: Syncs before the client's CopyDone were ignored.
    pub(super) fn end_copy_in(&mut self) -> Result<(), Mismatch> {
        self.copying = false;
        while let Some(answer) = self.answer_at(1) {
            let is_end = match answer {
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
        // It cannot have ended before its end was sent.
        Err(self.mismatch(MismatchCause::CopyNotEnded))
    }

    /// Called when the COPY before the held Syncs is answered: they have to be sent now, and their answers become
    /// expected.
    #[inline(never)]
    pub(super) fn release_due_syncs(&mut self) {
        self.due_syncs += self.release_syncs(0);
    }

    /// The number of held Syncs that have to be sent now.
    #[inline]
    pub fn take_due_syncs(&mut self) -> usize {
        std::mem::take(&mut self.due_syncs)
    }

    /// True when [`ExpectedAnswers::take_due_syncs`] would return any.
    #[inline]
    pub fn has_due_syncs(&self) -> bool {
        self.due_syncs > 0
    }

    /// The client sends a message that the server answers during a COPY that it has not ended. Either the COPY reads
    /// the message and the server closes the connection, or the COPY has failed. Returns how many held Syncs have to be
    /// sent before it; `None` while it has to wait for the beginning or the end of the COPY.
    pub fn take_syncs_before_message(&mut self) -> Option<usize> {
        if !self.is_copy_unended() {
            return None;
        }
        self.drop_ignored_syncs();
        Some(self.release_syncs(1))
    }

    /// Turns held Syncs from this entry on into expected answers, up to one that waits for another COPY.
    fn release_syncs(&mut self, mut at: usize) -> usize {
        let mut due = 0;
        loop {
            match self.queue.get_mut(at).map(|entry| &mut entry.answer) {
                Some(held @ ExpectedAnswer::HeldSync { .. }) => {
                    *held = ExpectedAnswer::Sync(Answer::Forward);
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
