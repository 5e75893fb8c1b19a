//! What each answer does to the queue, entry by entry.

use super::queue::MismatchCause;
use super::*;

fn queue<T: Into<Expectation>>(entries: impl IntoIterator<Item = T>) -> ExpectedAnswers {
    let mut queue = ExpectedAnswers::default();
    entries.into_iter().for_each(|entry| queue.push(entry));
    queue
}

fn prepared(id: u64) -> Expectation {
    ExpectedAnswer::Parse(Answer::Forward).with(StateChange::Prepared(id))
}

const COPY: ExpectedAnswer = ExpectedAnswer::Execute { copies: true, deallocates: false };

const HELD: ExpectedAnswer = ExpectedAnswer::HeldSync { after_data: true };

/// What an error undoes, and whether everything up to the next Sync is skipped afterwards.
fn undone(queue: &mut ExpectedAnswers) -> (Vec<u64>, bool) {
    let mut ids = Vec::new();
    let outcome = queue.error(|change, _| ids.extend(change.statement_id()));
    assert_eq!(outcome, Ok(()));
    (ids, queue.skips_to_sync())
}

fn answer(queue: &mut ExpectedAnswers, tag: u8) -> Answer {
    queue.answer(tag, |_| ()).unwrap()
}

fn ready(queue: &mut ExpectedAnswers) -> Result<Ready, Mismatch> {
    queue.ready(|_| ())
}

fn due_local(queue: &mut ExpectedAnswers) -> Option<LocalAnswer> {
    queue.due_local(|_| ())
}

#[test]
fn an_injected_parse_is_discarded_and_a_known_one_answered_by_the_pooler() {
    let mut queue = queue([
        ExpectedAnswer::Parse(Answer::Skip),
        ExpectedAnswer::Bind(0),
        ExpectedAnswer::EXECUTE,
        ExpectedAnswer::Local(LocalAnswer::ParseComplete),
        ExpectedAnswer::SYNC,
    ]);
    assert_eq!(due_local(&mut queue), None);
    assert_eq!(answer(&mut queue, b'1'), Answer::Skip);
    assert_eq!(answer(&mut queue, b'2'), Answer::Forward);
    assert_eq!(answer(&mut queue, b'C'), Answer::Forward);
    assert_eq!(due_local(&mut queue), Some(LocalAnswer::ParseComplete));
    assert_eq!(ready(&mut queue), Ok(Ready::Client));
    assert!(queue.is_fresh());
}

#[test]
fn an_error_undoes_entries_up_to_the_sync_in_reverse() {
    let mut queue = queue([
        prepared(1),
        prepared(2),
        ExpectedAnswer::SYNC.into(),
        prepared(3),
        ExpectedAnswer::SYNC.into(),
    ]);
    assert_eq!(undone(&mut queue), (vec![2, 1], false));
    assert_eq!(ready(&mut queue), Ok(Ready::Client));
    assert_eq!(answer(&mut queue, b'1'), Answer::Forward);
    assert_eq!(ready(&mut queue), Ok(Ready::Client));
    assert!(queue.is_fresh());
}

#[test]
fn an_error_before_the_sync_is_sent_empties_the_queue() {
    let mut queue = queue([ExpectedAnswer::Bind(0), ExpectedAnswer::QUERY]);
    assert_eq!(undone(&mut queue), (vec![], true));
    assert!(queue.is_empty() && !queue.is_settled());
    queue.push(ExpectedAnswer::SYNC);
    assert_eq!(ready(&mut queue), Ok(Ready::Client));
    assert!(queue.is_fresh());
}

#[test]
fn a_sync_before_the_end_of_a_copy_is_discarded_when_the_copy_completes() {
    let mut queue = queue([ExpectedAnswer::Bind(0), COPY]);
    assert!(queue.may_ignore_sync());
    queue.push(HELD);
    assert!(queue.held_sync_needs_flush());
    answer(&mut queue, b'2');
    answer(&mut queue, b'G');
    queue.push(ExpectedAnswer::CopyEnd);
    assert!(!queue.may_ignore_sync(), "after the end of the COPY it is an ordinary Sync");
    queue.push(ExpectedAnswer::SYNC);
    answer(&mut queue, b'C');
    assert!(!queue.holds_sync() && !queue.has_due_syncs());
    assert_eq!(ready(&mut queue), Ok(Ready::Client));
    assert!(queue.is_fresh());
}

