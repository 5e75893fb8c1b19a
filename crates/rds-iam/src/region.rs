//! AWS region names and their partitions.
//!
//! Owns: the syntax of a region name. Never: contains a list of regions (AWS adds some every year) or a
//! default.

use std::fmt;
use std::str::FromStr;

/// Longest region name accepted, in bytes; the longest at present has 15.
const MAX_REGION_BYTES: usize = 32;

/// An AWS region such as `eu-central-1`: valid in form, not necessarily existing.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Region(String);

/// The text does not have the form of a region name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not an AWS region name (expected something like eu-central-1)")]
pub struct RegionError(String);

/// The separate clouds operated by AWS; each has its own DNS suffix and ARN prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Partition {
    /// The commercial cloud.
    Aws,
    /// China.
    China,
    /// The European Sovereign Cloud.
    EuropeanSovereign,
    /// GovCloud (US).
    UsGov,
    /// US ISO.
    Iso,
    /// US ISOB.
    IsoB,
    /// EU ISOE.
    IsoE,
    /// US ISOF.
    IsoF,
}

impl Region {
    /// The region's name, lower case.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The partition indicated by the region's prefix.
    pub fn partition(&self) -> Partition {
        // Longer prefixes first: `us-isob-` also starts with `us-`.
        const PREFIXES: [(&str, Partition); 7] = [
            ("cn-", Partition::China),
            ("eusc-", Partition::EuropeanSovereign),
            ("us-gov-", Partition::UsGov),
            ("us-isob-", Partition::IsoB),
            ("us-isof-", Partition::IsoF),
            ("us-iso-", Partition::Iso),
            ("eu-isoe-", Partition::IsoE),
        ];
        PREFIXES
            .iter()
            .find(|(prefix, _)| self.0.starts_with(prefix))
            .map_or(Partition::Aws, |&(_, partition)| partition)
    }
}

impl FromStr for Region {
    type Err = RegionError;

    /// Accepts any case; refuses anything but letters, words and a number, joined by hyphens.
    fn from_str(text: &str) -> Result<Self, RegionError> {
        let lower = text.to_ascii_lowercase();
        if has_region_form(&lower) { Ok(Self(lower)) } else { Err(RegionError(shorten(text))) }
    }
}

impl fmt::Display for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Partition {
    /// The partition's name as the second field of an ARN.
    pub fn arn_name(self) -> &'static str {
        match self {
            Self::Aws => "aws",
            Self::China => "aws-cn",
            Self::EuropeanSovereign => "aws-eusc",
            Self::UsGov => "aws-us-gov",
            Self::Iso => "aws-iso",
            Self::IsoB => "aws-iso-b",
            Self::IsoE => "aws-iso-e",
            Self::IsoF => "aws-iso-f",
        }
    }
}

fn has_region_form(lower: &str) -> bool {
    if lower.len() > MAX_REGION_BYTES {
        return false;
    }
    let parts: Vec<&str> = lower.split('-').collect();
    let [area, words @ .., number] = parts.as_slice() else {
        return false;
    };
    let is_word = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_lowercase());
    let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    area.len() >= 2
        && is_word(area)
        && !words.is_empty()
        && words.iter().all(|part| is_word(part))
        && is_number
}

/// Truncates a text that did not parse, so that an error message stays on one line.
fn shorten(text: &str) -> String {
    text.chars().take(MAX_REGION_BYTES).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn region_names_of_every_partition_are_accepted() {
        let known = [
            ("us-east-1", Partition::Aws, "aws"),
            ("AP-Southeast-7", Partition::Aws, "aws"),
            ("cn-north-1", Partition::China, "aws-cn"),
            ("eusc-de-east-1", Partition::EuropeanSovereign, "aws-eusc"),
            ("us-gov-west-1", Partition::UsGov, "aws-us-gov"),
            ("us-iso-east-1", Partition::Iso, "aws-iso"),
            ("us-isob-east-1", Partition::IsoB, "aws-iso-b"),
            ("eu-isoe-west-1", Partition::IsoE, "aws-iso-e"),
            ("us-isof-south-1", Partition::IsoF, "aws-iso-f"),
        ];
        for (name, partition, arn_name) in known {
            let region: Region = name.parse().unwrap();
            assert_eq!(region.as_str(), name.to_ascii_lowercase());
            assert_eq!(region.partition(), partition, "{name}");
            assert_eq!(region.partition().arn_name(), arn_name);
        }
    }

    #[test]
    fn other_texts_are_refused() {
        let wrong = [
            "",
            "global",
            "us-east",
            "us-1",
            "-east-1",
            "us-east-1a",
            "us--1",
            "us-east-1/x",
            "us_east_1",
            "u-e-1",
        ];
        for text in wrong {
            assert!(text.parse::<Region>().is_err(), "{text}");
        }
    }
}
