//! Normalizes values of startup parameters to the spelling that the server reports. Owns the rules that need no
//! query; any other value is left unchanged for the server to check.

/// Encoding names as clients may write them, in lower case without punctuation, and the server's names for them.
const ENCODINGS: &[(&str, &str)] = &[
    ("abc", "WIN1258"),
    ("alt", "WIN866"),
    ("big5", "BIG5"),
    ("euccn", "EUC_CN"),
    ("eucjis2004", "EUC_JIS_2004"),
    ("eucjp", "EUC_JP"),
    ("euckr", "EUC_KR"),
    ("euctw", "EUC_TW"),
    ("gb18030", "GB18030"),
    ("gbk", "GBK"),
    ("iso88591", "LATIN1"),
    ("iso885910", "LATIN6"),
    ("iso885913", "LATIN7"),
    ("iso885914", "LATIN8"),
    ("iso885915", "LATIN9"),
    ("iso885916", "LATIN10"),
    ("iso88592", "LATIN2"),
    ("iso88593", "LATIN3"),
    ("iso88594", "LATIN4"),
    ("iso88595", "ISO_8859_5"),
    ("iso88596", "ISO_8859_6"),
    ("iso88597", "ISO_8859_7"),
    ("iso88598", "ISO_8859_8"),
    ("iso88599", "LATIN5"),
    ("johab", "JOHAB"),
    ("koi8", "KOI8R"),
    ("koi8r", "KOI8R"),
    ("koi8u", "KOI8U"),
    ("latin1", "LATIN1"),
    ("latin10", "LATIN10"),
    ("latin2", "LATIN2"),
    ("latin3", "LATIN3"),
    ("latin4", "LATIN4"),
    ("latin5", "LATIN5"),
    ("latin6", "LATIN6"),
    ("latin7", "LATIN7"),
    ("latin8", "LATIN8"),
    ("latin9", "LATIN9"),
    ("mskanji", "SJIS"),
    ("shiftjis", "SJIS"),
    ("shiftjis2004", "SHIFT_JIS_2004"),
    ("sjis", "SJIS"),
    ("sqlascii", "SQL_ASCII"),
    ("tcvn", "WIN1258"),
    ("tcvn5712", "WIN1258"),
    ("uhc", "UHC"),
    ("unicode", "UTF8"),
    ("utf8", "UTF8"),
    ("vscii", "WIN1258"),
    ("win", "WIN1251"),
    ("win1250", "WIN1250"),
    ("win1251", "WIN1251"),
    ("win1252", "WIN1252"),
    ("win1253", "WIN1253"),
    ("win1254", "WIN1254"),
    ("win1255", "WIN1255"),
    ("win1256", "WIN1256"),
    ("win1257", "WIN1257"),
    ("win1258", "WIN1258"),
    ("win866", "WIN866"),
    ("win874", "WIN874"),
    ("win932", "SJIS"),
    ("win936", "GBK"),
    ("win949", "UHC"),
    ("win950", "BIG5"),
    ("windows1250", "WIN1250"),
    ("windows1251", "WIN1251"),
    ("windows1252", "WIN1252"),
    ("windows1253", "WIN1253"),
    ("windows1254", "WIN1254"),
    ("windows1255", "WIN1255"),
    ("windows1256", "WIN1256"),
    ("windows1257", "WIN1257"),
    ("windows1258", "WIN1258"),
    ("windows866", "WIN866"),
    ("windows874", "WIN874"),
    ("windows932", "SJIS"),
    ("windows936", "GBK"),
    ("windows949", "UHC"),
    ("windows950", "BIG5"),
];

/// Spellings of the values of IntervalStyle.
const INTERVAL_STYLES: [&str; 4] = ["postgres", "postgres_verbose", "sql_standard", "iso_8601"];

/// First version that escapes non-ASCII bytes in an application name instead of replacing them.
const ESCAPES_NAMES_SINCE: u32 = 16;

/// The value as a server of this version (the number before the first point), whose default is `default`, would
/// report it. `None` if unknown or already in that form.
pub(super) fn reported(name: &str, value: &str, default: Option<&str>, version: &str) -> Option<String> {
    match name.to_ascii_lowercase().as_str() {
        "application_name" => application_name(value, version),
        "client_encoding" => encoding(value).map(str::to_owned),
        "datestyle" => date_style(value, default?),
        "intervalstyle" => same_as(&INTERVAL_STYLES, value),
        "timezone" => same_as(&[default?, "UTC", "GMT"], value),
        "standard_conforming_strings" => boolean(value).map(|on| if on { "on" } else { "off" }.to_owned()),
        _ => None,
    }
}

