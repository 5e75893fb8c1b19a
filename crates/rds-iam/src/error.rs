//! Errors of the engine, with advice.
//!
//! Owns: [`TokenError`]. Never: includes a secret in a text; all texts may be shown to the operator.

use crate::credentials::CredentialError;
use crate::token::SignError;

/// Why there is no token, classified by cause. Every text includes the remedy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// The endpoint's name contains no region and none was given.
    #[error(
        "\"{host}\" does not contain an AWS region: set the region, and the real RDS endpoint name if this is an alias"
    )]
    UnknownRegion {
        /// The endpoint's name.
        host: String,
    },
    /// No source had credentials for this identity.
    #[error(
        "no AWS credentials for identity {identity}: {reason}. Give the pod, task or instance a role, or set \
         AWS_PROFILE or AWS_ACCESS_KEY_ID"
    )]
    NoCredentials {
        /// The identity, in one line.
        identity: String,
        /// What was tried.
        reason: String,
    },
    /// A credential source is misconfigured.
    #[error(
        "AWS credentials of identity {identity} are misconfigured: {reason}. Correct the AWS configuration"
    )]
    Misconfigured {
        /// The identity, in one line.
        identity: String,
        /// What is wrong.
        reason: String,
    },
    /// AWS refused to issue credentials.
    #[error(
        "AWS refused credentials for identity {identity}: {reason}. Check the role's ARN and trust policy"
    )]
    Refused {
        /// The identity, in one line.
        identity: String,
        /// AWS's response.
        reason: String,
    },
    /// A file that the environment names as the source of credentials cannot be read.
    #[error(
        "no AWS credentials for identity {identity}: {reason}. Mount or create the file, or remove the variable"
    )]
    UnreadableFile {
        /// The identity, in one line.
        identity: String,
        /// The variable, the file, and what is wrong with it.
        reason: String,
    },
    /// The metadata service of an instance accepts connections and does not answer.
    #[error(
        "AWS credentials of identity {identity} could not be fetched: {reason}. In a container on EC2 its answers need \
         a hop limit of 2: aws ec2 modify-instance-metadata-options --http-put-response-hop-limit 2"
    )]
    MetadataSilent {
        /// The identity, in one line.
        identity: String,
        /// What was observed.
        reason: String,
    },
    /// This machine's clock is wrong.
    #[error("AWS credentials of identity {identity} are of no use: {reason}. Synchronise the clock")]
    ClockSkew {
        /// The identity, in one line.
        identity: String,
        /// By how much it is wrong, where that is known.
        reason: String,
    },
    /// The only available credentials have expired or are about to.
    #[error(
        "expired AWS credentials for identity {identity}: {reason}. Check the clock and the credential source"
    )]
    ExpiredCredentials {
        /// The identity, in one line.
        identity: String,
        /// Details.
        reason: String,
    },
    /// A credential source could not be reached.
    #[error(
        "AWS credentials of identity {identity} could not be fetched: {reason}. Check the network path to the \
         metadata service or STS"
    )]
    Unavailable {
        /// The identity, in one line.
        identity: String,
        /// What happened.
        reason: String,
    },
    /// The token could not be signed.
    #[error("the token could not be signed: {0}")]
    Sign(#[from] SignError),
}

