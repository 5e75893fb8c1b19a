//! Zero-config mode: one server, determined from an endpoint, flags and commonly used variables.
//!
//! Owns the precedence of variables and the defaults of this mode. Never derives a region from a host name, which the
//! IAM library does.

use super::build::{ValuePlaces, ignored_settings};
use super::check::check;
use super::diagnostics::Diagnostic;
use super::enums::{AuthType, ServerAuth};
use super::environment::{
    self, ConnectionValue, Environment, overlay, overlay_aliases, overlay_flags, record,
};
use super::model::{Config, Database, Host, Origin};
use super::secret::Secret;
use super::settings_table::Settings;
use super::value::SettingValue;
use rds_iam::secrets::SecretArn;

/// Default of `unix_socket_dir` in this mode: abstract, so that the console needs no writable directory.
pub const MODE_SOCKET_DIR: &str = "@iambouncer";

/// Defaults of settings in this mode.
const MODE_DEFAULTS: [(&str, &str); 11] = [
    ("listen_addr", "127.0.0.1"),
    ("listen_port", "6432"),
    ("unix_socket_dir", MODE_SOCKET_DIR),
    ("auth_type", "any"),
    ("pool_mode", "transaction"),
    ("session_state", "follow"),
    ("workers", "1"),
    ("server_tls_sslmode", "verify-full"),
    ("server_unreachable_timeout", "60"),
    // JDBC, lib/pq and sqlx send it.
    ("ignore_startup_parameters", "extra_float_digits"),
    // Below the 30 seconds after which Kubernetes kills a container.
    ("drain_max_seconds", "25"),
];
const MODE_DEFAULT: &str = "default without a file";
const MASK: &str = "***";
const DEFAULT_PORT: u16 = 5432;

/// Command-line flags, all optional.
#[derive(Clone, Debug, Default)]
pub struct ZeroConfigFlags {
    /// User on the server.
    pub user: Option<String>,
    /// Database on the server.
    pub database: Option<String>,
    /// Port of the server.
    pub port: Option<u16>,
    /// Region to sign tokens for.
    pub region: Option<String>,
    /// How to log in.
    pub server_auth: Option<ServerAuth>,
    /// Host to sign tokens for.
    pub iam_host: Option<String>,
    /// Port to sign tokens for.
    pub iam_port: Option<u16>,
    /// Secret with user and password.
    pub secret_arn: Option<String>,
    /// Profile whose credentials sign tokens.
    pub aws_profile: Option<String>,
    /// Role to assume.
    pub aws_role_arn: Option<String>,
    /// External ID of that role.
    pub aws_external_id: Option<String>,
    /// Session name of that role.
    pub aws_role_session_name: Option<String>,
    /// Address to listen on.
    pub listen_addr: Option<String>,
    /// Port to listen on.
    pub listen_port: Option<String>,
    /// Any other settings, as name and value.
    pub settings: Vec<(String, String)>,
}

/// A resolved configuration and the sources of its values.
#[derive(Clone, Debug)]
pub struct ZeroConfigResult {
    /// The configuration; its `origins` are the same as below.
    pub config: Config,
    /// The source of each value.
    pub origins: Vec<Origin>,
    /// Warnings.
    pub warnings: Vec<Diagnostic>,
}

