//! From a name to addresses, with every name in between: an alias in Route 53 or a private zone stands for an RDS
//! endpoint, and the token has to be made for that endpoint.
//!
//! Owns: the walk along the CNAME chain of one answer, so that name and address belong together.
//! Never: goes beyond the first RDS name (public instances stand for `ec2-…` names), never caches longer than DNS says.

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

/// Names that stand for each other; more is a loop, or somebody's joke.
const MAX_CHAIN: usize = 16;
/// Addresses that are taken from an answer.
const MAX_ADDRESSES: usize = 16;
/// Answers that are kept until their end.
const CACHED_ANSWERS: u64 = 256;
/// A name that does not exist may be made at any moment.
const NEGATIVE_TTL: Duration = Duration::from_secs(1);

/// Looks names up. Clones share a cache that keeps answers as long as DNS says.
#[derive(Clone)]
pub struct Resolver {
    hickory: TokioResolver,
}

/// An answer: where to connect, and what to sign for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// Addresses, in the order of the answer; never empty.
    pub addresses: Vec<IpAddr>,
    /// The first name on the chain, the one asked for included, that is an RDS endpoint's.
    pub rds_name: Option<String>,
    /// Every name on the chain from the one asked for, lower case and without a final dot.
    pub chain: Vec<String>,
    /// How long the answer holds.
    pub ttl: Duration,
}

/// Why a name has no address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ResolveError {
    /// The system's DNS configuration cannot be read.
    #[error("the DNS configuration cannot be used: {0}")]
    Configuration(String),
    /// DNS knows no such name.
    #[error("no such host")]
    NoSuchHost,
    /// The name exists and has no address.
    #[error("the name has no address")]
    NoAddress,
    /// No name server answered in time.
    #[error("no name server answered in time")]
    Timeout,
    /// A name server failed, or the way to it.
    #[error("name resolution failed: {0}")]
    Failed(String),
    /// The aliases lead back to themselves, or do not end.
    #[error("the aliases of the name form a loop")]
    Loop,
}

impl std::fmt::Debug for Resolver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Resolver").finish_non_exhaustive()
    }
}

impl Resolver {
    /// With the system's name servers, search domains and hosts file. Needs a tokio runtime when used.
    ///
    /// # Errors
    /// `/etc/resolv.conf` cannot be read.
    pub fn from_system() -> Result<Self, ResolveError> {
        let builder = Hickory::builder(TokioRuntimeProvider::default()).map_err(configuration)?;
        Self::build(builder)
    }

    /// With the name servers and search domains of another `resolv.conf`, and without the hosts file.
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

    /// With one name server, no search domains and no hosts file.
    ///
    /// # Errors
    /// None in practice; the library reserves the right.
    pub fn from_server(server: SocketAddr) -> Result<Self, ResolveError> {
        let mut connections = vec![ConnectionConfig::udp(), ConnectionConfig::tcp()];
        for connection in &mut connections {
            connection.port = server.port();
        }
        let server = NameServerConfig::new(server.ip(), true, connections);
        Self::with(ResolverConfig::from_parts(None, Vec::new(), vec![server]), ResolverOpts::default())
    }

    /// Who names name servers means DNS and nothing else.
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

    /// As [`resolve`](Self::resolve), with a new answer. The answers kept for all names are dropped, since those of its
    /// aliases are among them.
    ///
    /// # Errors
    /// See [`ResolveError`].
    pub async fn resolve_anew(&self, host: &str) -> Result<Resolved, ResolveError> {
        self.hickory.clear_cache();
        self.resolve(host).await
    }

    /// Looks `host` up: an address, a name of the hosts file, or a name of DNS.
    ///
    /// # Errors
    /// See [`ResolveError`].
    pub async fn resolve(&self, host: &str) -> Result<Resolved, ResolveError> {
        let host = host.trim_matches(['[', ']']);
        let found = match Name::from_ascii(host) {
            // As it is: what is made of a text by the rules for domain names (IDNA) may hold no `_`.
            Ok(name) if host.contains('_') => self.hickory.lookup_ip(name).await,
            _ => self.hickory.lookup_ip(host).await,
        };
        let found = found.map_err(|error| sort(&error))?;
        let asked = plain(found.query().name());
        // A name of the hosts file, or an address: nothing stands between.
        let first = if asked.is_empty() { host.to_ascii_lowercase() } else { asked };
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

/// Which name stands for which, in one answer.
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

/// The names from `first` on.
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

fn sort(error: &NetError) -> ResolveError {
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
    fn chains_are_walked_in_order_whatever_the_order_of_records() {
        let aliases = [("b", "c"), ("a", "b"), ("x", "y")];
        assert_eq!(chain("a", &aliases), Ok(vec!["a".into(), "b".into(), "c".into()]));
        assert_eq!(chain("c", &aliases), Ok(vec!["c".into()]));
    }

    #[test]
    fn loops_and_endless_chains_end() {
        assert_eq!(chain("a", &[("a", "b"), ("b", "a")]), Err(ResolveError::Loop));
        let long: Vec<(String, String)> = (0..100).map(|n| (n.to_string(), (n + 1).to_string())).collect();
        assert_eq!(chain_from("0".to_owned(), &long), Err(ResolveError::Loop));
    }
}
