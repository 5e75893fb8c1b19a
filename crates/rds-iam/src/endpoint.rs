//! Parsing of RDS and Aurora endpoint names.
//!
//! Owns: the forms of endpoint names in every partition.
//! Never: resolves a name, or returns a region that the name does not contain. RDS refuses a token signed for
//! a wrong region without a reason, so "unknown" is the better result.
//!
//! The forms: `NAME.ID.REGION.rds.SUFFIX` in most partitions, `NAME.ID.rds.REGION.SUFFIX` in China, GovCloud
//! and the ISO partitions (China has used both); `rds-fips` may replace `rds`.

use crate::region::{Partition, Region};

/// The DNS suffixes of all partitions. A suffix that ends with another comes first.
const SUFFIXES: [&str; 7] = [
    ".amazonaws.com.cn",
    ".amazonaws.com",
    ".amazonaws.eu",
    ".c2s.ic.gov",
    ".sc2s.sgov.gov",
    ".cloud.adc-e.uk",
    ".csp.hci.ic.gov",
];

/// Maximum length of a DNS name, in bytes.
const MAX_HOST_BYTES: usize = 253;

/// A parsed endpoint name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RdsEndpoint {
    host: String,
    kind: EndpointKind,
    region: Option<Region>,
}

/// The type of an endpoint, as far as its name shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EndpointKind {
    /// One DB instance.
    Instance,
    /// The writer of a cluster (`cluster-…`).
    ClusterWriter,
    /// The readers of a cluster (`cluster-ro-…`).
    ClusterReader,
    /// A custom endpoint of a cluster (`cluster-custom-…`).
    ClusterCustom,
    /// An Aurora Limitless shard group (`shardgrp-…`).
    ShardGroup,
    /// RDS Proxy (`proxy-…`).
    Proxy,
    /// The writer of an Aurora Global Database; its name contains no region.
    GlobalWriter,
}

impl RdsEndpoint {
    /// Parses an endpoint name; `None` if it is not one (a CNAME, an address, a load balancer, the RDS API).
    /// Case and a trailing dot are ignored.
    pub fn parse(host: &str) -> Option<Self> {
        let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        if host.len() > MAX_HOST_BYTES {
            return None;
        }
        let stem = SUFFIXES.iter().find_map(|suffix| host.strip_suffix(suffix))?;
        let labels: Vec<&str> = stem.split('.').collect();
        if labels.iter().any(|label| label.is_empty()) {
            return None;
        }
        let (names, region) = split_region(&labels)?;
        let kind = kind_of(names, region.is_none());
        Some(Self { kind, region, host })
    }

    /// The name in lower case, without a trailing dot, as tokens are signed for.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The type of the endpoint.
    pub fn kind(&self) -> EndpointKind {
        self.kind
    }

    /// The region of the database; `None` only for the writer endpoint of a global database.
    pub fn region(&self) -> Option<&Region> {
        self.region.as_ref()
    }

    /// The partition, derived from the region's name.
    pub fn partition(&self) -> Option<Partition> {
        self.region.as_ref().map(Region::partition)
    }
}

/// The region contained in an endpoint name, or `None`: then it must be configured.
pub fn region_of(host: &str) -> Option<Region> {
    RdsEndpoint::parse(host)?.region
}

/// Splits `rds` and the region, in either order, off the end. At least one label must remain: this
/// distinguishes `db.id.us-east-1.rds` from the API endpoint `rds.us-east-1`.
fn split_region<'a, 'b>(labels: &'b [&'a str]) -> Option<(&'b [&'a str], Option<Region>)> {
    let is_rds = |label: &str| matches!(label, "rds" | "rds-fips");
    let [names @ .., second_last, last] = labels else {
        return None;
    };
    if names.is_empty() {
        return None;
    }
    match (is_rds(last), is_rds(second_last)) {
        (true, _) if *second_last == "global" => Some((names, None)),
        (true, _) => Some((names, Some(second_last.parse().ok()?))),
        (false, true) => Some((names, Some(last.parse().ok()?))),
        (false, false) => None,
    }
}

