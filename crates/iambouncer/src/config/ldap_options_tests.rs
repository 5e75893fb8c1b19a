//! Tests of LDAP options.

use super::*;
use proptest::prelude::*;

fn error(text: &str) -> String {
    LdapOptions::parse(text).unwrap_err()
}

#[test]
fn a_user_name_between_two_texts() {
    let options = LdapOptions::parse(
        r#" ldapserver=127.0.0.1 ,"ldapport"=3389 ldapprefix="uid=" ldapsuffix=",dc=example""#,
    )
    .unwrap();
    assert_eq!(options.servers, ["127.0.0.1"]);
    assert_eq!((options.port, options.transport), (3389, LdapTransport::Plain));
    let lookup = LdapLookup::Affixes { prefix: "uid=".into(), suffix: ",dc=example".into() };
    assert_eq!(options.lookup, lookup);
}

#[test]
fn a_search_has_defaults() {
    let options =
        LdapOptions::parse(r#"ldapserver="a b.example.com" ldapscheme=ldaps ldapbasedn="dc=x""#).unwrap();
    assert_eq!(options.servers, ["a", "b.example.com"]);
    assert_eq!((options.port, options.transport), (636, LdapTransport::Ldaps));
    let LdapLookup::Search { base, bind_dn, bind_password, filter, scope } = options.lookup else { panic!() };
    assert_eq!((base.as_str(), bind_dn.as_str(), bind_password.expose()), ("dc=x", "", ""));
    assert_eq!((filter.as_str(), scope), ("(uid=$username)", LdapScope::Subtree));
}

#[test]
fn a_search_with_all_options_and_with_a_url() {
    let text = r#"ldapserver=h ldaptls=1 ldapbasedn="dc=x" ldapbinddn="cn=a,dc=x" ldapbindpasswd="p""q" ldapsearchattribute=cn"#;
    let options = LdapOptions::parse(text).unwrap();
    assert_eq!((options.port, options.transport), (389, LdapTransport::StartTls));
    let LdapLookup::Search { bind_dn, bind_password, filter, .. } = &options.lookup else { panic!() };
    assert_eq!(
        (bind_dn.as_str(), bind_password.expose(), filter.as_str()),
        ("cn=a,dc=x", "p\"q", "(cn=$username)")
    );
    assert!(!format!("{options:?}").contains("p\"q"));
    let options = LdapOptions::parse(r#"ldapurl="ldap://h:1389/dc=x?mail?sub" # comment"#).unwrap();
    assert_eq!((options.servers[0].as_str(), options.port), ("h", 1389));
    let LdapLookup::Search { filter, scope, .. } = options.lookup else { panic!() };
    assert_eq!((filter.as_str(), scope), ("(mail=$username)", LdapScope::Subtree));
}

#[test]
fn options_that_do_not_belong_together_are_refused() {
    for (text, part) in [
        ("ldapport=389", "ldapserver is missing"),
        ("ldapserver=h", "ldapbasedn, ldapprefix or ldapsuffix"),
        ("ldapserver=h ldapprefix=a ldapbasedn=b", "cannot be used with options of a search"),
        ("ldapserver=h ldapbasedn=b ldapsearchattribute=a ldapsearchfilter=(a=b)", "cannot be used with"),
        ("ldapserver=h ldapbasedn=b ldapsearchattribute=a)(b", "not the name of an attribute"),
        ("ldapserver=h ldapprefix=a ldapport=0", "ldapport"),
        ("ldapserver=h ldapprefix=a ldapport=65536", "ldapport"),
        ("ldapserver=h ldapprefix=a ldaptls=yes", "ldaptls"),
        ("ldapserver=h ldapprefix=a ldapscheme=http", "ldapscheme"),
        ("ldapserver=h ldapprefix=a ldapscheme=ldaps ldaptls=1", "cannot be used with ldaps"),
        ("ldapserver=\"h/x\" ldapprefix=a", "host names"),
        ("ldapserver=h ldapprefix=", "ldapprefix has no value"),
        ("ldapserver=h ldapprefix=\"a", "unterminated"),
        ("ldapserver=h ldapprefix", "has no value"),
        ("ldapserver=h ldapserverr=x", "unknown LDAP option ldapserverr"),
    ] {
        assert!(error(text).contains(part), "{text}: {}", error(text));
    }
}

#[test]
fn no_message_shows_a_password() {
    for text in
        ["ldapbindpasswd=my secret=x", "ldapbindpasswd=\"secret", "ldapbindpasswd=a secret", "secret=\"x"]
    {
        assert!(!error(text).contains("secret"), "{}", error(text));
    }
    let mut settings = super::super::Settings::default();
    let text = "ldapserver=h ldapbasedn=b ldapbindpasswd=hunter2";
    settings.set("auth_ldap_options", text).unwrap();
    assert_eq!(settings.get_text("auth_ldap_options").as_deref(), Some("***"));
    assert!(!format!("{settings:?}").contains("hunter2"));
    let wrong = settings.set("auth_ldap_options", "ldapbindpasswd=hunter2").unwrap_err().to_string();
    assert!(wrong.contains("ldapserver is missing") && !wrong.contains("hunter2"), "{wrong}");
}

proptest! {
    #[test]
    fn no_text_panics(text in "(\\PC|[=\", ]|ldap(server|port|url|prefix|basedn)=|ldap://){0,40}") {
        let _ = LdapOptions::parse(&text);
    }
}
