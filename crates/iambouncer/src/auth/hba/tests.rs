//! Tests of HBA rules: every construct of the syntax with a client it matches and one it does not.

use super::*;
use crate::auth::ident::IdentMap;
use crate::net::interfaces::InterfaceAddress;
use proptest::prelude::*;
use std::path::Path;

const IDENT: &str = "people alice app\nothers bob all\n";

fn read(text: &str) -> HbaRules {
    let load = |path: &Path| match path.to_str() {
        Some("/etc/p/dbs") => Ok("one, two # names\n\nthree four\n@nested/more\n".to_owned()),
        Some("/etc/p/nested/more") => Ok("\"five\"\n".to_owned()),
        Some("/etc/p/loop") => Ok("@loop\n".to_owned()),
        _ => Err("not found".to_owned()),
    };
    let ident = IdentMap::parse(IDENT).unwrap();
    HbaFile { path: "/etc/p/hba.conf", text, ident: &ident, load: &load, interfaces: &interfaces }.rules()
}

/// A host with one interface for each family.
fn interfaces() -> Result<Vec<InterfaceAddress>, String> {
    let interface = |address: &str, mask: &str| {
        InterfaceAddress::new(address.parse().unwrap(), Some(mask.parse().unwrap()))
    };
    Ok(vec![interface("10.1.2.3", "255.255.0.0"), interface("fd00::3", "ffff:ffff:ffff:ffff::")])
}

/// A client as `DATABASE USER ADDRESS|unix [tls] [replication]`.
fn method(rules: &HbaRules, client: &str) -> String {
    let words: Vec<&str> = client.split(' ').collect();
    let found = rules.find(&HbaClient {
        address: words[2].parse().ok(),
        is_encrypted: words[3..].contains(&"tls"),
        is_replication: words[3..].contains(&"replication"),
        database: words[0],
        user: words[1],
    });
    found.map_or_else(|| "none".to_owned(), |rule| format!("{:?}", rule.method).to_lowercase())
}

/// Expects for each client this method, and that no line was skipped.
#[track_caller]
fn expect(text: &str, clients: &[(&str, &str)]) {
    let rules = read(text);
    assert!(rules.warnings().is_empty(), "{:?}", rules.warnings());
    for (client, expected) in clients {
        assert_eq!(method(&rules, client), *expected, "{client}");
    }
}

#[test]
fn record_types_select_by_socket_and_tls() {
    let text = "local all all scram-sha-256\nhostssl all all 10.0.0.0/8 password\n\
                hostnossl all all 11.0.0.0/8 md5\nhost all all 12.0.0.0/8 trust\n";
    expect(
        text,
        &[
            ("db u unix", "scramsha256"),
            ("db u 10.1.1.1 tls", "password"),
            ("db u 10.1.1.1", "none"),
            ("db u 11.1.1.1", "md5"),
            ("db u 11.1.1.1 tls", "none"),
            ("db u 12.1.1.1", "trust"),
            ("db u 12.1.1.1 tls", "trust"),
            ("db u 13.1.1.1", "none"),
        ],
    );
}

#[test]
fn the_first_matching_line_wins_and_comments_are_ignored() {
    let text = "# all\n\n \t\nlocal db admin reject # not admins\nlocal db all trust\n";
    expect(text, &[("db admin unix", "reject"), ("db u unix", "trust"), ("other u unix", "none")]);
}

#[test]
fn lists_have_names_keywords_and_quoted_words() {
    let text = "local a,b , c u1, u2 trust\nlocal sameuser all md5\nlocal \"all\" \"all\" password\n\
                local \"q\"\"1\" \"a, b\" reject\n";
    expect(
        text,
        &[
            ("a u1 unix", "trust"),
            ("c u2 unix", "trust"),
            ("c u3 unix", "none"),
            ("u3 u3 unix", "md5"),
            ("all all unix", "md5"),
            ("all x unix", "none"),
        ],
    );
    let rules = read(text);
    let odd = HbaClient {
        address: None,
        is_encrypted: false,
        is_replication: false,
        database: "q\"1",
        user: "a, b",
    };
    assert_eq!(rules.find(&odd).unwrap().method, HbaMethod::Reject);
    assert_eq!(rules.find(&odd).unwrap().line, 4);
}

#[test]
fn physical_replication_needs_its_keyword() {
    let text = "host replication repl all trust\nhost db,replication both all trust\nhost all all all md5\n";
    expect(
        text,
        &[
            ("db repl 1.2.3.4 replication", "trust"),
            ("replication repl 1.2.3.4", "md5"),
            ("db both 1.2.3.4", "trust"),
            ("db both 1.2.3.4 replication", "trust"),
            ("db u 1.2.3.4 replication", "none"),
        ],
    );
}

