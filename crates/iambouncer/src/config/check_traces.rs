//! Checks of the settings of traces. Owns what is a valid endpoint; connects to nothing.

use super::build::ValuePlaces;
use super::diagnostics::Diagnostic;
use super::settings_table::Settings;
use hyper::Uri;

/// The address of a collector; `None` if it is no URL of HTTP. It contains no password, since SHOW CONFIG displays it.
pub fn otlp_uri(text: &str) -> Option<Uri> {
    let uri: Uri = text.parse().ok()?;
    let is_http = matches!(uri.scheme_str(), Some("http" | "https"));
    let authority = uri.authority()?;
    let is_host = !authority.host().is_empty() && !authority.as_str().contains('@');
    (is_http && is_host).then_some(uri)
}

pub(super) fn check_traces(settings: &Settings, places: &ValuePlaces, found: &mut Vec<Diagnostic>) {
    if settings.otlp_endpoint.is_empty() {
        return;
    }
    let span = places.setting("otlp_endpoint");
    if otlp_uri(&settings.otlp_endpoint).is_none() {
        let error = Diagnostic::error("otlp_endpoint is not an http or https URL without a user");
        found.push(error.at(span).help("for example otlp_endpoint = http://localhost:4318"));
    } else if !cfg!(feature = "otlp") {
        let warning =
            Diagnostic::warning("otlp_endpoint has no effect: it needs a build with the feature \"otlp\"");
        found.push(warning.at(span).help("cargo build --release -p iambouncer --features otlp"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_urls_without_a_user_are_endpoints() {
        for good in ["http://localhost:4318", "https://collector.example/otlp", "http://[::1]:4318"] {
            assert!(otlp_uri(good).is_some(), "{good}");
            let settings = Settings { otlp_endpoint: good.to_owned(), ..Settings::default() };
            let mut found = Vec::new();
            check_traces(&settings, &ValuePlaces::default(), &mut found);
            assert_eq!(found.len(), usize::from(!cfg!(feature = "otlp")), "a warning without the feature");
            assert!(!found.iter().any(Diagnostic::is_error));
        }
        for bad in ["localhost:4318", "ftp://a", "http://", "http://a:b@c", "/v1/traces", "http://a b"] {
            let settings = Settings { otlp_endpoint: bad.to_owned(), ..Settings::default() };
            let mut found = Vec::new();
            check_traces(&settings, &ValuePlaces::default(), &mut found);
            assert!(found.len() == 1 && found[0].is_error(), "{bad}");
        }
    }
}
