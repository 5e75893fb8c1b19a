//! Responses. Owns their body, which is a text or a stream, and the headers that all have.

use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body, Bytes};
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use hyper::{Response, StatusCode};
use std::convert::Infallible;

/// The body of a response.
pub(super) type HttpBody = UnsyncBoxBody<Bytes, Infallible>;
/// What every page answers with.
pub(super) type HttpResponse = Response<HttpBody>;

/// Content type of probes and errors.
pub(super) const PLAIN: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
/// Content type of the API.
pub(super) const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// A response with a body of any kind.
pub(super) fn respond(
    status: StatusCode,
    kind: HeaderValue,
    body: impl Body<Data = Bytes, Error = Infallible> + Send + 'static,
) -> HttpResponse {
    let mut response = Response::new(body.boxed_unsync());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// A response with a text.
pub(super) fn response(status: StatusCode, kind: HeaderValue, text: impl Into<Bytes>) -> HttpResponse {
    respond(status, kind, Full::new(text.into()))
}

/// The same with one more header.
pub(super) fn with_header(mut response: HttpResponse, name: HeaderName, value: &'static str) -> HttpResponse {
    response.headers_mut().insert(name, HeaderValue::from_static(value));
    response
}
