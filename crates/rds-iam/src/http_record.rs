//! Responses of the endpoints during a fetch of one identity's credentials, for the diagnosis of a failure.
//!
//! Owns: the HTTP client with a record of each response: its `Date` compared with this machine's clock, and
//! the outcome of requests to the metadata service.
//! Never: reads a body, or stores anything of a request.

use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use aws_smithy_runtime_api::client::connector_metadata::ConnectorMetadata;
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpClient,
    SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::DateTime;
use aws_smithy_types::date_time::Format;

use crate::clock::seconds_ahead;
use crate::fetch_fault::chain;
use crate::http_client;
use crate::slots::lock;

/// Prefix of all paths of the metadata service, and of no other source.
const METADATA_PREFIX: &str = "/latest/";
/// The list of roles: 404 for an instance without a role.
const ROLE_LIST: &str = "/latest/meta-data/iam/security-credentials/";
/// The HTTP client's error for a connection without a response.
const READ_TIMEOUT: &str = "HTTP read timeout";

/// Outcome of the last request to the metadata service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Metadata {
    /// It accepted the connection and did not respond.
    Silent,
    /// The instance has no role.
    NoRole,
    /// Something else.
    Other,
}

/// What was recorded since the last [`HttpRecord::clear`].
#[derive(Clone, Debug, Default)]
pub(crate) struct HttpNotes {
    /// Host and port of the last request.
    pub(crate) endpoint: Option<String>,
    /// Seconds by which this machine's clock is ahead of the last response's `Date`.
    pub(crate) clock_skew_seconds: Option<i64>,
    /// The metadata service, if a request went there.
    pub(crate) metadata: Option<Metadata>,
}

/// The record of one HTTP client. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct HttpRecord(Arc<Mutex<HttpNotes>>);

impl HttpRecord {
    /// A client that records its responses here.
    pub(crate) fn client(&self) -> SharedHttpClient {
        SharedHttpClient::new(RecordedClient { client: http_client::new(), record: self.clone() })
    }

    /// Discards the record.
    pub(crate) fn clear(&self) {
        *lock(&self.0) = HttpNotes::default();
    }

    /// The record.
    pub(crate) fn noted(&self) -> HttpNotes {
        lock(&self.0).clone()
    }

    fn note(&self, uri: &str, answer: &Result<HttpResponse, ConnectorError>, now: SystemTime) {
        let (endpoint, path) = split(uri);
        let mut noted = lock(&self.0);
        noted.endpoint = Some(endpoint.to_owned());
        if let Some(theirs) = answer.as_ref().ok().and_then(date_of) {
            noted.clock_skew_seconds = Some(seconds_ahead(now, theirs));
        }
        if path.starts_with(METADATA_PREFIX) {
            noted.metadata = Some(match answer {
                Err(error) if error.is_timeout() && is_read_timeout(error) => Metadata::Silent,
                Ok(response) if path == ROLE_LIST && response.status().as_u16() == 404 => Metadata::NoRole,
                _ => Metadata::Other,
            });
        }
    }
}

/// The time of the sender's clock.
pub(crate) fn date_of(response: &HttpResponse) -> Option<SystemTime> {
    let date = DateTime::from_str(response.headers().get("date")?, Format::HttpDate).ok()?;
    SystemTime::try_from(date).ok()
}

/// Host with port, and path, of a URI.
pub(crate) fn split(uri: &str) -> (&str, &str) {
    let rest = uri.split_once("://").map_or(uri, |(_, rest)| rest);
    let rest = rest.split('?').next().unwrap_or_default();
    rest.split_at(rest.find('/').unwrap_or(rest.len()))
}

fn is_read_timeout(error: &ConnectorError) -> bool {
    chain(error).any(|cause| cause.to_string().starts_with(READ_TIMEOUT))
}

#[derive(Debug)]
struct RecordedClient {
    client: SharedHttpClient,
    record: HttpRecord,
}

impl HttpClient for RecordedClient {
    fn http_connector(
        &self,
        settings: &HttpConnectorSettings,
        components: &RuntimeComponents,
    ) -> SharedHttpConnector {
        let connector = self.client.http_connector(settings, components);
        SharedHttpConnector::new(RecordedConnector { connector, record: self.record.clone() })
    }

    fn connector_metadata(&self) -> Option<ConnectorMetadata> {
        self.client.connector_metadata()
    }
}

#[derive(Debug)]
struct RecordedConnector {
    connector: SharedHttpConnector,
    record: HttpRecord,
}

impl HttpConnector for RecordedConnector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let uri = request.uri().to_owned();
        let (record, call) = (self.record.clone(), self.connector.call(request));
        HttpConnectorFuture::new(async move {
            let answer = call.await;
            record.note(&uri, &answer, SystemTime::now());
            answer
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_split() {
        let token = "http://169.254.169.254/latest/api/token?x=1";
        assert_eq!(split(token), ("169.254.169.254", "/latest/api/token"));
        assert_eq!(split("https://sts.amazonaws.com"), ("sts.amazonaws.com", ""));
        assert_eq!(split("http://127.0.0.1:1/x"), ("127.0.0.1:1", "/x"));
    }

    #[test]
    fn a_connection_without_an_answer_is_silence_and_no_connection_is_not() {
        let noted = |words: &str| {
            let record = HttpRecord::default();
            let error = ConnectorError::timeout(words.to_owned().into());
            record.note(&format!("http://169.254.169.254{ROLE_LIST}"), &Err(error), SystemTime::now());
            record.noted().metadata
        };
        assert_eq!(noted("HTTP read timeout occurred after 1s"), Some(Metadata::Silent));
        assert_eq!(noted("HTTP connect timeout occurred after 1s"), Some(Metadata::Other));
    }
}
