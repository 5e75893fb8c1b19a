//! The queue against a small model of PostgreSQL's message loop, written from its description in the manual without
//! sharing code with the queue. Random messages are combined with random times at which the server reads. In every case
//! the client must see what it would see on a direct connection, and the server must be released only when it owes
//! nothing.

use super::{Answer, Expectation, ExpectedAnswer, ExpectedAnswers, Ready, StateChange};
use proptest::prelude::*;
use std::collections::VecDeque;

/// A client message, as far as the loop distinguishes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ModelMessage {
    Query(ModelStatement),
    FunctionCall,
    Parse { fails: bool },
    Bind { fails: bool },
    Describe,
    Execute(ModelStatement),
    Close,
    Flush,
    Sync,
    CopyData { fails: bool },
    CopyDone,
    CopyFail,
}

/// What a query or a portal does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ModelStatement {
    Select,
    Fails,
    CopyIn,
    /// Fails after requesting data and before reading any.
    CopyInFails,
    CopyOut,
    /// Two in one simple query, which a portal cannot contain.
    TwoCopies,
}

/// PostgreSQL, reading one message at a time.
#[derive(Default)]
struct ModelServer {
    inbox: VecDeque<ModelMessage>,
    /// COPY commands that the running statement has yet to execute.
    copies: usize,
    in_query: bool,
    skips: bool,
    is_dead: bool,
    /// Written but not sent yet: the server sends when its buffer is flushed.
    buffered: Vec<u8>,
    sent: VecDeque<u8>,
}

impl ModelServer {
    fn flush(&mut self) {
        self.sent.extend(self.buffered.drain(..));
    }

    fn error(&mut self) {
        self.buffered.push(b'E');
        self.copies = 0;
        if self.in_query {
            self.buffered.push(b'Z');
        } else {
            self.skips = true;
        }
        self.in_query = false;
        self.flush();
    }

    fn ask_for_data(&mut self) {
        self.buffered.push(b'G');
        self.flush();
    }

    fn run(&mut self, statement: ModelStatement) {
        match statement {
            ModelStatement::Select => self.buffered.extend(b"DC"),
            ModelStatement::Fails => return self.error(),
            ModelStatement::CopyOut => self.buffered.extend(b"HdcC"),
            ModelStatement::CopyInFails => {
                self.ask_for_data();
                return self.error();
            }
            ModelStatement::CopyIn | ModelStatement::TwoCopies => {
                self.copies = if statement == ModelStatement::TwoCopies { 2 } else { 1 };
                return self.ask_for_data();
            }
        }
        self.end_statement();
    }

    fn end_statement(&mut self) {
        if self.in_query {
            self.in_query = false;
            self.buffered.push(b'Z');
            self.flush();
        }
    }

    fn read_in_copy(&mut self, message: ModelMessage) {
        match message {
            ModelMessage::CopyData { fails: false } | ModelMessage::Flush | ModelMessage::Sync => {}
            ModelMessage::CopyData { fails: true } | ModelMessage::CopyFail => self.error(),
            ModelMessage::CopyDone => {
                self.copies -= 1;
                self.buffered.push(b'C');
                if self.copies > 0 { self.ask_for_data() } else { self.end_statement() }
            }
            // Protocol synchronization is lost: FATAL.
            _ => {
                self.is_dead = true;
                self.flush();
            }
        }
    }

    /// Reads one message, if there is one.
    fn step(&mut self) {
        if self.is_dead {
            return;
        }
        let Some(message) = self.inbox.pop_front() else { return };
        if self.copies > 0 {
            return self.read_in_copy(message);
        }
        if self.skips && message != ModelMessage::Sync {
            return;
        }
        match message {
            ModelMessage::Query(statement) => {
                self.in_query = true;
                self.run(statement);
            }
            ModelMessage::FunctionCall => {
                self.buffered.extend(b"VZ");
                self.flush();
            }
            ModelMessage::Parse { fails: true } | ModelMessage::Bind { fails: true } => self.error(),
            ModelMessage::Parse { .. } => self.buffered.push(b'1'),
            ModelMessage::Bind { .. } => self.buffered.push(b'2'),
            ModelMessage::Describe => self.buffered.push(b'n'),
            ModelMessage::Execute(statement) => self.run(statement),
            ModelMessage::Close => self.buffered.push(b'3'),
            ModelMessage::Flush => self.flush(),
            ModelMessage::Sync => {
                self.skips = false;
                self.buffered.push(b'Z');
                self.flush();
            }
            ModelMessage::CopyData { .. } | ModelMessage::CopyDone | ModelMessage::CopyFail => {}
        }
    }
}

