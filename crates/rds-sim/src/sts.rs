//! STS: the three calls relevant for database logins, in the XML format of the SDKs.
//!
//! Owns: AssumeRole, AssumeRoleWithWebIdentity and GetCallerIdentity.
//! Never: evaluates policies; see `credentials` for the failures that can be switched on.

use std::collections::HashMap;

use crate::credentials::{CredentialHandler, CredentialSettings};
use crate::http::{HttpRequest, Reply};
use crate::keys::random_text;
use crate::time::{parse_amz_date, rfc3339, unix_seconds};
use crate::verify::verify_sts_call;

/// Maximum clock skew of a caller, in seconds.
const MAX_SKEW_SECONDS: i64 = 300;
const NAMESPACE: &str = "https://sts.amazonaws.com/doc/2011-06-15/";

/// An STS error: HTTP status, code, message.
struct SimStsError(u16, &'static str, String);

pub(crate) fn answer(handler: &CredentialHandler, request: &HttpRequest) -> Reply {
    let form = request.form();
    let action = form.get("Action").map_or("", String::as_str);
    let outcome = match action {
        _ if handler.settings().deny => Err(denied(action)),
        "AssumeRole" => assume_role(handler, request, &form),
        "AssumeRoleWithWebIdentity" => assume_role_with_web_identity(handler, &form),
        "GetCallerIdentity" => get_caller_identity(handler, request),
        _ => Err(SimStsError(400, "InvalidAction", format!("Could not find operation {action}"))),
    };
    match outcome {
        Ok(result) => {
            let metadata =
                format!("<ResponseMetadata><RequestId>{}</RequestId></ResponseMetadata>", random_text(20));
            Reply::xml(
                200,
                format!(
                    "<{action}Response xmlns=\"{NAMESPACE}\"><{action}Result>{result}</{action}Result>{metadata}\
                     </{action}Response>"
                ),
            )
        }
        Err(SimStsError(status, code, message)) => {
            handler.count(|calls| calls.refused += 1);
            let message = escape(&message);
            let id = random_text(20);
            Reply::xml(
                status,
                format!(
                    "<ErrorResponse xmlns=\"{NAMESPACE}\"><Error><Type>Sender</Type><Code>{code}</Code>\
                     <Message>{message}</Message></Error><RequestId>{id}</RequestId></ErrorResponse>"
                ),
            )
        }
    }
}

fn assume_role(
    handler: &CredentialHandler,
    request: &HttpRequest,
    form: &HashMap<String, String>,
) -> Result<String, SimStsError> {
    check_caller(handler, request)?;
    let required = handler.settings().external_id;
    if required.is_some() && required.as_ref() != form.get("ExternalId") {
        return Err(denied("AssumeRole"));
    }
    let result = session_of_role(handler, form)?;
    handler.count(|calls| calls.assume_role += 1);
    Ok(result)
}

/// The only call without a signature: the token of the identity provider is the proof.
fn assume_role_with_web_identity(
    handler: &CredentialHandler,
    form: &HashMap<String, String>,
) -> Result<String, SimStsError> {
    let given = form.get("WebIdentityToken").map_or("", String::as_str);
    let required = handler.settings().web_identity_token;
    if given.is_empty() || required.is_some_and(|required| required != given) {
        let message = "No OpenIDConnect provider found in your account for this token".to_owned();
        return Err(SimStsError(400, "InvalidIdentityToken", message));
    }
    let result = session_of_role(handler, form)?;
    handler.count(|calls| calls.assume_role_with_web_identity += 1);
    Ok(format!("<SubjectFromWebIdentityToken>rds-sim</SubjectFromWebIdentityToken>{result}"))
}

fn get_caller_identity(handler: &CredentialHandler, request: &HttpRequest) -> Result<String, SimStsError> {
    check_caller(handler, request)?;
    handler.count(|calls| calls.get_caller_identity += 1);
    let settings = handler.settings();
    let account = escape(&settings.account);
    let role = escape(&settings.role_name);
    let session = escape(&settings.caller_session);
    Ok(format!(
        "<Arn>arn:aws:sts::{account}:assumed-role/{role}/{session}</Arn><UserId>AROARDSSIM:rds-sim</UserId>\
         <Account>{account}</Account>"
    ))
}

/// GetCallerIdentity as a presigned URL: its holder may request the signer's identity.
pub(crate) fn answer_presigned(handler: &CredentialHandler, request: &HttpRequest) -> Reply {
    let now = handler.simulator.clock().now();
    let outcome =
        verify_sts_call(&request.raw_query, |name| request.header(name), handler.simulator.keys(), now);
    let is_whoami = request.query.get("Action").is_some_and(|action| action == "GetCallerIdentity");
    let error = |status, code: &str, message: String| {
        handler.count(|calls| calls.refused += 1);
        let body = serde_json::json!({"Error": {"Code": code, "Message": message, "Type": "Sender"}});
        Reply { status, ..Reply::json(body.to_string()) }
    };
    match outcome {
        _ if handler.settings().deny || !is_whoami => error(403, "AccessDenied", "not authorized".to_owned()),
        Err(refusal) => error(403, "SignatureDoesNotMatch", refusal.to_string()),
        Ok(_key) => {
            handler.count(|calls| calls.presigned += 1);
            let CredentialSettings { account, role_name, .. } = handler.settings();
            let result = serde_json::json!({
                "Account": account,
                "Arn": format!("arn:aws:sts::{account}:assumed-role/{role_name}/rds-sim"),
                "UserId": "AROARDSSIM:rds-sim",
            });
            let body = serde_json::json!({"GetCallerIdentityResponse": {
                "GetCallerIdentityResult": result,
                "ResponseMetadata": {"RequestId": random_text(20)},
            }});
            Reply::json(body.to_string())
        }
    }
}

fn session_of_role(
    handler: &CredentialHandler,
    form: &HashMap<String, String>,
) -> Result<String, SimStsError> {
    let field = |name: &'static str| {
        form.get(name).filter(|value| !value.is_empty()).ok_or_else(|| {
            SimStsError(
                400,
                "ValidationError",
                format!("1 validation error detected: {name} must not be null"),
            )
        })
    };
    let (role_arn, session_name) = (field("RoleArn")?, field("RoleSessionName")?);
    let role_name = role_arn.rsplit('/').next().unwrap_or(role_arn);
    handler.note_role_session(role_name, session_name);
    let key = handler.issue();
    let account = handler.settings().account;
    let arn = escape(&format!("arn:aws:sts::{account}:assumed-role/{role_name}/{session_name}"));
    Ok(format!(
        "<AssumedRoleUser><AssumedRoleId>AROARDSSIM:{}</AssumedRoleId><Arn>{arn}</Arn></AssumedRoleUser>\
         <Credentials><AccessKeyId>{}</AccessKeyId><SecretAccessKey>{}</SecretAccessKey>\
         <SessionToken>{}</SessionToken><Expiration>{}</Expiration></Credentials>",
        escape(session_name),
        key.access_key_id,
        key.secret.as_str(),
        key.session_token_text(),
        key.ends_at.map(rfc3339).unwrap_or_default(),
    ))
}

