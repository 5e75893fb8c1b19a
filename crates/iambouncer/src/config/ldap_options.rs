//! Options of LDAP authentication: `auth_ldap_options`, and the rest of an `ldap` line in an HBA file. Owns the
//! syntax, which is PgBouncer's, and which options belong together; connects to nothing. Errors never contain values,
//! one of which is a password.

use super::ldap_url::LdapUrl;
use super::secret::Secret;
use super::value::SettingValue;
use crate::quoted_text;
use std::sync::Arc;

/// Longest text of options, in bytes.
const MAX_BYTES: usize = 4096;
/// Maximum number of servers.
const MAX_SERVERS: usize = 16;
/// The ports of LDAP, and of LDAP over TLS.
const LDAP_PORT: u16 = 389;
const LDAPS_PORT: u16 = 636;
/// The attribute that contains the user's name, unless another one is configured.
const DEFAULT_ATTRIBUTE: &str = "uid";
/// Stands for the user's name in a filter.
pub const USERNAME_PLACEHOLDER: &str = "$username";

/// How connections to the LDAP servers are protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LdapTransport {
    /// Not at all.
    Plain,
    /// TLS after a StartTLS request.
    StartTls,
    /// TLS from the start.
    Ldaps,
}

/// Which entries a search covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LdapScope {
    /// The base entry.
    Base,
    /// The entries directly below it.
    OneLevel,
    /// The base entry and all below it.
    Subtree,
}

/// How the name with which a user binds is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LdapLookup {
    /// The user's name between two texts.
    Affixes {
        /// `ldapprefix`.
        prefix: String,
        /// `ldapsuffix`.
        suffix: String,
    },
    /// The only entry that a search returns.
    Search {
        /// `ldapbasedn`.
        base: String,
        /// Who searches; empty for anonymous searches.
        bind_dn: String,
        /// Its password.
        bind_password: Secret,
        /// With [`USERNAME_PLACEHOLDER`] in place of the user's name.
        filter: String,
        /// Where to search.
        scope: LdapScope,
    },
}

/// The options.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LdapOptions {
    /// Names or addresses, tried in this order.
    pub servers: Vec<String>,
    /// The port of all of them.
    pub port: u16,
    /// Protection of the connection.
    pub transport: LdapTransport,
    /// How the user is found.
    pub lookup: LdapLookup,
}

impl LdapOptions {
    /// Reads `key=value` pairs, separated by spaces or commas; values with either are in double quotes, and keys may be.
    ///
    /// # Errors
    /// A key is unknown, or the options do not belong together. The text is a sentence without values.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.len() > MAX_BYTES {
            return Err(format!("LDAP options are longer than {MAX_BYTES} bytes"));
        }
        let mut given = GivenOptions::default();
        let mut rest = text;
        while let Some((key, value, after)) = next_pair(rest)? {
            given.set(key, value)?;
            rest = after;
        }
        given.combine()
    }
}

/// The options as written.
#[derive(Default)]
struct GivenOptions {
    server: Option<String>,
    port: Option<u16>,
    starttls: bool,
    is_ldaps: bool,
    prefix: Option<String>,
    suffix: Option<String>,
    base: Option<String>,
    bind_dn: Option<String>,
    bind_password: Option<Secret>,
    attribute: Option<String>,
    filter: Option<String>,
    scope: Option<LdapScope>,
}

impl GivenOptions {
    fn set(&mut self, key: &str, value: String) -> Result<(), String> {
        match key {
            "ldapserver" => self.server = Some(value),
            "ldapport" => {
                let port = value.parse().ok().filter(|port| *port != 0);
                self.port = Some(port.ok_or("ldapport is not a port number")?);
            }
            "ldaptls" => {
                self.starttls = match value.as_str() {
                    "1" => true,
                    "0" => false,
                    _ => return Err("ldaptls is neither 0 nor 1".to_owned()),
                }
            }
            "ldapscheme" => {
                self.is_ldaps = match value.as_str() {
                    "ldap" => false,
                    "ldaps" => true,
                    _ => return Err("ldapscheme is neither ldap nor ldaps".to_owned()),
                }
            }
            "ldapprefix" => self.prefix = Some(value),
            "ldapsuffix" => self.suffix = Some(value),
            "ldapbasedn" => self.base = Some(value),
            "ldapbinddn" => self.bind_dn = Some(value),
            "ldapbindpasswd" => self.bind_password = Some(Secret::new(value)),
            "ldapsearchattribute" => self.attribute = Some(value),
            "ldapsearchfilter" => self.filter = Some(value),
            "ldapurl" => self.set_url(LdapUrl::parse(&value)?),
            _ if is_showable(key) => return Err(format!("unknown LDAP option {key}")),
            _ => {
                return Err("unknown LDAP option; values with spaces or commas need double quotes".to_owned());
            }
        }
        Ok(())
    }

    fn set_url(&mut self, url: LdapUrl) {
        self.is_ldaps = url.is_ldaps;
        self.server = url.host.or_else(|| self.server.take());
        self.port = url.port.or(self.port);
        self.base = url.base.or_else(|| self.base.take());
        self.attribute = url.attribute.or_else(|| self.attribute.take());
        self.filter = url.filter.or_else(|| self.filter.take());
        self.scope = Some(url.scope);
    }

