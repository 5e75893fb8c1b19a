//! Kinds of large amounts of data: which way they go, and in which rows. Owns the SQL for each, and its transfer by a raw
//! client; never measures.

use anyhow::Result;

use crate::client::Client;

/// A large amount of data, in rows of this many bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transfer {
    /// A result.
    Rows(u64),
    /// COPY to the client.
    CopyOut(u64),
    /// COPY to the server, which discards the rows.
    CopyIn(u64),
}

/// Bytes of CopyData that the client writes at once, like psql.
const COPY_CHUNK_BYTES: u64 = 8 * 1024;

impl Transfer {
    /// Its part of the name of a row.
    pub(crate) fn name(self) -> String {
        match self {
            Self::Rows(bytes) => format!("{bytes}-byte rows"),
            Self::CopyOut(bytes) => format!("COPY out, {bytes}-byte rows"),
            Self::CopyIn(bytes) => format!("COPY in, {bytes}-byte rows"),
        }
    }

    /// Transfers about this many bytes. Returns the number.
    pub(crate) async fn run(self, client: &mut Client, bytes: u64) -> Result<u64> {
        match self {
            Self::Rows(row) => client.query(&rows(row, bytes)).await,
            Self::CopyOut(row) => client.query(&format!("COPY ({}) TO STDOUT", rows(row, bytes))).await,
            Self::CopyIn(row) => {
                // One message, so one transaction: the table exists only in it.
                let sql = "BEGIN; CREATE TEMPORARY TABLE sink (line text); \
                           COPY sink FROM STDIN WHERE false; ROLLBACK";
                let line = vec![b'x'; row as usize - 1];
                client.copy_in(sql, &[&line[..], b"\n"].concat(), COPY_CHUNK_BYTES / row, bytes).await
            }
        }
    }
}

/// Rows are generated one by one: with the subquery, PostgreSQL does not materialize them in a file first.
pub(crate) fn rows(row_bytes: u64, bytes: u64) -> String {
    let count = bytes / row_bytes;
    format!("SELECT repeat('x', {row_bytes}) FROM (SELECT generate_series(1, {count})) AS rows")
}
