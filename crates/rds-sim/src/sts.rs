//! STS: the three calls that matter for database logins, in the XML that the SDKs read.
//!
//! Owns: AssumeRole, AssumeRoleWithWebIdentity and GetCallerIdentity.
//! Never: evaluates policies; see `credentials` for what can be made to fail.

use std::collections::HashMap;

use crate::credentials::{CredentialSettings, Desk};
use crate::http::{HttpRequest, Reply};
use crate::keys::random_text;
use crate::time::{parse_amz_date, rfc3339, unix_seconds};
use crate::verify::verify_sts_call;

/// How far a caller's clock may be off, in seconds.
const MAX_SKEW_SECONDS: i64 = 300;
const NAMESPACE: &str = "https://sts.amazonaws.com/doc/2011-06-15/";

/// An error as STS spells it: HTTP status, code, message.
struct SimStsError(u16, &'static str, String);

pub(crate) fn answer(desk: &Desk, request: &HttpRequest) -> Reply {
    let form = request.form();
    let action = form.get("Action").map_or("", String::as_str);
    let outcome = match action {
        _ if desk.settings().deny => Err(denied(action)),
        "AssumeRole" => assume_role(desk, request, &form),
        "AssumeRoleWithWebIdentity" => assume_role_with_web_identity(desk, &form),
        "GetCallerIdentity" => get_caller_identity(desk, request),
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
            desk.count(|calls| calls.refused += 1);
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
    desk: &Desk,
    request: &HttpRequest,
    form: &HashMap<String, String>,
) -> Result<String, SimStsError> {
    check_caller(desk, request)?;
    let wanted = desk.settings().external_id;
    if wanted.is_some() && wanted.as_ref() != form.get("ExternalId") {
        return Err(denied("AssumeRole"));
    }
    let result = session_of_role(desk, form)?;
    desk.count(|calls| calls.assume_role += 1);
    Ok(result)
}

/// The one call that needs no signature: the token of the identity provider is the proof.
fn assume_role_with_web_identity(desk: &Desk, form: &HashMap<String, String>) -> Result<String, SimStsError> {
    let given = form.get("WebIdentityToken").map_or("", String::as_str);
    let wanted = desk.settings().web_identity_token;
    if given.is_empty() || wanted.is_some_and(|wanted| wanted != given) {
        let message = "No OpenIDConnect provider found in your account for this token".to_owned();
        return Err(SimStsError(400, "InvalidIdentityToken", message));
    }
    let result = session_of_role(desk, form)?;
    desk.count(|calls| calls.assume_role_with_web_identity += 1);
    Ok(format!("<SubjectFromWebIdentityToken>rds-sim</SubjectFromWebIdentityToken>{result}"))
}

fn get_caller_identity(desk: &Desk, request: &HttpRequest) -> Result<String, SimStsError> {
    check_caller(desk, request)?;
    desk.count(|calls| calls.get_caller_identity += 1);
    let settings = desk.settings();
    let account = escape(&settings.account);
    let role = escape(&settings.role_name);
    let session = escape(&settings.caller_session);
    Ok(format!(
        "<Arn>arn:aws:sts::{account}:assumed-role/{role}/{session}</Arn><UserId>AROARDSSIM:rds-sim</UserId>\
         <Account>{account}</Account>"
    ))
}

/// GetCallerIdentity as a presigned URL: whoever holds the URL may ask who signed it.
pub(crate) fn answer_presigned(desk: &Desk, request: &HttpRequest) -> Reply {
    let now = desk.simulator.clock().now();
    let verdict =
        verify_sts_call(&request.raw_query, |name| request.header(name), desk.simulator.keys(), now);
    let is_whoami = request.query.get("Action").is_some_and(|action| action == "GetCallerIdentity");
    let error = |status, code: &str, message: String| {
        desk.count(|calls| calls.refused += 1);
        let body = serde_json::json!({"Error": {"Code": code, "Message": message, "Type": "Sender"}});
        Reply { status, ..Reply::json(body.to_string()) }
    };
    match verdict {
        _ if desk.settings().deny || !is_whoami => error(403, "AccessDenied", "not authorized".to_owned()),
        Err(refusal) => error(403, "SignatureDoesNotMatch", refusal.to_string()),
        Ok(_key) => {
            desk.count(|calls| calls.presigned += 1);
            let CredentialSettings { account, role_name, .. } = desk.settings();
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

fn session_of_role(desk: &Desk, form: &HashMap<String, String>) -> Result<String, SimStsError> {
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
    desk.note_role_session(role_name, session_name);
    let key = desk.issue();
    let account = desk.settings().account;
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

/// The caller's key must be known, not ended, and come with its session token.
fn check_caller(desk: &Desk, request: &HttpRequest) -> Result<(), SimStsError> {
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
    let key = desk.simulator.keys().get(access_key_id).ok_or_else(invalid)?;
    if request.header("x-amz-security-token") != key.session_token_text() {
        return Err(invalid());
    }
    let now = desk.simulator.clock().now();
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
