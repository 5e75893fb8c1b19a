//! Why logins to a server fail: the one table of causes, with their numbers, metric labels and fixes. Owns words only;
//! who decides which cause it is are [`crate::server::verdict`] at a failed login and [`crate::doctor`] when asked.

/// What the table says of one cause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoginFailureInfo {
    /// Number in documents and output; never given to another cause.
    pub id: &'static str,
    /// Reason label in metrics.
    pub label: &'static str,
    /// What is wrong, in a few words.
    pub title: &'static str,
    /// What to do about it, in general.
    pub fix: &'static str,
}

macro_rules! login_failures {
    ($($(#[$doc:meta])* $name:ident = $id:literal, $label:literal, $title:literal, $fix:literal;)*) => {
        /// A cause of failed logins.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum LoginFailure {
            $(#[doc = $title] $name,)*
        }

        impl LoginFailure {
            /// All of them, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// Its row.
            pub const fn info(self) -> LoginFailureInfo {
                match self {
                    $(Self::$name => LoginFailureInfo { id: $id, label: $label, title: $title, fix: $fix },)*
                }
            }
        }
    };
}

/// Where the sections about causes and checks are read.
const DOCUMENTS: &str = concat!(env!("CARGO_PKG_REPOSITORY"), "/blob/main/docs");

/// The address of a section of a document, as GitHub makes it from the heading.
pub(crate) fn section_url(page: &str, heading: &str) -> String {
    let slug = heading.chars().filter_map(|c| match c {
        ' ' => Some('-'),
        '-' | '_' => Some(c),
        _ if c.is_alphanumeric() => Some(c.to_ascii_lowercase()),
        _ => None,
    });
    format!("{DOCUMENTS}/{page}#{}", slug.collect::<String>())
}

impl LoginFailure {
    /// What is told about it in one case: what was found, what to do, and the number.
    pub fn hint(self, finding: Option<&str>) -> String {
        let LoginFailureInfo { fix, id, .. } = self.info();
        match finding {
            Some(finding) => format!("{finding} {fix} [{id}]"),
            None => format!("{fix} [{id}]"),
        }
    }

    /// What to do about it, for a line that uses IAM or not, and a host of RDS or not. Empty where only the case itself
    /// tells.
    pub fn fix_for(self, uses_iam: bool, is_rds: bool) -> &'static str {
        match self {
            Self::TlsOff if !uses_iam => {
                "Set server_tls_sslmode to require or verify-full, and enable TLS on the server."
            }
            Self::TlsTrust if !is_rds => "",
            Self::Throttled if !uses_iam => "Look at the load of the server and its authentication_timeout.",
            _ => self.info().fix,
        }
    }

    /// Its section in the document people search for.
    pub fn url(self) -> String {
        let LoginFailureInfo { id, title, .. } = self.info();
        section_url("pam-authentication-failed.md", &format!("{id}: {title}"))
    }
}

login_failures! {
    StaticToken = "IAM001", "static_token", "a token is stored as a password",
        "Remove the stored token and set server_auth=iam on the database line: tokens are made for each login.";
    NoCredentials = "IAM002", "no_credentials", "no AWS credentials, or the wrong ones",
        "Give the pod, task or instance a role, or set AWS_PROFILE or AWS_ACCESS_KEY_ID; aws_profile and aws_role_arn \
         choose per database.";
    NotAuthorized = "IAM003", "not_authorized", "the policy does not allow this login",
        "Allow rds-db:connect on the dbuser ARN with the resource id (db-… or cluster-…, not the instance's name); \
         `iambouncer policy` prints it. Conditions on source addresses or networks do not work with IAM logins.";
    NotRdsIam = "IAM004", "not_rds_iam", "the role is no IAM user, or IAM is off",
        "GRANT rds_iam to the role, check the spelling and case of its name, and enable IAM database authentication \
         on the instance or cluster.";
    TlsOff = "IAM006", "tls_off", "the login was not encrypted",
        "Set server_tls_sslmode = verify-full: RDS takes tokens inside TLS only.";
    SignedHost = "IAM007", "signed_host", "the token was made for a name that is no RDS endpoint of this server",
        "Set iam_host to the endpoint's own name where host is an alias, an address, a tunnel or a load balancer.";
    SignedPort = "IAM008", "signed_port", "the token was made for another port",
        "Set iam_port to the port of the RDS endpoint, or remove it.";
    CredentialsEnding = "IAM009", "expired", "the AWS credentials have ended",
        "Check the source of the credentials and the clock: a token dies with the credentials that signed it.";
    BrokenToken = "IAM010", "token_broken", "a token is cut off, or cannot be made",
        "Store no tokens; set server_auth=iam. PostgreSQL takes passwords up to 64 KiB: if a session token is longer, \
         use fewer session tags or policies.";
    InheritedGrant = "IAM011", "rds_iam_inherited", "a user with a password is asked for a token",
        "REVOKE rds_iam from the role or from the role it inherits it from, or set server_auth=iam.";
    WrongRegion = "IAM012", "wrong_region", "the token was made for another region",
        "Remove iam_region where the endpoint's name tells the region, or correct it.";
    ClockSkew = "IAM013", "clock_skew", "this machine's clock is wrong",
        "Synchronise the clock: AWS takes signatures that are at most a few minutes off.";
    Throttled = "IAM014", "throttled", "too many logins, or a server too short of memory for them",
        "Keep iam_login_rate below 200 and pools large enough to be reused; small instances need more memory for IAM.";
    MetadataUnreachable = "IAM015", "credentials_unreachable", "the source of AWS credentials does not answer",
        "Check the network path to it.";
    RoleRefused = "IAM016", "role_refused", "AWS refused to hand out credentials",
        "Check the role's ARN, its trust policy and the external id (aws_external_id).";
    TlsTrust = "IAM017", "tls_trust", "the server's certificate is not trusted",
        "The RDS authorities are built in; if server_tls_ca_file is set, it must hold the authority named here.";
    TokenLife = "IAM018", "token_life", "a stored token asks for more than 15 minutes",
        "RDS refuses tokens made for more than 900 seconds. Set server_auth=iam instead of storing one.";
    RdsProxy = "IAM019", "rds_proxy", "an RDS Proxy endpoint refuses the login",
        "For an RDS Proxy the policy names the proxy's own resource id (prx-…), and the proxy must allow IAM.";
    Network = "IAM020", "network", "the server does not answer",
        "Check the security groups, network ACLs and routes on the way: packets are lost, or there is no route.";
    UnexpectedIdentity = "IAM021", "unexpected_identity", "the AWS identity is not the one that was meant",
        "See which source won: environment and web identity come before container and instance roles.";
    Configuration = "IAM022", "configuration", "the configuration is wrong",
        "Correct what is named here; `iambouncer check FILE` names the line.";
    Password = "IAM023", "password", "the stored password is refused or missing",
        "Correct password= on the database line or the entry in auth_file.";
    ServerBusy = "IAM024", "server_not_ready", "the server takes no logins now",
        "It is starting, stopping, in recovery or full; logins are tried again.";
    Protocol = "IAM025", "protocol", "the server does not speak as expected",
        "Check that host and port are those of a PostgreSQL server.";
    NoSuchDatabase = "IAM026", "no_such_database", "the server has no such database, or the user may not enter it",
        "Correct dbname= on the database line, or GRANT CONNECT.";
    SecretRefused = "IAM027", "secret_refused", "Secrets Manager does not hand out the secret",
        "Allow secretsmanager:GetSecretValue on the secret, and kms:Decrypt if it has a key of its own; check its ARN \
         and that it is not scheduled for deletion.";
    SecretMalformed = "IAM028", "secret_malformed", "the secret holds no user name and password",
        "RDS and RDS Proxy write a JSON object with \"username\" and \"password\".";
    SecretsUnreachable = "IAM029", "secrets_unreachable", "Secrets Manager does not answer",
        "Check the network path to it: in a private network it needs a VPC endpoint for secretsmanager.";
    SecretPassword = "IAM030", "secret_password", "the server does not take the secret's password",
        "The secret and the role in the database must hold the same password: rotate the secret, or correct it.";
    UnknownHost = "IAM031", "unknown_host", "the server's name does not resolve",
        "Check the spelling of host, and that this machine's name servers know the name (private zones, VPC DNS).";
    ConnectionRefused = "IAM032", "connection_refused", "the server refuses connections",
        "Check the port, and that the server is running and listens on this address; security groups do not refuse, they \
         let time out.";
    MissingRegion = "IAM033", "missing_region", "nothing tells the region to sign for",
        "Set iam_host to the name of the RDS endpoint, which tells the region; where there is none, set iam_region.";
    Other = "IAM099", "other", "the server refused the login",
        "See the server's own message and its log.";
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn numbers_and_labels_are_unique_and_in_order() {
        let rows: Vec<LoginFailureInfo> = LoginFailure::ALL.iter().map(|cause| cause.info()).collect();
        assert!(rows.windows(2).all(|pair| pair[0].id < pair[1].id));
        let labels: HashSet<_> = rows.iter().map(|row| row.label).collect();
        assert_eq!(labels.len(), rows.len());
        assert!(labels.iter().all(|label| label.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')));
    }

    #[test]
    fn every_cause_has_a_section_in_the_document() {
        let page = include_str!("../../../docs/pam-authentication-failed.md");
        for row in LoginFailure::ALL.iter().map(|cause| cause.info()) {
            let heading = format!("### {}: {}\n", row.id, row.title);
            assert!(page.contains(&heading), "missing: {heading}");
        }
    }

    #[test]
    fn addresses_of_sections_are_those_of_github() {
        let url = LoginFailure::NotRdsIam.url();
        assert!(
            url.ends_with("/docs/pam-authentication-failed.md#iam004-the-role-is-no-iam-user-or-iam-is-off"),
            "{url}"
        );
    }
}
