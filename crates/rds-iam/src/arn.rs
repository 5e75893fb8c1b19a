//! Amazon Resource Names (`arn:PARTITION:SERVICE:REGION:ACCOUNT:RESOURCE`). Owns their syntax; what a resource means is
//! decided by those who read it.

/// Longest ARN that AWS documents, in bytes (Secrets Manager, `SecretId`).
const MAX_ARN_BYTES: usize = 2048;
/// Digits of an account.
const ACCOUNT_DIGITS: usize = 12;

/// The parts of an ARN that belongs to an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arn<'a> {
    /// `aws`, `aws-cn`, …
    pub partition: &'a str,
    /// `iam`, `sts`, `secretsmanager`, …
    pub service: &'a str,
    /// Empty for global services.
    pub region: &'a str,
    /// Twelve digits.
    pub account: &'a str,
    /// The rest; may contain colons.
    pub resource: &'a str,
}

impl<'a> Arn<'a> {
    /// Parses an ARN. `None` if the text is not one, or belongs to no account.
    pub fn parse(text: &'a str) -> Option<Self> {
        if text.len() > MAX_ARN_BYTES || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return None;
        }
        let mut parts = text.strip_prefix("arn:")?.splitn(5, ':');
        let mut part = || parts.next();
        let (partition, service, region) = (part()?, part()?, part()?);
        let (account, resource) = (part()?, part()?);
        let is_partition =
            partition == "aws" || partition.strip_prefix("aws-").is_some_and(|rest| !rest.is_empty());
        let is_account = account.len() == ACCOUNT_DIGITS && account.bytes().all(|byte| byte.is_ascii_digit());
        let is_whole = is_partition && is_account && !service.is_empty() && !resource.is_empty();
        is_whole.then_some(Self { partition, service, region, account, resource })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_arn_has_five_parts_and_an_account() {
        let arn = Arn::parse("arn:aws-cn:secretsmanager:cn-north-1:123456789012:secret:a").unwrap();
        assert_eq!((arn.partition, arn.region, arn.resource), ("aws-cn", "cn-north-1", "secret:a"));
        for text in [
            "",
            "ann",
            "arn:aws:iam::123456789012:",
            "arn:aws:iam::12345678901:role/a",
            "arn:aws:iam::aws:policy/a",
            "arn:evil:iam::123456789012:role/a",
            "arn:aws-:iam::123456789012:role/a",
            "arn:aws:iam::123456789012:role/a b",
            "arn:aws:iam::123456789012",
        ] {
            assert_eq!(Arn::parse(text), None, "{text}");
        }
    }
}
