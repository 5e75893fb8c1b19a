//! Shared by the examples: the database endpoint and its trusted certificate authorities.
//!
//! Owns: the variables that describe the endpoint, the key of its tokens, and TLS with verification of
//! certificate and name. Never: uses a password; there is none.
#![allow(dead_code)] // each example uses its part

use std::sync::Arc;

use anyhow::{Context, Result};
use rds_iam::{Identity, Region, TokenKey, roots};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

/// PostgreSQL's port if `PGPORT` is not set.
const DEFAULT_PORT: u16 = 5432;

/// A database endpoint and the certificate authorities trusted for it.
pub(crate) struct Endpoint {
    /// Host, port, user, region and AWS identity: everything a token is made for.
    pub(crate) key: TokenKey,
    /// The database's name.
    pub(crate) database: String,
    /// The certificate authorities to trust, as PEM.
    pub(crate) roots_pem: String,
}

impl Endpoint {
    /// Reads libpq's variables: `PGHOST` and `PGUSER`; `PGPORT`, `PGDATABASE` (default: the user's name), and
    /// `PGSSLROOTCERT`, a file with additional CAs. `AWS_REGION` is required if `PGHOST` does not contain the
    /// region.
    pub(crate) fn read(variable: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let host = variable("PGHOST").context("PGHOST is not set: the name of the RDS endpoint")?;
        let user = variable("PGUSER").context("PGUSER is not set: a database user who is in rds_iam")?;
        let port = variable("PGPORT").map_or(Ok(DEFAULT_PORT), |port| port.parse()).context("PGPORT")?;
        let region = variable("AWS_REGION").map(|region| region.parse::<Region>()).transpose()?;
        // The region in the endpoint's name takes precedence: AWS_REGION may be that of this program.
        let region = rds_iam::region_of(&host).or(region);
        let mut roots_pem = format!("{}{}", roots::rds_pem(), roots::amazon_pem());
        if let Some(file) = variable("PGSSLROOTCERT") {
            roots_pem.push_str(&std::fs::read_to_string(&file).with_context(|| format!("reading {file}"))?);
        }
        Ok(Self {
            database: variable("PGDATABASE").unwrap_or_else(|| user.clone()),
            key: TokenKey::new(&host, port, &user, region, Identity::default())?,
            roots_pem,
        })
    }

    /// TLS like libpq's `verify-full`: rustls always verifies certificate and name.
    pub(crate) fn tls(&self) -> Result<ClientConfig> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(self.roots_pem.as_bytes()) {
            roots.add(certificate?)?;
        }
        let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
        Ok(builder.with_safe_default_protocol_versions()?.with_root_certificates(roots).with_no_client_auth())
    }
}
