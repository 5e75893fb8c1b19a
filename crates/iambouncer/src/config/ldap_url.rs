//! URLs in LDAP options: `ldap[s]://host[:port]/basedn[?attribute[?scope[?filter]]]` (RFC 4516). Owns their syntax.

use super::ldap_options::LdapScope;
use percent_encoding::percent_decode_str;

/// A parsed URL. Parts that are missing or empty are `None`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct LdapUrl {
    pub(super) is_ldaps: bool,
    pub(super) host: Option<String>,
    pub(super) port: Option<u16>,
    pub(super) base: Option<String>,
    pub(super) attribute: Option<String>,
    pub(super) scope: LdapScope,
    pub(super) filter: Option<String>,
}

impl LdapUrl {
    pub(super) fn parse(url: &str) -> Result<Self, String> {
        let (is_ldaps, rest) = match (url.strip_prefix("ldap://"), url.strip_prefix("ldaps://")) {
            (Some(rest), _) => (false, rest),
            (None, Some(rest)) => (true, rest),
            (None, None) => return Err("ldapurl begins with neither ldap:// nor ldaps://".to_owned()),
        };
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (host, port) = host_and_port(authority)?;
        let mut parts = path.split('?').map(|part| {
            let decoded = percent_decode_str(part).decode_utf8();
            decoded
                .map(|text| Some(text.into_owned()).filter(|text| !text.is_empty() && !text.contains('\0')))
        });
        let mut next =
            || parts.next().unwrap_or(Ok(None)).map_err(|_| "ldapurl is not valid UTF-8".to_owned());
        let (base, attributes, scope, filter) = (next()?, next()?, next()?, next()?);
        let scope = match scope.as_deref() {
            None | Some("base") => LdapScope::Base,
            Some("one") => LdapScope::OneLevel,
            Some("sub") => LdapScope::Subtree,
            Some(_) => return Err("the scope in ldapurl is not base, one or sub".to_owned()),
        };
        // As in PgBouncer, the first of several attributes is used.
        let first = |list: String| list.split(',').next().unwrap_or_default().to_owned();
        Ok(Self { is_ldaps, host, port, base, attribute: attributes.map(first), scope, filter })
    }
}

fn host_and_port(authority: &str) -> Result<(Option<String>, Option<u16>), String> {
    // A colon inside brackets belongs to an IPv6 address.
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (authority, None),
    };
    let port = match port {
        None | Some("") => None,
        Some(port) => {
            let port = port.parse().ok().filter(|port| *port != 0);
            Some(port.ok_or("the port in ldapurl is not a port number")?)
        }
    };
    Ok((Some(host.to_owned()).filter(|host| !host.is_empty()), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_parts_are_read() {
        let url = LdapUrl::parse("ldaps://[::1]:77/dc=a%20b,dc=net?cn,uid?sub?(uid=$username)").unwrap();
        let expected = LdapUrl {
            is_ldaps: true,
            host: Some("[::1]".into()),
            port: Some(77),
            base: Some("dc=a b,dc=net".into()),
            attribute: Some("cn".into()),
            scope: LdapScope::Subtree,
            filter: Some("(uid=$username)".into()),
        };
        assert_eq!(url, expected);
    }

    #[test]
    fn missing_parts_have_defaults_and_faults_are_found() {
        let url = LdapUrl::parse("ldap://host").unwrap();
        assert_eq!(
            (url.host.as_deref(), url.port, url.base, url.scope),
            (Some("host"), None, None, LdapScope::Base)
        );
        assert_eq!(LdapUrl::parse("ldap:///dc=x??one").unwrap().scope, LdapScope::OneLevel);
        for wrong in ["http://h", "ldap://h:0/", "ldap://h:x/", "ldap://h/b?a?all", "ldap://h/%ff"] {
            assert!(LdapUrl::parse(wrong).is_err(), "{wrong}");
        }
    }
}
