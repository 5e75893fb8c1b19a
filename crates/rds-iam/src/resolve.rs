//! Resolves a name to addresses and returns every name in between: an alias in Route 53 or a private zone may
//! point to an RDS endpoint, and the token must be made for that endpoint.
//!
//! Owns: following the CNAME chain of a single answer, so that name and address belong together.
//! Never: goes beyond the first RDS name (public instances are aliases of `ec2-…` names), or caches longer
//! than the TTL.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::lookup_ip::LookupIp;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::rr::{Name, RData};
use hickory_resolver::{Resolver as Hickory, TokioResolver};

use crate::endpoint::RdsEndpoint;

/// Maximum length of a CNAME chain; a longer one is a loop or an error.
const MAX_CHAIN: usize = 16;
/// Maximum number of addresses used from an answer: that of a headless Service has one per pod.
const MAX_ADDRESSES: usize = 64;
/// Maximum number of cached answers.
const CACHED_ANSWERS: u64 = 256;
/// A name that does not exist may be created at any time.
const NEGATIVE_TTL: Duration = Duration::from_secs(1);

/// Resolves names. Clones share a cache that respects the TTL.
#[derive(Clone)]
pub struct Resolver {
    hickory: TokioResolver,
}

/// An answer: the addresses to connect to, and the name to sign for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// The addresses, in the order of the answer; never empty.
    pub addresses: Vec<IpAddr>,
    /// The first name of the chain, including the queried one, that is an RDS endpoint.
    pub rds_name: Option<String>,
    /// All names of the chain starting with the queried one, in lower case and without a trailing dot.
    pub chain: Vec<String>,
    /// How long the answer is valid.
    pub ttl: Duration,
}

/// Why a name has no address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ResolveError {
    /// The system's DNS configuration cannot be read.
    #[error("the DNS configuration cannot be used: {0}")]
    Configuration(String),
    /// The name does not exist.
    #[error("no such host")]
    NoSuchHost,
    /// The name exists and has no address.
    #[error("the name has no address")]
    NoAddress,
    /// No name server answered in time.
    #[error("no name server answered in time")]
    Timeout,
    /// A name server failed or could not be reached.
    #[error("name resolution failed: {0}")]
    Failed(String),
    /// The chain of aliases is a loop or too long.
    #[error("the aliases of the name form a loop")]
    Loop,
}

impl std::fmt::Debug for Resolver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Resolver").finish_non_exhaustive()
    }
}

impl Resolver {
    /// Uses the system's name servers, search domains and hosts file. Requires a tokio runtime when used.
    ///
    /// # Errors
    /// `/etc/resolv.conf` cannot be read.
    pub fn from_system() -> Result<Self, ResolveError> {
        let builder = Hickory::builder(TokioRuntimeProvider::default()).map_err(configuration)?;
        Self::build(builder)
    }