/// Resolves a configuration from an endpoint (`host`, `host:port`, an IPv6 address), flags and variables. The error
/// lists everything that is missing or invalid.
pub fn zero_config(
    endpoint: Option<&str>,
    flags: &ZeroConfigFlags,
    environment: &dyn Environment,
) -> Result<ZeroConfigResult, Vec<Diagnostic>> {
    let mut resolver = ZeroConfigResolver { environment, origins: Vec::new(), found: Vec::new() };
    let database = resolver.connection(endpoint, flags);
    let settings = resolver.settings(flags);
    let ZeroConfigResolver { origins, mut found, .. } = resolver;
    let mut config = Config { settings, origins: origins.clone(), ..Config::default() };
    if let Some(database) = database {
        if let Some(name) = &database.dbname {
            config.databases.insert(name.clone(), Database { name: name.clone(), ..database.clone() });
        }
        config.fallback = Some(database);
        found.extend(check(&config, &ValuePlaces::default()));
    }
    found.extend(ignored_settings(&config));
    found.extend(warn_if_open(&config.settings));
    // The named line and the fallback are the same server: report its problems once.
    let mut seen = Vec::new();
    found.retain(|diagnostic| {
        let text = config.databases.keys().fold(diagnostic.message.clone(), |text, name| {
            text.replace(&format!("database \"{name}\""), "database \"*\"")
        });
        let is_new = !seen.contains(&text);
        seen.push(text);
        is_new
    });
    if found.iter().any(Diagnostic::is_error) {
        Err(found)
    } else {
        Ok(ZeroConfigResult { config, origins, warnings: found })
    }
}

struct ZeroConfigResolver<'a> {
    environment: &'a dyn Environment,
    origins: Vec<Origin>,
    found: Vec<Diagnostic>,
}

