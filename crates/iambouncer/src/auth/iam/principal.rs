//! AWS principals. Owns the canonical form of an ARN in maps: a role without its session, whose name is chosen by the
//! caller that assumes the role.

use rds_iam::Arn;

/// The canonical principal of an ARN returned by GetCallerIdentity.
///
/// An assumed role becomes `arn:…:iam::ACCOUNT:role/NAME`: STS does not return the path of the role, so maps name
/// roles without it. Users keep their path. `None` for root, federated users and malformed ARNs.
pub fn canonical(arn: &str) -> Option<String> {
    let Arn { partition, service, region: "", account, resource } = Arn::parse(arn)? else { return None };
    let (kind, name) = resource.split_once('/')?;
    match (service, kind) {
        ("sts", "assumed-role") => {
            let (role, session) = name.split_once('/')?;
            let is_whole = !role.is_empty() && !session.is_empty() && !session.contains('/');
            is_whole.then(|| format!("arn:{partition}:iam::{account}:role/{role}"))
        }
        ("iam", "user") => (!name.is_empty() && !name.ends_with('/')).then(|| arn.to_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_are_dropped_from_the_canonical_arn() {
        let canonical = |arn: &str| canonical(arn).unwrap_or_default();
        assert_eq!(
            canonical("arn:aws:sts::123456789012:assumed-role/orders/admin"),
            "arn:aws:iam::123456789012:role/orders"
        );
        assert_eq!(
            canonical("arn:aws-us-gov:sts::123456789012:assumed-role/a.b@c/i-0123"),
            "arn:aws-us-gov:iam::123456789012:role/a.b@c"
        );
        let user = "arn:aws:iam::123456789012:user/workers/ann";
        assert_eq!(canonical(user), user);
    }

    #[test]
    fn other_principals_have_no_canonical_arn() {
        for arn in [
            "",
            "ann",
            "arn:aws:iam::123456789012:root",
            "arn:aws:sts::123456789012:federated-user/ann",
            "arn:aws:sts::123456789012:assumed-role/orders",
            "arn:aws:sts::123456789012:assumed-role//session",
            "arn:aws:sts::123456789012:assumed-role/orders/a/b",
            "arn:aws:sts::12345678901:assumed-role/orders/a",
            "arn:evil:sts::123456789012:assumed-role/orders/a",
            "arn:aws:sts:x:123456789012:assumed-role/orders/a",
            "arn:aws:iam::123456789012:user/",
            "arn:aws:sts::123456789012:assumed-role/or ders/a",
            "arn:aws:iam::123456789012:role/orders",
        ] {
            assert_eq!(canonical(arn), None, "{arn}");
        }
    }
}
