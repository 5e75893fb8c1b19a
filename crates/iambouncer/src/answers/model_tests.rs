//! The queue against a small model of PostgreSQL's own message loop, written from its description in the manual and
//! sharing no code with the queue. Random messages meet random moments at which the server reads; whatever happens, the
//! client sees what it would have seen on a direct connection, and the server is released only when it owes nothing.

use super::{Answer, Expected, ExpectedAnswers, Ready, Undo};
use proptest::prelude::*;
use std::collections::VecDeque;

/// A message of the client, as far as the loop cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Message {
    Query(Statement),
    FunctionCall,
    Parse { fails: bool },
    Bind { fails: bool },
    Describe,
    Execute(Statement),
    Close,
    Flush,
    Sync,
    CopyData { fails: bool },
    CopyDone,
    CopyFail,
}

/// What a query or a portal does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Statement {
    Select,
    Fails,
    CopyIn,
    /// It fails after it has asked for data and before it reads any.
    CopyInFails,
    CopyOut,
    /// Two in one simple query; a portal cannot hold this.
    TwoCopies,
}

/// PostgreSQL, reading one message at a time.
#[derive(Default)]
struct Server {
    inbox: VecDeque<Message>,
    /// COPY commands still to be read by the running statement.
    copies: usize,
    in_query: bool,
    skips: bool,
    is_dead: bool,
    /// Written, but not sent yet: the server sends when its buffer is flushed.
    buffered: Vec<u8>,
    sent: VecDeque<u8>,
}

impl Server {
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