    /// Uses the name servers and search domains of another `resolv.conf`, and no hosts file.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn from_file(path: &Path) -> Result<Self, ResolveError> {
        let text = std::fs::read(path)
            .map_err(|error| ResolveError::Configuration(format!("{}: {error}", path.display())))?;
        let (config, options) =
            hickory_resolver::system_conf::parse_resolv_conf(&text).map_err(configuration)?;
        Self::with(config, options)
    }

    /// Uses one name server, no search domains and no hosts file.
    ///
    /// # Errors
    /// None in practice; the resolver library's constructor is fallible.
    pub fn from_server(server: SocketAddr) -> Result<Self, ResolveError> {
        let mut connections = vec![ConnectionConfig::udp(), ConnectionConfig::tcp()];
        for connection in &mut connections {
            connection.port = server.port();
        }
        let server = NameServerConfig::new(server.ip(), true, connections);
        Self::with(ResolverConfig::from_parts(None, Vec::new(), vec![server]), ResolverOpts::default())
    }

    /// With explicit name servers, the hosts file is not used.
    fn with(config: ResolverConfig, mut options: ResolverOpts) -> Result<Self, ResolveError> {
        options.use_hosts_file = ResolveHosts::Never;
        Self::build(
            Hickory::builder_with_config(config, TokioRuntimeProvider::default()).with_options(options),
        )
    }

    fn build(
        mut builder: hickory_resolver::ResolverBuilder<TokioRuntimeProvider>,
    ) -> Result<Self, ResolveError> {
        let options = builder.options_mut();
        options.cache_size = CACHED_ANSWERS;
        options.negative_max_ttl = Some(NEGATIVE_TTL);
        options.preserve_intermediates = true;
        Ok(Self { hickory: builder.build().map_err(configuration)? })
    }

    /// Like [`resolve`](Self::resolve), without the cache. All cached answers are dropped, since those for
    /// the aliases are among them.
    ///
    /// # Errors
    /// See [`ResolveError`].
    pub async fn resolve_uncached(&self, host: &str) -> Result<Resolved, ResolveError> {
        self.hickory.clear_cache();
        self.resolve(host).await
    }

    /// Resolves `host`: an address, a name of the hosts file, or a DNS name.
    ///
    /// # Errors
    /// See [`ResolveError`].
    pub async fn resolve(&self, host: &str) -> Result<Resolved, ResolveError> {
        let host = host.trim_matches(['[', ']']);
        let found = match Name::from_ascii(host) {
            // Parsed as ASCII: the IDNA rules applied to other names do not allow `_`.
            Ok(name) if host.contains('_') => self.hickory.lookup_ip(name).await,
            _ => self.hickory.lookup_ip(host).await,
        };
        let found = found.map_err(|error| classify(&error))?;
        let queried = plain(found.query().name());
        // Empty for a name of the hosts file or an address: there is no chain.
        let first = if queried.is_empty() { host.to_ascii_lowercase() } else { queried };
        let chain = chain_from(first, &aliases(&found))?;
        let addresses: Vec<IpAddr> = found.iter().take(MAX_ADDRESSES).collect();
        if addresses.is_empty() {
            return Err(ResolveError::NoAddress);
        }
        let rds_name =
            chain.iter().find_map(|name| RdsEndpoint::parse(name)).map(|name| name.host().to_owned());
        let ttl = found.valid_until().saturating_duration_since(Instant::now());
        Ok(Resolved { addresses, rds_name, chain, ttl })
    }
}

/// The aliases of an answer, as pairs of name and target.
fn aliases(found: &LookupIp) -> Vec<(String, String)> {
    let records = found.as_lookup().answers();
    records
        .iter()
        .filter_map(|record| match &record.data {
            RData::CNAME(target) => Some((plain(&record.name), plain(&target.0))),
            _ => None,
        })
        .collect()
}

/// The chain of names starting with `first`.
fn chain_from(first: String, aliases: &[(String, String)]) -> Result<Vec<String>, ResolveError> {
    let mut chain = vec![first];
    while let Some((_, next)) = aliases.iter().find(|(name, _)| chain.last() == Some(name)) {
        if chain.contains(next) || chain.len() >= MAX_CHAIN {
            return Err(ResolveError::Loop);
        }
        chain.push(next.clone());
    }
    Ok(chain)
}

fn plain(name: &Name) -> String {
    name.to_string().trim_end_matches('.').to_ascii_lowercase()
}

fn configuration(error: NetError) -> ResolveError {
    ResolveError::Configuration(error.to_string())
}

fn classify(error: &NetError) -> ResolveError {
    match error {
        _ if error.is_nx_domain() => ResolveError::NoSuchHost,
        _ if error.is_no_records_found() => ResolveError::NoAddress,
        NetError::Timeout => ResolveError::Timeout,
        NetError::Dns(DnsError::ResponseCode(code)) => ResolveError::Failed(code.to_string()),
        other => ResolveError::Failed(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(first: &str, aliases: &[(&str, &str)]) -> Result<Vec<String>, ResolveError> {
        let aliases: Vec<_> = aliases.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
        chain_from(first.to_owned(), &aliases)
    }

    #[test]
    fn chains_are_followed_in_order_whatever_the_order_of_records() {
        let aliases = [("b", "c"), ("a", "b"), ("x", "y")];
        assert_eq!(chain("a", &aliases), Ok(vec!["a".into(), "b".into(), "c".into()]));
        assert_eq!(chain("c", &aliases), Ok(vec!["c".into()]));
    }

    #[test]
    fn loops_and_endless_chains_are_errors() {
        assert_eq!(chain("a", &[("a", "b"), ("b", "a")]), Err(ResolveError::Loop));
        let long: Vec<(String, String)> = (0..100).map(|n| (n.to_string(), (n + 1).to_string())).collect();
        assert_eq!(chain_from("0".to_owned(), &long), Err(ResolveError::Loop));
    }
}