impl TokenError {
    /// True if the same request may succeed later without any change of configuration.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::ExpiredCredentials { .. }
            | Self::Unavailable { .. }
            | Self::MetadataSilent { .. }
            | Self::ClockSkew { .. } => true,
            Self::Sign(error) => matches!(error, SignError::CredentialsExpired),
            Self::UnknownRegion { .. }
            | Self::NoCredentials { .. }
            | Self::UnreadableFile { .. }
            | Self::Misconfigured { .. }
            | Self::Refused { .. } => false,
        }
    }

    /// The text without the advice, for callers that give their own.
    pub fn finding(&self) -> String {
        let text = self.to_string();
        let finding = text.strip_suffix(self.remedy()).map(|text| text.trim_end_matches(['.', ':', ' ']));
        finding.map(str::to_owned).unwrap_or(text)
    }

    /// What to do about it; empty where the text has no more to say.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::UnknownRegion { .. } => {
                "set the region, and the real RDS endpoint name if this is an alias"
            }
            Self::NoCredentials { .. } => {
                "Give the pod, task or instance a role, or set AWS_PROFILE or AWS_ACCESS_KEY_ID"
            }
            Self::UnreadableFile { .. } => "Mount or create the file, or remove the variable",
            Self::MetadataSilent { .. } => {
                "In a container on EC2 its answers need a hop limit of 2: aws ec2 modify-instance-metadata-options \
                 --http-put-response-hop-limit 2"
            }
            Self::Misconfigured { .. } => "Correct the AWS configuration",
            Self::Refused { .. } => "Check the role's ARN and trust policy",
            Self::ExpiredCredentials { .. } => "Check the clock and the credential source",
            Self::ClockSkew { .. } => "Synchronise the clock",
            Self::Unavailable { .. } => "Check the network path to the metadata service or STS",
            Self::Sign(_) => "",
        }
    }

    /// A short name of the cause, for metric labels.
    pub fn label(&self) -> &'static str {
        match self {
            Self::UnknownRegion { .. } => "unknown_region",
            Self::NoCredentials { .. } | Self::UnreadableFile { .. } => "no_credentials",
            Self::Misconfigured { .. } => "misconfigured",
            Self::Refused { .. } => "refused",
            Self::ExpiredCredentials { .. } => "expired_credentials",
            Self::ClockSkew { .. } => "clock_skew",
            Self::Unavailable { .. } | Self::MetadataSilent { .. } => "unavailable",
            Self::Sign(_) => "sign",
        }
    }

    /// The error of a credential source, with the identity it was requested for.
    pub(crate) fn from_credentials(identity: &crate::Identity, error: CredentialError) -> Self {
        let identity = identity.to_string();
        match error {
            CredentialError::NotFound { reason } => Self::NoCredentials { identity, reason },
            CredentialError::Misconfigured { reason } => Self::Misconfigured { identity, reason },
            CredentialError::Refused { reason } => Self::Refused { identity, reason },
            CredentialError::Unavailable { reason } => Self::Unavailable { identity, reason },
            expired @ CredentialError::Expired { .. } => {
                Self::ExpiredCredentials { identity, reason: expired.to_string() }
            }
            unreadable @ CredentialError::UnreadableFile { .. } => {
                Self::UnreadableFile { identity, reason: unreadable.to_string() }
            }
            CredentialError::MetadataSilent => {
                Self::MetadataSilent { identity, reason: CredentialError::MetadataSilent.to_string() }
            }
            wrong_clock @ CredentialError::ClockSkew { .. } => {
                Self::ClockSkew { identity, reason: wrong_clock.to_string() }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_contains_no_advice() {
        let (identity, reason) = (String::from("default"), String::from("r"));
        let errors = [
            TokenError::UnknownRegion { host: "h".into() },
            TokenError::NoCredentials { identity: identity.clone(), reason: reason.clone() },
            TokenError::Misconfigured { identity: identity.clone(), reason: reason.clone() },
            TokenError::Refused { identity: identity.clone(), reason: reason.clone() },
            TokenError::ExpiredCredentials { identity: identity.clone(), reason: reason.clone() },
            TokenError::UnreadableFile { identity: identity.clone(), reason: reason.clone() },
            TokenError::MetadataSilent { identity: identity.clone(), reason: reason.clone() },
            TokenError::ClockSkew { identity: identity.clone(), reason: reason.clone() },
            TokenError::Unavailable { identity, reason },
        ];
        for error in errors {
            let finding = error.finding();
            assert!(finding.len() < error.to_string().len() && finding.len() < 70, "{finding}");
            assert!(!finding.ends_with(['.', ' ']) && error.to_string().ends_with(error.remedy()), "{error}");
        }
    }
}