    fn run(&mut self, statement: Statement) {
        match statement {
            Statement::Select => self.buffered.extend(b"DC"),
            Statement::Fails => return self.error(),
            Statement::CopyOut => self.buffered.extend(b"HdcC"),
            Statement::CopyInFails => {
                self.ask_for_data();
                return self.error();
            }
            Statement::CopyIn | Statement::TwoCopies => {
                self.copies = if statement == Statement::TwoCopies { 2 } else { 1 };
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

    fn read_in_copy(&mut self, message: Message) {
        match message {
            Message::CopyData { fails: false } | Message::Flush | Message::Sync => {}
            Message::CopyData { fails: true } | Message::CopyFail => self.error(),
            Message::CopyDone => {
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
        if self.skips && message != Message::Sync {
            return;
        }
        match message {
            Message::Query(statement) => {
                self.in_query = true;
                self.run(statement);
            }
            Message::FunctionCall => {
                self.buffered.extend(b"VZ");
                self.flush();
            }
            Message::Parse { fails: true } | Message::Bind { fails: true } => self.error(),
            Message::Parse { .. } => self.buffered.push(b'1'),
            Message::Bind { .. } => self.buffered.push(b'2'),
            Message::Describe => self.buffered.push(b'n'),
            Message::Execute(statement) => self.run(statement),
            Message::Close => self.buffered.push(b'3'),
            Message::Flush => self.flush(),
            Message::Sync => {
                self.skips = false;
                self.buffered.push(b'Z');
                self.flush();
            }
            Message::CopyData { .. } | Message::CopyDone | Message::CopyFail => {}
        }
    }
}

/// What the client sees of a server that it talks to directly, and whether the server survives.
fn directly(messages: &[Message]) -> (Vec<u8>, bool) {
    let mut server = Server { inbox: messages.iter().copied().collect(), ..Server::default() };
    while !server.inbox.is_empty() && !server.is_dead {
        server.step();
    }
    server.flush();
    (server.sent.into(), server.is_dead)
}

/// The relay's part, as `crate::relay` plays it.
#[derive(Default)]
struct Relay {
    answers: ExpectedAnswers,
    waiting: VecDeque<Message>,
    server: Server,
    seen: Vec<u8>,
    /// COPY data was sent past a Sync that is held.
    data_passed_sync: bool,
    /// Then a COPY has failed: whether the server would have ignored the Sync depends on which of the data around it were
    /// wrong, which cannot be known.
    is_ambiguous: bool,
}

impl Relay {
    fn send(&mut self, message: Message) {
        self.server.inbox.push_back(message);
    }

    /// Handles the client's next message. False when it has to wait.
    fn forward(&mut self) -> bool {
        let due = self.answers.take_due_syncs();
        for _ in 0..due {
            self.send(Message::Sync);
        }
        let Some(&message) = self.waiting.front() else { return due > 0 };
        if self.answers.skips_to_sync() && message != Message::Sync {
            self.waiting.pop_front();
            return true;
        }
        let passes = matches!(
            message,
            Message::Sync | Message::Flush | Message::CopyData { .. } | Message::CopyDone | Message::CopyFail
        );
        if self.answers.holds_sync() && !passes {
            self.data_passed_sync = true;
            let Some(due) = self.answers.take_syncs_before_message() else { return false };
            // In front of the message.
            for _ in 0..due {
                self.send(Message::Sync);
            }
        }
        self.waiting.pop_front();
        self.data_passed_sync |=
            self.answers.holds_sync() && !matches!(message, Message::Sync | Message::Flush);
        let copies =
            |statement| matches!(statement, Statement::CopyIn | Statement::CopyInFails | Statement::CopyOut);
        let expected = match message {
            Message::Query(_) => Expected::QUERY,
            Message::FunctionCall => Expected::FunctionCall,
            Message::Parse { .. } => Expected::Parse(Answer::Forward, Undo::Prepared(1)),
            Message::Bind { .. } => Expected::Bind(0),
            Message::Describe => Expected::Describe(0),
            Message::Execute(statement) => {
                Expected::Execute { copies: copies(statement), deallocates: false }
            }
            Message::Close => Expected::Close(Answer::Forward, Undo::None),
            Message::Sync if self.answers.may_ignore_sync() => {
                self.answers.hold_sync();
                if self.answers.held_sync_needs_flush() {
                    self.send(Message::Flush);
                }
                return true;
            }
            Message::Sync => Expected::SYNC,
            Message::CopyDone | Message::CopyFail => {
                self.answers.push(Expected::CopyEnd);
                self.send(message);
                if self.answers.held_sync_needs_flush() {
                    self.send(Message::Flush);
                }
                return true;
            }
            Message::Flush | Message::CopyData { .. } => {
                if message != Message::Flush {
                    self.answers.copy_data_sent();
                }
                self.send(message);
                return true;
            }
        };
        self.answers.push(expected);
        self.send(message);
        true
    }

    /// Receives one message of the server.
    fn receive(&mut self) -> Result<bool, TestCaseError> {
        let Some(tag) = self.server.sent.pop_front() else { return Ok(false) };
        self.is_ambiguous |= tag == b'E' && self.data_passed_sync;
        match tag {
            b'Z' => prop_assert_eq!(self.answers.ready(), Ok(Ready::Client)),
            b'E' => prop_assert_eq!(self.answers.error(|_, _| ()), Ok(())),
            b'D' | b'd' | b'c' | b'V' => prop_assert!(self.answers.allows_rows()),
            tag => prop_assert_eq!(self.answers.answer(tag), Ok(Answer::Forward)),
        }
        self.seen.push(tag);
        // The server would be released now: it must owe nothing.
        if self.answers.is_settled() {
            let nothing_left = self.server.buffered.is_empty()
                && self.server.sent.is_empty()
                && !self.server.skips
                && self.server.copies == 0
                && !self.server.inbox.iter().any(|m| {
                    !matches!(
                        m,
                        Message::CopyData { .. } | Message::CopyDone | Message::CopyFail | Message::Flush
                    )
                });
            prop_assert!(nothing_left, "released too early, after {:?}", self.seen);
        }
        Ok(true)
    }
}

fn statement(in_query: bool) -> impl Strategy<Value = Statement> {
    let mut all = vec![
        Statement::Select,
        Statement::Fails,
        Statement::CopyIn,
        Statement::CopyIn,
        Statement::CopyInFails,
        Statement::CopyOut,
    ];
    if in_query {
        all.push(Statement::TwoCopies);
    }
    proptest::sample::select(all)
}

fn message() -> impl Strategy<Value = Message> {
    prop_oneof![
        3 => statement(true).prop_map(Message::Query),
        1 => Just(Message::FunctionCall),
        2 => any::<bool>().prop_map(|fails| Message::Parse { fails }),
        2 => (0..4).prop_map(|n| Message::Bind { fails: n == 0 }),
        1 => Just(Message::Describe),
        3 => statement(false).prop_map(Message::Execute),
        1 => Just(Message::Close),
        1 => Just(Message::Flush),
        5 => Just(Message::Sync),
        3 => any::<bool>().prop_map(|fails| Message::CopyData { fails }),
        2 => Just(Message::CopyDone),
        1 => Just(Message::CopyFail),
    ]
}

/// How many sequences are tried; `make model` tries more.
fn cases() -> u32 {
    std::env::var("MODEL_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(20_000)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), max_shrink_iters: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn a_client_sees_what_it_would_see_directly(
        mut messages in proptest::collection::vec(message(), 1..24),
        turns in proptest::collection::vec(0..3u8, 0..200),
    ) {
        // Ends of COPYs and a Sync, so that everything owed is answered.
        messages.extend([Message::CopyDone, Message::CopyDone, Message::Sync]);
        let (expected, dies) = directly(&messages);
        let mut relay = Relay { waiting: messages.into(), ..Relay::default() };
        let mut turns = turns.into_iter();
        loop {
            // First as the dice fall, then whoever can.
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
            prop_assert!(!relay.answers.is_settled(), "a dying server must not be released");
        } else {
            prop_assert!(!dies || relay.is_ambiguous, "the client waits for ever");
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
