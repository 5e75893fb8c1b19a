//! Content negotiation: which text format the Accept header of a request prefers. Owns the reading of that header
//! (RFC 9110); knows nothing of the texts.

use super::exposition::ExpositionFormat;

/// Media ranges that are read; further ones are ignored. Prometheus sends five.
const MAX_MEDIA_RANGES: usize = 32;
/// A quality of 1, in thousandths.
const FULL_QUALITY: u16 = 1000;

/// A format, as media ranges name it.
struct MediaType {
    kind: &'static str,
    subtype: &'static str,
    versions: &'static [&'static str],
}

const TEXT: MediaType = MediaType { kind: "text", subtype: "plain", versions: &["0.0.4"] };
/// Version 0.0.1 is the draft that older releases of Prometheus name.
const OPENMETRICS: MediaType =
    MediaType { kind: "application", subtype: "openmetrics-text", versions: &["1.0.0", "0.0.1"] };

/// The format for a request with these Accept headers, or `None` if they exclude both. OpenMetrics must be preferred;
/// a header that names neither is ignored.
pub(super) fn negotiate<'a>(headers: impl Iterator<Item = &'a str>) -> Option<ExpositionFormat> {
    let ranges: Vec<MediaRange<'_>> = headers
        .flat_map(|header| header.split(','))
        .take(MAX_MEDIA_RANGES)
        .filter_map(MediaRange::read)
        .collect();
    let text = quality(&ranges, &TEXT);
    match quality(&ranges, &OPENMETRICS).unwrap_or(0) {
        openmetrics if openmetrics > text.unwrap_or(0) => Some(ExpositionFormat::OpenMetrics),
        _ if text == Some(0) => None,
        _ => Some(ExpositionFormat::Prometheus),
    }
}

/// `kind/subtype;version=…;q=…`.
struct MediaRange<'a> {
    kind: &'a str,
    subtype: &'a str,
    version: Option<&'a str>,
    quality: u16,
}

impl<'a> MediaRange<'a> {
    /// `None` if it is malformed.
    fn read(text: &'a str) -> Option<Self> {
        let mut parts = text.split(';').map(str::trim);
        let (kind, subtype) = parts.next()?.split_once('/')?;
        let mut range = Self { kind, subtype, version: None, quality: FULL_QUALITY };
        for parameter in parts {
            let (name, value) = parameter.split_once('=')?;
            if name.eq_ignore_ascii_case("q") {
                range.quality = thousandths(value)?;
            } else if name.eq_ignore_ascii_case("version") {
                range.version = Some(value.trim_matches('"'));
            }
        }
        Some(range)
    }

    /// How precisely it names a format; `None` if it does not.
    fn precision(&self, media: &MediaType) -> Option<u8> {
        match (self.kind, self.subtype) {
            ("*", "*") => Some(0),
            (kind, _) if !kind.eq_ignore_ascii_case(media.kind) => None,
            (_, "*") => Some(1),
            (_, subtype) if !subtype.eq_ignore_ascii_case(media.subtype) => None,
            _ => match self.version {
                None => Some(2),
                Some(version) => media.versions.contains(&version).then_some(3),
            },
        }
    }
}

/// The quality of the most precise range that names a format; of equally precise ones, the best.
fn quality(ranges: &[MediaRange<'_>], media: &MediaType) -> Option<u16> {
    let named = ranges.iter().filter_map(|range| Some((range.precision(media)?, range.quality)));
    named.max().map(|(_, quality)| quality)
}

/// A quality value: 0 to 1 with up to three decimal places.
fn thousandths(text: &str) -> Option<u16> {
    let (whole, decimals) = text.split_once('.').unwrap_or((text, ""));
    let is_number = decimals.len() <= 3 && decimals.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number || !matches!(whole, "0" | "1") {
        return None;
    }
    let value = format!("{whole}{decimals:0<3}").parse().ok()?;
    (value <= FULL_QUALITY).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ExpositionFormat::{OpenMetrics, Prometheus};

    fn of(header: &str) -> Option<ExpositionFormat> {
        negotiate([header].into_iter())
    }

    #[test]
    fn agents_receive_what_they_prefer() {
        // Prometheus 2.42, 2.5 and 3.0, curl, and an agent that reads the older format only.
        let prometheus_2 = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;\
                            q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        let draft = "application/openmetrics-text; version=0.0.1,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        let prometheus_3 = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
                            text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        for header in [prometheus_2, draft, prometheus_3, "APPLICATION/OpenMetrics-Text", "application/*"] {
            assert_eq!(of(header), Some(OpenMetrics), "{header}");
        }
        for header in ["*/*", "text/plain;version=0.0.4", "text/plain", "text/*", "", "application/json"] {
            assert_eq!(of(header), Some(Prometheus), "{header}");
        }
        assert_eq!(negotiate(std::iter::empty()), Some(Prometheus));
    }

    #[test]
    fn quality_values_decide_and_zero_excludes() {
        for (header, expected) in [
            ("application/openmetrics-text;q=0.5,text/plain;q=0.6", Some(Prometheus)),
            ("application/openmetrics-text;q=0.6,text/plain;q=0.5", Some(OpenMetrics)),
            ("application/openmetrics-text;q=0.500 , text/plain;q=0.5", Some(Prometheus)),
            ("application/openmetrics-text;q=0,*/*", Some(Prometheus)),
            ("application/openmetrics-text ; q=0.0, application/json", Some(Prometheus)),
            ("text/plain;q=0,application/openmetrics-text;q=0.001", Some(OpenMetrics)),
            ("text/plain;q=0", None),
            ("*/*;q=0", None),
            // A range with a name precedes one without.
            ("*/*;q=1,application/openmetrics-text;q=0.1,text/plain;q=0.05", Some(OpenMetrics)),
            // Another version is another format.
            ("application/openmetrics-text;version=2.0.0", Some(Prometheus)),
        ] {
            assert_eq!(of(header), expected, "{header}");
        }
    }

    #[test]
    fn malformed_and_excessive_ranges_are_ignored() {
        for quality in ["2", "1.001", "-1", "0.1234", ".5", "q", "", "0.x", "+1", "1e0"] {
            let header = format!("application/openmetrics-text;q={quality}");
            assert_eq!(of(&header), Some(Prometheus), "{header}");
        }
        let many = format!("{}application/openmetrics-text", "a/b,".repeat(MAX_MEDIA_RANGES));
        assert_eq!(of(&many), Some(Prometheus));
        let headers = ["text/plain;q=0.1", "application/openmetrics-text"];
        assert_eq!(negotiate(headers.into_iter()), Some(OpenMetrics));
    }
}