/// The client's view of a direct connection, and whether the server survives.
fn direct_connection(messages: &[ModelMessage]) -> (Vec<u8>, bool) {
    let mut server = ModelServer { inbox: messages.iter().copied().collect(), ..ModelServer::default() };
    while !server.inbox.is_empty() && !server.is_dead {
        server.step();
    }
    server.flush();
    (server.sent.into(), server.is_dead)
}

/// A model of `crate::relay`.
#[derive(Default)]
struct Relay {
    answers: ExpectedAnswers,
    waiting: VecDeque<ModelMessage>,
    server: ModelServer,
    seen: Vec<u8>,
    /// COPY data was sent while a Sync was held.
    data_passed_sync: bool,
    /// Set when a COPY has then failed: whether the server would have ignored the Sync depends on which of the
    /// surrounding data was wrong, which is unknown.
    is_ambiguous: bool,
}

/// The answer that the queue expects to a message, if any.
fn expected_for(message: ModelMessage) -> Option<Expectation> {
    let copies = |statement| {
        matches!(statement, ModelStatement::CopyIn | ModelStatement::CopyInFails | ModelStatement::CopyOut)
    };
    let expected = match message {
        ModelMessage::Query(_) => ExpectedAnswer::QUERY,
        ModelMessage::FunctionCall => ExpectedAnswer::FunctionCall,
        ModelMessage::Parse { .. } => {
            return Some(ExpectedAnswer::Parse(Answer::Forward).with(StateChange::Prepared(1)));
        }
        ModelMessage::Bind { .. } => ExpectedAnswer::Bind(0),
        ModelMessage::Describe => ExpectedAnswer::Describe(0),
        ModelMessage::Execute(statement) => {
            ExpectedAnswer::Execute { copies: copies(statement), deallocates: false }
        }
        ModelMessage::Close => ExpectedAnswer::Close(Answer::Forward),
        ModelMessage::Sync => ExpectedAnswer::SYNC,
        ModelMessage::CopyDone
        | ModelMessage::CopyFail
        | ModelMessage::Flush
        | ModelMessage::CopyData { .. } => return None,
    };
    Some(expected.into())
}

impl Relay {
    fn send(&mut self, message: ModelMessage) {
        self.server.inbox.push_back(message);
    }

    /// Handles the client's next message. False when it has to wait.
    fn forward(&mut self) -> bool {
        let due = self.answers.take_due_syncs();
        for _ in 0..due {
            self.send(ModelMessage::Sync);
        }
        let Some(&message) = self.waiting.front() else { return due > 0 };
        if self.answers.skips_to_sync() && message != ModelMessage::Sync {
            self.waiting.pop_front();
            return true;
        }
        let passes = matches!(
            message,
            ModelMessage::Sync
                | ModelMessage::Flush
                | ModelMessage::CopyData { .. }
                | ModelMessage::CopyDone
                | ModelMessage::CopyFail
        );
        if self.answers.holds_sync() && !passes {
            self.data_passed_sync = true;
            let Some(due) = self.answers.take_syncs_before_message() else { return false };
            // Sent before the message.
            for _ in 0..due {
                self.send(ModelMessage::Sync);
            }
        }
        self.waiting.pop_front();
        self.data_passed_sync |=
            self.answers.holds_sync() && !matches!(message, ModelMessage::Sync | ModelMessage::Flush);
        let Some(expected) = expected_for(message) else {
            self.forward_unanswered(message);
            return true;
        };
        if message == ModelMessage::Sync && self.answers.may_ignore_sync() {
            self.answers.hold_sync();
            self.flush_held_sync();
            return true;
        }
        self.answers.push(expected);
        self.send(message);
        true
    }

    /// Forwards a message that has no answer.
    fn forward_unanswered(&mut self, message: ModelMessage) {
        match message {
            ModelMessage::CopyDone | ModelMessage::CopyFail => self.answers.push(ExpectedAnswer::CopyEnd),
            ModelMessage::CopyData { .. } => self.answers.copy_data_sent(),
            _ => {}
        }
        self.send(message);
        if matches!(message, ModelMessage::CopyDone | ModelMessage::CopyFail) {
            self.flush_held_sync();
        }
    }

    fn flush_held_sync(&mut self) {
        if self.answers.held_sync_needs_flush() {
            self.send(ModelMessage::Flush);
        }
    }

