//! moto's emulation of AWS Secrets Manager, and the calls that tests make to it. Owns one server process,
//! which ends with its value. It does not check signatures and does not support TLS.

use super::sim::REGION;
use super::{TIMEOUT, drivers, http};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex, mpsc};

/// The stage of the current version.
pub const CURRENT: &str = "AWSCURRENT";
/// The stage of a new version during a rotation.
pub const PENDING: &str = "AWSPENDING";
/// The stage of the version before the current one.
pub const PREVIOUS: &str = "AWSPREVIOUS";

/// A running server with its own secrets.
///
/// Once a stage has been moved, moto answers a GetSecretValue without a stage with the previous value, unlike
/// AWS. Callers must therefore pass a stage.
pub struct Moto {
    child: Child,
    port: u16,
    log: Arc<Mutex<String>>,
}

impl Moto {
    /// Starts the server and waits until it accepts requests.
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
        // The server listens when it prints this line.
        let port = is_ready.recv_timeout(TIMEOUT);
        moto.port = port.unwrap_or_else(|_| panic!("moto did not start:\n{}", moto.log()));
        moto
    }

    /// The endpoint URL, for `AWS_ENDPOINT_URL_SECRETS_MANAGER` and similar variables.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The environment through which an SDK finds the endpoint, and a key to sign with.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        vec![
            ("AWS_ENDPOINT_URL_SECRETS_MANAGER", self.url()),
            ("AWS_ACCESS_KEY_ID", "AKIDMOTO".to_owned()),
            ("AWS_SECRET_ACCESS_KEY", "anything".to_owned()),
            ("AWS_REGION", REGION.to_owned()),
            // The Python SDK uses this variable.
            ("AWS_DEFAULT_REGION", REGION.to_owned()),
        ]
    }

    /// Calls an action of Secrets Manager; an error contains the status, which may differ from AWS's, and the
    /// text.
    pub fn call(&self, action: &str, parameters: &Value) -> Result<Value, (u16, String)> {
        let body = parameters.to_string();
        // The region is taken from the credential scope; the signature is not checked.
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

    /// Creates a secret; returns its version ID.
    pub fn create_secret(&self, name: &str, value: &str) -> String {
        self.version("CreateSecret", &json!({ "Name": name, "SecretString": value }))
    }

    /// Adds a version with these stages; returns its ID. With `AWSCURRENT` it becomes current at once.
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

    /// The value of the version with this stage, and its version ID.
    pub fn secret_value(&self, name: &str, stage: &str) -> (String, String) {
        let answer =
            self.call("GetSecretValue", &json!({ "SecretId": name, "VersionStage": stage })).unwrap();
        (text(&answer, "SecretString"), text(&answer, "VersionId"))
    }

    /// The final steps of a rotation: adds the value as pending and makes it current. Returns its version ID.
    pub fn rotate(&self, name: &str, value: &str) -> String {
        let (_, from) = self.secret_value(name, CURRENT);
        let to = self.put_secret_value(name, value, &[PENDING]);
        self.move_stage(name, CURRENT, &from, &to);
        to
    }

    /// Everything logged so far, one line per request.
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
