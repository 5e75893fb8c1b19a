//! Cipher suites and key-exchange groups in OpenSSL's syntax, reduced to those that rustls offers.
//!
//! Owns the names, the classes and the order; suites and groups are numbers of the TLS registry, so that this module
//! needs no TLS. A name that rustls does not offer is an error, and so is a list that leaves nothing.

use super::value::SettingValue;

/// A suite of TLS 1.2 that rustls offers.
struct Suite12 {
    /// OpenSSL's name.
    name: &'static str,
    /// The name in the registry.
    registered: &'static str,
    /// The number in the registry.
    number: u16,
    /// OpenSSL's classes that contain it and not all others.
    classes: &'static [&'static str],
}

const ECDSA: &str = "ECDSA";
const RSA: &str = "aRSA";

/// In the order of preference: the cheapest first.
const SUITES_12: [Suite12; 6] = [
    Suite12 {
        name: "ECDHE-ECDSA-AES128-GCM-SHA256",
        registered: "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
        number: 0xc02b,
        classes: &[ECDSA, "aECDSA", "AES", "AES128", "AESGCM", "SHA256"],
    },
    Suite12 {
        name: "ECDHE-RSA-AES128-GCM-SHA256",
        registered: "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
        number: 0xc02f,
        classes: &[RSA, "AES", "AES128", "AESGCM", "SHA256"],
    },
    Suite12 {
        name: "ECDHE-ECDSA-AES256-GCM-SHA384",
        registered: "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
        number: 0xc02c,
        classes: &[ECDSA, "aECDSA", "AES", "AES256", "AESGCM", "SHA384"],
    },
    Suite12 {
        name: "ECDHE-RSA-AES256-GCM-SHA384",
        registered: "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
        number: 0xc030,
        classes: &[RSA, "AES", "AES256", "AESGCM", "SHA384"],
    },
    Suite12 {
        name: "ECDHE-ECDSA-CHACHA20-POLY1305",
        registered: "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
        number: 0xcca9,
        classes: &[ECDSA, "aECDSA", "CHACHA20"],
    },
    Suite12 {
        name: "ECDHE-RSA-CHACHA20-POLY1305",
        registered: "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
        number: 0xcca8,
        classes: &[RSA, "CHACHA20"],
    },
];

/// Classes that contain all of them.
const CLASSES_OF_ALL: [&str; 8] = ["ALL", "DEFAULT", "HIGH", "ECDHE", "kECDHE", "EECDH", "kEECDH", "TLSv1.2"];

/// OpenSSL's classes that contain none of them: an operator may exclude or list them.
const EMPTY_CLASSES: [&str; 58] = [
    "3DES",
    "ADH",
    "AECDH",
    "AESCCM",
    "AESCCM8",
    "ARIA",
    "ARIA128",
    "ARIA256",
    "ARIAGCM",
    "CAMELLIA",
    "CAMELLIA128",
    "CAMELLIA256",
    "COMPLEMENTOFALL",
    "COMPLEMENTOFDEFAULT",
    "DES",
    "DH",
    "DHE",
    "DSS",
    "EDH",
    "EXP",
    "EXPORT",
    "EXPORT40",
    "EXPORT56",
    "GOST89MAC",
    "GOST94",
    "IDEA",
    "LOW",
    "MD5",
    "MEDIUM",
    "NULL",
    "PSK",
    "RC2",
    "RC4",
    "RSA",
    "RSAPSK",
    "SEED",
    "SHA",
    "SHA1",
    "SRP",
    "SSLv2",
    "SSLv3",
    "TLSv1",
    "TLSv1.0",
    "aDH",
    "aDSS",
    "aGOST",
    "aNULL",
    "aPSK",
    "eNULL",
    "kDHE",
    "kDHEPSK",
    "kECDHEPSK",
    "kEDH",
    "kGOST",
    "kPSK",
    "kRSA",
    "kRSAPSK",
    "kSRP",
];

/// Keywords of PgBouncer for the whole list.
const KEYWORDS: [&str; 5] = ["default", "secure", "fast", "normal", "all"];

/// Suites of TLS 1.3 that rustls offers, by name and number.
const SUITES_13: [(&str, u16); 3] = [
    ("TLS_AES_128_GCM_SHA256", 0x1301),
    ("TLS_AES_256_GCM_SHA384", 0x1302),
    ("TLS_CHACHA20_POLY1305_SHA256", 0x1303),
];

