//! ARNs of secrets. Owns their syntax: region and name are parsed from them. Never checks whether the secret
//! exists.

use std::fmt;
use std::str::FromStr;

use crate::arn::Arn;
use crate::region::Region;

/// Characters of secret names besides letters and digits; the last is used by RDS (`rds!cluster-…`).
const NAME_CHARS: &str = "/_+=.@-!";
/// Length of the suffix that Secrets Manager appends to each name after a hyphen.
const SUFFIX_CHARS: usize = 6;

/// The ARN of a secret: `arn:PARTITION:secretsmanager:REGION:ACCOUNT:secret:NAME-XXXXXX`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SecretArn {
    text: String,
    region: Region,
    name_at: usize,
}

/// The text is not the ARN of a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is not the ARN of a secret (arn:aws:secretsmanager:REGION:ACCOUNT:secret:NAME-XXXXXX)")]
pub struct SecretArnError;

impl SecretArn {
    /// The whole ARN.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The region of the secret.
    pub fn region(&self) -> &Region {
        &self.region
    }

    /// The name, without the suffix appended by Secrets Manager.
    pub fn name(&self) -> &str {
        let full = &self.text[self.name_at..];
        match full.rsplit_once('-') {
            Some((name, suffix))
                if !name.is_empty()
                    && suffix.len() == SUFFIX_CHARS
                    && suffix.bytes().all(|b| b.is_ascii_alphanumeric()) =>
            {
                name
            }
            _ => full,
        }
    }
}

impl FromStr for SecretArn {
    type Err = SecretArnError;

    fn from_str(text: &str) -> Result<Self, SecretArnError> {
        let arn = Arn::parse(text).filter(|arn| arn.service == "secretsmanager").ok_or(SecretArnError)?;
        let name = arn.resource.strip_prefix("secret:").ok_or(SecretArnError)?;
        let is_name =
            !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || NAME_CHARS.contains(c));
        if !is_name {
            return Err(SecretArnError);
        }
        let region = arn.region.parse().map_err(|_| SecretArnError)?;
        Ok(Self { text: text.to_owned(), region, name_at: text.len() - name.len() })
    }
}

impl fmt::Display for SecretArn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn region_and_name_are_parsed() {
        let arn: SecretArn =
            "arn:aws:secretsmanager:eu-west-1:123456789012:secret:prod/app-db-a1B2c3".parse().unwrap();
        assert_eq!((arn.region().as_str(), arn.name()), ("eu-west-1", "prod/app-db"));
        let managed: SecretArn =
            "arn:aws-cn:secretsmanager:cn-north-1:123456789012:secret:rds!cluster-0f3a-Zz9876"
                .parse()
                .unwrap();
        assert_eq!(managed.name(), "rds!cluster-0f3a");
        let bare: SecretArn = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:app".parse().unwrap();
        assert_eq!(bare.name(), "app");
    }

    #[test]
    fn other_texts_are_refused() {
        for bad in [
            "prod/app",
            "arn:aws:secretsmanager:eu-west-1:12345:secret:app",
            "arn:aws:secretsmanager:nowhere:123456789012:secret:app",
            "arn:aws:iam::123456789012:role/app",
            "arn:aws:secretsmanager:eu-west-1:123456789012:secret:",
            "arn:aws:secretsmanager:eu-west-1:123456789012:secret:a b",
            "arn:aws:secretsmanager:eu-west-1:123456789012:secret:a:json-key",
        ] {
            assert!(bad.parse::<SecretArn>().is_err(), "{bad}");
        }
    }
}
