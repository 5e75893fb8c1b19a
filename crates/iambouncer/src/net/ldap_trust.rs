//! Trust in LDAP servers, from the files and environment variables of OpenLDAP's library, which PgBouncer uses. Owns
//! their names and their order (ldap.conf(5)); it knows only the options about the certificates of servers.

use crate::config::read_text;
use std::path::Path;

/// Files of the system, of which the first that exists is read: Debian's, then Red Hat's.
const SYSTEM_FILES: [&str; 2] = ["/etc/ldap/ldap.conf", "/etc/openldap/ldap.conf"];
/// Longest file, in bytes.
const MAX_FILE_BYTES: usize = 1024 * 1024;

/// How the certificates of LDAP servers are verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LdapTrust {
    /// Not at all.
    Nothing,
    /// By the authorities of the operating system.
    System,
    /// By the authorities in a file.
    File(String),
}

impl LdapTrust {
    /// Reads the options: those of the system's file, of the file in `LDAPCONF`, and the variables `LDAPTLS_CACERT` and
    /// `LDAPTLS_REQCERT`. A later one overrides an earlier one.
    ///
    /// # Errors
    /// A value that OpenLDAP does not have; a file that cannot be read.
    pub fn read(variable: impl Fn(&str) -> Option<String>) -> Result<Self, String> {
        let mut options = LdapTlsOptions::default();
        if variable("LDAPNOINIT").is_none() {
            let system = SYSTEM_FILES.into_iter().find(|path| std::fs::exists(path).unwrap_or_default());
            // As in OpenLDAP, a file that does not exist has no options.
            let own = variable("LDAPCONF").filter(|path| std::fs::exists(path).unwrap_or(true));
            for path in system.into_iter().chain(own.as_deref()) {
                let text = read_text(Path::new(path), MAX_FILE_BYTES);
                options.add(&text.map_err(|reason| format!("error: {path}: {reason}"))?);
            }
        }
        options.requirement = variable("LDAPTLS_REQCERT").or(options.requirement);
        options.authorities = variable("LDAPTLS_CACERT").or(options.authorities);
        options.trust()
    }
}

/// Options about the certificates of servers.
#[derive(Debug, Default)]
struct LdapTlsOptions {
    /// `TLS_REQCERT`.
    requirement: Option<String>,
    /// `TLS_CACERT`.
    authorities: Option<String>,
}

impl LdapTlsOptions {
    /// Adds the options of a file: a name, blanks, and the value, which may contain blanks. `#` begins a comment line.
    fn add(&mut self, text: &str) {
        for line in text.lines().map(str::trim).filter(|line| !line.starts_with('#')) {
            let Some((name, value)) = line.split_once([' ', '\t']) else { continue };
            let option = match name.to_ascii_uppercase().as_str() {
                "TLS_REQCERT" => &mut self.requirement,
                "TLS_CACERT" => &mut self.authorities,
                _ => continue,
            };
            *option = Some(value.trim().to_owned());
        }
    }

    fn trust(self) -> Result<LdapTrust, String> {
        let requirement = self.requirement.unwrap_or_default().to_ascii_lowercase();
        match (requirement.as_str(), self.authorities) {
            ("never" | "allow", _) => Ok(LdapTrust::Nothing),
            ("" | "try" | "demand" | "hard", None) => Ok(LdapTrust::System),
            ("" | "try" | "demand" | "hard", Some(file)) => Ok(LdapTrust::File(file)),
            _ => Err("error: TLS_REQCERT of LDAP is not never, allow, try, demand or hard".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(text: &str) -> LdapTlsOptions {
        let mut options = LdapTlsOptions::default();
        options.add(text);
        options
    }

    #[test]
    fn options_are_read_as_openldap_reads_them() {
        let text = "# TLS_REQCERT never\nURI ldap://h\n  tls_cacert\t/etc/my own.pem \nTLS_CACERT\n";
        assert_eq!(options(text).trust(), Ok(LdapTrust::File("/etc/my own.pem".to_owned())));
        assert_eq!(options("TLS_REQCERT never\nTLS_CACERT /a").trust(), Ok(LdapTrust::Nothing));
        assert_eq!(options("").trust(), Ok(LdapTrust::System));
        assert!(options("TLS_REQCERT sometimes").trust().is_err());
    }

    #[test]
    fn variables_override_the_file_named_by_ldapconf() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("ldap.conf");
        std::fs::write(&file, "TLS_REQCERT never\n").unwrap();
        let path = file.to_str().unwrap().to_owned();
        let read = |variables: &[(&str, &str)]| {
            LdapTrust::read(|name| {
                variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
            })
        };
        assert_eq!(read(&[("LDAPCONF", &path)]), Ok(LdapTrust::Nothing));
        let overridden = [("LDAPCONF", &*path), ("LDAPTLS_REQCERT", "demand"), ("LDAPTLS_CACERT", "/a")];
        assert_eq!(read(&overridden), Ok(LdapTrust::File("/a".to_owned())));
        assert_ne!(read(&[("LDAPCONF", &path), ("LDAPNOINIT", "1")]), Ok(LdapTrust::Nothing));
    }
}
