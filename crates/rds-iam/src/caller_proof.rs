//! A password that proves an AWS identity to a pooler: a presigned `sts:GetCallerIdentity`, valid for 15
//! minutes.
//!
//! Owns: its format. The audience is a signed header that is not part of the text, so that a receiver of the
//! proof can use it only for the audience it was made for.
//! Never: calls STS; the receiver of the proof does.

use std::fmt;
use std::time::SystemTime;

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SignatureLocation, SigningSettings};
use aws_sigv4::sign::v4;
use aws_smithy_runtime_api::client::identity::Identity as SigningIdentity;
use zeroize::Zeroizing;

use crate::percent::{encoded_len, percent_encode};
use crate::region::{Partition, Region};
use crate::token::{MAX_TOKEN_LIFE, SignError};

/// Prefix of such a password.
pub const CALLER_PROOF_PREFIX: &str = "iambouncer-sts-v1.";
/// The header that contains the audience.
pub const CALLER_AUDIENCE_HEADER: &str = "x-iambouncer-audience";
/// Maximum length of the audience, in bytes.
const MAX_AUDIENCE_BYTES: usize = 255;
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// Parameters of a proof.
#[derive(Clone, Copy, Debug)]
pub struct CallerProofRequest<'a> {
    /// The region whose STS verifies the proof.
    pub region: &'a Region,
    /// The intended receiver: the pooler's `iam_sts_audience`.
    pub audience: &'a str,
}

/// The proof. Wiped from memory when dropped; `Debug` does not show its text.
pub struct CallerProof(Zeroizing<String>);

impl CallerProof {
    /// The text of the proof, a bearer secret for the audience: send it over TLS only.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for CallerProof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CallerProof(** redacted **)")
    }
}

/// Signs a proof, valid from `now`.
///
/// # Errors
/// An audience that is empty, too long or not visible ASCII; any error of the signer.
pub fn sign_caller_proof(
    request: &CallerProofRequest<'_>,
    credentials: &Credentials,
    now: SystemTime,
) -> Result<CallerProof, SignError> {
    let audience = request.audience;
    if audience.is_empty()
        || audience.len() > MAX_AUDIENCE_BYTES
        || !audience.bytes().all(|b| b.is_ascii_graphic())
    {
        return Err(SignError::InvalidAudience);
    }
    let signer = |error: &dyn fmt::Display| SignError::Signer(error.to_string());
    let host = sts_host(request.region);
    let base = format!("https://{host}/?Action=GetCallerIdentity&Version=2011-06-15");
    let mut settings = SigningSettings::default();
    settings.signature_location = SignatureLocation::QueryParams;
    settings.expires_in = Some(MAX_TOKEN_LIFE);
    let identity = SigningIdentity::from(credentials.clone());
    let params = v4::SigningParams::builder()
        .identity(&identity)
        .region(request.region.as_str())
        .name("sts")
        .time(now)
        .settings(settings)
        .build()
        .map_err(|error| signer(&error))?
        .into();
    let headers = [("host", host.as_str()), (CALLER_AUDIENCE_HEADER, audience)];
    let request = SignableRequest::new("GET", base.as_str(), headers.into_iter(), SignableBody::Bytes(&[]))
        .map_err(|error| signer(&error))?;
    let (instructions, _signature) =
        aws_sigv4::http_request::sign(request, &params).map_err(|error| signer(&error))?.into_parts();
    let (_headers, parameters) = instructions.into_parts();
    let extra_bytes: usize = parameters.iter().map(|(name, value)| name.len() + encoded_len(value) + 2).sum();
    let mut url = Zeroizing::new(String::with_capacity(base.len() + extra_bytes));
    url.push_str(&base);
    for (name, value) in &parameters {
        url.push('&');
        url.push_str(name);
        url.push('=');
        url.push_str(&Zeroizing::new(percent_encode(value)));
    }
    Ok(CallerProof(encode(&url)))
}

/// The STS host name of a region.
fn sts_host(region: &Region) -> String {
    let suffix = match region.partition() {
        Partition::China => "amazonaws.com.cn",
        Partition::EuropeanSovereign => "amazonaws.eu",
        Partition::Iso => "c2s.ic.gov",
        Partition::IsoB => "sc2s.sgov.gov",
        Partition::IsoE => "cloud.adc-e.uk",
        Partition::IsoF => "csp.hci.ic.gov",
        Partition::Aws | Partition::UsGov => "amazonaws.com",
    };
    format!("sts.{region}.{suffix}")
}

/// Prefix and base64url without padding (RFC 4648, section 5), in a buffer that never reallocates.
fn encode(url: &str) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::with_capacity(CALLER_PROOF_PREFIX.len() + url.len() * 4 / 3 + 4));
    text.push_str(CALLER_PROOF_PREFIX);
    for chunk in url.as_bytes().chunks(3) {
        let group =
            chunk.iter().fold(0_u32, |sum, &byte| (sum << 8) | u32::from(byte)) << (8 * (3 - chunk.len()));
        for at in 0..=chunk.len() {
            let digit = (group >> (18 - 6 * at)) & 0x3f;
            text.push(char::from(ALPHABET[digit as usize]));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn sign(audience: &str) -> Result<CallerProof, SignError> {
        let region = "eu-west-1".parse().unwrap();
        let credentials = Credentials::new("AKIDEXAMPLE", "secret", None, None, "test");
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_705_322_096);
        sign_caller_proof(&CallerProofRequest { region: &region, audience }, &credentials, now)
    }

    #[test]
    fn the_audience_is_signed_and_not_shown() {
        let (a, b) = (sign("orders").unwrap(), sign("billing").unwrap());
        assert_ne!(a.expose(), b.expose());
        assert!(a.expose().starts_with(CALLER_PROOF_PREFIX));
        assert!(!format!("{a:?}").contains("aHR0"));
        for bad in ["", "two words", "ümlaut", &"x".repeat(300)] {
            assert_eq!(sign(bad).unwrap_err(), SignError::InvalidAudience, "{bad}");
        }
    }

    #[test]
    fn base64url_is_correct_for_every_length() {
        let ends =
            [("", ""), ("f", "Zg"), ("fo", "Zm8"), ("foo", "Zm9v"), ("foob", "Zm9vYg"), ("~~~?", "fn5-Pw")];
        for (text, encoded) in ends {
            assert_eq!(encode(text).strip_prefix(CALLER_PROOF_PREFIX), Some(encoded));
        }
    }
}
