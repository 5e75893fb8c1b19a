//! Detects whether a host of a database line is an address that the pooler itself listens on. Owns the comparison of
//! addresses as far as it needs no DNS: addresses of names are compared when a connection is made.

use super::build::{CONSOLE_DATABASE, ValuePlaces};
use super::diagnostics::Diagnostic;
use super::model::Database;
use super::settings_table::Settings;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};

/// True if connections to `host` at `listen_port` reach a listener of the pooler.
fn is_own(host: &str, settings: &Settings) -> bool {
    let remotes = addresses(host).map(destination);
    settings.listen_addresses().any(|listen| {
        listen.eq_ignore_ascii_case(host)
            || remotes.iter().flatten().any(|remote| is_covered(*remote, listen, is_local))
    })
}

/// True if connections from other hosts reach no listener.
pub(super) fn is_loopback_only(settings: &Settings) -> bool {
    let is_loopback = |listen: &str| {
        let mut known = addresses(listen).into_iter().flatten().peekable();
        known.peek().is_some() && known.all(|address| address.is_loopback())
    };
    settings.listen_addresses().all(is_loopback)
}

/// True if a listener accepts connections to an address.
fn is_covered(remote: IpAddr, listen: &str, is_local: impl Fn(IpAddr) -> bool) -> bool {
    // How listeners are bound: `*` is any IPv4 address if there is no IPv6, else any address, like `::`.
    if listen == "*" {
        return is_local(remote);
    }
    addresses(listen).iter().flatten().any(|own| match own {
        IpAddr::V4(own) if own.is_unspecified() => remote.is_ipv4() && is_local(remote),
        IpAddr::V6(own) if own.is_unspecified() => is_local(remote),
        own => own.to_canonical() == remote,
    })
}

/// The address if the text is one, or those of `localhost`.
fn addresses(text: &str) -> [Option<IpAddr>; 2] {
    if text.eq_ignore_ascii_case("localhost") {
        return [Some(Ipv4Addr::LOCALHOST.into()), Some(Ipv6Addr::LOCALHOST.into())];
    }
    [text.trim_matches(['[', ']']).parse().ok(), None]
}

/// The destination of a connection: the wildcard address is the host itself.
fn destination(address: Option<IpAddr>) -> Option<IpAddr> {
    address.map(|address| match address {
        IpAddr::V4(address) if address.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(address) if address.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        other => other.to_canonical(),
    })
}

/// True for addresses of this host. Queries the routing table, without sending anything: both ends of a local connection
/// have the same address.
pub fn is_local(address: IpAddr) -> bool {
    if address.is_loopback() {
        return true;
    }
    let any: IpAddr = match address {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let local = UdpSocket::bind((any, 0)).and_then(|socket| {
        // Any port is fine, since nothing is sent.
        socket.connect((address, 9))?;
        socket.local_addr()
    });
    local.is_ok_and(|local| local.ip() == address)
}

/// PgBouncer starts with such a line; its logins are refused. Without a file, the line is the only one.
pub(super) fn check(
    database: &Database,
    settings: &Settings,
    places: &ValuePlaces,
    found: &mut Vec<Diagnostic>,
) {
    let name = &database.name;
    let own = database.host.iter().filter_map(|host| host.tcp()).find(|host| is_own(host, settings));
    let Some(host) = own.filter(|_| settings.listen_port.contains(database.port)) else { return };
    if database.server_dbname(name) == CONSOLE_DATABASE {
        return;
    }
    let text = format!("database \"{name}\" points to the pooler's own listener, {host}:{}", database.port);
    let place = places.database(name, "host");
    let diagnostic = if place.is_some() { Diagnostic::warning(text) } else { Diagnostic::error(text) };
    found.push(diagnostic.at(place).help("use the address of the server, or listen on another port"));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// True if a line with this host and the pooler's port is refused.
    fn refused(listen: &str, host: &str) -> bool {
        let settings = Settings { listen_addr: listen.to_owned(), ..Settings::default() };
        is_own(host, &settings)
    }

    #[test]
    fn another_address_on_the_same_port_is_not_the_own_listener() {
        for (listen, host) in [
            ("127.0.0.1", "127.0.0.2"),
            ("127.0.0.2", "localhost"),
            ("127.0.0.1", "::1"),
            ("0.0.0.0", "::1"),
            ("10.0.0.5", "127.0.0.1"),
            ("10.0.0.5", "localhost"),
            ("*", "192.0.2.1"),
            ("127.0.0.1", "db"),
        ] {
            assert!(!refused(listen, host), "{listen} {host}");
        }
    }

    #[test]
    fn the_own_listener_is_detected_in_any_spelling() {
        for (listen, host) in [
            ("127.0.0.1", "localhost"),
            ("localhost", "127.0.0.1"),
            ("::1", "LOCALHOST"),
            ("::1", "[::1]"),
            ("::1", "0:0:0:0:0:0:0:1"),
            ("127.0.0.1", "::ffff:127.0.0.1"),
            ("127.0.0.1", "0.0.0.0"),
            ("*", "127.0.0.9"),
            ("0.0.0.0", "127.0.0.9"),
            ("::", "127.0.0.1"),
            ("10.0.0.5, 10.0.0.6", "10.0.0.6"),
            ("pooler.internal", "pooler.internal"),
        ] {
            assert!(refused(listen, host), "{listen} {host}");
        }
    }

    #[test]
    fn a_wildcard_listener_covers_every_local_address() {
        let mine: IpAddr = "10.0.0.5".parse().unwrap();
        let is_mine = |address| address == mine;
        for listen in ["*", "0.0.0.0", "::"] {
            assert!(is_covered(mine, listen, is_mine), "{listen}");
            assert!(!is_covered("10.0.0.6".parse().unwrap(), listen, is_mine), "{listen}");
        }
    }
}
