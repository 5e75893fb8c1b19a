//! The certificate authorities of RDS, and Amazon's own for RDS Proxy and AWS's APIs, built in.
//!
//! Owns: their certificates, and where they come from (`tools/update-rds-roots` writes `roots/` from an npm package,
//! since AWS's own bundle has no version and no signature).
//! Never: verifies anything. Not in here are regions younger than the package, China, GovCloud and the ISO partitions:
//! [`covers`] tells.

use crate::region::Region;

/// One authority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authority {
    /// Its name.
    pub subject: &'static str,
    /// Last day of its certificate, as `2061-05-18`.
    pub ends_on: &'static str,
    /// Where the certificate was taken from.
    pub origin: &'static str,
}

const RDS_TABLE: &str = include_str!("roots/rds.tsv");
const AMAZON_TABLE: &str = include_str!("roots/amazon.tsv");

/// The authorities of RDS and Aurora endpoints, as PEM.
pub const fn rds_pem() -> &'static str {
    include_str!("roots/rds.pem")
}

/// Amazon's public authorities, which stand behind RDS Proxy endpoints and AWS's APIs, as PEM.
pub const fn amazon_pem() -> &'static str {
    include_str!("roots/amazon.pem")
}

/// All of them, in the order of the PEM texts: RDS first.
pub fn authorities() -> Vec<Authority> {
    [RDS_TABLE, AMAZON_TABLE].into_iter().flat_map(read_table).collect()
}

/// Whether the authorities of a region's RDS endpoints are built in.
pub fn covers(region: &Region) -> bool {
    let name = format!("RDS {region} ");
    read_table(RDS_TABLE).any(|authority| authority.subject.contains(&name))
}

/// `# 87 authorities: ORIGIN. …`, then a subject and a day on each line.
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
    fn table_and_certificates_have_the_same_number() {
        assert_eq!(count(rds_pem()), read_table(RDS_TABLE).count());
        assert_eq!(count(amazon_pem()), read_table(AMAZON_TABLE).count());
        assert!(count(rds_pem()) > 80 && count(amazon_pem()) == 5);
        let all = authorities();
        assert!(
            all.iter().all(|authority| authority.ends_on > "2037" && authority.origin.starts_with("npm "))
        );
    }

    #[test]
    fn regions_that_are_not_there_are_told() {
        let covers = |region: &str| covers(&region.parse().unwrap());
        assert!(covers("eu-west-1") && covers("us-east-1"));
        assert!(!covers("cn-north-1") && !covers("us-gov-west-1") && !covers("il-central-1"));
    }
}
