//! A presigned `sts:GetCallerIdentity` request as a client's password (`auth_type = iam-sts`). Owns the accepted form
//! of such a password and the request rebuilt from it: no client input is forwarded verbatim.
//!
//! The audience is in a signed header that is not part of the URL. The pooler adds it with its own name, so that a
//! proof made for another service (an EKS cluster, Vault, another pooler) has a wrong signature here.

use super::ProofError;
use super::presigned::{Query, Times, expect};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rds_iam::{Partition, Region, percent_encode};
use zeroize::Zeroizing;

pub use rds_iam::{CALLER_AUDIENCE_HEADER as AUDIENCE_HEADER, CALLER_PROOF_PREFIX as PREFIX};

/// Longest password of this kind, in bytes. Session tokens grow; 16 KiB is four times the usual size.
pub const MAX_PROOF_BYTES: usize = 16 * 1024;

const PARAMETERS: &[&str] = &[
    "Action",
    "Version",
    "X-Amz-Algorithm",
    "X-Amz-Credential",
    "X-Amz-Date",
    "X-Amz-Expires",
    "X-Amz-SignedHeaders",
    "X-Amz-Security-Token",
    "X-Amz-Signature",
];
const VERSION: &str = "2011-06-15";

/// A well-formed proof. Whether it is valid is for AWS to decide.
pub struct ParsedCallerProof {
    /// The STS host that verifies it; always one of AWS's.
    pub host: String,
    /// Path and query of the request, rebuilt.
    pub path_and_query: Zeroizing<String>,
    /// Validity period.
    pub times: Times,
}

impl std::fmt::Debug for ParsedCallerProof {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ParsedCallerProof")
            .field("host", &self.host)
            .field("times", &self.times)
            .finish_non_exhaustive()
    }
}

/// Parses a password.
///
/// # Errors
/// See [`ProofError`].
pub fn read(password: &str, now_seconds: i64) -> Result<ParsedCallerProof, ProofError> {
    const WHAT: &str = "proof of an AWS identity (made by `iambouncer token --sts`)";
    if password.len() > MAX_PROOF_BYTES {
        return Err(ProofError::TooLong(MAX_PROOF_BYTES));
    }
    let encoded = password.strip_prefix(PREFIX).ok_or(ProofError::Invalid(WHAT))?;
    let url = URL_SAFE_NO_PAD.decode(encoded).map_err(|_| ProofError::Invalid("base64url text"))?;
    let url = Zeroizing::new(String::from_utf8(url).map_err(|_| ProofError::Invalid("UTF-8 text"))?);
    let rest = url.strip_prefix("https://").ok_or(ProofError::Invalid("https URL"))?;
    // Only a host may precede the path, without user or port, and the path must be "/".
    let (host, query) = rest.split_once("/?").ok_or(ProofError::Invalid("URL of STS"))?;
    let region = region_of_sts(host).ok_or(ProofError::Invalid("host of STS"))?;
    if query.contains('#') {
        return Err(ProofError::Invalid("query"));
    }
    let query = Query::parse(query, PARAMETERS)?;
    query.expect("Action", "GetCallerIdentity")?;
    query.expect("Version", VERSION)?;
    let mut signed: Vec<&str> = query.get("X-Amz-SignedHeaders")?.split(';').collect();
    signed.sort_unstable();
    if signed != ["host", AUDIENCE_HEADER] {
        return Err(ProofError::Mismatch {
            what: "X-Amz-SignedHeaders",
            given: signed.join(";").chars().take(80).collect(),
            expected: format!("host;{AUDIENCE_HEADER}"),
        });
    }
    let scope = query.scope()?;
    expect("the region in the proof", scope.region, region.as_str())?;
    expect("the service in the proof", scope.service, "sts")?;
    let times = query.times(now_seconds)?;
    Ok(ParsedCallerProof { host: host.to_owned(), path_and_query: rebuilt(&query), times })
}

