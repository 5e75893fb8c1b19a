//! Forwards bytes between a client and PostgreSQL, subject to faults.
//!
//! Owns: an established connection. Never: parses its contents.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::watch;

use crate::fault_injection::{Change, Faults};

const BUFFER_BYTES: usize = 32 * 1024;

/// Forwards bytes until both sides have closed, or the connection is cut.
pub(crate) async fn relay<C, B>(client: C, backend: B, faults: &Faults) -> io::Result<()>
where
    C: AsyncRead + AsyncWrite,
    B: AsyncRead + AsyncWrite,
{
    let budget =
        ByteBudget { limit_bytes: faults.settings().cut_after_bytes, passed_bytes: AtomicU64::new(0) };
    let (client_read, client_write) = tokio::io::split(client);
    let (backend_read, backend_write) = tokio::io::split(backend);
    tokio::try_join!(
        pump(client_read, backend_write, faults.subscribe(), &budget),
        pump(backend_read, client_write, faults.subscribe(), &budget),
    )
    .map(drop)
}

/// The number of bytes a connection may forward.
struct ByteBudget {
    limit_bytes: Option<u64>,
    passed_bytes: AtomicU64,
}

impl ByteBudget {
    /// How many of `wanted` bytes may still be forwarded, and true if they are the last.
    fn take(&self, wanted: usize) -> (usize, bool) {
        let before = self.passed_bytes.fetch_add(wanted as u64, Ordering::Relaxed);
        match self.limit_bytes {
            None => (wanted, false),
            Some(limit) => {
                let left = usize::try_from(limit.saturating_sub(before)).unwrap_or(usize::MAX);
                (wanted.min(left), left <= wanted)
            }
        }
    }
}

async fn pump<R, W>(
    mut from: R,
    mut to: W,
    mut changes: watch::Receiver<Change>,
    budget: &ByteBudget,
) -> io::Result<()>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let cut_generation = changes.borrow_and_update().cut_generation;
    let mut buffer = vec![0_u8; BUFFER_BYTES];
    loop {
        let Change { stall, cut_generation: current } = *changes.borrow_and_update();
        if current != cut_generation {
            return Err(cut());
        }
        let read = tokio::select! {
            changed = changes.changed() => {
                changed.map_err(|_| cut())?;
                continue;
            }
            read = from.read(&mut buffer), if !stall => read?,
        };
        if read == 0 {
            return to.shutdown().await;
        }
        let (allowed, is_last) = budget.take(read);
        to.write_all(&buffer[..allowed]).await?;
        to.flush().await?;
        if is_last {
            return Err(cut());
        }
    }
}

fn cut() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "cut on demand")
}
