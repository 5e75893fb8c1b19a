//! The dashboard: one page, with its script, style and icon, which are part of the program. Owns these files and the
//! policy that keeps the page from loading anything else.

use super::body::{HttpResponse, response, with_header};
use hyper::StatusCode;
use hyper::header::{CONTENT_SECURITY_POLICY, HeaderName, HeaderValue, REFERRER_POLICY, X_FRAME_OPTIONS};

/// The page loads its own script and style, reads its own API, and cannot be embedded in another one.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// A file of the dashboard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DashboardFile {
    Page,
    Script,
    Style,
    Icon,
}

impl DashboardFile {
    fn contents(self) -> (&'static str, &'static str) {
        match self {
            Self::Page => ("text/html; charset=utf-8", include_str!("dashboard/index.html")),
            Self::Script => ("text/javascript; charset=utf-8", include_str!("dashboard/dashboard.js")),
            Self::Icon => ("image/svg+xml", include_str!("dashboard/dashboard.svg")),
            Self::Style => ("text/css; charset=utf-8", include_str!("dashboard/dashboard.css")),
        }
    }

    /// The response with the file.
    pub(super) fn respond(self) -> HttpResponse {
        let (kind, text) = self.contents();
        let headers: [(HeaderName, &'static str); 3] =
            [(CONTENT_SECURITY_POLICY, POLICY), (X_FRAME_OPTIONS, "DENY"), (REFERRER_POLICY, "no-referrer")];
        let page = response(StatusCode::OK, HeaderValue::from_static(kind), text);
        headers.into_iter().fold(page, |page, (name, value)| with_header(page, name, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_names_no_other_host() {
        for file in [DashboardFile::Page, DashboardFile::Script, DashboardFile::Style, DashboardFile::Icon] {
            let (_, text) = file.contents();
            // The name of SVG's namespace is not loaded.
            let text = text.replace("http://www.w3.org/2000/svg", "");
            assert!(
                !text.contains("http://") && !text.contains("https://") && !text.contains("//cdn"),
                "{file:?}"
            );
        }
    }

    #[test]
    fn the_script_inserts_no_markup() {
        let (_, script) = DashboardFile::Script.contents();
        for call in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("] {
            assert!(!script.contains(call), "{call}");
        }
    }
}
