//! A real Prometheus and promtool. Owns the process, its files, and the reading of its API.

use crate::support::bouncer::end_with_the_test;
use crate::support::{Bouncer, eventually, http, program};
use serde_json::Value;
use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// The state of a listening socket in /proc/net/tcp.
const LISTENING: &str = "0A";

/// What to scrape.
pub(super) struct Target<'a> {
    pub(super) job: &'a str,
    /// Of metrics.
    pub(super) port: u16,
    /// The parameter.
    pub(super) format: &'a str,
    pub(super) interval_s: u32,
}

impl<'a> Target<'a> {
    /// A target that is scraped each second.
    pub(super) fn new(job: &'a str, pooler: &Bouncer, format: &'a str) -> Self {
        Self { job, port: pooler.http_port(), format, interval_s: 1 }
    }
}

/// A running Prometheus.
pub(super) struct Prometheus {
    child: Child,
    port: u16,
    dir: tempfile::TempDir,
}

impl Prometheus {
    /// Starts it with these targets and rules, and waits until it has scraped all targets.
    pub(super) fn start(targets: &[Target<'_>], rules: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("rules.yaml"), rules).unwrap();
        let mut config =
            "global: {evaluation_interval: 1s}\nrule_files: [rules.yaml]\nscrape_configs:\n".to_owned();
        for Target { job, port, format, interval_s } in targets {
            config.push_str(&format!(
                "  - job_name: {job}\n    params: {{format: [{format}]}}\n    scrape_interval: {interval_s}s\n    \
                 scrape_timeout: {interval_s}s\n    static_configs:\n      - targets: [\"127.0.0.1:{port}\"]\n"
            ));
        }
        std::fs::write(dir.path().join("prometheus.yaml"), config).unwrap();
        let log = std::fs::File::create(dir.path().join("log")).unwrap();
        let mut command = Command::new("prometheus");
        command
            .args(["--config.file=prometheus.yaml", "--storage.tsdb.path=data"])
            // The kernel chooses the port; it is read from the process afterwards.
            .args(["--web.listen-address=127.0.0.1:0", "--storage.tsdb.retention.time=1h"])
            .current_dir(dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        end_with_the_test(&mut command);
        let child = command.spawn().expect("prometheus, which tools/setup images installs");
        let mut prometheus = Self { child, port: 0, dir };
        eventually("Prometheus listens", || {
            assert_eq!(prometheus.child.try_wait().unwrap(), None, "{}", prometheus.log());
            prometheus.port = listening_port(prometheus.child.id()).unwrap_or_default();
            prometheus.port > 0
        });
        eventually("all targets were scraped", || prometheus.up() == targets.len());
        prometheus
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// The `data` of an answer of the API, or the error.
    fn api(&self, path: &str) -> Result<Value, String> {
        // HTTP/1.0, so that the answer is in one piece and the connection ends with it.
        let request = format!("GET /api/v1/{path} HTTP/1.0\r\nHost: localhost\r\n\r\n");
        let answer = http::send(self.port, request.as_bytes()).ok_or("no answer")?;
        let mut content: Value = serde_json::from_str(&answer.body).map_err(|error| error.to_string())?;
        match content["status"].as_str() {
            Some("success") => Ok(content["data"].take()),
            _ => Err(answer.body),
        }
    }

    /// Number of targets whose last scrape succeeded.
    fn up(&self) -> usize {
        let Ok(data) = self.api("targets") else { return 0 };
        let targets = data["activeTargets"].as_array().expect("targets");
        targets.iter().filter(|target| target["health"] == "up" && target["lastError"] == "").count()
    }

    /// The values of a query, without those that are not numbers.
    pub(super) fn query(&self, expression: &str) -> Result<Vec<f64>, String> {
        let data = self.api(&format!("query?query={}", encoded(expression)))?;
        let values = data["result"].as_array().expect("a vector").iter();
        let values = values.filter_map(|sample| sample["value"][1].as_str()?.parse::<f64>().ok());
        Ok(values.filter(|value| !value.is_nan()).collect())
    }

    /// The values of a label in the series of a metric.
    pub(super) fn label_values(&self, metric: &str, label: &str) -> Result<Vec<String>, String> {
        let data = self.api(&format!("label/{label}/values?match[]={}", encoded(metric)))?;
        serde_json::from_value(data).map_err(|error| error.to_string())
    }

    /// Names of the alerts that fire.
    pub(super) fn firing(&self) -> BTreeSet<String> {
        let data = self.api("alerts").unwrap_or_default();
        let alerts = data["alerts"].as_array().map(Vec::as_slice).unwrap_or_default().iter();
        let firing = alerts.filter(|alert| alert["state"] == "firing");
        firing.map(|alert| alert["labels"]["alertname"].as_str().unwrap().to_owned()).collect()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("log of Prometheus:\n{}", self.log());
        }
    }
}

fn encoded(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}

/// The port of a process that listens on one TCP socket.
fn listening_port(pid: u32) -> Option<u16> {
    let sockets: BTreeSet<String> = std::fs::read_dir(format!("/proc/{pid}/fd"))
        .ok()?
        .filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok())
        .filter_map(|link| Some(link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
        .collect();
    let table = std::fs::read_to_string(format!("/proc/{pid}/net/tcp")).ok()?;
    table.lines().skip(1).find_map(|line| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let (local, state, inode) = (columns.get(1)?, columns.get(3)?, columns.get(9)?);
        let port = u16::from_str_radix(local.rsplit_once(':')?.1, 16).ok()?;
        (*state == LISTENING && sockets.contains(*inode)).then_some(port)
    })
}

/// Runs promtool, which must accept its arguments and its input; returns what it prints.
pub(super) fn promtool(arguments: &[&str], directory: &Path, input: &str) -> String {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(input.as_bytes()).unwrap();
    std::io::Seek::rewind(&mut file).unwrap();
    let mut command = Command::new("promtool");
    command.args(arguments).current_dir(directory).stdin(file);
    let output = program::to_end(&mut command);
    assert_eq!(output.code, Some(0), "{arguments:?}: {output:?}");
    format!("{}{}", output.stdout, output.stderr)
}