fn kind_of(names: &[&str], is_global: bool) -> EndpointKind {
    // Longer prefixes first: `cluster-ro-` also starts with `cluster-`.
    const PREFIXES: [(&str, EndpointKind); 5] = [
        ("cluster-ro-", EndpointKind::ClusterReader),
        ("cluster-custom-", EndpointKind::ClusterCustom),
        ("cluster-", EndpointKind::ClusterWriter),
        ("shardgrp-", EndpointKind::ShardGroup),
        ("proxy-", EndpointKind::Proxy),
    ];
    if is_global {
        return EndpointKind::GlobalWriter;
    }
    // Only the label after the name is significant: an instance may be called "proxy-test".
    let [_, .., id] = names else {
        return EndpointKind::Instance;
    };
    PREFIXES
        .iter()
        .find(|(prefix, _)| id.starts_with(prefix))
        .map_or(EndpointKind::Instance, |&(_, kind)| kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(host: &str, region: Option<&str>, kind: EndpointKind) {
        let endpoint = RdsEndpoint::parse(host).unwrap_or_else(|| panic!("{host} was not recognised"));
        assert_eq!(endpoint.region().map(Region::as_str), region, "{host}");
        assert_eq!(endpoint.kind(), kind, "{host}");
        assert_eq!(region_of(host).as_ref().map(Region::as_str), region, "{host}");
    }

    #[test]
    fn every_kind_of_endpoint_is_recognized() {
        use EndpointKind::{
            ClusterCustom, ClusterReader, ClusterWriter, GlobalWriter, Instance, Proxy, ShardGroup,
        };
        let east = Some("us-east-2");
        check("db.c1xyz.us-east-2.rds.amazonaws.com", east, Instance);
        check("db.us-east-2.rds.amazonaws.com", east, Instance);
        check("proxy-test.c1xyz.us-east-2.rds.amazonaws.com", east, Instance);
        check("db.cluster-c1xyz.us-east-2.rds.amazonaws.com", east, ClusterWriter);
        check("db.cluster-ro-c1xyz.us-east-2.rds.amazonaws.com", east, ClusterReader);
        check("db.cluster-custom-c1xyz.us-east-2.rds.amazonaws.com", east, ClusterCustom);
        check("db.shardgrp-c1xyz.us-east-2.rds.amazonaws.com", east, ShardGroup);
        check("db.proxy-c1xyz.us-east-2.rds.amazonaws.com", east, Proxy);
        check("read.endpoint.proxy-c1xyz.us-east-2.rds.amazonaws.com", east, Proxy);
        check("db.global-c1xyz.global.rds.amazonaws.com", None, GlobalWriter);
    }

    #[test]
    fn the_region_is_found_in_every_partition() {
        let forms = [
            ("db.c1.us-east-1.rds.amazonaws.com", "us-east-1"),
            ("db.c1.us-east-1.rds-fips.amazonaws.com", "us-east-1"),
            ("DB.C1.EU-West-1.RDS.AmazonAWS.com.", "eu-west-1"),
            ("rds.c1.us-east-1.rds.amazonaws.com", "us-east-1"),
            ("db.c1.rds.cn-north-1.amazonaws.com.cn", "cn-north-1"),
            ("db.c1.cn-northwest-1.rds.amazonaws.com.cn", "cn-northwest-1"),
            ("db.c1.rds.us-gov-east-1.amazonaws.com", "us-gov-east-1"),
            ("db.c1.us-gov-west-1.rds.amazonaws.com", "us-gov-west-1"),
            ("db.c1.eusc-de-east-1.rds.amazonaws.eu", "eusc-de-east-1"),
            ("db.c1.rds.us-iso-east-1.c2s.ic.gov", "us-iso-east-1"),
            ("db.c1.rds.us-isob-east-1.sc2s.sgov.gov", "us-isob-east-1"),
            ("db.c1.rds.eu-isoe-west-1.cloud.adc-e.uk", "eu-isoe-west-1"),
            ("db.c1.us-isof-south-1.rds.csp.hci.ic.gov", "us-isof-south-1"),
        ];
        for (host, region) in forms {
            assert_eq!(region_of(host).as_ref().map(Region::as_str), Some(region), "{host}");
        }
    }

    #[test]
    fn other_names_have_no_region() {
        let others = [
            "localhost",
            "10.0.0.7",
            "::1",
            "",
            ".",
            "db.example.com",
            "rds.us-east-1.amazonaws.com",
            "us-east-1.rds.amazonaws.com",
            "lb-1.elb.us-east-1.amazonaws.com",
            "db.c1.us-east-1.rds.amazonaws.com.example.com",
            "db.c1.us-east-1.rds.evil-amazonaws.com",
            "db..us-east-1.rds.amazonaws.com",
            "db.c1.nowhere.rds.amazonaws.com",
            "db.c1.us-east-1.rds.amazonaws.com..",
        ];
        for host in others {
            assert_eq!(RdsEndpoint::parse(host), None, "{host}");
        }
    }
}