fn application_name(value: &str, version: &str) -> Option<String> {
    let is_plain = |byte: u8| (b' '..=b'~').contains(&byte);
    if value.bytes().all(is_plain) {
        return None;
    }
    let digits = version.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default();
    let escapes = digits.parse::<u32>().ok()? >= ESCAPES_NAMES_SINCE;
    let spelled = |byte: u8| match byte {
        plain if is_plain(plain) => char::from(plain).to_string(),
        other if escapes => format!("\\x{other:02x}"),
        _ => "?".to_owned(),
    };
    Some(value.bytes().map(spelled).collect())
}

fn encoding(value: &str) -> Option<&'static str> {
    let plain: String =
        value.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect();
    let at = ENCODINGS.binary_search_by_key(&plain.as_str(), |(known, _)| known).ok()?;
    Some(ENCODINGS[at].1)
}

fn same_as(spellings: &[&str], value: &str) -> Option<String> {
    spellings.iter().find(|known| known.eq_ignore_ascii_case(value)).map(|known| (*known).to_owned())
}

/// A style, an order, or both; a missing part is taken from the default.
fn date_style(value: &str, default: &str) -> Option<String> {
    let (mut style, mut order) = (None, None);
    for word in value.split([',', ' ']).filter(|word| !word.is_empty()) {
        let word = word.to_ascii_uppercase();
        let (slot, found) = match word.as_str() {
            "ISO" => (&mut style, "ISO"),
            "SQL" => (&mut style, "SQL"),
            "GERMAN" => (&mut style, "German"),
            word if word.starts_with("POSTGRES") => (&mut style, "Postgres"),
            "YMD" => (&mut order, "YMD"),
            "DMY" => (&mut order, "DMY"),
            "MDY" | "US" => (&mut order, "MDY"),
            word if word.starts_with("NONEURO") => (&mut order, "MDY"),
            word if word.starts_with("EURO") => (&mut order, "DMY"),
            _ => return None,
        };
        if slot.replace(found).is_some_and(|before| before != found) {
            return None;
        }
    }
    let (default_style, default_order) = default.split_once(", ")?;
    let order = match (order, style) {
        (Some(order), _) => order,
        (None, Some("German")) => "DMY",
        (None, _) => default_order,
    };
    Some(format!("{}, {order}", style.unwrap_or(default_style)))
}

fn boolean(value: &str) -> Option<bool> {
    let value = value.to_ascii_lowercase();
    let is_prefix_of = |word: &str, least: usize| value.len() >= least && word.starts_with(&value);
    if value == "1" || is_prefix_of("true", 1) || is_prefix_of("yes", 1) || value == "on" {
        Some(true)
    } else if value == "0" || is_prefix_of("false", 1) || is_prefix_of("no", 1) || is_prefix_of("off", 2) {
        Some(false)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_spelled_as_the_server_reports_them() {
        let iso = Some("ISO, MDY");
        for (name, value, spelled) in [
            ("client_encoding", "utf-8", Some("UTF8")),
            ("CLIENT_ENCODING", "Unicode", Some("UTF8")),
            ("client_encoding", "iso_8859_1", Some("LATIN1")),
            ("client_encoding", "klingon", None),
            ("DateStyle", "iso", Some("ISO, MDY")),
            ("DateStyle", "German", Some("German, DMY")),
            ("datestyle", "sql,european", Some("SQL, DMY")),
            ("datestyle", "YMD", Some("ISO, YMD")),
            ("datestyle", "iso, sql", None),
            ("IntervalStyle", "ISO_8601", Some("iso_8601")),
            ("standard_conforming_strings", "TRUE", Some("on")),
            ("standard_conforming_strings", "of", Some("off")),
            ("standard_conforming_strings", "o", None),
            ("application_name", "utf8", None),
            ("application_name", "caf\u{e9}", Some("caf??")),
        ] {
            assert_eq!(reported(name, value, iso, "15.18 (Debian)").as_deref(), spelled, "{name} = {value}");
        }
        assert_eq!(reported("TimeZone", "utc", Some("Europe/Berlin"), "15").as_deref(), Some("UTC"));
        assert_eq!(
            reported("TimeZone", "europe/berlin", Some("Europe/Berlin"), "15").as_deref(),
            Some("Europe/Berlin")
        );
    }

    #[test]
    fn newer_servers_escape_application_names() {
        let reported_by = |version| reported("application_name", "a\u{e9}\n", None, version);
        assert_eq!(reported_by("16.4").as_deref(), Some("a\\xc3\\xa9\\x0a"));
        assert_eq!(reported_by("18devel").as_deref(), Some("a\\xc3\\xa9\\x0a"));
        assert_eq!(reported_by("9.6.1").as_deref(), Some("a???"));
        assert_eq!(reported_by(""), None);
    }

    #[test]
    fn the_table_of_encodings_is_sorted() {
        assert!(ENCODINGS.is_sorted_by_key(|(name, _)| name));
    }
}