fn rebuilt(query: &Query) -> Zeroizing<String> {
    // Allocated at its full size: growing would leave copies of the secret behind.
    let size: usize = query.pairs().map(|(name, value)| 3 * (name.len() + value.len()) + 2).sum();
    let mut text = Zeroizing::new(String::with_capacity(size + 2));
    text.push_str("/?");
    for (at, (name, value)) in query.pairs().enumerate() {
        if at > 0 {
            text.push('&');
        }
        text.push_str(name);
        text.push('=');
        text.push_str(&Zeroizing::new(percent_encode(value)));
    }
    text
}

/// The region of an STS endpoint; `None` for any other host. Requests are sent to these hosts only.
fn region_of_sts(host: &str) -> Option<Region> {
    if host == "sts.amazonaws.com" {
        return "us-east-1".parse().ok();
    }
    let rest = host.strip_prefix("sts.").or_else(|| host.strip_prefix("sts-fips."))?;
    let (region, suffix) = rest.split_once('.')?;
    // Regions are always in lower case; any other spelling is not a name of AWS's.
    let parsed: Region = region.parse().ok().filter(|parsed: &Region| parsed.as_str() == region)?;
    let suffixes: &[&str] = match parsed.partition() {
        Partition::Aws | Partition::UsGov => &["amazonaws.com", "api.aws"],
        Partition::China => &["amazonaws.com.cn", "api.amazonwebservices.com.cn"],
        Partition::EuropeanSovereign => &["amazonaws.eu"],
        Partition::Iso => &["c2s.ic.gov"],
        Partition::IsoB => &["sc2s.sgov.gov"],
        Partition::IsoE => &["cloud.adc-e.uk"],
        Partition::IsoF => &["csp.hci.ic.gov"],
        _ => return None,
    };
    suffixes.contains(&suffix).then_some(parsed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rds_iam::{CallerProofRequest, Credentials, sign_caller_proof};
    use std::time::{Duration, SystemTime};

    const NOW: i64 = 1_705_322_096;

    fn proof() -> String {
        proof_with(Some("session+/="))
    }

    fn proof_with(session_token: Option<&str>) -> String {
        let region = "eu-west-1".parse().unwrap();
        let request = CallerProofRequest { region: &region, audience: "orders" };
        let session_token = session_token.map(str::to_owned);
        let credentials = Credentials::new("AKIDEXAMPLE", "secret", session_token, None, "test");
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(NOW as u64);
        sign_caller_proof(&request, &credentials, now).unwrap().expose().to_owned()
    }

    fn url() -> String {
        let text = proof();
        String::from_utf8(URL_SAFE_NO_PAD.decode(text.strip_prefix(PREFIX).unwrap()).unwrap()).unwrap()
    }

    fn read_url(url: &str) -> Result<ParsedCallerProof, ProofError> {
        read(&format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(url)), NOW)
    }

    fn refused(from: &str, to: &str) -> ProofError {
        let changed = url().replace(from, to);
        assert_ne!(changed, url(), "{from}");
        read_url(&changed).expect_err(&changed)
    }

    #[test]
    fn our_own_proof_passes_and_is_rebuilt() {
        let read = read(&proof(), NOW).unwrap();
        assert_eq!(read.host, "sts.eu-west-1.amazonaws.com");
        assert_eq!(read.times.expires_at, NOW + 900);
        assert!(read.path_and_query.contains("X-Amz-Security-Token=session%2B%2F%3D"));
        assert!(!format!("{read:?}").contains("session"));
    }

    #[test]
    fn every_encoding_is_normalized() {
        let url = url();
        let odd = url.replace("Action=", "%41ction=").replace("session%2B%2F%3D", "sessio%6e%2b/%3d");
        assert_ne!(odd, url);
        let written = |url: &str| read_url(url).unwrap().path_and_query.to_string();
        assert_eq!(written(&odd), written(&url));
    }

    #[test]
    fn size_and_prefix_are_checked_first() {
        assert_eq!(read(&"x".repeat(20_000), NOW).unwrap_err(), ProofError::TooLong(MAX_PROOF_BYTES));
        assert!(matches!(read("k8s-aws-v1.aHR0cHM6Ly9zdHM", NOW), Err(ProofError::Invalid(_))));
        assert!(read(&format!("{PREFIX}???"), NOW).is_err());
    }

    #[test]
    fn only_https_urls_are_accepted() {
        assert_eq!(refused("https://", "http://"), ProofError::Invalid("https URL"));
    }

    #[test]
    fn only_hosts_of_sts_are_accepted() {
        for host in [
            "evil.example",
            "sts.amazonaws.com.evil.example",
            "sts.eu-west-1.amazonaws.com.cn",
            "sts.cn-north-1.amazonaws.com",
            "ec2.eu-west-1.amazonaws.com",
            "user@sts.eu-west-1.amazonaws.com",
            "sts.eu-west-1.amazonaws.com:443",
            "STS.eu-west-1.amazonaws.com",
            "sts.EU-WEST-1.amazonaws.com",
            "169.254.169.254",
            "sts.eu-west-1.amazonaws.com\\@evil.example",
            "sts.eu-west-1.amazonaws.com%2eevil.example",
            "",
        ] {
            assert_eq!(
                refused("sts.eu-west-1.amazonaws.com", host),
                ProofError::Invalid("host of STS"),
                "{host}"
            );
        }
        for host in
            ["sts.amazonaws.com", "sts.cn-north-1.amazonaws.com.cn", "sts-fips.us-east-1.amazonaws.com"]
        {
            assert!(region_of_sts(host).is_some(), "{host}");
        }
    }

    #[test]
    fn the_path_must_be_a_slash() {
        for path in ["/x?", "//?", "/..;/?", "?", "/%2e?"] {
            refused("/?", path);
        }
    }

    #[test]
    fn parameters_must_be_known_and_unique_in_any_case() {
        assert!(matches!(refused("Version=", "X=1&Version="), ProofError::UnknownParameter(_)));
        assert!(matches!(refused("Version=", "action=x&Version="), ProofError::Repeated(_)));
        assert!(matches!(refused("&X-Amz-Date=", "&x-amz-algorithm=x&X-Amz-Date="), ProofError::Repeated(_)));
        refused("Version=2011-06-15", "Version=2011-06-16");
    }

    #[test]
    fn only_get_caller_identity_is_accepted() {
        assert!(matches!(refused("GetCallerIdentity", "GetSessionToken"), ProofError::Mismatch { .. }));
        assert!(matches!(refused("GetCallerIdentity", "getCallerIdentity"), ProofError::Mismatch { .. }));
    }

    #[test]
    fn exactly_host_and_audience_header_must_be_signed() {
        refused("host%3Bx-iambouncer-audience", "host");
        refused("host%3Bx-iambouncer-audience", "x-iambouncer-audience");
        refused("host%3Bx-iambouncer-audience", "host%3Bx-iambouncer-audience%3Bx-other");
        refused("x-iambouncer-audience", "x-k8s-aws-id");
    }

    #[test]
    fn region_service_and_lifetime_must_match() {
        refused("%2Feu-west-1%2F", "%2Feu-west-2%2F");
        refused("%2Fsts%2F", "%2Frds-db%2F");
        assert_eq!(refused("X-Amz-Expires=900", "X-Amz-Expires=901"), ProofError::Lifetime(901));
        assert_eq!(read(&proof(), NOW + 900).unwrap_err(), ProofError::Expired(0));
        assert_eq!(read(&proof(), NOW - 301).unwrap_err(), ProofError::Future(301));
    }

    #[test]
    fn truncated_proofs_are_refused() {
        // With a session token, truncation affects its end, which only STS can detect.
        let whole = proof_with(None);
        for cut in 0..whole.len() {
            assert!(read(&whole[..cut], NOW).is_err(), "cut at {cut}");
        }
    }
}