/// Key-exchange groups that rustls offers, by names and number.
const GROUPS: [(&[&str], u16); 5] = [
    (&["prime256v1", "P-256", "secp256r1"], 23),
    (&["secp384r1", "P-384"], 24),
    (&["X25519"], 29),
    (&["X25519MLKEM768"], 4588),
    (&["SecP256r1MLKEM768"], 4587),
];

/// OpenSSL's name of a suite that rustls offers, by its number.
pub fn cipher_name(number: u16) -> Option<&'static str> {
    let names_12 = SUITES_12.iter().map(|suite| (suite.name, suite.number));
    SUITES_13.into_iter().chain(names_12).find(|(_, known)| *known == number).map(|(name, _)| name)
}

/// The suites that one item of a list names; `None` if it names nothing that OpenSSL or rustls knows.
fn suites_of(item: &str) -> Option<Vec<u16>> {
    if let Some(suite) = SUITES_12.iter().find(|suite| [suite.name, suite.registered].contains(&item)) {
        return Some(vec![suite.number]);
    }
    let mut found: Vec<&Suite12> = SUITES_12.iter().collect();
    for class in item.split('+') {
        let is_of_one = SUITES_12.iter().any(|suite| suite.classes.contains(&class));
        if is_of_one {
            found.retain(|suite| suite.classes.contains(&class));
        } else if EMPTY_CLASSES.contains(&class) {
            found.clear();
        } else if !CLASSES_OF_ALL.contains(&class) {
            return None;
        }
    }
    Some(found.into_iter().map(|suite| suite.number).collect())
}

/// Applies a list in OpenSSL's syntax.
fn suites_of_list(text: &str) -> Result<Vec<u16>, String> {
    let (mut chosen, mut excluded): (Vec<u16>, Vec<u16>) = Default::default();
    for item in text.split([':', ',', ' ', ';']).filter(|item| !item.is_empty()) {
        if item.starts_with('@') {
            // The order by key length, and levels below what rustls requires anyway, change nothing.
            match item {
                "@STRENGTH" | "@SECLEVEL=0" | "@SECLEVEL=1" | "@SECLEVEL=2" => continue,
                _ => return Err(format!("has \"{item}\", which is not supported")),
            }
        }
        let (operator, name) = match item.as_bytes()[0] {
            sign @ (b'!' | b'-' | b'+') => (sign, &item[1..]),
            _ => (b' ', item),
        };
        let Some(suites) = suites_of(name) else {
            let known: Vec<&str> = SUITES_12.iter().map(|suite| suite.name).collect();
            return Err(format!("names \"{name}\", which is not offered; offered are {}", known.join(", ")));
        };
        match operator {
            b' ' => {
                let is_new = |number: &u16| !chosen.contains(number) && !excluded.contains(number);
                let new: Vec<u16> = suites.into_iter().filter(is_new).collect();
                chosen.extend(new);
            }
            b'+' => chosen.sort_by_key(|number| suites.contains(number)),
            _ => {
                chosen.retain(|number| !suites.contains(number));
                if operator == b'!' {
                    excluded.extend(suites);
                }
            }
        }
    }
    if chosen.is_empty() { Err("leaves no cipher suite".to_owned()) } else { Ok(chosen) }
}

macro_rules! lists {
    ($($(#[$doc:meta])* $name:ident = $parse:expr;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct $name {
            text: String,
            numbers: Option<Vec<u16>>,
        }

        impl $name {
            /// Numbers of the TLS registry in the order of preference; `None` for what rustls offers by default.
            pub fn numbers(&self) -> Option<&[u16]> {
                self.numbers.as_deref()
            }
        }

        impl SettingValue for $name {
            type Literal = &'static str;
            fn of(literal: &'static str) -> Self {
                Self { text: literal.to_owned(), numbers: None }
            }
            fn parse(text: &str) -> Result<Self, String> {
                let parse: fn(&str) -> Result<Option<Vec<u16>>, String> = $parse;
                Ok(Self { text: text.to_owned(), numbers: parse(text)? })
            }
            fn text(&self) -> String {
                self.text.clone()
            }
        }
    )*};
}

