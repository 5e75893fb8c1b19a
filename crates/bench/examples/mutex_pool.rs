//! The other design, to compare with: multi-thread tokio and a mutex around the one pool. A spike: it has what a row of
//! "All cores" needs, written to be as fast as this design goes, so that `make bench` decides and not an opinion.
//!
//! Owns one listener and one pool in transaction mode: the newest idle server, or a new one, or a place in the queue.
//! Never: asks who a client is, shares prepared statements, does COPY from a client, Flush or a request larger than
//! its buffer, cancels, or goes on with a connection after an error.
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

/// Room for a request, and for the part of an answer that is passed on at once.
const BUFFER_BYTES: usize = 16 * 1024;
/// What the first packet begins with.
const LENGTH_BYTES: usize = 4;
/// Body of ReadyForQuery outside of a transaction.
const NO_TRANSACTION: u8 = b'I';

/// A pooler with a mutex around its pool
#[derive(Parser)]
#[command(name = "mutex_pool", version)]
struct Args {
    /// Port to listen on, on 127.0.0.1
    #[arg(long)]
    listen: u16,
    /// Port of PostgreSQL on 127.0.0.1, which trusts us
    #[arg(long)]
    postgres: u16,
    /// Database of the pool
    #[arg(long)]
    database: String,
    /// User of the pool
    #[arg(long)]
    user: String,
    /// Server connections at most
    #[arg(long)]
    pool_size: NonZeroU32,
    /// Threads of the runtime
    #[arg(long)]
    workers: NonZeroUsize,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let runtime = Builder::new_multi_thread().worker_threads(args.workers.get()).enable_io().build()?;
    // What runs here and not in a task would be polled by this thread, which is none of the workers.
    runtime.block_on(async { tokio::spawn(listen(args)).await })?
}

/// Opens the first server, whose greeting all clients get, and then lets them in.
async fn listen(args: Args) -> Result<()> {
    let port = args.listen;
    // One for the process: no task has to count its references.
    let pool: &'static Pool = Box::leak(Box::new(Pool { args, state: Mutex::default() }));
    pool.locked().open += 1;
    let (first, greeting) = pool.log_in(Seat(pool)).await.context("logging in to PostgreSQL")?;
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

/// What the mutex is around.
#[derive(Default)]
struct State {
    /// The newest one last.
    idle: Vec<Server>,
    /// The oldest one first.
    waiters: VecDeque<oneshot::Sender<Server>>,
    /// Servers there are, idle, lent or logging in.
    open: u32,
}

/// A place for one server connection. It becomes free when this is dropped.
struct Seat(&'static Pool);

/// A server connection between two transactions, or lent.
struct Server {
    stream: TcpStream,
    _seat: Seat,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut state = self.0.locked();
        state.open -= 1;
        // The oldest waiter finds its sender gone and tries again: there is room for a server now.
        drop(state.waiters.pop_front());
    }
}

impl Pool {
    fn locked(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A server, at once or when it is this client's turn.
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
            let Some(waiter) = queued else { return Ok(self.log_in(Seat(self)).await?.0) };
            if let Ok(server) = waiter.await {
                return Ok(server);
            }
        }
    }

    /// Hands `server` to the oldest waiter, or makes it the newest idle one. Nobody is woken under the lock.
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

    /// Opens a connection, and what a client is told once it has one.
    async fn log_in(&'static self, seat: Seat) -> Result<(Server, Vec<u8>)> {
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
                        // Nobody listens to it.
                        encode::backend_key_data(&mut greeting, 1, &[0; 4]);
                        encode::ready_for_query(&mut greeting);
                        return Ok((Server { stream, _seat: seat }, greeting));
                    }
                    _ => {}
                }
            }
            ensure!(stream.read_buf(&mut bytes).await? > 0, "PostgreSQL closed the connection");
        }
    }
}

/// The whole message at the front of `bytes`, with its tag.
fn message(bytes: &[u8]) -> Result<Option<(u8, &[u8])>> {
    let frame = scan::header(bytes, MAX_MESSAGE_BYTES)?;
    Ok(frame.and_then(|frame| Some((frame.tag, bytes.get(..frame.len)?))))
}

/// A client and its buffer, which holds its request and then the answer.
struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Client {
    async fn serve(&mut self, pool: &'static Pool, greeting: &[u8]) -> Result<()> {
        self.stream.set_nodelay(true)?;
        self.let_in(greeting).await?;
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

    /// The client's login.
    async fn let_in(&mut self, greeting: &[u8]) -> Result<()> {
        loop {
            self.stream.read_exact(&mut self.buffer[..LENGTH_BYTES]).await?;
            let len = startup::packet_len(&self.buffer)?.context("no length")?;
            let rest = self.buffer.get_mut(LENGTH_BYTES..len).context("the packet is too large")?;
            self.stream.read_exact(rest).await?;
            match startup::parse(&self.buffer[..len])? {
                Request::Ssl | Request::Gss => self.stream.write_all(b"N").await?,
                Request::Cancel { .. } => bail!("nothing can be cancelled here"),
                Request::Startup(_) => return Ok(self.stream.write_all(greeting).await?),
            }
        }
    }

    /// Reads a request up to its end: how many bytes it has, and how many times ReadyForQuery ends the answer. `None`
    /// when the client has left.
    ///
    /// `read` and not `readable` with `try_read`: after a read that did not fill the buffer it knows that the socket is
    /// empty, which saves a system call per message.
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

    /// Passes on what `server` says until it is ready as often as it should be. Hands it back if it is in a
    /// transaction; otherwise it is released before the last bytes go to the client, so that the next one need not
    /// wait for that.
    async fn answer(&mut self, pool: &Pool, mut server: Server, mut answers: u32) -> Result<Option<Server>> {
        // `at` is where the next message begins: in the buffer, or as far behind its end as a message goes on.
        let (mut filled, mut at, mut state) = (0, 0, NO_TRANSACTION);
        loop {
            let n = server.stream.read(&mut self.buffer[filled..]).await?;
            ensure!(n > 0, "PostgreSQL closed the connection");
            filled += n;
            let ahead = |at| self.buffer.get(at..filled).unwrap_or_default();
            while let Some(frame) = scan::header(ahead(at), MAX_MESSAGE_BYTES)? {
                if frame.tag == backend::READY_FOR_QUERY {
                    // The one byte of its body decides, so it has to be here.
                    let Some(&byte) = ahead(at).get(frame.len - 1) else { break };
                    state = byte;
                    answers = answers.checked_sub(1).context("PostgreSQL is ready too often")?;
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
            // All but the head of a message that has not come whole.
            let out = at.min(filled);
            self.stream.write_all(&self.buffer[..out]).await?;
            self.buffer.copy_within(out..filled, 0);
            (filled, at) = (filled - out, at - out);
        }
    }
}
