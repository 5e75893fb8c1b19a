//! The alternative design, for comparison: multi-threaded tokio and a mutex around a single pool. A spike
//! that implements what one row of "All cores" needs, as fast as this design permits, so that the choice of
//! design rests on a measurement (`make bench`).
//!
//! Owns one listener and one pool in transaction mode: the most recently used idle server, or a new one, or a
//! place in the queue.
//! Never: authenticates a client, shares prepared statements, handles COPY from a client, Flush, cancel
//! requests or a request larger than its buffer, or continues a connection after an error.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;
use tokio::sync::oneshot;
use wire::limits::MAX_MESSAGE_BYTES;
use wire::scan;
use wire::startup::{self, Request, Version};
use wire::tag::{backend, frontend};
use wire::{backend as view, encode};

/// Size of the buffer for a request, and for the part of a response that is forwarded at once.
const BUFFER_BYTES: usize = 16 * 1024;
/// Length of the field at the start of the first packet.
const LENGTH_BYTES: usize = 4;
/// Body of ReadyForQuery outside a transaction.
const NO_TRANSACTION: u8 = b'I';

/// A pooler with a mutex around its pool
#[derive(Parser)]
#[command(name = "mutex_pool", version)]
struct Args {
    /// Port to listen on, on 127.0.0.1
    #[arg(long)]
    listen: u16,
    /// Port of PostgreSQL on 127.0.0.1, which must trust this host
    #[arg(long)]
    postgres: u16,
    /// Database of the pool
    #[arg(long)]
    database: String,
    /// User of the pool
    #[arg(long)]
    user: String,
    /// Maximum number of server connections
    #[arg(long)]
    pool_size: NonZeroU32,
    /// Threads of the runtime
    #[arg(long)]
    workers: NonZeroUsize,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let runtime = Builder::new_multi_thread().worker_threads(args.workers.get()).enable_io().build()?;
    // The future passed to `block_on` runs on the main thread, which is not a worker; a task runs on a
    // worker.
    runtime.block_on(async { tokio::spawn(listen(args)).await })?
}

/// Opens the first server, whose greeting is sent to every client, and then accepts clients.
async fn listen(args: Args) -> Result<()> {
    let port = args.listen;
    // One per process, leaked so that tasks do not count references.
    let pool: &'static Pool = Box::leak(Box::new(Pool { args, state: Mutex::default() }));
    pool.locked().open += 1;
    let (first, greeting) = pool.log_in(Permit(pool)).await.context("logging in to PostgreSQL")?;
    let greeting: &'static [u8] = greeting.leak();
    pool.release(first);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.context("listening")?;
    loop {
        let (stream, _) = listener.accept().await.context("accepting")?;
        tokio::spawn(async move {
            let mut client = Client { stream, buffer: vec![0; BUFFER_BYTES] };
            if let Err(error) = client.serve(pool, greeting).await {
                eprintln!("client: {error:#}");
            }
        });
    }
}

/// The pool of the process.
struct Pool {
    args: Args,
    state: Mutex<State>,
}

/// The state protected by the mutex.
#[derive(Default)]
struct State {
    /// Most recently used last.
    idle: Vec<Server>,
    /// Oldest first.
    waiters: VecDeque<oneshot::Sender<Server>>,
    /// Number of servers: idle, borrowed or logging in.
    open: u32,
}

/// A permit for one server connection, returned on drop.
struct Permit(&'static Pool);

/// A server connection, idle or borrowed.
struct Server {
    stream: TcpStream,
    _permit: Permit,
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut state = self.0.locked();
        state.open -= 1;
        // The oldest waiter receives an error and tries again, since there is room for another server now.
        drop(state.waiters.pop_front());
    }
}

