//! The control API of a running simulator, for scripts: a few URLs on loopback.
//!
//! Owns: those URLs. Never: is reachable from another machine; it listens on loopback addresses only.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::fault_injection::FaultSettings;
use crate::http::{HttpRequest, HttpServer, Reply};
use crate::simulator::Simulator;
use crate::time::unix_seconds;

/// Maximum delay that can be set, in milliseconds.
const MAX_DELAY_MILLISECONDS: u64 = 600_000;

/// A listening control API; dropping it closes it.
#[derive(Debug)]
pub struct ControlServer {
    server: HttpServer,
}

impl ControlServer {
    /// Starts it. The README of the crate lists the URLs.
    pub async fn start(simulator: &Simulator, listen: SocketAddr) -> io::Result<Self> {
        if !listen.ip().is_loopback() {
            let reason = "the control endpoint listens on loopback only";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
        }
        let simulator = simulator.clone();
        let handler = move |request: &HttpRequest| answer(&simulator, request);
        Ok(Self { server: HttpServer::start(listen, Arc::new(handler)).await? })
    }

    /// The address it listens on.
    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }
}

fn answer(simulator: &Simulator, request: &HttpRequest) -> Reply {
    match (request.method.as_str(), request.path.as_str()) {
        ("GET", "/clock") => clock(simulator),
        ("POST", "/clock") => match request.query.get("advance").and_then(|text| text.parse().ok()) {
            Some(seconds) => {
                simulator.clock().advance(seconds);
                clock(simulator)
            }
            None => Reply::text(400, "advance=SECONDS is missing\n"),
        },
        ("GET", "/log") => log(simulator),
        ("DELETE", "/log") => {
            simulator.log().clear();
            Reply::text(200, "ok\n")
        }
        ("POST", "/cut") => {
            simulator.faults().cut_now();
            Reply::text(200, "ok\n")
        }
        ("POST", "/expire") => {
            let until = unix_seconds(simulator.clock().now());
            simulator.faults().set(|settings| settings.expire_signed_until = Some(until));
            Reply::text(200, "ok\n")
        }
        ("POST", "/revoke") => match request.query.get("key") {
            Some(access_key_id) => {
                simulator.keys().revoke(access_key_id);
                Reply::text(200, "ok\n")
            }
            None => Reply::text(400, "key=ACCESS_KEY_ID is missing\n"),
        },
        ("POST", "/fault") => fault(simulator, request),
        _ => Reply::text(404, "not found\n"),
    }
}

fn clock(simulator: &Simulator) -> Reply {
    let clock = simulator.clock();
    let (offset_seconds, now) = (clock.offset_seconds(), unix_seconds(clock.now()));
    Reply::json(serde_json::json!({ "offset_seconds": offset_seconds, "now": now }).to_string())
}

fn log(simulator: &Simulator) -> Reply {
    let (accepted, refused) = simulator.log().accepted_and_refused();
    let attempts = simulator.log().attempts();
    Reply::json(
        serde_json::json!({ "accepted": accepted, "refused": refused, "attempts": attempts }).to_string(),
    )
}

/// All parameters are parsed before any is applied, so that a mistake changes nothing.
fn fault(simulator: &Simulator, request: &HttpRequest) -> Reply {
    let mut settings = simulator.faults().settings();
    for (name, value) in &request.query {
        if change(&mut settings, name, value).is_none() {
            return Reply::text(400, format!("{name}={value} is not valid\n"));
        }
    }
    simulator.faults().set(|current| *current = settings);
    Reply::text(200, "ok\n")
}

fn change(settings: &mut FaultSettings, name: &str, value: &str) -> Option<()> {
    let optional = |value: &str| -> Option<Option<u64>> {
        if value == "off" { Some(None) } else { value.parse().ok().map(Some) }
    };
    match name {
        "clear" => *settings = FaultSettings::default(),
        "throttle" => {
            settings.max_logins_per_second = match optional(value)? {
                None => None,
                Some(limit) => Some(u32::try_from(limit).ok()?),
            };
        }
        "delay_ms" => {
            let milliseconds: u64 = value.parse().ok()?;
            settings.login_delay = Duration::from_millis(milliseconds.min(MAX_DELAY_MILLISECONDS));
        }
        "refuse_next" => settings.refuse_next = value.parse().ok()?,
        "time_out_next" => settings.time_out_next = value.parse().ok()?,
        "drop_next" => settings.drop_next = value.parse().ok()?,
        "cut_after_bytes" => settings.cut_after_bytes = optional(value)?,
        "stall" => settings.stall = value.parse().ok()?,
        _ => return None,
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_set_by_name() {
        let mut settings = FaultSettings::default();
        for (name, value) in [("throttle", "5"), ("delay_ms", "20"), ("refuse_next", "1"), ("stall", "true")]
        {
            assert!(change(&mut settings, name, value).is_some(), "{name}");
        }
        assert_eq!(settings.max_logins_per_second, Some(5));
        assert_eq!(settings.login_delay, Duration::from_millis(20));
        assert!(
            change(&mut settings, "throttle", "off").is_some() && settings.max_logins_per_second.is_none()
        );
        assert!(change(&mut settings, "thottle", "5").is_none());
        assert!(change(&mut settings, "stall", "yes").is_none());
        assert!(change(&mut settings, "clear", "1").is_some() && settings.refuse_next == 0);
    }
}
