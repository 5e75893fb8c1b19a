//! `iambouncer policy`: prints what a login needs. Owns the texts; asks STS for the account if it is not given.

use super::Failure;
use super::arguments::{Policy, PolicyFormat};
use super::token::line_of;
use crate::config::Database;
use rds_iam::{
    AwsCredentials, EndpointKind, Identity, RdsEndpoint, Region, SystemClock, TokenEngine, ask_caller,
};

pub(super) fn print(options: &Policy) -> Result<(), Failure> {
    let line = line_of(options.target.as_deref(), &options.server)?;
    let host = line.host.first().map(ToString::to_string).unwrap_or_default();
    let host = line.iam_host.clone().unwrap_or(host);
    let region = line
        .iam_region
        .as_deref()
        .map(str::parse::<Region>)
        .transpose()
        .map_err(|error| Failure::Configuration(format!("error: {error}")))?
        .or_else(|| rds_iam::region_of(&host))
        .ok_or_else(|| {
            Failure::Configuration(format!("error: cannot derive the region from {host}; use --region"))
        })?;
    let account = match &options.account {
        Some(account) => account.clone(),
        None => account_of(&line, &region)?,
    };
    let user = line.user.unwrap_or_default();
    let grant = Grant {
        region,
        account: &account,
        resource_id: &options.resource_id,
        user: &user,
        database: line.dbname.as_deref(),
    };
    let mut text = match options.format {
        PolicyFormat::Json => grant.json(),
        PolicyFormat::Sql => grant.sql(),
        PolicyFormat::Terraform => grant.terraform(),
        PolicyFormat::All => grant.all(),
    };
    if let Some(warning) = grant.mismatch(&host) {
        super::complain(&format!("warning: {warning}"));
    }
    text.push('\n');
    super::print(text.as_bytes())
}

/// The account of the credentials, which is usually that of the database.
fn account_of(line: &Database, region: &Region) -> Result<String, Failure> {
    let unknown = |error: String| {
        let text = format!("error: cannot determine the account: {error}\n  = help: use --account");
        Failure::Configuration(text)
    };
    let identity = Identity { sts_region: Some(region.clone()), ..line.aws_identity() };
    let runtime = super::run::control_runtime().map_err(Failure::Start)?;
    runtime.block_on(async {
        let tokens = TokenEngine::new(AwsCredentials::shared());
        let credentials = tokens.credentials(&identity).await.map_err(|error| unknown(error.finding()))?;
        let answer = ask_caller(&identity, &credentials, &SystemClock).await;
        answer.caller.map(|caller| caller.account).map_err(|error| unknown(error.to_string()))
    })
}

struct Grant<'a> {
    region: Region,
    account: &'a str,
    resource_id: &'a str,
    user: &'a str,
    database: Option<&'a str>,
}

impl Grant<'_> {
    fn arn(&self) -> String {
        let partition = self.region.partition().arn_name();
        format!(
            "arn:{partition}:rds-db:{}:{}:dbuser:{}/{}",
            self.region, self.account, self.resource_id, self.user
        )
    }

    fn json(&self) -> String {
        let policy = serde_json::json!({
            "Version": "2012-10-17",
            "Statement": [{"Effect": "Allow", "Action": "rds-db:connect", "Resource": self.arn()}],
        });
        format!("{policy:#}")
    }

    fn sql(&self) -> String {
        let user = quoted(self.user);
        let login = format!("CREATE USER {user} WITH LOGIN;\nGRANT rds_iam TO {user};");
        let Some(database) = self.database else { return login };
        let database = quoted(database);
        format!(
            "{login}\nGRANT CONNECT ON DATABASE {database} TO {user};\n-- In that database, for each schema that is \
             used:\nGRANT USAGE ON SCHEMA public TO {user};\nGRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN \
             SCHEMA public TO {user};\nGRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA public TO {user};"
        )
    }

    fn terraform(&self) -> String {
        // `${` and `%{` begin expressions in Terraform's strings.
        let arn =
            self.arn().replace('\\', "\\\\").replace('"', "\\\"").replace("${", "$${").replace("%{", "%%{");
        format!(
            "data \"aws_iam_policy_document\" \"rds_connect\" {{\n  statement {{\n    actions   = [\"rds-db:connect\"]\n    \
             resources = [\"{arn}\"]\n  }}\n}}"
        )
    }

    fn all(&self) -> String {
        format!(
            "# The IAM policy of the pooler's role:\n{}\n\n-- In the database, as its owner:\n{}\n\n# The same policy for \
             Terraform:\n{}",
            self.json(),
            self.sql(),
            self.terraform()
        )
    }

    /// A warning if the kinds of the endpoint and of the resource ID differ.
    fn mismatch(&self, host: &str) -> Option<String> {
        let prefix = match RdsEndpoint::parse(host)?.kind() {
            EndpointKind::Proxy => "prx-",
            EndpointKind::ClusterWriter | EndpointKind::ClusterReader | EndpointKind::ClusterCustom => {
                "cluster-"
            }
            // Instances of Aurora are covered by the ID of their cluster.
            _ => return None,
        };
        (!self.resource_id.starts_with(prefix)).then(|| {
            format!("{host} needs a resource ID that begins with {prefix}, not {}", self.resource_id)
        })
    }
}

/// Quotes a name as an SQL identifier.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn privileges_on_a_given_database_are_printed() {
        let without = grant("app", "eu-west-1");
        assert!(!without.sql().contains("GRANT CONNECT"));
        let with = Grant { database: Some("o\"k"), ..grant("app", "eu-west-1") };
        assert!(with.sql().contains("GRANT CONNECT ON DATABASE \"o\"\"k\" TO \"app\";"), "{}", with.sql());
        assert!(with.sql().contains("GRANT USAGE ON SCHEMA public TO \"app\";"));
    }

    fn grant<'a>(user: &'a str, region: &str) -> Grant<'a> {
        Grant {
            region: region.parse().unwrap(),
            account: "123456789012",
            resource_id: "db-ABC",
            user,
            database: None,
        }
    }

    #[test]
    fn the_arn_has_the_partition_of_the_region() {
        assert_eq!(
            grant("app", "eu-west-1").arn(),
            "arn:aws:rds-db:eu-west-1:123456789012:dbuser:db-ABC/app"
        );
        assert!(grant("app", "cn-north-1").arn().starts_with("arn:aws-cn:rds-db:cn-north-1:"));
    }

    #[test]
    fn special_characters_in_names_are_escaped() {
        assert!(grant("o\"k", "eu-west-1").sql().contains("CREATE USER \"o\"\"k\""));
        assert!(grant("${x}", "eu-west-1").terraform().contains("/$${x}\"]"));
        let json: serde_json::Value = serde_json::from_str(&grant("a\"b", "eu-west-1").json()).unwrap();
        assert!(json["Statement"][0]["Resource"].as_str().unwrap().ends_with("/a\"b"));
    }

    #[test]
    fn a_resource_id_of_another_kind_is_reported() {
        let grant = grant("app", "eu-west-1");
        assert!(grant.mismatch("x.cluster-c1.eu-west-1.rds.amazonaws.com").is_some());
        assert!(grant.mismatch("x.proxy-c1.eu-west-1.rds.amazonaws.com").is_some());
        assert!(grant.mismatch("x.c1.eu-west-1.rds.amazonaws.com").is_none());
    }
}
