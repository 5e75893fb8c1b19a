//! A real OpenLDAP server with some entries. Owns its process and directory. It runs under the account of the test.

use super::bouncer::end_with_the_test;
use super::eventually;
use rds_sim::Certificates;
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

/// The suffix of all entries.
pub const BASE: &str = "dc=example,dc=net";
/// May search below `ou=closed`.
pub const READER: &str = "cn=reader,dc=example,dc=net";
/// The password of [`READER`].
pub const READER_PASSWORD: &str = "only for searching";

/// An address of the server that its certificate does not name.
pub const UNCERTIFIED: &str = "127.0.0.2";

/// How often another port is tried if one is taken by another process meanwhile.
const ATTEMPTS: usize = 10;

/// `app` has the password that PostgreSQL has, too. The last one is in the subtree of [`READER`].
const ENTRIES: &str = r"dn: dc=example,dc=net
objectClass: dcObject
objectClass: organization
dc: example
o: Example

dn: cn=reader,dc=example,dc=net
objectClass: person
cn: reader
sn: reader
userPassword: only for searching

dn: uid=app,dc=example,dc=net
objectClass: inetOrgPerson
uid: app
cn: app
sn: app
mail: app@example.net
mail: shared@example.net
userPassword: secret

dn: uid=other,dc=example,dc=net
objectClass: inetOrgPerson
uid: other
cn: other
sn: other
mail: shared@example.net
userPassword: second

dn: uid=a\2cb\2bc,dc=example,dc=net
objectClass: inetOrgPerson
uid: a,b+c
cn: odd
sn: odd
userPassword: odd

dn: ou=closed,dc=example,dc=net
objectClass: organizationalUnit
ou: closed

dn: uid=hidden,ou=closed,dc=example,dc=net
objectClass: inetOrgPerson
uid: hidden
cn: hidden
sn: hidden
userPassword: third
";

/// A running server.
pub struct Slapd {
    child: Child,
    /// The port of LDAP, with StartTLS.
    pub port: u16,
    /// The port of LDAP over TLS.
    pub tls_port: u16,
    dir: tempfile::TempDir,
}

impl Slapd {
    /// Starts a server on free ports of `localhost`, for which its certificate is, and of [`UNCERTIFIED`].
    pub fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let certificates = Certificates::generate(&["localhost".to_owned()]).unwrap();
        let pem = certificates.for_postgres();
        let config = format!(
            "include /etc/ldap/schema/core.schema\ninclude /etc/ldap/schema/cosine.schema\n\
             include /etc/ldap/schema/inetorgperson.schema\npidfile {0}/pid\n\
             TLSCACertificateFile {0}/ca.pem\nTLSCertificateFile {0}/cert.pem\nTLSCertificateKeyFile {0}/key.pem\n\
             access to attrs=userPassword by anonymous auth by * none\n\
             access to dn.subtree=\"ou=closed,{BASE}\" by dn.exact=\"{READER}\" read by anonymous auth by * none\n\
             access to * by * read\n\
             database ldif\ndirectory {0}/data\nsuffix \"{BASE}\"\nrootdn \"cn=root,{BASE}\"\n",
            dir.path().display()
        );
        let files = [
            ("slapd.conf", config.as_str()),
            ("entries.ldif", ENTRIES),
            ("ca.pem", certificates.ca_pem()),
            ("cert.pem", &pem.certificate_pem),
            ("key.pem", &pem.key_pem),
        ];
        for (name, text) in files {
            std::fs::write(path(name), text).unwrap();
        }
        std::fs::create_dir(path("data")).unwrap();
        let mut add = Command::new("/usr/sbin/slapadd");
        let added = add.arg("-f").arg(path("slapd.conf")).arg("-l").arg(path("entries.ldif")).output();
        let added = added.expect("slapd is installed by `make setup`");
        assert!(added.status.success(), "{}", String::from_utf8_lossy(&added.stderr));
        for _ in 0..ATTEMPTS {
            if let Some((child, port, tls_port)) = attempt(&path("slapd.conf")) {
                return Self { child, port, tls_port, dir };
            }
        }
        panic!("slapd does not start");
    }

    /// The file with the authority of its certificate.
    pub fn authority_file(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// Options for a bind as an entry below the base.
    pub fn affixes(&self) -> String {
        format!("ldapserver=localhost ldapport={} ldapprefix=\"uid=\" ldapsuffix=\",{BASE}\"", self.port)
    }

    /// Options for a search from the base, without an identity.
    pub fn search(&self) -> String {
        format!("ldapserver=localhost ldapport={} ldapbasedn=\"{BASE}\"", self.port)
    }
}

/// Starts the server on two ports that were free. `None` if it ends, since one was taken meanwhile.
fn attempt(config: &std::path::Path) -> Option<(Child, u16, u16)> {
    let free = || TcpListener::bind("127.0.0.1:0").unwrap();
    let (first, second) = (free(), free());
    let (port, tls_port) = (first.local_addr().unwrap().port(), second.local_addr().unwrap().port());
    drop((first, second));
    let mut command = Command::new("/usr/sbin/slapd");
    command.arg("-f").arg(config).args(["-d", "0", "-h"]);
    let own = format!("ldap://127.0.0.1:{port}/ ldaps://127.0.0.1:{tls_port}/");
    command.arg(format!("{own} ldap://{UNCERTIFIED}:{port}/ ldaps://{UNCERTIFIED}:{tls_port}/"));
    command.stdout(Stdio::null()).stderr(Stdio::null());
    end_with_the_test(&mut command);
    let mut child = command.spawn().unwrap();
    let mut is_running = false;
    eventually("slapd accepts connections, or ends", || {
        is_running = [port, tls_port].iter().all(|&port| TcpStream::connect(("127.0.0.1", port)).is_ok());
        is_running || child.try_wait().unwrap().is_some()
    });
    is_running.then_some((child, port, tls_port))
}

impl Drop for Slapd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