impl ZeroConfigResolver<'_> {
    /// The server, or `None` if host or user is missing or invalid.
    fn connection(&mut self, endpoint: Option<&str>, flags: &ZeroConfigFlags) -> Option<Database> {
        let host = self.host(endpoint, flags.port);
        let secret_arn = self.secret_arn(flags.secret_arn.clone());
        let user = self.pick(&environment::USER, flags.user.clone());
        let user = user.or_else(|| secret_arn.as_ref().map(|arn| arn.name().to_owned()));
        if user.is_none() {
            self.missing("user", &environment::USER);
        }
        let dbname = self.pick(&environment::DATABASE, flags.database.clone());
        let server_auth = self.server_auth(flags.server_auth, secret_arn.is_some());
        let password = if secret_arn.is_some() { None } else { self.password(server_auth) };
        let iam_host = self.pick(&environment::IAM_HOST, flags.iam_host.clone());
        let iam_port = self.port(&environment::IAM_PORT, flags.iam_port);
        let is_iam = server_auth == ServerAuth::Iam;
        let iam_region = self.pick(&environment::IAM_REGION, flags.region.clone()).filter(|_| is_iam);
        let wants_fallback = is_iam && iam_region.is_none();
        let iam_region_fallback =
            if wants_fallback { self.pick(&environment::REGION_FALLBACK, None) } else { None };
        let aws_profile = self.pick(&environment::AWS_PROFILE, flags.aws_profile.clone());
        let aws_role_arn = self.pick(&environment::AWS_ROLE_ARN, flags.aws_role_arn.clone());
        let aws_external_id = self.pick(&environment::AWS_EXTERNAL_ID, flags.aws_external_id.clone());
        let aws_role_session_name =
            self.pick(&environment::AWS_ROLE_SESSION_NAME, flags.aws_role_session_name.clone());
        let (host, port) = host?;
        Some(Database {
            host: vec![host],
            port,
            user: Some(user?),
            password,
            dbname,
            server_auth,
            iam_host,
            iam_port,
            iam_region,
            iam_region_fallback,
            secret_arn,
            aws_profile,
            aws_role_arn,
            aws_external_id,
            aws_role_session_name,
            ..Database::new("*")
        })
    }

    fn host(&mut self, endpoint: Option<&str>, port_flag: Option<u16>) -> Option<(Host, u16)> {
        let Some(text) = self.pick(&environment::HOST, endpoint.map(str::to_owned)) else {
            self.missing("host", &environment::HOST);
            return None;
        };
        let (host, endpoint_port) = match parse_endpoint(&text) {
            Ok(parsed) => parsed,
            Err(reason) => {
                self.found.push(Diagnostic::error(format!("the endpoint \"{text}\" {reason}")));
                return None;
            }
        };
        let source = self.source_of("host");
        record(&mut self.origins, "host", &host.to_string(), source.clone());
        let port = match (endpoint.and(endpoint_port), port_flag) {
            (Some(typed), Some(flag)) if typed != flag => {
                let error = format!("--port {flag} contradicts the port of the endpoint, {typed}");
                self.found.push(Diagnostic::error(error));
                None
            }
            // A port in an endpoint argument overrides variables; a port in a host variable does not.
            (Some(typed), None) => Some(self.derived_port(typed, source.clone())),
            _ => self.port(&environment::PORT, port_flag),
        };
        let port = port.unwrap_or_else(|| match endpoint_port {
            Some(port) => self.derived_port(port, source),
            None => self.derived_port(DEFAULT_PORT, "default".to_owned()),
        });
        Some((host, port))
    }

    fn derived_port(&mut self, port: u16, source: String) -> u16 {
        record(&mut self.origins, "port", &port.to_string(), source);
        port
    }

    fn port(&mut self, value: &ConnectionValue, flag: Option<u16>) -> Option<u16> {
        let text = self.pick(value, flag.map(|port| port.to_string()))?;
        match u16::parse(&text) {
            Ok(port) if port > 0 => Some(port),
            _ => {
                let error = format!("{} \"{text}\" is not a port ({})", value.key, self.source_of(value.key));
                self.found.push(Diagnostic::error(error));
                None
            }
        }
    }

    fn server_auth(&mut self, flag: Option<ServerAuth>, has_secret: bool) -> ServerAuth {
        let Some(text) = self.pick(&environment::SERVER_AUTH, flag.map(|auth| auth.to_string())) else {
            let default = if has_secret { ServerAuth::Password } else { ServerAuth::Iam };
            record(&mut self.origins, "server_auth", default.as_str(), MODE_DEFAULT.to_owned());
            return default;
        };
        let source = self.source_of("server_auth");
        let parsed = if source == "from AWS_IAM" {
            bool::parse(&text).map(|is_iam| if is_iam { ServerAuth::Iam } else { ServerAuth::Password })
        } else {
            text.parse()
        };
        match parsed {
            Ok(auth) => {
                record(&mut self.origins, "server_auth", auth.as_str(), source);
                auth
            }
            Err(reason) => {
                self.found.push(Diagnostic::error(format!("server_auth: \"{text}\" {reason} ({source})")));
                ServerAuth::Iam
            }
        }
    }

    fn secret_arn(&mut self, flag: Option<String>) -> Option<SecretArn> {
        let text = self.pick(&environment::SECRET_ARN, flag)?;
        match text.parse() {
            Ok(arn) => Some(arn),
            Err(reason) => {
                let source = self.source_of("secret_arn");
                self.found.push(Diagnostic::error(format!("secret_arn \"{text}\" ({source}) {reason}")));
                None
            }
        }
    }

    fn password(&mut self, server_auth: ServerAuth) -> Option<Secret> {
        let variables = environment::PASSWORD.variables;
        let (name, password) =
            variables.iter().find_map(|name| Some((name, self.variable(name).map(Secret::new)?)))?;
        if server_auth == ServerAuth::Iam {
            self.found
                .push(Diagnostic::warning(format!("{name} is set but not used: the pooler logs in by IAM")));
            return None;
        }
        record(&mut self.origins, "password", MASK, format!("from {name}"));
        Some(password)
    }

    fn settings(&mut self, flags: &ZeroConfigFlags) -> Settings {
        let mut settings = Settings::default();
        for (key, value) in MODE_DEFAULTS {
            if let Err(error) = settings.set(key, value) {
                self.found.push(Diagnostic::error(error.to_string()));
            }
            record(&mut self.origins, key, value, MODE_DEFAULT.to_owned());
        }
        self.found.extend(overlay_aliases(&mut settings, &mut self.origins, self.environment));
        self.found.extend(overlay(&mut settings, &mut self.origins, self.environment));
        let listen_addr = flags.listen_addr.clone().map(|value| ("listen_addr".to_owned(), value));
        let listen_port = flags.listen_port.clone().map(|value| ("listen_port".to_owned(), value));
        let typed: Vec<_> = flags.settings.iter().cloned().chain(listen_addr).chain(listen_port).collect();
        self.found.extend(overlay_flags(&mut settings, &mut self.origins, &typed));
        settings
    }

    /// The flag, or the first variable that is set and not empty; records the source.
    fn pick(&mut self, value: &ConnectionValue, flag: Option<String>) -> Option<String> {
        if let Some(text) = flag {
            let source = if value.flag.starts_with('-') { value.flag } else { "the command line" };
            record(&mut self.origins, value.key, &text, format!("from {source}"));
            return Some(text);
        }
        let set: Vec<_> =
            value.variables.iter().filter_map(|name| Some((*name, self.variable(name)?))).collect();
        let (name, text) = set.first()?.clone();
        for (other, _) in set.iter().filter(|(other, other_text)| *other != "AWS_IAM" && *other_text != text)
        {
            let warning = format!("{other} and {name} differ; {name} is used");
            self.found.push(Diagnostic::warning(warning));
        }
        record(&mut self.origins, value.key, &text, format!("from {name}"));
        Some(text)
    }

    /// Manifests often set variables to the empty string for "no value".
    fn variable(&self, name: &str) -> Option<String> {
        self.environment.get(name).map(|text| text.trim().to_owned()).filter(|text| !text.is_empty())
    }

    fn source_of(&self, key: &str) -> String {
        let origin = self.origins.iter().find(|origin| origin.key == key);
        origin.map(|origin| origin.source.clone()).unwrap_or_default()
    }

    fn missing(&mut self, what: &str, value: &ConnectionValue) {
        let names = value.variables.join(", ");
        let error = Diagnostic::error(format!("no {what}: neither {} nor any of {names} is set", value.flag));
        self.found.push(error.help("try: iambouncer DB.RDS.ENDPOINT --user USER --database DATABASE"));
    }
}

