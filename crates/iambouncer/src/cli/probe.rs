//! `iambouncer healthcheck` and `iambouncer wait`: requests to the HTTP endpoint of a running pooler. Owns the client
//! side, so that a container needs neither a shell nor curl.

use super::Failure;
use super::arguments::{Healthcheck, Probe, Wait};
use anyhow::{Context as _, anyhow, bail};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Bytes;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

/// Longest answer that is read, in bytes.
const MAX_ANSWER_BYTES: usize = 16 * 1024;
/// Interval between two requests of `wait`.
const PAUSE: Duration = Duration::from_millis(100);
/// Time limit for one request of `wait`.
const REQUEST_LIMIT: Duration = Duration::from_secs(2);

pub(super) fn healthcheck(options: &Healthcheck) -> Result<(), Failure> {
    let runtime = super::run::control_runtime().map_err(Failure::Start)?;
    let path = match options.probe {
        Probe::Startup => "/startup",
        Probe::Liveness => "/liveness",
        Probe::Readiness => "/readiness",
    };
    let limit = Duration::from_secs(options.timeout.max(1));
    let answer = runtime.block_on(async {
        timeout(limit, ask(&options.address, path))
            .await
            .unwrap_or_else(|_| Err(anyhow!("no answer in time")))
    });
    let text = answer.with_context(|| format!("{}{path}", options.address)).map_err(Failure::Start)?;
    super::print(text.as_bytes())
}

pub(super) fn wait(options: &Wait) -> Result<(), Failure> {
    let runtime = super::run::control_runtime().map_err(Failure::Start)?;
    runtime.block_on(async {
        let deadline = Instant::now() + Duration::from_secs(options.max);
        loop {
            let answer = timeout(REQUEST_LIMIT, ask(&options.address, "/startup")).await;
            let error = match answer {
                Ok(Ok(_text)) => return Ok(()),
                Ok(Err(error)) => error,
                Err(_elapsed) => anyhow!("no answer in time"),
            };
            if Instant::now() + PAUSE >= deadline {
                let text =
                    format!("the pooler at {} has not started within {} s", options.address, options.max);
                return Err(Failure::Start(error.context(text)));
            }
            sleep(PAUSE).await;
        }
    })
}

/// The text of a page, if the status is 200.
async fn ask(address: &str, path: &str) -> anyhow::Result<String> {
    let client: Client<_, Empty<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let uri = format!("http://{address}{path}").parse().context("invalid address")?;
    let answer = client.get(uri).await.map_err(root_cause)?;
    let status = answer.status();
    let body = Limited::new(answer.into_body(), MAX_ANSWER_BYTES).collect().await;
    let body = body.map_err(|_| anyhow!("the answer is too long or was cut off"))?.to_bytes();
    let text = String::from_utf8_lossy(&body).into_owned();
    if status != hyper::StatusCode::OK {
        bail!("{status}: {}", text.trim_end());
    }
    Ok(text)
}

/// The last error of a chain is the most specific.
fn root_cause(error: hyper_util::client::legacy::Error) -> anyhow::Error {
    let error = anyhow::Error::new(error);
    anyhow!("{}", error.root_cause())
}