impl Pool {
    fn locked(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns a server, immediately or after waiting in the queue.
    async fn borrow(&'static self) -> Result<Server> {
        loop {
            let queued = {
                let mut state = self.locked();
                if let Some(server) = state.idle.pop() {
                    return Ok(server);
                }
                if state.open < self.args.pool_size.get() {
                    state.open += 1;
                    None
                } else {
                    let (sender, receiver) = oneshot::channel();
                    state.waiters.push_back(sender);
                    Some(receiver)
                }
            };
            let Some(waiter) = queued else { return Ok(self.log_in(Permit(self)).await?.0) };
            if let Ok(server) = waiter.await {
                return Ok(server);
            }
        }
    }

    /// Hands `server` to the oldest waiter, or returns it to the idle list. Wakes tasks only after unlocking.
    fn release(&self, mut server: Server) {
        loop {
            let mut state = self.locked();
            let Some(waiter) = state.waiters.pop_front() else { return state.idle.push(server) };
            drop(state);
            match waiter.send(server) {
                Ok(()) => return,
                Err(back) => server = back,
            }
        }
    }

    /// Opens a connection; also returns the greeting for clients.
    async fn log_in(&'static self, permit: Permit) -> Result<(Server, Vec<u8>)> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.args.postgres)).await?;
        stream.set_nodelay(true)?;
        let parameters = [("user", self.args.user.as_str()), ("database", &self.args.database)];
        let mut bytes = Vec::new();
        encode::startup(&mut bytes, Version::V3_0, &parameters);
        stream.write_all(&bytes).await?;
        bytes.clear();
        let mut greeting = Vec::new();
        encode::authentication_ok(&mut greeting);
        let mut at = 0;
        loop {
            while let Some((tag, message)) = message(&bytes[at..])? {
                at += message.len();
                match tag {
                    backend::ERROR_RESPONSE => bail!("{}", view::error_fields(message)?.message),
                    backend::PARAMETER_STATUS => greeting.extend_from_slice(message),
                    backend::READY_FOR_QUERY => {
                        // The key is not used: this pooler does not handle cancel requests.
                        encode::backend_key_data(&mut greeting, 1, &[0; 4]);
                        encode::ready_for_query(&mut greeting);
                        return Ok((Server { stream, _permit: permit }, greeting));
                    }
                    _ => {}
                }
            }
            ensure!(stream.read_buf(&mut bytes).await? > 0, "PostgreSQL closed the connection");
        }
    }
}

/// The complete message at the front of `bytes`, with its tag.
fn message(bytes: &[u8]) -> Result<Option<(u8, &[u8])>> {
    let frame = scan::header(bytes, MAX_MESSAGE_BYTES)?;
    Ok(frame.and_then(|frame| Some((frame.tag, bytes.get(..frame.len)?))))
}

/// A client connection and its buffer, which holds the request and then the response.
struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Client {
    async fn serve(&mut self, pool: &'static Pool, greeting: &[u8]) -> Result<()> {
        self.stream.set_nodelay(true)?;
        self.log_in_client(greeting).await?;
        let mut held = None;
        while let Some((len, answers)) = self.request().await? {
            let mut server = match held.take() {
                Some(server) => server,
                None => pool.borrow().await?,
            };
            server.stream.write_all(&self.buffer[..len]).await?;
            held = self.answer(pool, server, answers).await?;
        }
        Ok(())
    }

    /// Handles the client's login.
    async fn log_in_client(&mut self, greeting: &[u8]) -> Result<()> {
        loop {
            self.stream.read_exact(&mut self.buffer[..LENGTH_BYTES]).await?;
            let len = startup::packet_len(&self.buffer)?.context("no length")?;
            let rest = self.buffer.get_mut(LENGTH_BYTES..len).context("the packet is too large")?;
            self.stream.read_exact(rest).await?;
            match startup::parse(&self.buffer[..len])? {
                Request::Ssl | Request::Gss => self.stream.write_all(b"N").await?,
                Request::Cancel { .. } => bail!("cancel requests are not supported"),
                Request::Startup(_) => return Ok(self.stream.write_all(greeting).await?),
            }
        }
    }

    /// Reads a complete request: its length in bytes, and the number of ReadyForQuery messages in the
    /// response. `None` if the client has disconnected.
    ///
    /// `read` instead of `readable` with `try_read`: after a read that did not fill the buffer, tokio assumes
    /// that the socket is empty, which saves a system call per message.
    async fn request(&mut self) -> Result<Option<(usize, u32)>> {
        let (mut filled, mut at, mut answers) = (0, 0, 0);
        loop {
            match self.stream.read(&mut self.buffer[filled..]).await? {
                0 if filled == BUFFER_BYTES => bail!("a request is larger than {BUFFER_BYTES} bytes"),
                0 => return Ok(None),
                n => filled += n,
            }
            let mut is_at_end = false;
            while let Some((tag, message)) = message(&self.buffer[at..filled])? {
                at += message.len();
                is_at_end = matches!(tag, frontend::QUERY | frontend::SYNC | frontend::FUNCTION_CALL);
                answers += u32::from(is_at_end);
                if tag == frontend::TERMINATE {
                    return Ok(None);
                }
            }
            if is_at_end && at == filled {
                return Ok(Some((filled, answers)));
            }
        }
    }

    /// Forwards the response of `server` up to the last expected ReadyForQuery. Returns the server if it is
    /// in a transaction; otherwise releases it before the last bytes are sent, so that the next client does
    /// not wait for that.
    async fn answer(&mut self, pool: &Pool, mut server: Server, mut answers: u32) -> Result<Option<Server>> {
        // Offset of the next message; past `filled` if the current message is incomplete.
        let (mut filled, mut at, mut state) = (0, 0, NO_TRANSACTION);
        loop {
            let n = server.stream.read(&mut self.buffer[filled..]).await?;
            ensure!(n > 0, "PostgreSQL closed the connection");
            filled += n;
            let ahead = |at| self.buffer.get(at..filled).unwrap_or_default();
            while let Some(frame) = scan::header(ahead(at), MAX_MESSAGE_BYTES)? {
                if frame.tag == backend::READY_FOR_QUERY {
                    // The status byte is needed, so wait until it has arrived.
                    let Some(&byte) = ahead(at).get(frame.len - 1) else { break };
                    state = byte;
                    answers =
                        answers.checked_sub(1).context("PostgreSQL sent too many ReadyForQuery messages")?;
                }
                at += frame.len;
            }
            if answers == 0 && at == filled {
                let mut held = Some(server);
                if let Some(server) = held.take_if(|_| state == NO_TRANSACTION) {
                    pool.release(server);
                }
                self.stream.write_all(&self.buffer[..filled]).await?;
                return Ok(held);
            }
            // Everything except an incomplete message header.
            let out = at.min(filled);
            self.stream.write_all(&self.buffer[..out]).await?;
            self.buffer.copy_within(out..filled, 0);
            (filled, at) = (filled - out, at - out);
        }
    }
}
