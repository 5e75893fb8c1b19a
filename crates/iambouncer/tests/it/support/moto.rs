//! AWS's Secrets Manager as moto imitates it, and what a test tells it to do. Owns one server process, which ends with
//! its value. It never checks signatures, and speaks no TLS.

use super::sim::REGION;
use super::{PATIENCE, drivers, http};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex, mpsc};

/// What a secret's version in use is called.
pub const CURRENT: &str = "AWSCURRENT";
/// What the next version is called while it is made ready.
pub const PENDING: &str = "AWSPENDING";
/// What the version before the current one is called.
pub const PREVIOUS: &str = "AWSPREVIOUS";

/// A running server with secrets of its own.
///
/// Once a stage has been moved, it answers a GetSecretValue that names no stage with the previous value, which AWS does
/// not. So a stage has to be named.
pub struct Moto {
    child: Child,
    port: u16,
    log: Arc<Mutex<String>>,
}

impl Moto {
    /// Starts it and waits until it takes requests.
    pub fn start() -> Self {
        let mut child = drivers::python("moto_server")
            .args(["-H", "127.0.0.1", "-p", "0"])
            .env("PYTHONUNBUFFERED", "1")
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        let stderr = child.stderr.take().unwrap();
        let mut moto = Self { child, port: 0, log: log.clone() };
        let (ready, is_ready) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if let Some((_, port)) = line.split_once("Running on http://127.0.0.1:") {
                    let digits: String = port.chars().take_while(char::is_ascii_digit).collect();
                    let _ = ready.send(digits.parse().unwrap_or(0));
                }
                let mut log = log.lock().unwrap();
                log.push_str(&line);
                log.push('\n');
            }
        });
        // It listens when it says so.
        let port = is_ready.recv_timeout(PATIENCE);
        moto.port = port.unwrap_or_else(|_| panic!("moto did not start:\n{}", moto.log()));
        moto
    }

    /// Where it is, for `AWS_ENDPOINT_URL_SECRETS_MANAGER` and the like.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// What an SDK needs to find it, and to have something to sign with.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        vec![
            ("AWS_ENDPOINT_URL_SECRETS_MANAGER", self.url()),
            ("AWS_ACCESS_KEY_ID", "AKIDMOTO".to_owned()),
            ("AWS_SECRET_ACCESS_KEY", "anything".to_owned()),
            ("AWS_REGION", REGION.to_owned()),
            // Python's SDK has a name of its own for it.
            ("AWS_DEFAULT_REGION", REGION.to_owned()),
        ]
    }

    /// One action of Secrets Manager; an error is its status, which AWS may have chosen otherwise, and text.
    pub fn call(&self, action: &str, parameters: &Value) -> Result<Value, (u16, String)> {
        let body = parameters.to_string();
        // The region is read from what was signed for; the signature is not looked at.
        let scope = format!("AKIDMOTO/20260101/{REGION}/secretsmanager/aws4_request");
        let request = format!(
            "POST / HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nConnection: close\r\n\
             X-Amz-Target: secretsmanager.{action}\r\nContent-Type: application/x-amz-json-1.1\r\n\
             Authorization: AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, Signature=0\r\n\
             Content-Length: {}\r\n\r\n{body}",
            self.port,
            body.len(),
        );
        let answer = http::send(self.port, request.as_bytes()).expect("an answer of moto");
        if answer.status != 200 {
            return Err((answer.status, answer.body));
        }
        Ok(serde_json::from_str(&answer.body).unwrap())
    }

    /// Makes a secret; answers with the ID of its version.
    pub fn create_secret(&self, name: &str, value: &str) -> String {
        self.version("CreateSecret", &json!({ "Name": name, "SecretString": value }))
    }

    /// Adds a version with these stages; answers with its ID. `AWSCURRENT` among them makes it the current one at once.
    pub fn put_secret_value(&self, name: &str, value: &str, stages: &[&str]) -> String {
        let parameters = json!({ "SecretId": name, "SecretString": value, "VersionStages": stages });
        self.version("PutSecretValue", &parameters)
    }

    /// Moves a stage from one version to another.
    pub fn move_stage(&self, name: &str, stage: &str, from: &str, to: &str) {
        let parameters = json!({
            "SecretId": name,
            "VersionStage": stage,
            "RemoveFromVersionId": from,
            "MoveToVersionId": to,
        });
        self.call("UpdateSecretVersionStage", &parameters).unwrap();
    }

    /// The value of the version with that stage, and the version's ID.
    pub fn secret_value(&self, name: &str, stage: &str) -> (String, String) {
        let answer =
            self.call("GetSecretValue", &json!({ "SecretId": name, "VersionStage": stage })).unwrap();
        (text(&answer, "SecretString"), text(&answer, "VersionId"))
    }

    /// What a rotation does in the end: the value comes as pending, and is made the current one. Answers with its ID.
    pub fn rotate(&self, name: &str, value: &str) -> String {
        let (_, from) = self.secret_value(name, CURRENT);
        let to = self.put_secret_value(name, value, &[PENDING]);
        self.move_stage(name, CURRENT, &from, &to);
        to
    }

    /// Everything it has logged; a line for each request.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    fn version(&self, action: &str, parameters: &Value) -> String {
        text(&self.call(action, parameters).unwrap(), "VersionId")
    }
}

fn text(answer: &Value, field: &str) -> String {
    answer[field].as_str().unwrap_or_else(|| panic!("no {field} in {answer}")).to_owned()
}

impl Drop for Moto {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("log of moto:\n{}", self.log());
        }
    }
}
