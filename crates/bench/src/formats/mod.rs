//! The configuration of each program, in its own format. Owns the common parameters: the requirements of a
//! row, and addresses and paths; each format has its own file. Never writes to disk.
//!
//! All contenders get the same pool, TLS and limits. What a format cannot express keeps the program's
//! default.

mod haproxy;
mod ini;
mod mutex_pool;
mod odyssey;
mod pg_doorman;
mod pgcat;
mod pgdog;

use std::path::Path;

use crate::certs::KeyKind;
use crate::contenders::Contender;

/// Enough for the idle clients of the memory rows, and for those of a login storm.
pub(crate) const MAX_CLIENTS: u32 = 21_000;

/// The configuration parameters that differ between rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ini {
    /// `pool_mode`: transaction or session.
    pub(crate) pool_mode: &'static str,
    /// `default_pool_size`.
    pub(crate) pool_size: u32,
    /// TLS with full verification to the server.
    pub(crate) server_tls: bool,
    /// TLS required from clients.
    pub(crate) client_tls: bool,
    /// The certificate for clients. Only readers of the INI file have a choice; the others use RSA.
    pub(crate) client_key: KeyKind,
    /// SCRAM-SHA-256 for clients instead of trust, for readers of the INI file.
    pub(crate) scram: bool,
    /// `listen_backlog`, if not the default, for readers of the INI file.
    pub(crate) listen_backlog: Option<u32>,
    /// `max_prepared_statements`, if both readers of the INI file accept the setting.
    pub(crate) max_prepared: Option<u32>,
    /// `workers` of iambouncer, if not one.
    pub(crate) workers: Option<u32>,
}

impl Ini {
    /// True if only a reader of the INI file can be configured so.
    pub(crate) fn needs_ini_reader(&self) -> bool {
        self.scram || self.client_key != KeyKind::Rsa
    }
}

/// Addresses and paths.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Site<'a> {
    /// Directory of certificates and users.
    pub(crate) dir: &'a Path,
    /// PostgreSQL's port on 127.0.0.1.
    pub(crate) postgres_port: u16,
    /// Port to listen on at 127.0.0.1.
    pub(crate) listen_port: u16,
}

/// A program's configuration.
#[derive(Debug)]
pub(crate) struct ContenderConfig {
    /// Names and texts of the files.
    pub(crate) files: Vec<(String, String)>,
    /// The command line, without the program.
    pub(crate) args: Vec<String>,
}

/// The configuration of `contender`; `None` if it is not a program.
pub(crate) fn config(contender: Contender, ini: &Ini, site: &Site<'_>) -> Option<ContenderConfig> {
    let file = |ending: &str| format!("{}.{ending}", contender.file());
    let path = |name: &str| site.dir.join(name).display().to_string();
    let one = |name: String, text: String, options: &[&str]| {
        let args = options.iter().map(|&option| option.to_owned()).chain([path(&name)]).collect();
        Some(ContenderConfig { files: vec![(name, text)], args })
    };
    match contender {
        Contender::Direct => None,
        Contender::MutexPool => {
            Some(ContenderConfig { files: Vec::new(), args: mutex_pool::args(ini, site) })
        }
        Contender::PgBouncer => one(file("ini"), ini.text(site, None), &[]),
        Contender::Iambouncer => one(file("ini"), ini.text(site, Some("auto")), &[]),
        Contender::Epoll => one(file("ini"), ini.text(site, Some("epoll")), &[]),
        Contender::HaProxy => one(file("cfg"), haproxy::text(site), &["-db", "-f"]),
        Contender::PgCat => one(file("toml"), pgcat::text(ini, site), &[]),
        Contender::PgDoorman => one(file("toml"), pg_doorman::text(ini, site), &[]),
        Contender::Odyssey => one(file("conf"), odyssey::text(ini, site), &[]),
        Contender::PgDog => {
            let (general, users) = (file("toml"), file("users.toml"));
            let args = vec!["--config".to_owned(), path(&general), "--users".to_owned(), path(&users)];
            Some(ContenderConfig {
                files: vec![(general, pgdog::text(ini, site)), (users, pgdog::users())],
                args,
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contenders::ContenderKind;

    fn site() -> Site<'static> {
        Site { dir: Path::new("/d"), postgres_port: 5001, listen_port: 6001 }
    }

    const INI: Ini = Ini {
        pool_mode: "transaction",
        pool_size: 23,
        server_tls: true,
        client_tls: true,
        client_key: KeyKind::Rsa,
        scram: false,
        listen_backlog: None,
        max_prepared: None,
        workers: None,
    };

    fn text(contender: Contender, ini: &Ini, site: &Site<'_>) -> String {
        let files = config(contender, ini, site).map_or_else(Vec::new, |config| config.files);
        files.into_iter().map(|(_, text)| text).collect()
    }

    #[test]
    fn ini_files_differ_only_in_port_and_settings_of_iambouncer() {
        let iambouncer_ini = text(Contender::Iambouncer, &INI, &site());
        let pgbouncer_ini = text(Contender::PgBouncer, &INI, &Site { listen_port: 6002, ..site() });
        let common = iambouncer_ini.replace("io_engine = auto\nhttp_port = 0\ncore_dumps = 1\n", "");
        assert_eq!(common.replace("listen_port = 6001", "listen_port = 6002"), pgbouncer_ini);
        let epoll = text(Contender::Epoll, &INI, &site());
        assert_eq!(epoll.replace("io_engine = epoll", "io_engine = auto"), iambouncer_ini);
    }

    #[test]
    fn an_ini_file_asks_for_scram_and_for_the_certificate_of_the_row() {
        let ini = Ini { scram: true, client_key: KeyKind::Ecdsa, listen_backlog: Some(7), ..INI };
        let text = text(Contender::PgBouncer, &ini, &site());
        for word in [
            "auth_type = scram-sha-256\n",
            "/d/pooler-ecdsa.crt\n",
            "/d/pooler-ecdsa.key\n",
            "listen_backlog = 7\n",
        ] {
            assert!(text.contains(word), "no {word} in {text}");
        }
    }

    #[test]
    fn every_configuration_contains_ports_and_pool() {
        for contender in Contender::ALL.into_iter().filter(|&one| one != Contender::Direct) {
            let args = config(contender, &INI, &site()).map_or_else(Vec::new, |config| config.args);
            let text = text(contender, &INI, &site()) + &args.join(" ");
            let pool = contender != Contender::HaProxy;
            let mode = pool && !contender.is_spike();
            for (word, is_expected) in [("5001", true), ("6001", true), ("23", pool), ("transaction", mode)] {
                assert!(!is_expected || text.contains(word), "{}: no {word} in {text}", contender.name());
            }
        }
    }

    #[test]
    fn every_pooler_is_configured_for_tls() {
        let poolers =
            Contender::ALL.into_iter().filter(|one| one.kind() == ContenderKind::Pooler && !one.is_spike());
        for contender in poolers {
            let with = text(contender, &INI, &site());
            let without = text(contender, &Ini { server_tls: false, client_tls: false, ..INI }, &site());
            let verifies = contender.verifies_servers();
            for (word, is_expected) in
                [("/d/ca.pem", verifies), ("/d/pooler.crt", true), ("/d/pooler.key", true)]
            {
                assert_eq!(with.contains(word), is_expected, "{}: {word}", contender.name());
                assert!(!without.contains(word), "{}: {word}", contender.name());
            }
        }
    }
}
