//! Where traces are sent, and as what: `otlp_endpoint` and the variables of OpenTelemetry. Owns their meaning; connects to
//! nothing. The values of headers are secrets and are never shown.

use super::protocol::Attribute;
use crate::config::Environment;
use hyper::Uri;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use std::fmt;

/// The path of OTLP's HTTP for traces, below an endpoint that is for all signals.
const TRACES_PATH: &str = "/v1/traces";
/// Entries of a list in a variable; more are ignored.
const MAX_LIST_ENTRIES: usize = 64;
/// `service.name`, unless a variable sets it.
const SERVICE_NAME: &str = "iambouncer";

/// The collector that receives the traces.
#[derive(PartialEq)]
pub(super) struct CollectorAddress {
    pub(super) uri: Uri,
    pub(super) headers: HeaderMap,
    /// Attributes of this process.
    pub(super) resource: Vec<Attribute>,
}

impl fmt::Display for CollectorAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = self.uri.authority().map(|authority| authority.as_str()).unwrap_or_default();
        write!(f, "{}://{host}{}", self.uri.scheme_str().unwrap_or_default(), self.uri.path())
    }
}

impl CollectorAddress {
    /// The setting, or else the variables; `None` if there is no endpoint.
    pub(super) fn find(setting: &str, environment: &dyn Environment) -> Result<Option<Self>, String> {
        let variable = |name: &str| environment.get(name).filter(|value| !value.trim().is_empty());
        if variable("OTEL_SDK_DISABLED").is_some_and(|value| value.trim().eq_ignore_ascii_case("true")) {
            return Ok(None);
        }
        let (name, endpoint) = if !setting.is_empty() {
            ("otlp_endpoint", below(setting))
        } else if let Some(endpoint) = variable("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") {
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", endpoint.trim().to_owned())
        } else if let Some(endpoint) = variable("OTEL_EXPORTER_OTLP_ENDPOINT") {
            ("OTEL_EXPORTER_OTLP_ENDPOINT", below(endpoint.trim()))
        } else {
            return Ok(None);
        };
        let uri = crate::config::otlp_uri(&endpoint)
            .ok_or_else(|| format!("{name} is not an http or https URL"))?;
        let headers = variable("OTEL_EXPORTER_OTLP_TRACES_HEADERS")
            .or_else(|| variable("OTEL_EXPORTER_OTLP_HEADERS"))
            .map(|list| headers_of(&list))
            .transpose()?;
        let resource = resource_of(
            variable("OTEL_SERVICE_NAME").as_deref(),
            &variable("OTEL_RESOURCE_ATTRIBUTES").unwrap_or_default(),
        );
        Ok(Some(Self { uri, headers: headers.unwrap_or_default(), resource }))
    }
}

/// The address for traces; one that already has the path remains.
fn below(endpoint: &str) -> String {
    let endpoint = endpoint.trim_end_matches('/');
    if endpoint.ends_with(TRACES_PATH) { endpoint.to_owned() } else { format!("{endpoint}{TRACES_PATH}") }
}

/// A list of `key=value`, with the values encoded as in URLs.
fn list(text: &str) -> impl Iterator<Item = (&str, String)> {
    text.split(',').take(MAX_LIST_ENTRIES).filter_map(|entry| {
        let (key, value) = entry.split_once('=')?;
        let value = percent_encoding::percent_decode_str(value.trim()).decode_utf8_lossy().into_owned();
        Some((key.trim(), value)).filter(|(key, _)| !key.is_empty())
    })
}

fn headers_of(text: &str) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    for (key, value) in list(text) {
        // The text of the error must not contain the value.
        let wrong = || {
            format!(
                "the header \"{}\" of OTEL_EXPORTER_OTLP_HEADERS is malformed",
                crate::printable::line(key)
            )
        };
        let name = HeaderName::try_from(key).map_err(|_| wrong())?;
        let mut value = HeaderValue::try_from(value).map_err(|_| wrong())?;
        value.set_sensitive(true);
        headers.insert(name, value);
    }
    Ok(headers)
}

fn resource_of(service: Option<&str>, attributes: &str) -> Vec<Attribute> {
    let mut resource: Vec<Attribute> =
        list(attributes).map(|(key, value)| Attribute::text(key, value)).collect();
    let is_named = |resource: &[Attribute]| resource.iter().any(|attribute| attribute.key == "service.name");
    if service.is_some() {
        resource.retain(|attribute| attribute.key != "service.name");
    }
    if !is_named(&resource) {
        resource.push(Attribute::text("service.name", service.unwrap_or(SERVICE_NAME)));
    }
    if !resource.iter().any(|attribute| attribute.key == "service.version") {
        resource.push(Attribute::text("service.version", env!("CARGO_PKG_VERSION")));
    }
    resource
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::MapEnvironment;

    fn find(setting: &str, variables: &[(&str, &str)]) -> Result<Option<CollectorAddress>, String> {
        let environment: MapEnvironment = variables.iter().copied().collect();
        CollectorAddress::find(setting, &environment)
    }

    fn address(setting: &str, variables: &[(&str, &str)]) -> Option<String> {
        find(setting, variables).unwrap().map(|destination| destination.to_string())
    }

    #[test]
    fn the_setting_precedes_the_variables() {
        let (all, traces) = (
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://a:4318/"),
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://b/x"),
        );
        assert_eq!(address("", &[]), None);
        assert_eq!(address("", &[all]).as_deref(), Some("http://a:4318/v1/traces"));
        assert_eq!(address("", &[all, traces]).as_deref(), Some("https://b/x"));
        assert_eq!(address("http://c:1", &[all, traces]).as_deref(), Some("http://c:1/v1/traces"));
        assert_eq!(address("http://c:1/v1/traces", &[]).as_deref(), Some("http://c:1/v1/traces"));
        assert_eq!(address("http://c:1", &[("OTEL_SDK_DISABLED", "true")]), None);
        for wrong in ["ftp://a", "a:4318", "http://", "http://user:secret@host", "http://a b"] {
            let error = find("", &[("OTEL_EXPORTER_OTLP_ENDPOINT", wrong)]).err().unwrap();
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn headers_and_attributes_are_lists() {
        let variables = [
            ("OTEL_EXPORTER_OTLP_HEADERS", "x-api-key=a%20b, authorization=Bearer%20secret"),
            ("OTEL_RESOURCE_ATTRIBUTES", "service.name=x,deployment.environment.name=a%2Cb,broken"),
            ("OTEL_SERVICE_NAME", "orders-pooler"),
        ];
        let destination = find("http://a", &variables).unwrap().unwrap();
        assert_eq!(destination.headers["x-api-key"], "a b");
        assert_eq!(destination.headers["authorization"], "Bearer secret");
        assert!(!format!("{:?}", destination.headers).contains("secret"));
        let expected = [
            Attribute::text("deployment.environment.name", "a,b"),
            Attribute::text("service.name", "orders-pooler"),
            Attribute::text("service.version", env!("CARGO_PKG_VERSION")),
        ];
        assert_eq!(destination.resource, expected);
        let error = find("http://a", &[("OTEL_EXPORTER_OTLP_HEADERS", "x=sec%0Aret")]).err().unwrap();
        assert_eq!(error, "the header \"x\" of OTEL_EXPORTER_OTLP_HEADERS is malformed");
    }
}