#[test]
fn syncs_before_the_end_of_a_copy_are_sent_when_the_copy_fails() {
    for entries in [vec![ExpectedAnswer::QUERY], vec![COPY]] {
        let is_query = matches!(entries[0], ExpectedAnswer::Query { .. });
        let mut queue = queue(entries);
        answer(&mut queue, b'G');
        queue.push(HELD);
        queue.push(HELD);
        queue.push(ExpectedAnswer::CopyEnd);
        assert_eq!(undone(&mut queue), (vec![], false));
        if is_query {
            assert!(!queue.has_due_syncs(), "the query's own ReadyForQuery comes first");
            assert_eq!(ready(&mut queue), Ok(Ready::Client));
        }
        assert_eq!(queue.take_due_syncs(), 2);
        assert!(!queue.is_settled());
        assert_eq!(ready(&mut queue), Ok(Ready::Client));
        assert_eq!(ready(&mut queue), Ok(Ready::Client));
        assert!(queue.is_fresh());
    }
}

#[test]
fn a_sync_before_failing_copy_data_was_ignored() {
    for has_data in [true, false] {
        let mut queue = queue([COPY]);
        queue.hold_sync();
        answer(&mut queue, b'G');
        if has_data {
            queue.copy_data_sent();
        }
        assert_eq!(undone(&mut queue), (vec![], has_data));
        assert_eq!(queue.take_due_syncs(), usize::from(!has_data));
        assert!(!queue.is_settled());
    }
}

#[test]
fn a_held_sync_is_sent_when_the_statement_read_no_copy_data() {
    let mut queue = queue([COPY, HELD]);
    answer(&mut queue, b'H');
    assert!(queue.allows_rows());
    answer(&mut queue, b'C');
    assert_eq!(queue.take_due_syncs(), 1);
    assert_eq!(ready(&mut queue), Ok(Ready::Client));
    assert!(queue.is_fresh());
}

#[test]
fn one_query_may_hold_several_copies() {
    let mut queue = queue([ExpectedAnswer::QUERY, HELD, ExpectedAnswer::CopyEnd]);
    assert!(queue.may_ignore_sync(), "the second COPY could read it");
    queue.push(HELD);
    queue.push(ExpectedAnswer::CopyEnd);
    answer(&mut queue, b'G');
    answer(&mut queue, b'C');
    assert_eq!(queue.len(), 3);
    answer(&mut queue, b'G');
    answer(&mut queue, b'C');
    assert_eq!(queue.len(), 1);
    assert_eq!(ready(&mut queue), Ok(Ready::Client));
    assert!(queue.is_fresh());
}

#[test]
fn a_failed_extended_copy_leaves_the_server_skipping_until_the_next_sync() {
    let mut queue = queue([ExpectedAnswer::Bind(0), COPY]);
    answer(&mut queue, b'2');
    answer(&mut queue, b'G');
    assert_eq!(undone(&mut queue), (vec![], true));
    assert!(queue.is_empty() && !queue.is_settled());
    queue.push(ExpectedAnswer::SYNC);
    assert_eq!(ready(&mut queue), Ok(Ready::Client));
    assert!(queue.is_settled());
}

#[test]
fn a_copy_whose_sync_was_discarded_is_an_open_batch() {
    let mut queue = queue([COPY, HELD]);
    answer(&mut queue, b'G');
    queue.push(ExpectedAnswer::CopyEnd);
    answer(&mut queue, b'C');
    assert!(queue.is_empty() && !queue.is_settled());
}

#[test]
fn a_name_is_unsettled_while_an_earlier_batch_may_undo_it() {
    let name = |name: &[u8], id| {
        ExpectedAnswer::Parse(Answer::Forward).with(StateChange::name(name.into(), None, id))
    };
    let mut queue = queue([name(b"a", 1)]);
    assert!(!queue.is_name_unsettled(b"a"), "it fails together with what builds on it");
    queue.push(ExpectedAnswer::SYNC);
    assert!(queue.is_name_unsettled(b"a") && queue.is_statement_unsettled(1));
    assert!(!queue.is_name_unsettled(b"b") && !queue.is_statement_unsettled(2));
    queue.push(name(b"b", 2));
    assert!(!queue.is_name_unsettled(b"b"));
    answer(&mut queue, b'1');
    assert!(!queue.is_name_unsettled(b"a") && !queue.is_statement_unsettled(1));
}

#[test]
fn all_names_are_unsettled_while_a_deallocate_is_unanswered() {
    let mut queue = queue([ExpectedAnswer::Query { deallocates: true }]);
    assert!(queue.is_name_unsettled(b"a") && queue.is_statement_unsettled(1));
    assert_eq!(ready(&mut queue), Ok(Ready::Client));
    assert!(!queue.is_name_unsettled(b"a"));
}

#[test]
fn a_failed_simple_query_owes_its_ready_for_query_only() {
    let mut queue = queue([ExpectedAnswer::QUERY, ExpectedAnswer::QUERY]);
    assert_eq!(undone(&mut queue), (vec![], false));
    assert_eq!(ready(&mut queue), Ok(Ready::Client));
    assert_eq!(queue.len(), 1);
}

