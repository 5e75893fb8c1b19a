//! IAM Identity Center (SSO): the two calls made for a profile with `sso_…` keys.
//!
//! Owns: GetRoleCredentials of the portal and the refresh of an access token (OIDC CreateToken).
//! Never: performs a login; the first access token is in a file as written by `aws sso login`.

use crate::credentials::CredentialHandler;
use crate::http::{HttpRequest, Reply};
use crate::time::unix_seconds;

/// Lifetime of a refreshed access token, in seconds.
const ACCESS_TOKEN_SECONDS: u64 = 3600;

/// `GET /federation/credentials`: credentials of a role for a valid access token.
pub(crate) fn role_credentials(handler: &CredentialHandler, request: &HttpRequest) -> Reply {
    if request.header("x-amz-sso_bearer_token") != handler.settings().sso_access_token {
        handler.count(|calls| calls.refused += 1);
        let body = serde_json::json!({"__type": "UnauthorizedException", "message": "Session token not found or invalid"});
        return Reply { status: 401, ..Reply::json(body.to_string()) };
    }
    handler.count(|calls| calls.sso_credentials += 1);
    let key = handler.issue();
    let body = serde_json::json!({"roleCredentials": {
        "accessKeyId": key.access_key_id,
        "secretAccessKey": key.secret.as_str(),
        "sessionToken": key.session_token_text(),
        "expiration": key.ends_at.map(|end| unix_seconds(end) * 1000),
    }});
    Reply::json(body.to_string())
}

/// `POST /token`: a new access token for a refresh token.
pub(crate) fn refresh(handler: &CredentialHandler, request: &HttpRequest) -> Reply {
    let form: serde_json::Value = serde_json::from_slice(&request.body).unwrap_or_default();
    if form["grantType"] != "refresh_token" || form["refreshToken"].as_str().is_none_or(str::is_empty) {
        handler.count(|calls| calls.refused += 1);
        let body = serde_json::json!({"error": "invalid_grant", "error_description": "Invalid refresh token provided"});
        return Reply { status: 400, ..Reply::json(body.to_string()) };
    }
    handler.count(|calls| calls.sso_refresh += 1);
    let body = serde_json::json!({
        "accessToken": handler.settings().sso_access_token,
        "expiresIn": ACCESS_TOKEN_SECONDS,
        "refreshToken": form["refreshToken"],
        "tokenType": "Bearer",
    });
    Reply::json(body.to_string())
}
