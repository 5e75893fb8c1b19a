//! IAM Identity Center (SSO): the two calls that a profile with `sso_…` keys makes.
//!
//! Owns: GetRoleCredentials of the portal and the refresh of an access token (OIDC CreateToken).
//! Never: logs anybody in; the first access token lies in a file that `aws sso login` would have written.

use crate::credentials::Desk;
use crate::http::{HttpRequest, Reply};
use crate::time::unix_seconds;

/// How long a refreshed access token lasts, in seconds.
const ACCESS_TOKEN_SECONDS: u64 = 3600;

/// `GET /federation/credentials`: credentials of a role for whoever shows the access token.
pub(crate) fn role_credentials(desk: &Desk, request: &HttpRequest) -> Reply {
    if request.header("x-amz-sso_bearer_token") != desk.settings().sso_access_token {
        desk.count(|calls| calls.refused += 1);
        let body = serde_json::json!({"__type": "UnauthorizedException", "message": "Session token not found or invalid"});
        return Reply { status: 401, ..Reply::json(body.to_string()) };
    }
    desk.count(|calls| calls.sso_credentials += 1);
    let key = desk.issue();
    let body = serde_json::json!({"roleCredentials": {
        "accessKeyId": key.access_key_id,
        "secretAccessKey": key.secret.as_str(),
        "sessionToken": key.session_token_text(),
        "expiration": key.ends_at.map(|end| unix_seconds(end) * 1000),
    }});
    Reply::json(body.to_string())
}

/// `POST /token`: a new access token for a refresh token.
pub(crate) fn refresh(desk: &Desk, request: &HttpRequest) -> Reply {
    let asked: serde_json::Value = serde_json::from_slice(&request.body).unwrap_or_default();
    if asked["grantType"] != "refresh_token" || asked["refreshToken"].as_str().is_none_or(str::is_empty) {
        desk.count(|calls| calls.refused += 1);
        let body = serde_json::json!({"error": "invalid_grant", "error_description": "Invalid refresh token provided"});
        return Reply { status: 400, ..Reply::json(body.to_string()) };
    }
    desk.count(|calls| calls.sso_refresh += 1);
    let body = serde_json::json!({
        "accessToken": desk.settings().sso_access_token,
        "expiresIn": ACCESS_TOKEN_SECONDS,
        "refreshToken": asked["refreshToken"],
        "tokenType": "Bearer",
    });
    Reply::json(body.to_string())
}
