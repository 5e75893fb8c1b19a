//! One look-up of a host name. Owns who is asked, DNS or the system's resolver, and whether an answer holds all addresses
//! of the name. Keeps nothing.

use rds_iam::{EndpointKind, RdsEndpoint, ResolveError, Resolver};
use std::net::{IpAddr, SocketAddr};

/// Most addresses of one name that are looked at.
pub const MAX_ADDRESSES: usize = 16;

/// Who may be asked.
#[derive(Clone)]
pub struct NameSources {
    /// DNS, which knows aliases; `None` where it is not set up.
    pub resolver: Option<Resolver>,
    /// Other name servers than the system's are named: the system is not asked.
    pub is_dns_only: bool,
}

/// A name to look up.
pub(super) struct NameQuery {
    pub(super) sources: NameSources,
    pub(super) name: String,
    /// The names it stands for matter, too.
    pub(super) follows_aliases: bool,
    /// No answer of before is good enough.
    pub(super) is_anew: bool,
}

/// Addresses of a name.
pub(super) struct NameAnswer {
    /// In the order of the answer, without a port; never empty.
    pub(super) addresses: Vec<SocketAddr>,
    /// The first RDS endpoint among the names it stands for.
    pub(super) rds_name: Option<String>,
    /// An address that is not among them is not the name's any more.
    pub(super) is_complete: bool,
}

impl NameAnswer {
    pub(super) fn new(name: &str, addresses: Vec<SocketAddr>, rds_name: Option<String>) -> Self {
        let is_cut_off = addresses.len() >= MAX_ADDRESSES;
        let is_complete = !is_cut_off && !is_one_of_several(rds_name.as_deref().unwrap_or(name));
        Self { addresses, rds_name, is_complete }
    }

    pub(super) fn ips(&self) -> Vec<IpAddr> {
        let mut ips: Vec<IpAddr> = self.addresses.iter().map(|address| address.ip().to_canonical()).collect();
        ips.sort_unstable();
        ips.dedup();
        ips
    }
}

/// True for endpoints that stand for several instances and name another one of them in each answer.
fn is_one_of_several(name: &str) -> bool {
    let kind = RdsEndpoint::parse(name).map(|endpoint| endpoint.kind());
    matches!(kind, Some(EndpointKind::ClusterReader | EndpointKind::ClusterCustom | EndpointKind::ShardGroup))
}

impl NameQuery {
    /// Asks. The system's resolver knows more sources of names, and neither aliases nor other name servers.
    ///
    /// # Errors
    /// Why the name does not resolve.
    pub(super) async fn ask(self) -> Result<NameAnswer, String> {
        let Self { sources, name, follows_aliases, is_anew } = self;
        let needs_dns = follows_aliases || sources.is_dns_only;
        let mut is_answered = true;
        if let Some(resolver) = sources.resolver.filter(|_| needs_dns) {
            let found =
                if is_anew { resolver.resolve_uncached(&name).await } else { resolver.resolve(&name).await };
            match found {
                Ok(found) => {
                    let addresses = found.addresses.iter().map(|ip| SocketAddr::new(*ip, 0)).collect();
                    return Ok(NameAnswer::new(&name, addresses, found.rds_name));
                }
                Err(error) if sources.is_dns_only => return Err(error.to_string()),
                // What the system knows from elsewhere (nsswitch) is no alias, but may be an address.
                Err(error) => {
                    is_answered = matches!(error, ResolveError::NoSuchHost | ResolveError::NoAddress);
                    tracing::debug!(name, %error, "no answer from DNS, asking the system");
                }
            }
        }
        let found = tokio::net::lookup_host((name.as_str(), 0)).await.map_err(|error| error.to_string())?;
        let addresses: Vec<SocketAddr> = found.take(MAX_ADDRESSES).collect();
        if addresses.is_empty() {
            return Err("no address".to_owned());
        }
        let answer = NameAnswer::new(&name, addresses, None);
        // In place of DNS that has failed, this is not all there is to know.
        Ok(NameAnswer { is_complete: answer.is_complete && is_answered, ..answer })
    }
}
