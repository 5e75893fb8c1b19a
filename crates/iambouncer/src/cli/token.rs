//! `iambouncer token`: prints one token to standard output in the requested format. Owns the formats; details about
//! the token go to standard error if standard output is a terminal.

use super::Failure;
use super::arguments::{ServerArguments, TokenArguments, TokenFormat};
use crate::config::{ConfigReport, Database, ProcessEnvironment, Settings, zero_config};
use anyhow::{Context as _, anyhow};
use rds_iam::{
    AwsCredentials, CallerProofRequest, Clock as _, CredentialCache, RdsEndpoint, Region, SystemClock,
    TokenKey, TokenRequest, percent_encode, sign, sign_caller_proof,
};
use std::io::IsTerminal as _;
use std::sync::Arc;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use zeroize::Zeroizing;

pub(super) fn print(options: &TokenArguments) -> Result<(), Failure> {
    let runtime = super::run::control_runtime().map_err(Failure::Start)?;
    let text = match &options.audience {
        Some(audience) if options.sts => {
            let flags = options.server.zero_config_flags();
            runtime.block_on(proof(&flags.region, &options.server, audience)).map_err(Failure::Start)?
        }
        _ => {
            let (line, settings) = server_of(options.target.as_deref(), &options.server)?;
            runtime.block_on(token(&line, &settings, options.format)).map_err(Failure::Start)?
        }
    };
    super::print(text.as_bytes())
}

/// The server given by arguments and environment.
pub(super) fn line_of(target: Option<&str>, server: &ServerArguments) -> Result<Database, Failure> {
    server_of(target, server).map(|(line, _)| line)
}

fn server_of(target: Option<&str>, server: &ServerArguments) -> Result<(Database, Settings), Failure> {
    let resolved = zero_config(target, &server.zero_config_flags(), &ProcessEnvironment)
        .map_err(|found| Failure::Configuration(ConfigReport::from(found).to_string()))?;
    if resolved.config.all_databases().any(|line| line.secret_arn.is_some()) {
        let text = "error: a secret is configured (--secret-arn, DB_SECRET_ARN), but this command is for logins by IAM";
        return Err(Failure::Configuration(text.to_owned()));
    }
    let line = resolved.config.fallback.ok_or_else(|| Failure::Start(anyhow!("no server is given")))?;
    Ok((line, resolved.config.settings))
}

async fn token(
    line: &Database,
    settings: &Settings,
    format: TokenFormat,
) -> anyhow::Result<Zeroizing<String>> {
    let key = key_of(line, settings).await?;
    let clock = Arc::new(SystemClock);
    let credentials = CredentialCache::new(AwsCredentials::shared(), clock.clone());
    let credentials = credentials.get(&key.identity).await?;
    let request = TokenRequest { host: &key.host, port: key.port, user: &key.user, region: &key.region };
    let token = sign(&request, &credentials, clock.now())?;
    let expires_at = OffsetDateTime::from(token.expires_at()).format(&Rfc3339)?;
    if std::io::stdout().is_terminal() {
        super::complain(&format!(
            "for {} on {}:{} in {}, signed by key {}, until {expires_at}",
            key.user,
            key.host,
            key.port,
            key.region,
            token.access_key_id()
        ));
    }
    let database = line.dbname.as_deref().unwrap_or(&key.user);
    Ok(formatted(&key, database, token.expose(), token.access_key_id(), &expires_at, format))
}

async fn key_of(line: &Database, settings: &Settings) -> anyhow::Result<TokenKey> {
    let user = line.user.as_deref().context("no user")?;
    let host = line.host.first().and_then(|host| host.tcp());
    let signed = match (&line.iam_host, host) {
        (Some(host), _) => host.clone(),
        (None, Some(host)) if RdsEndpoint::parse(host).is_some() => host.to_owned(),
        (None, Some(host)) => resolved_endpoint(host, settings).await,
        (None, None) => anyhow::bail!("a UNIX socket has no endpoint to sign for; use --iam-host"),
    };
    let named = line.iam_region.as_deref().map(str::parse::<Region>).transpose()?;
    let fallback = line.iam_region_fallback.as_deref().map(str::parse::<Region>).transpose()?;
    let region = named.or_else(|| rds_iam::region_of(&signed)).or(fallback);
    Ok(TokenKey::new(&signed, line.iam_port.unwrap_or(line.port), user, region, line.aws_identity())?)
}

