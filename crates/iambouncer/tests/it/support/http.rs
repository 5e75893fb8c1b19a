//! A raw HTTP client, so that tests can also send malformed requests, and a strict parser of both text formats of
//! metrics. Owns no process.

use super::TIMEOUT;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::TcpStream;

/// An HTTP answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// Status line and headers.
    pub head: String,
    pub body: String,
}

/// Connects without sending anything.
pub fn connect(port: u16) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    stream.set_write_timeout(Some(TIMEOUT)).unwrap();
    stream
}

/// Sends these bytes and reads everything returned. `None` if there is no answer.
pub fn send(port: u16, request: &[u8]) -> Option<Answer> {
    let mut stream = connect(port);
    // The server may close the connection before everything was sent.
    let _ = stream.write_all(request);
    let mut bytes = Vec::new();
    let mut chunk = [0; 4096];
    while let Ok(n @ 1..) = stream.read(&mut chunk) {
        bytes.extend_from_slice(&chunk[..n]);
    }
    let text = String::from_utf8(bytes).unwrap();
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some(Answer { status, head: head.to_owned(), body: body.to_owned() })
}

/// A request without a body.
pub fn request(port: u16, method: &str, path: &str) -> Answer {
    let text = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    send(port, text.as_bytes()).unwrap_or_else(|| panic!("no answer to {method} {path}"))
}

/// A GET request.
pub fn get(port: u16, path: &str) -> Answer {
    request(port, "GET", path)
}

/// The parsed metrics of a scrape.
#[derive(Debug, Clone, Default)]
pub struct Scrape {
    pub text: String,
    /// Types by family.
    pub kinds: BTreeMap<String, String>,
    /// Values by name and labels, as they are written.
    pub values: BTreeMap<String, f64>,
}

/// A GET request with an Accept header.
pub fn get_as(port: u16, path: &str, accept: &str) -> Answer {
    let text = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nAccept: {accept}\r\n\r\n");
    send(port, text.as_bytes()).unwrap_or_else(|| panic!("no answer to {path}"))
}

/// Scrapes the metrics as OpenMetrics and checks every line.
pub fn scrape(port: u16) -> Scrape {
    parse(&get_as(port, "/metrics", "application/openmetrics-text"))
}

/// Checks every line of an answer with metrics, in the format that its Content-Type names.
pub fn parse(answer: &Answer) -> Scrape {
    assert_eq!(answer.status, 200, "{answer:?}");
    let kind = answer.head.split("content-type: ").nth(1).and_then(|rest| rest.lines().next());
    let text = &answer.body;
    let mut scrape = Scrape { text: text.to_owned(), ..Scrape::default() };
    let (is_openmetrics, body) = match kind {
        Some("application/openmetrics-text; version=1.0.0; charset=utf-8") => {
            (true, text.strip_suffix("# EOF\n").expect("the end is marked"))
        }
        Some("text/plain; version=0.0.4; charset=utf-8") => (false, text.as_str()),
        other => panic!("{other:?}"),
    };
    let mut family = String::new();
    for line in body.lines() {
        if let Some(rest) = line.strip_prefix("# ") {
            let (word, rest) = rest.split_once(' ').expect(line);
            let (name, what) = rest.split_once(' ').expect(line);
            assert!(["HELP", "TYPE"].contains(&word) || (is_openmetrics && word == "UNIT"), "{line}");
            if word == "HELP" {
                name.clone_into(&mut family);
                assert!(!scrape.kinds.contains_key(name), "described twice: {line}");
            }
            assert_eq!(name, family, "{line}");
            if word == "TYPE" {
                scrape.kinds.insert(name.to_owned(), what.to_owned());
            }
            assert!(word != "UNIT" || name.ends_with(&format!("_{what}")), "{line}");
            continue;
        }
        let (series, value) = line.rsplit_once(' ').expect(line);
        let name = check_series(series);
        let endings: &[&str] = match scrape.kinds[&family].as_str() {
            "counter" if is_openmetrics => &["_total"],
            "info" if is_openmetrics => &["_info"],
            "counter" | "gauge" => &[""],
            "histogram" => &["_bucket", "_sum", "_count"],
            other => panic!("{other}: {line}"),
        };
        assert!(endings.iter().any(|ending| name == format!("{family}{ending}")), "{line} in {family}");
        let value: f64 = value.parse().expect(line);
        assert!(!is_openmetrics || !family.ends_with("_total"), "{line}");
        assert!(scrape.values.insert(series.to_owned(), value).is_none(), "twice: {line}");
    }
    scrape
}

/// Checks `name{label="value",…}` character by character; returns the name.
fn check_series(series: &str) -> &str {
    let word = |text: &str| {
        !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    };
    let Some((name, rest)) = series.split_once('{') else {
        assert!(word(series), "{series}");
        return series;
    };
    assert!(word(name), "{series}");
    let mut rest = rest;
    let mut seen = BTreeSet::new();
    loop {
        let (label, after) = rest.split_once("=\"").expect(series);
        assert!(word(label) && seen.insert(label), "{series}");
        let mut bytes = after.bytes().enumerate();
        let end = loop {
            match bytes.next().expect(series) {
                (_, b'\\') => {
                    let (_, escaped) = bytes.next().expect(series);
                    assert!(b"\\\"n".contains(&escaped), "{series}");
                }
                (at, b'"') => break at,
                _ => {}
            }
        };
        match &after[end + 1..] {
            "}" => return name,
            more => rest = more.strip_prefix(',').expect(series),
        }
    }
}

impl Scrape {
    /// The sum of a metric's series that have all these labels; `None` if there are none.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let wanted: Vec<String> =
            labels.iter().map(|(label, value)| format!("{label}=\"{value}\"")).collect();
        let matching = self.values.iter().filter(|(series, _)| {
            let (own, rest) = series.split_once('{').unwrap_or((series, ""));
            own == name && wanted.iter().all(|label| rest.contains(label))
        });
        matching.map(|(_, value)| *value).reduce(|a, b| a + b)
    }

    /// All counters, including those of histograms.
    pub fn counters(&self) -> impl Iterator<Item = (&str, f64)> {
        let is_counter = |series: &str| {
            let name = series.split('{').next().unwrap_or(series);
            ["_total", "_bucket", "_count", "_sum"].iter().any(|ending| name.ends_with(ending))
        };
        self.values
            .iter()
            .map(|(series, value)| (series.as_str(), *value))
            .filter(move |(s, _)| is_counter(s))
    }
}