    /// Receives one message from the server.
    fn receive(&mut self) -> Result<bool, TestCaseError> {
        let Some(tag) = self.server.sent.pop_front() else { return Ok(false) };
        self.is_ambiguous |= tag == b'E' && self.data_passed_sync;
        match tag {
            b'Z' => prop_assert_eq!(self.answers.ready(|_| ()), Ok(Ready::Client)),
            b'E' => prop_assert_eq!(self.answers.error(|_, _| ()), Ok(())),
            b'D' | b'd' | b'c' | b'V' => prop_assert!(self.answers.allows_rows()),
            tag => prop_assert_eq!(self.answers.answer(tag, |_| ()), Ok(Answer::Forward)),
        }
        self.seen.push(tag);
        // The relay would release the server now: it must owe nothing.
        if self.answers.is_settled() {
            let nothing_left = self.server.buffered.is_empty()
                && self.server.sent.is_empty()
                && !self.server.skips
                && self.server.copies == 0
                && !self.server.inbox.iter().any(|m| {
                    !matches!(
                        m,
                        ModelMessage::CopyData { .. }
                            | ModelMessage::CopyDone
                            | ModelMessage::CopyFail
                            | ModelMessage::Flush
                    )
                });
            prop_assert!(nothing_left, "released too early, after {:?}", self.seen);
        }
        Ok(true)
    }
}

fn statement(in_query: bool) -> impl Strategy<Value = ModelStatement> {
    let mut all = vec![
        ModelStatement::Select,
        ModelStatement::Fails,
        ModelStatement::CopyIn,
        ModelStatement::CopyIn,
        ModelStatement::CopyInFails,
        ModelStatement::CopyOut,
    ];
    if in_query {
        all.push(ModelStatement::TwoCopies);
    }
    proptest::sample::select(all)
}

fn message() -> impl Strategy<Value = ModelMessage> {
    prop_oneof![
        3 => statement(true).prop_map(ModelMessage::Query),
        1 => Just(ModelMessage::FunctionCall),
        2 => any::<bool>().prop_map(|fails| ModelMessage::Parse { fails }),
        2 => (0..4).prop_map(|n| ModelMessage::Bind { fails: n == 0 }),
        1 => Just(ModelMessage::Describe),
        3 => statement(false).prop_map(ModelMessage::Execute),
        1 => Just(ModelMessage::Close),
        1 => Just(ModelMessage::Flush),
        5 => Just(ModelMessage::Sync),
        3 => any::<bool>().prop_map(|fails| ModelMessage::CopyData { fails }),
        2 => Just(ModelMessage::CopyDone),
        1 => Just(ModelMessage::CopyFail),
    ]
}

/// The number of sequences tested; `make model` tests more.
fn cases() -> u32 {
    std::env::var("MODEL_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(20_000)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), max_shrink_iters: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn a_client_sees_the_same_as_on_a_direct_connection(
        mut messages in proptest::collection::vec(message(), 1..24),
        turns in proptest::collection::vec(0..3u8, 0..200),
    ) {
        // Ends of COPYs and a Sync, so that everything owed is answered.
        messages.extend([ModelMessage::CopyDone, ModelMessage::CopyDone, ModelMessage::Sync]);
        let (expected, dies) = direct_connection(&messages);
        let mut relay = Relay { waiting: messages.into(), ..Relay::default() };
        let mut turns = turns.into_iter();
        loop {
            // Random steps first, then any step that is possible.
            let moved = match turns.next() {
                Some(0) => { relay.forward(); true }
                Some(1) => { relay.server.step(); true }
                Some(_) => { relay.receive()?; true }
                None => {
                    let read = !relay.server.inbox.is_empty() && !relay.server.is_dead;
                    relay.server.step();
                    relay.forward() | read | relay.receive()?
                }
            };
            if !moved {
                break;
            }
        }
        if relay.server.is_dead {
            prop_assert!(dies || relay.is_ambiguous);
            prop_assert!(!relay.answers.is_settled(), "a failing server must not be released");
        } else {
            prop_assert!(!dies || relay.is_ambiguous, "the client waits forever");
            if !relay.is_ambiguous {
                prop_assert_eq!(
                    String::from_utf8_lossy(&relay.seen).into_owned(),
                    String::from_utf8_lossy(&expected).into_owned()
                );
            }
            prop_assert!(relay.answers.is_settled(), "the server is never released");
        }
    }
}
