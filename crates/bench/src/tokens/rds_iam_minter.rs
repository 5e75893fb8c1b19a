//! rds-iam as a minter: the signer alone, and the engine. Owns the loops around them; never verifies.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use anyhow::{Context, Result};
use rds_iam::{
    CredentialFuture, CredentialSource, Credentials, Identity, Region, TokenEngine, TokenKey, TokenRequest,
    sign,
};
use rds_sim::AccessKey;
use tokio::runtime::{Builder, Runtime};

use super::{Batch, Case, HOST, Minter, PORT, REGION, USER};

/// Everything that is created before the first token is timed.
pub(super) struct RdsIamMinter {
    /// In the order of [`Case::SIGNED`].
    credentials: [Credentials; 2],
    region: Region,
    engine: TokenEngine,
    key: TokenKey,
    runtime: Runtime,
}

/// Fixed credentials: nothing is fetched.
#[derive(Debug)]
struct FixedSource(Credentials);

impl CredentialSource for FixedSource {
    fn fetch<'a>(&'a self, _: &'a Identity) -> CredentialFuture<'a> {
        Box::pin(async { Ok(self.0.clone()) })
    }
}

impl RdsIamMinter {
    /// Creates the minter with these keys, in the order of [`Case::SIGNED`].
    pub(super) fn new(keys: &[AccessKey; 2]) -> Result<Self> {
        let credentials = keys.each_ref().map(credentials);
        let [_, temporary] = &credentials;
        let engine = TokenEngine::new(Arc::new(FixedSource(temporary.clone())));
        let key = TokenKey::new(HOST, PORT, USER, None, Identity::default())?;
        let runtime = Builder::new_current_thread().enable_all().build()?;
        Ok(Self { credentials, region: REGION.parse()?, engine, key, runtime })
    }

    fn sign(&self, credentials: &Credentials, count: u32) -> Result<Batch> {
        let request = TokenRequest { host: HOST, port: PORT, user: USER, region: &self.region };
        let mut last = None;
        let start = Instant::now();
        for _ in 0..count {
            last = Some(sign(black_box(&request), black_box(credentials), SystemTime::now())?);
        }
        batch(start, last.as_ref().map(|token| token.expose()))
    }

    fn request_tokens(&self, count: u32) -> Result<Batch> {
        self.runtime.block_on(async {
            let mut last = None;
            let start = Instant::now();
            for _ in 0..count {
                last = Some(self.engine.token(black_box(&self.key)).await?);
            }
            batch(start, last.as_ref().map(|token| token.expose()))
        })
    }
}

impl Minter for RdsIamMinter {
    fn name(&self) -> &'static str {
        "rds-iam"
    }

    fn versions(&self) -> &str {
        concat!("rds-iam ", env!("CARGO_PKG_VERSION"))
    }

    fn mint(&mut self, case: Case, count: u32) -> Result<Option<Batch>> {
        let [fixed, temporary] = &self.credentials;
        match case {
            Case::Static => self.sign(fixed, count),
            Case::Temporary => self.sign(temporary, count),
            Case::Cached => self.request_tokens(count),
        }
        .map(Some)
    }
}

fn batch(start: Instant, last: Option<&str>) -> Result<Batch> {
    let nanoseconds = u64::try_from(start.elapsed().as_nanos())?;
    Ok(Batch { nanoseconds, token: last.context("no token was requested")?.to_owned() })
}

fn credentials(key: &AccessKey) -> Credentials {
    let session_token = key.session_token.as_ref().map(|token| token.to_string());
    Credentials::new(&key.access_key_id, key.secret.as_str(), session_token, key.ends_at, "bench")
}