    fn combine(self) -> Result<LdapOptions, String> {
        let server = self.server.unwrap_or_default();
        let servers: Vec<String> = server.split_ascii_whitespace().map(str::to_owned).collect();
        if servers.is_empty() {
            return Err("ldapserver is missing".to_owned());
        }
        if servers.len() > MAX_SERVERS {
            return Err(format!("ldapserver has more than {MAX_SERVERS} servers"));
        }
        let is_name = |name: &String| {
            name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte))
        };
        if !servers.iter().all(is_name) {
            return Err("ldapserver is not a list of host names or addresses, separated by spaces".to_owned());
        }
        let transport = match (self.is_ldaps, self.starttls) {
            (true, true) => return Err("ldaptls cannot be used with ldaps".to_owned()),
            (true, false) => LdapTransport::Ldaps,
            (false, true) => LdapTransport::StartTls,
            (false, false) => LdapTransport::Plain,
        };
        let port = self.port.unwrap_or(if self.is_ldaps { LDAPS_PORT } else { LDAP_PORT });
        let searches = self.base.is_some()
            || self.bind_dn.is_some()
            || self.bind_password.is_some()
            || self.attribute.is_some()
            || self.filter.is_some();
        let lookup = match (self.prefix, self.suffix, self.base) {
            (None, None, None) => {
                return Err("ldapbasedn, ldapprefix or ldapsuffix is needed".to_owned());
            }
            (None, None, Some(base)) => LdapLookup::Search {
                base,
                bind_dn: self.bind_dn.unwrap_or_default(),
                bind_password: self.bind_password.unwrap_or_else(|| Secret::new("")),
                filter: filter(self.attribute, self.filter)?,
                scope: self.scope.unwrap_or(LdapScope::Subtree),
            },
            _ if searches => {
                return Err("ldapprefix and ldapsuffix cannot be used with options of a search (ldapbasedn, ldapbinddn, \
                            ldapbindpasswd, ldapsearchattribute, ldapsearchfilter)"
                    .to_owned());
            }
            (prefix, suffix, _) => {
                LdapLookup::Affixes { prefix: prefix.unwrap_or_default(), suffix: suffix.unwrap_or_default() }
            }
        };
        Ok(LdapOptions { servers, port, transport, lookup })
    }
}

fn filter(attribute: Option<String>, filter: Option<String>) -> Result<String, String> {
    match (attribute, filter) {
        (Some(_), Some(_)) => Err("ldapsearchattribute cannot be used with ldapsearchfilter".to_owned()),
        (None, Some(filter)) => Ok(filter),
        (attribute, None) => {
            let attribute = attribute.unwrap_or_else(|| DEFAULT_ATTRIBUTE.to_owned());
            let is_valid = |byte: u8| byte.is_ascii_alphanumeric() || b"-.;".contains(&byte);
            match attribute.bytes().all(is_valid) {
                true => Ok(format!("({attribute}={USERNAME_PLACEHOLDER})")),
                false => Err("ldapsearchattribute is not the name of an attribute".to_owned()),
            }
        }
    }
}

/// The first pair of the text and what follows it; `None` at the end or a comment.
fn next_pair(text: &str) -> Result<Option<(&str, String, &str)>, String> {
    let is_separator = |c: char| c.is_whitespace() || c == ',';
    let text = text.trim_start_matches(is_separator);
    if text.is_empty() || text.starts_with('#') {
        return Ok(None);
    }
    let (key, rest) = text.split_once('=').ok_or("an LDAP option has no value")?;
    // As in PgBouncer, a key may be in quotes, too.
    let key = key.strip_prefix('"').and_then(|key| key.strip_suffix('"')).unwrap_or(key);
    let (value, rest) = match rest.strip_prefix('"') {
        Some(rest) => {
            quoted_text::read(rest, '"').ok_or_else(|| format!("unterminated quotes after {}", shown(key)))?
        }
        None => {
            let end = rest.find(is_separator).unwrap_or(rest.len());
            (rest[..end].to_owned(), &rest[end..])
        }
    };
    if value.is_empty() || value.contains('\0') {
        return Err(format!("{} has no value", shown(key)));
    }
    Ok(Some((key, value, rest)))
}

/// True if a key may appear in an error: an unknown one may be a part of a password without quotes.
fn is_showable(key: &str) -> bool {
    key.starts_with("ldap") && key.bytes().all(|byte| byte.is_ascii_lowercase())
}

/// A key in an error.
fn shown(key: &str) -> &str {
    if is_showable(key) { key } else { "an LDAP option" }
}

/// The value of `auth_ldap_options`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LdapSetting(Option<Arc<LdapOptions>>);

/// What `SHOW CONFIG` and messages have in place of options, which contain a password.
const MASK: &str = "***";

impl LdapSetting {
    /// The options, if any are set.
    pub fn options(&self) -> Option<&Arc<LdapOptions>> {
        self.0.as_ref()
    }
}

impl SettingValue for LdapSetting {
    type Literal = ();
    fn of((): ()) -> Self {
        Self::default()
    }
    fn parse(text: &str) -> Result<Self, String> {
        match text.trim() {
            "" => Ok(Self(None)),
            text => match LdapOptions::parse(text) {
                Ok(options) => Ok(Self(Some(Arc::new(options)))),
                Err(reason) => Err(format!("is not accepted: {reason}")),
            },
        }
    }
    fn text(&self) -> String {
        self.0.as_ref().map(|_| MASK.to_owned()).unwrap_or_default()
    }
    fn displayed(_: &str) -> String {
        MASK.to_owned()
    }
}

#[cfg(test)]
#[path = "ldap_options_tests.rs"]
mod tests;
