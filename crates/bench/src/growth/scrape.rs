//! One scrape of the metrics of iambouncer. Owns the request and the check of its answer; never reads a metric.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// Time limit for each read.
const READ_LIMIT: Duration = Duration::from_secs(60);
/// HTTP/1.0, so that the connection ends with the answer.
const REQUEST: &[u8] = b"GET /metrics HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n";

/// Reads all metrics from `port` and returns the size of the answer in bytes.
pub(super) fn scrape(port: u16) -> Result<usize> {
    let mut tcp = TcpStream::connect(("127.0.0.1", port)).context("connecting to http_port")?;
    tcp.set_read_timeout(Some(READ_LIMIT))?;
    tcp.write_all(REQUEST)?;
    let mut answer = Vec::new();
    tcp.read_to_end(&mut answer).context("reading metrics")?;
    let status = answer.split(|&byte| byte == b'\r').next().unwrap_or_default();
    if !is_ok(status) {
        bail!("the scrape was answered with {:?}", String::from_utf8_lossy(status));
    }
    Ok(answer.len())
}

fn is_ok(status: &[u8]) -> bool {
    status.starts_with(b"HTTP/1.") && status.split(|&byte| byte == b' ').nth(1) == Some(b"200")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_status_200_is_a_scrape() {
        assert!(is_ok(b"HTTP/1.1 200 OK"));
        assert!(!is_ok(b"HTTP/1.1 404 Not Found"));
        assert!(!is_ok(b""));
    }
}