/// Splits `host`, `host:port`, `[v6]:port` or a bare IPv6 address.
///
/// # Errors
/// Completes "the endpoint …".
pub fn parse_endpoint(text: &str) -> Result<(Host, Option<u16>), &'static str> {
    if text.contains("://") {
        return Err("has a scheme; use HOST or HOST:PORT");
    }
    if text.starts_with('/') {
        return Ok((Host::parse(text), None));
    }
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, after) = rest.split_once(']').ok_or("has no closing bracket")?;
            let port = if after.is_empty() { None } else { Some(after.strip_prefix(':').unwrap_or(after)) };
            (host, port)
        }
        None if text.matches(':').count() > 1 => (text, None),
        None => text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
    };
    let is_address = host.parse::<std::net::Ipv6Addr>().is_ok();
    let is_name = host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
    if host.is_empty() || !(is_address || is_name) {
        return Err("is not a host name; use HOST or HOST:PORT");
    }
    let port = match port.map(u16::parse) {
        None => None,
        Some(Ok(port)) if port > 0 => Some(port),
        Some(_) => return Err("has an invalid port"),
    };
    Ok((Host::Tcp(host.to_owned()), port))
}

/// Without passwords, any client that reaches the port has access to the database.
fn warn_if_open(settings: &Settings) -> Option<Diagnostic> {
    let is_local = |address: &str| {
        address == "localhost" || address.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
    };
    let is_open = matches!(settings.auth_type, AuthType::Any | AuthType::Trust);
    let outside = settings.listen_addresses().find(|address| !is_local(address))?;
    is_open.then(|| {
        let text = format!(
            "auth_type = {} on {outside}: any client that reaches the port is accepted",
            settings.auth_type
        );
        Diagnostic::warning(text).help("set auth_type and auth_file, or listen on 127.0.0.1")
    })
}

#[cfg(test)]
#[path = "zero_config_tests.rs"]
mod tests;