lists! {
    /// Suites of TLS 1.2, in OpenSSL's syntax.
    Tls12Ciphers = |text| match text {
        text if text.is_empty() || KEYWORDS.contains(&text) => Ok(None),
        text => suites_of_list(text).map(Some),
    };
    /// Suites of TLS 1.3, by name.
    Tls13Ciphers = |text| named(text, "cipher suite", &SUITES_13.map(|(name, number)| (vec![name], number)));
    /// Groups for the key exchange, by name.
    TlsGroups = |text| match text {
        "auto" => Ok(None),
        text => named(text, "group", &GROUPS.map(|(names, number)| (names.to_vec(), number))),
    };
}

/// A list of names; `None` if it is empty.
fn named(text: &str, what: &str, known: &[(Vec<&str>, u16)]) -> Result<Option<Vec<u16>>, String> {
    let mut numbers = Vec::new();
    for item in text.split([':', ',', ' ']).filter(|item| !item.is_empty()) {
        let is_item = |name: &&str| name.eq_ignore_ascii_case(item);
        let Some((_, number)) = known.iter().find(|(names, _)| names.iter().any(is_item)) else {
            let offered: Vec<&str> = known.iter().map(|(names, _)| names[0]).collect();
            return Err(format!(
                "names the {what} \"{item}\", which is not offered; offered are {}",
                offered.join(", ")
            ));
        };
        if !numbers.contains(number) {
            numbers.push(*number);
        }
    }
    Ok((!numbers.is_empty()).then_some(numbers))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Result<Vec<&'static str>, String> {
        let name = |number: &u16| SUITES_12.iter().find(|suite| suite.number == *number).unwrap().name;
        Ok(Tls12Ciphers::parse(text)?.numbers().unwrap_or_default().iter().map(name).collect())
    }

    #[test]
    fn keywords_leave_the_default() {
        for text in ["", "default", "secure", "fast", "normal", "all"] {
            assert_eq!(Tls12Ciphers::parse(text).map(|list| list.numbers), Ok(None), "{text}");
        }
        assert_eq!(Tls13Ciphers::parse("").map(|list| list.numbers), Ok(None));
        assert_eq!(TlsGroups::parse("auto").map(|list| list.numbers), Ok(None));
    }

    #[test]
    fn lists_are_read_as_openssl_reads_them() {
        assert_eq!(names("HIGH:MEDIUM:+3DES:!aNULL").map(|names| names.len()), Ok(6));
        assert_eq!(names("HIGH:!AES128:!CHACHA20:!aRSA"), Ok(vec!["ECDHE-ECDSA-AES256-GCM-SHA384"]));
        assert_eq!(names("ECDHE+AESGCM:!ECDSA").map(|names| names.len()), Ok(2));
        assert_eq!(
            names("ECDHE-RSA-AES256-GCM-SHA384:ECDHE-RSA-AES128-GCM-SHA256"),
            Ok(vec!["ECDHE-RSA-AES256-GCM-SHA384", "ECDHE-RSA-AES128-GCM-SHA256"])
        );
        assert_eq!(names("ALL:+AES128:@STRENGTH").map(|names| names[5]), Ok("ECDHE-RSA-AES128-GCM-SHA256"));
        assert_eq!(names("AES256:-aRSA:AES256").map(|names| names.len()), Ok(2));
        assert_eq!(names("!aRSA:AES256").map(|names| names.len()), Ok(1));
    }

    #[test]
    fn what_is_not_offered_is_refused_by_name() {
        for (list, part) in [
            ("HIGH:AES128-SHA", "\"AES128-SHA\""),
            ("HIGH:!nonsense", "\"nonsense\""),
            ("ECDHE+nonsense", "\"ECDHE+nonsense\""),
            ("@SECLEVEL=4", "SECLEVEL"),
            ("3DES", "leaves no cipher suite"),
            ("HIGH:!ALL", "leaves no cipher suite"),
        ] {
            assert!(names(list).is_err_and(|error| error.contains(part)), "{list}");
        }
        assert!(Tls13Ciphers::parse("TLS_AES_128_CCM_SHA256").is_err_and(|error| error.contains("CCM")));
        assert!(TlsGroups::parse("none").is_err() && TlsGroups::parse("secp521r1").is_err());
        assert_eq!(TlsGroups::parse("P-256:x25519").unwrap().numbers(), Some(&[23, 29][..]));
    }
}