#[test]
fn a_retry_discards_the_remaining_answers_of_the_first_attempt() {
    let mut queue = queue([ExpectedAnswer::Bind(7), ExpectedAnswer::EXECUTE, ExpectedAnswer::SYNC]);
    assert_eq!(queue.front_statement(), Some(7));
    queue.retry(7);
    assert_eq!(ready(&mut queue), Ok(Ready::InternalSync));
    assert_eq!(answer(&mut queue, b'3'), Answer::Skip);
    assert_eq!(answer(&mut queue, b'1'), Answer::Skip);
    assert_eq!(answer(&mut queue, b'2'), Answer::Forward);
    assert_eq!(answer(&mut queue, b'C'), Answer::Forward);
    assert_eq!(ready(&mut queue), Ok(Ready::Client));
    assert!(queue.is_fresh());
}

#[test]
fn an_unexpected_message_is_a_mismatch() {
    let cases: [(Vec<ExpectedAnswer>, &[u8]); 6] = [
        (vec![], b"12CDGHIKRSTVntsv3"),
        (vec![ExpectedAnswer::SYNC], b"12CGHIKRTnts3"),
        (vec![ExpectedAnswer::Bind(0)], b"1CGHIKRTnts3"),
        (vec![ExpectedAnswer::QUERY], b"12KRnts3vW"),
        (vec![ExpectedAnswer::EXECUTE], b"12KRTnt3vW"),
        (vec![ExpectedAnswer::InternalQuery], b"12KRnts3vWG"),
    ];
    for (entries, tags) in cases {
        let mut queue = queue(entries);
        for &tag in tags {
            let mismatch = queue.answer(tag, |_| ()).unwrap_err();
            assert_eq!(mismatch.cause, MismatchCause::Unexpected(tag), "{mismatch}");
        }
    }
    assert!(ready(&mut ExpectedAnswers::default()).is_err());
    assert!(ready(&mut queue([ExpectedAnswer::Bind(0)])).is_err());
    assert!(ExpectedAnswers::default().error(|_, _| ()).is_err());
    let mut copy = queue([ExpectedAnswer::QUERY]);
    answer(&mut copy, b'G');
    assert_eq!(copy.answer(b'C', |_| ()).unwrap_err().cause, MismatchCause::CopyNotEnded);
}

/// Whether the change of an internal query is committed, and why it is rolled back.
fn parameters_settled(fails: bool) -> (bool, Option<Rollback>) {
    let mut queue = queue([ExpectedAnswer::InternalQuery.with(StateChange::Parameters)]);
    let (mut is_committed, mut rolled_back) = (false, None);
    if fails {
        queue.error(|_, why| rolled_back = Some(why)).unwrap();
    }
    queue.ready(|change| is_committed = matches!(change, StateChange::Parameters)).unwrap();
    assert!(queue.is_fresh());
    (is_committed, rolled_back)
}

#[test]
fn a_change_is_committed_by_its_answer_or_rolled_back_by_an_error() {
    let by_own_error = Rollback { is_front: true, is_last_change: true };
    assert_eq!(parameters_settled(false), (true, None));
    assert_eq!(parameters_settled(true), (false, Some(by_own_error)));
}

#[test]
fn local_messages_are_due_after_the_answers_before_them() {
    let messages = LocalAnswer::messages(b"refused".to_vec());
    let mut queue = queue([ExpectedAnswer::Bind(0), ExpectedAnswer::SYNC]);
    queue.push(ExpectedAnswer::Local(messages.clone()));
    queue.push(ExpectedAnswer::SYNC);
    // An error skips the rest of its batch only.
    assert_eq!(undone(&mut queue), (vec![], false));
    assert_eq!(due_local(&mut queue), None);
    assert_eq!(ready(&mut queue), Ok(Ready::Client));
    assert_eq!(due_local(&mut queue), Some(messages));
    assert_eq!(ready(&mut queue), Ok(Ready::Client));
    assert!(queue.is_fresh());
}

#[test]
fn an_entry_is_small() {
    assert!(std::mem::size_of::<Expectation>() <= 32);
}

#[test]
fn the_end_of_a_command_is_recorded() {
    let mut queue = queue([ExpectedAnswer::QUERY, ExpectedAnswer::SYNC]);
    assert!(!queue.has_command_ended() && queue.is_last_command());
    answer(&mut queue, b'C');
    ready(&mut queue).unwrap();
    assert!(queue.has_command_ended());
    queue.await_command();
    ready(&mut queue).unwrap();
    for entry in [ExpectedAnswer::Close(Answer::Forward), ExpectedAnswer::EXECUTE, ExpectedAnswer::EXECUTE] {
        queue.push(entry);
    }
    answer(&mut queue, b'3');
    assert!(!queue.has_command_ended() && !queue.is_last_command());
    answer(&mut queue, b'C');
    assert!(queue.has_command_ended() && !queue.is_last_command());
    queue.await_command();
    queue.push(ExpectedAnswer::SYNC);
    assert!(queue.is_last_command());
    undone(&mut queue);
    assert!(queue.has_command_ended());
}
