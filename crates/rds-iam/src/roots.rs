//! The certificate authorities of RDS, and Amazon's own for RDS Proxy and the AWS APIs, built in.
//!
//! Owns: their certificates and origin (`tools/update-rds-roots` writes `roots/` from an npm package, since
//! AWS's own bundle has no version and no signature).
//! Never: verifies anything. Regions newer than the package, China, GovCloud and the ISO partitions are not
//! included: see [`covers`].

use crate::region::Region;

/// A certificate authority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authority {
    /// Its subject.
    pub subject: &'static str,
    /// The last day of its validity, as `2061-05-18`.
    pub ends_on: &'static str,
    /// The source of the certificate.
    pub origin: &'static str,
}

const RDS_TABLE: &str = include_str!("roots/rds.tsv");
const AMAZON_TABLE: &str = include_str!("roots/amazon.tsv");

/// The CA certificates of RDS and Aurora endpoints, in PEM format.
pub const fn rds_pem() -> &'static str {
    include_str!("roots/rds.pem")
}

/// Amazon's public CA certificates, used by RDS Proxy endpoints and the AWS APIs, in PEM format.
pub const fn amazon_pem() -> &'static str {
    include_str!("roots/amazon.pem")
}

/// All authorities, in the order of the PEM texts: RDS first.
pub fn authorities() -> Vec<Authority> {
    [RDS_TABLE, AMAZON_TABLE].into_iter().flat_map(read_table).collect()
}

/// True if the authorities of a region's RDS endpoints are built in.
pub fn covers(region: &Region) -> bool {
    let name = format!("RDS {region} ");
    read_table(RDS_TABLE).any(|authority| authority.subject.contains(&name))
}

/// Parses `# 87 authorities: ORIGIN. …`, followed by one subject and date per line.
fn read_table(table: &'static str) -> impl Iterator<Item = Authority> {
    let (head, rows) = table.split_once('\n').unwrap_or(("", table));
    let origin = head.split_once(": ").map_or("", |(_, rest)| rest.split(". ").next().unwrap_or(rest));
    rows.lines().filter_map(|row| row.split_once('\t')).map(move |(subject, ends_on)| Authority {
        subject,
        ends_on,
        origin,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(pem: &str) -> usize {
        pem.matches("-----BEGIN CERTIFICATE-----").count()
    }

    #[test]
    fn the_tables_have_one_row_per_certificate() {
        assert_eq!(count(rds_pem()), read_table(RDS_TABLE).count());
        assert_eq!(count(amazon_pem()), read_table(AMAZON_TABLE).count());
        assert!(count(rds_pem()) > 80 && count(amazon_pem()) == 5);
        let all = authorities();
        assert!(
            all.iter().all(|authority| authority.ends_on > "2037" && authority.origin.starts_with("npm "))
        );
    }

    #[test]
    fn covers_is_false_for_regions_that_are_not_built_in() {
        let covers = |region: &str| covers(&region.parse().unwrap());
        assert!(covers("eu-west-1") && covers("us-east-1"));
        assert!(!covers("cn-north-1") && !covers("us-gov-west-1") && !covers("il-central-1"));
    }
}