/// The caller's key must be known, not expired, and sent with its session token.
fn check_caller(handler: &CredentialHandler, request: &HttpRequest) -> Result<(), SimStsError> {
    let access_key_id = request
        .header("authorization")
        .split_once("Credential=")
        .and_then(|(_, rest)| rest.split('/').next())
        .unwrap_or("");
    let invalid = || {
        SimStsError(
            403,
            "InvalidClientTokenId",
            "The security token included in the request is invalid.".to_owned(),
        )
    };
    let key = handler.simulator.keys().get(access_key_id).ok_or_else(invalid)?;
    if request.header("x-amz-security-token") != key.session_token_text() {
        return Err(invalid());
    }
    let now = handler.simulator.clock().now();
    let made_at = parse_amz_date(request.header("x-amz-date")).unwrap_or_default();
    if (unix_seconds(now) - made_at).abs() > MAX_SKEW_SECONDS {
        let message = format!("Signature not yet current or expired: {}", request.header("x-amz-date"));
        return Err(SimStsError(403, "SignatureDoesNotMatch", message));
    }
    if key.ends_at.is_some_and(|end| end <= now) {
        let message = "The security token included in the request is expired".to_owned();
        return Err(SimStsError(403, "ExpiredToken", message));
    }
    Ok(())
}

fn denied(action: &str) -> SimStsError {
    SimStsError(403, "AccessDenied", format!("User is not authorized to perform: sts:{action}"))
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