#[test]
fn names_are_read_from_files() {
    let text = "local @dbs all trust\nlocal x,@dbs u md5\n";
    for name in ["one", "two", "three", "four", "five"] {
        expect(text, &[(&format!("{name} u unix"), "trust")]);
    }
    expect(text, &[("x u unix", "md5"), ("six u unix", "none")]);
}

#[test]
fn addresses_are_matched_with_their_mask() {
    let text = "host all all 127.0.0.0 255.255.255.0 trust\nhost all all 199.199.199.199/32 md5\n\
                host all all 128.0.0.0/2 password\nhost all all ff11::/16 reject\n\
                host all all fe80:: ffc0:: trust\nhost d all 0.0.0.0/0 md5\nhost e all ::/0 md5\nhost f all all md5\n";
    expect(
        text,
        &[
            ("db u 127.0.0.9", "trust"),
            ("db u 127.0.1.9", "none"),
            ("db u 199.199.199.199", "md5"),
            ("db u 199.199.199.198", "none"),
            ("db u 191.1.1.1", "password"),
            ("db u ff11:2::1", "reject"),
            ("db u ff12::1", "none"),
            ("db u febf::1", "trust"),
            ("db u ::ffff:127.0.0.9", "trust"),
            ("d u 9.9.9.9", "md5"),
            ("d u ::ffff:9.9.9.9", "md5"),
            ("d u 9::9", "none"),
            ("e u 9::9", "md5"),
            ("e u 9.9.9.9", "none"),
            ("e u ::ffff:9.9.9.9", "none"),
            ("f u 9::9", "md5"),
            ("f u 9.9.9.9", "md5"),
        ],
    );
}

#[test]
fn samehost_is_an_address_of_this_host_and_samenet_one_in_its_networks() {
    expect(
        "host h all samehost trust\nhost n all samenet md5\nhostssl s all samehost password\n",
        &[
            ("h u 10.1.2.3", "trust"),
            ("h u ::ffff:10.1.2.3", "trust"),
            ("h u fd00::3", "trust"),
            ("h u 10.1.2.4", "none"),
            ("h u fd00::4", "none"),
            ("n u 10.1.2.3", "md5"),
            ("n u 10.1.9.9", "md5"),
            ("n u fd00::99", "md5"),
            ("n u 10.2.2.3", "none"),
            ("n u fd00:0:0:1::3", "none"),
            ("n u unix", "none"),
            ("s u 10.1.2.3 tls", "password"),
            ("s u 10.1.2.3", "none"),
        ],
    );
}

#[test]
fn a_line_is_skipped_if_the_addresses_of_this_host_cannot_be_read() {
    let text = "host all all samenet trust\nhost all all all reject\n";
    let (load, interfaces) = (|_: &Path| Err(String::new()), || Err("no memory".to_owned()));
    let ident = IdentMap::default();
    let rules = HbaFile { path: "h", text, ident: &ident, load: &load, interfaces: &interfaces }.rules();
    let [warning] = rules.warnings() else { panic!("{:?}", rules.warnings()) };
    assert!(warning.contains("hba line 1: cannot read this host's addresses: no memory"), "{warning}");
    assert_eq!(method(&rules, "db u 10.1.2.3"), "reject");
}

#[test]
fn maps_must_exist() {
    let rules = read("local all all peer map=people\nhostssl all all all cert map=others\nlocal a a peer\n");
    assert!(rules.warnings().is_empty(), "{:?}", rules.warnings());
    let maps: Vec<_> = rules.rules.iter().map(|rule| rule.method.clone()).collect();
    let expected = [
        HbaMethod::Peer { map: Some("people".into()) },
        HbaMethod::Cert { map: Some("others".into()) },
        HbaMethod::Peer { map: None },
    ];
    assert_eq!(maps, expected);
    assert!(read("local all all peer map=none").warnings()[0].contains("Ident map none is not found"));
}

#[test]
fn the_rest_of_an_ldap_line_is_its_options() {
    let rules = read(
        "host all all all ldap ldapserver=h ldapprefix=\"uid=\" ldapsuffix=\",dc=x\" # comment\n\
                      host all all all ldap ldapserver=h ldapbindpasswd=hunter2\n",
    );
    let [warning] = rules.warnings() else { panic!("{:?}", rules.warnings()) };
    assert!(warning.contains("hba line 2: ldapbasedn") && !warning.contains("hunter2"), "{warning}");
    let options: Vec<_> = rules.ldap_options().collect();
    assert_eq!(options.len(), 1);
    assert_eq!(options[0].servers, ["h"]);
}

