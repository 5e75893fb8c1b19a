//! The sockets that clients connect to. Owns which are bound: those that the service manager opened, or those of the
//! settings.

use crate::accounts;
use crate::config::Settings;
use crate::net::Endpoint;
use crate::net::listener::{self, BindError, BoundListener, PortUse, UnixAccess};
use crate::net::tcp_options::TcpOptions;
use crate::service_manager::{self, InheritedListener};
use anyhow::Context as _;
use std::collections::BTreeSet;

/// The sockets that the service manager opened, which replace all configured ones, as in PgBouncer; `None` if there are
/// none.
///
/// # Errors
/// It opened a socket that is of no use.
pub(super) fn inherited(settings: &Settings) -> anyhow::Result<Option<Vec<BoundListener>>> {
    let listeners = service_manager::listeners().context("socket activation")?;
    if listeners.is_empty() {
        return Ok(None);
    }
    let mut bound = Vec::new();
    for listener in listeners {
        bound.push(match listener {
            InheritedListener::Tcp(tcp) => BoundListener::from_tcp(tcp, TcpOptions::of(settings))?,
            InheritedListener::Unix(unix) => BoundListener::from_unix(unix)?,
        });
    }
    Ok(Some(bound))
}

/// Binds `listen_addr` and `listen_port`.
///
/// # Errors
/// An address cannot be bound.
pub(super) fn bind_tcp(settings: &Settings) -> anyhow::Result<Vec<BoundListener>> {
    let hosts: Vec<String> = settings.listen_addresses().map(str::to_owned).collect();
    let (backlog, options) = (settings.listen_backlog, TcpOptions::of(settings));
    let mut bound = Vec::new();
    for port in settings.listen_port.iter() {
        let port_use = PortUse::of(settings.so_reuseport);
        bound.extend(listener::bind_tcp(&hosts, port, backlog, options, port_use)?);
    }
    Ok(bound)
}

/// Whether the pooler starts without a UNIX socket that cannot be bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum UnixSocketNeed {
    /// A directory that the file names.
    Required,
    /// A default: a container may have no directory that can be written to.
    Optional,
}

/// Adds the UNIX sockets in `unix_socket_dir`, one per port.
///
/// # Errors
/// One that is required cannot be bound, or there is no socket at all.
pub(super) fn with_unix(
    mut bound: Vec<BoundListener>,
    settings: &Settings,
    need: UnixSocketNeed,
) -> anyhow::Result<Vec<BoundListener>> {
    match bind_unix(&bound, settings) {
        Ok(unix) => bound.extend(unix),
        Err(error) if need == UnixSocketNeed::Optional && !bound.is_empty() && is_out_of_reach(&error) => {
            tracing::warn!("no UNIX socket, so `iambouncer status` and the like cannot be used: {error:#}");
        }
        Err(error) => return Err(error),
    }
    anyhow::ensure!(!bound.is_empty(), "nothing to listen on: set listen_addr or unix_socket_dir");
    Ok(bound)
}

/// True if the directory cannot be used, or another process has the abstract socket. Other errors are those of settings.
fn is_out_of_reach(error: &anyhow::Error) -> bool {
    use std::io::ErrorKind::{AddrInUse, NotFound, PermissionDenied, ReadOnlyFilesystem};
    let kind = error.downcast_ref::<BindError>().map(|error| error.reason.kind());
    matches!(kind, Some(NotFound | PermissionDenied | ReadOnlyFilesystem | AddrInUse))
}

fn bind_unix(bound: &[BoundListener], settings: &Settings) -> anyhow::Result<Vec<BoundListener>> {
    let mut unix = Vec::new();
    if !settings.unix_socket_dir.is_empty() {
        let group = match settings.unix_socket_group.as_str() {
            "" => None,
            name => {
                let missing = || format!("unix_socket_group = {name}: there is no such group");
                Some(accounts::group(name).with_context(missing)?)
            }
        };
        for port in unix_ports(bound, settings) {
            let mode = settings.unix_socket_mode.0;
            let access = UnixAccess { mode, group, port_use: PortUse::of(settings.so_reuseport) };
            let backlog = settings.listen_backlog;
            unix.push(listener::bind_unix(&settings.unix_socket_dir, port, access, backlog)?);
        }
    }
    Ok(unix)
}

/// The numbers in the names of the UNIX sockets: for port 0, the one that the kernel has chosen.
fn unix_ports(bound: &[BoundListener], settings: &Settings) -> Vec<u16> {
    let of_tcp: BTreeSet<u16> = bound
        .iter()
        .filter_map(|bound| match &bound.endpoint {
            Endpoint::Tcp(addr) => Some(addr.port()),
            Endpoint::Unix(_) => None,
        })
        .collect();
    if of_tcp.is_empty() { settings.listen_port.iter().collect() } else { of_tcp.into_iter().collect() }
}

/// Binds all sockets of the settings.
///
/// # Errors
/// As [`bind_tcp`] and [`with_unix`].
pub(super) fn bind(settings: &Settings) -> anyhow::Result<Vec<BoundListener>> {
    with_unix(bind_tcp(settings)?, settings, UnixSocketNeed::Required)
}