/// The RDS endpoint of which a name is an alias, or the name itself.
async fn resolved_endpoint(host: &str, settings: &Settings) -> String {
    let Some(resolver) = super::run::resolver(settings) else { return host.to_owned() };
    let found = resolver.resolve(host).await.ok();
    found.and_then(|found| found.rds_name).unwrap_or_else(|| host.to_owned())
}

fn formatted(
    key: &TokenKey,
    database: &str,
    token: &str,
    access_key_id: &str,
    expires_at: &str,
    format: TokenFormat,
) -> Zeroizing<String> {
    let TokenKey { host, port, user, region, .. } = key;
    Zeroizing::new(match format {
        TokenFormat::Raw => format!("{token}\n"),
        TokenFormat::Env => {
            let pairs = [
                ("PGHOST", host.as_str()),
                ("PGPORT", &port.to_string()),
                ("PGUSER", user),
                ("PGDATABASE", database),
                ("PGSSLMODE", "verify-full"),
                ("PGPASSWORD", token),
            ];
            pairs.iter().map(|(name, value)| format!("export {name}={}\n", quoted(value))).collect()
        }
        TokenFormat::Json => {
            let object = serde_json::json!({
                "token": token, "host": host, "port": port, "user": user, "database": database,
                "region": region.as_str(), "access_key_id": access_key_id, "expires_at": expires_at,
            });
            format!("{object:#}\n")
        }
        TokenFormat::Url => format!(
            "postgresql://{}:{}@{host}:{port}/{}?sslmode=verify-full\n",
            percent_encode(user),
            percent_encode(token),
            percent_encode(database)
        ),
        TokenFormat::Pgpass => {
            let escaped = |text: &str| text.replace('\\', "\\\\").replace(':', "\\:");
            format!("{}:{port}:{}:{}:{}\n", escaped(host), escaped(database), escaped(user), escaped(token))
        }
    })
}

/// In single quotes, for POSIX shells.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

async fn proof(
    region: &Option<String>,
    server: &ServerArguments,
    audience: &str,
) -> anyhow::Result<Zeroizing<String>> {
    let flags = server.zero_config_flags();
    let variable = ["AWS_REGION", "AWS_DEFAULT_REGION"].iter().find_map(|name| std::env::var(name).ok());
    let region: Region =
        region.clone().or(variable).context("no region: use --region or set AWS_REGION")?.parse()?;
    let identity = rds_iam::Identity {
        profile: flags.aws_profile,
        role_arn: flags.aws_role_arn,
        external_id: flags.aws_external_id,
        session_name: flags.aws_role_session_name,
        sts_region: Some(region.clone()),
    };
    let clock = Arc::new(SystemClock);
    let credentials = CredentialCache::new(AwsCredentials::shared(), clock.clone()).get(&identity).await?;
    let request = CallerProofRequest { region: &region, audience };
    let proof = sign_caller_proof(&request, &credentials, clock.now())?;
    if std::io::stdout().is_terminal() {
        super::complain(&format!(
            "for audience {audience}, signed by key {}, valid for 15 minutes",
            credentials.access_key_id()
        ));
    }
    Ok(Zeroizing::new(format!("{}\n", proof.expose())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rds_iam::Identity;

    fn sample(format: TokenFormat) -> String {
        let host = "db.c1.eu-west-1.rds.amazonaws.com";
        let key = TokenKey::new(host, 5432, "o'k:\\", None, Identity::default()).unwrap();
        formatted(&key, "d b", "t:o?k&en'", "AKID", "2026-01-01T00:00:00Z", format).to_string()
    }

    #[test]
    fn every_format_escapes_special_characters() {
        assert_eq!(sample(TokenFormat::Raw), "t:o?k&en'\n");
        let env = sample(TokenFormat::Env);
        assert!(env.contains("export PGUSER='o'\\''k:\\'\n"), "{env}");
        assert!(sample(TokenFormat::Url).contains("//o%27k%3A%5C:t%3Ao%3Fk%26en%27@db.c1"));
        let host = "db.c1.eu-west-1.rds.amazonaws.com";
        assert_eq!(sample(TokenFormat::Pgpass), format!("{host}:5432:d b:o'k\\:\\\\:t\\:o?k&en'\n"));
        let json: serde_json::Value = serde_json::from_str(&sample(TokenFormat::Json)).unwrap();
        assert_eq!((json["token"].as_str(), json["port"].as_u64()), (Some("t:o?k&en'"), Some(5432)));
    }
}