#[test]
fn rules_for_server_without_tls_are_reported() {
    let text = "hostssl all all all server\nhostnossl all all all server\nlocal all all server\n";
    let warnings = |has_tls: bool| {
        let mut rules = read(text);
        rules.warn_of_server_passwords(has_tls);
        rules.warnings().len()
    };
    assert_eq!((warnings(true), warnings(false)), (1, 3));
}

#[test]
fn faulty_lines_are_skipped_with_file_and_line() {
    let faults = [
        ("locl all all trust", "unknown type"),
        ("\"local\" all all trust", "unknown type"),
        ("local", "a name is missing"),
        ("local all", "a name is missing"),
        ("local all, all trust", "the method is missing"),
        ("local samerole all trust", "samerole is not supported"),
        ("local +staff all trust", "groups"),
        ("local @absent all trust", "cannot read names from /etc/p/absent"),
        ("local @loop all trust", "nested"),
        ("local all all", "the method is missing"),
        #[cfg(not(feature = "pam"))]
        ("local all all pam", "unsupported method: pam (needs a build with the feature \"pam\")"),
        ("local all all kerberos", "unsupported method: kerberos"),
        ("local all all trust and more", "is malformed"),
        ("local all all peer map=people x", "unsupported parameters"),
        ("local all all peer map=people,", "unsupported parameters"),
        ("local \"all all trust", "unterminated"),
        ("host all all trust", "failed to parse address - trust"),
        ("host all all", "did not find address"),
        ("host all all samehost", "the method is missing"),
        ("host all all samehost 255.0.0.0 trust", "is malformed"),
        ("host all all \"samenet\" trust", "did not find address"),
        ("host all all db.example.com trust", "failed to parse address - db.example.com"),
        ("host all all \"all\" trust", "did not find address"),
        ("host all all 10.0.0.1 trust", "failed to parse mask"),
        ("host all all 10.0.0.1", "did not find mask"),
        ("host all all 10.0.0.0/33 trust", "invalid mask"),
        ("host all all 10.0.0.0/ trust", "invalid mask"),
        ("host all all 10.0.0.0/+8 trust", "invalid mask"),
        ("host all all ::/129 trust", "invalid mask"),
        ("host all all 10.0.0.0 ffff:: trust", "failed to parse mask"),
    ];
    for (line, reason) in faults {
        let rules = read(&format!("local x x reject\n{line}\nlocal all all md5\n"));
        let [warning] = rules.warnings() else { panic!("{line}: {:?}", rules.warnings()) };
        assert!(warning.starts_with("/etc/p/hba.conf: hba line 2: "), "{warning}");
        assert!(warning.contains(reason), "{line}: {warning}");
        assert!(warning.ends_with("could not parse hba config line 2"), "{warning}");
        assert_eq!((method(&rules, "x x unix"), method(&rules, "a a unix")), ("reject".into(), "md5".into()));
    }
}

#[test]
fn an_address_with_bits_outside_its_mask_matches_nothing() {
    let rules = read("host all all 192.168.1.1/0 trust\nhost all all ::1/0 trust\n");
    assert_eq!(rules.warnings().len(), 2);
    assert!(rules.warnings()[0].contains("address does not match mask: 192.168.1.1 / 0.0.0.0"));
    assert_eq!(method(&rules, "db u 192.168.1.1"), "none");
    assert_eq!(method(&rules, "db u ::1"), "none");
}

proptest! {
    #[test]
    fn no_text_panics(text in "\\PC{0,200}") {
        read(&text);
    }

    #[test]
    fn no_combination_of_words_panics(
        words in proptest::collection::vec(
            "local|host|hostssl|all|sameuser|replication|@dbs|@loop|10\\.0\\.0\\.0/8|::1|/|map=people|\
             map=|peer|cert|md5|trust|\"|,|#|\n|\"a b\"|255\\.0\\.0\\.0|[a-z]{1,3}",
            0..30,
        ),
    ) {
        let rules = read(&words.join(" "));
        for client in ["a b 10.0.0.1", "a b unix", "a a ::1 tls replication"] {
            method(&rules, client);
        }
    }

    #[test]
    fn a_mask_length_selects_the_same_addresses_as_comparing_bits(
        address in any::<u32>(), other in any::<u32>(), bits in 0u32..=32,
    ) {
        let mask = if bits == 0 { 0 } else { u32::MAX << (32 - bits) };
        let network = std::net::Ipv4Addr::from_bits(address & mask);
        let rules = read(&format!("host all all {network}/{bits} trust\n"));
        let client = format!("d u {}", std::net::Ipv4Addr::from_bits(other));
        let expected = if (other ^ address) & mask == 0 { "trust" } else { "none" };
        prop_assert_eq!(method(&rules, &client), expected);
    }
}
