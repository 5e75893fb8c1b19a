//! A single lookup of a host name. Owns the choice between DNS and the system's resolver, and whether an answer
//! contains all addresses of the name. Stores nothing.

use rds_iam::{EndpointKind, RdsEndpoint, ResolveError, Resolver};
use std::net::{IpAddr, SocketAddr};

/// Maximum number of addresses of a server's name.
pub const MAX_ADDRESSES: usize = 16;

/// Where names are looked up.
#[derive(Clone)]
pub struct NameSources {
    /// DNS, which provides aliases; `None` if it is not configured.
    pub resolver: Option<Resolver>,
    /// True if other name servers than the system's are configured, so that the system's resolver is not used.
    pub is_dns_only: bool,
}

/// A lookup.
pub(super) struct NameQuery {
    pub(super) sources: NameSources,
    pub(super) name: String,
    /// True if aliases are to be followed.
    pub(super) follows_aliases: bool,
    /// True if cached answers must not be used.
    pub(super) bypasses_cache: bool,
    /// Maximum number of addresses in the answer.
    pub(super) max_addresses: usize,
}

/// The addresses of a name.
pub(super) struct NameAnswer {
    /// In the order of the answer, without port; never empty.
    pub(super) addresses: Vec<SocketAddr>,
    /// The first RDS endpoint among its aliases.
    pub(super) rds_name: Option<String>,
    /// True if the name has no other addresses.
    pub(super) is_complete: bool,
}

impl NameAnswer {
    pub(super) fn new(name: &str, addresses: Vec<SocketAddr>, rds_name: Option<String>) -> Self {
        let is_truncated = addresses.len() >= MAX_ADDRESSES;
        let is_complete = !is_truncated && !is_one_of_several(rds_name.as_deref().unwrap_or(name));
        Self { addresses, rds_name, is_complete }
    }

    pub(super) fn ips(&self) -> Vec<IpAddr> {
        let mut ips: Vec<IpAddr> = self.addresses.iter().map(|address| address.ip().to_canonical()).collect();
        ips.sort_unstable();
        ips.dedup();
        ips
    }
}

/// True for endpoints of several instances that return a different one in each answer.
fn is_one_of_several(name: &str) -> bool {
    let kind = RdsEndpoint::parse(name).map(|endpoint| endpoint.kind());
    matches!(kind, Some(EndpointKind::ClusterReader | EndpointKind::ClusterCustom | EndpointKind::ShardGroup))
}

impl NameQuery {
    /// Runs the lookup. The system's resolver has further sources of names, but provides no aliases and uses no other
    /// name servers.
    ///
    /// # Errors
    /// Why the name cannot be resolved.
    pub(super) async fn run(self) -> Result<NameAnswer, String> {
        let Self { sources, name, follows_aliases, bypasses_cache, max_addresses } = self;
        let needs_dns = follows_aliases || sources.is_dns_only;
        let mut is_answered = true;
        if let Some(resolver) = sources.resolver.filter(|_| needs_dns) {
            let found = if bypasses_cache {
                resolver.resolve_uncached(&name).await
            } else {
                resolver.resolve(&name).await
            };
            match found {
                Ok(found) => {
                    let addresses = found.addresses.iter().take(max_addresses);
                    let addresses = addresses.map(|ip| SocketAddr::new(*ip, 0)).collect();
                    return Ok(NameAnswer::new(&name, addresses, found.rds_name));
                }
                Err(error) if sources.is_dns_only => return Err(error.to_string()),
                // Names from other sources of the system (nsswitch) have no aliases, but may have addresses.
                Err(error) => {
                    is_answered = matches!(error, ResolveError::NoSuchHost | ResolveError::NoAddress);
                    tracing::debug!(host = name, %error, "no answer from DNS, using the system resolver");
                }
            }
        }
        let found = tokio::net::lookup_host((name.as_str(), 0)).await.map_err(|error| error.to_string())?;
        let addresses: Vec<SocketAddr> = found.take(max_addresses).collect();
        if addresses.is_empty() {
            return Err("no address".to_owned());
        }
        let answer = NameAnswer::new(&name, addresses, None);
        // After a DNS failure, the answer of the system may be incomplete.
        Ok(NameAnswer { is_complete: answer.is_complete && is_answered, ..answer })
    }
}
