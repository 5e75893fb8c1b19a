//! Causes of failed logins to a server: the table of causes, with numbers, metric labels and fixes. Owns texts only;
//! [`crate::server::diagnosis`] determines the cause of a failed login, [`crate::doctor`] those found by its checks.

/// The row of one cause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoginFailureInfo {
    /// Number in documentation and output; never reused for another cause.
    pub id: &'static str,
    /// Value of the `reason` label in metrics.
    pub label: &'static str,
    /// What is wrong, in a few words.
    pub title: &'static str,
    /// What to do about it in general.
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
            /// All causes, ordered by number.
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

/// Address of the documentation.
const DOCUMENTS: &str = concat!(env!("CARGO_PKG_REPOSITORY"), "/blob/main/docs");

/// The URL of a section, as GitHub derives it from the heading.
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
    /// The hint in one case: what was found, what to do, and the number.
    pub fn hint(self, finding: Option<&str>) -> String {
        let LoginFailureInfo { fix, id, .. } = self.info();
        match finding {
            Some(finding) => format!("{finding} {fix} [{id}]"),
            None => format!("{fix} [{id}]"),
        }
    }

    /// What to do about it, depending on whether the line uses IAM and the host is on RDS. Empty if only the case
    /// itself determines that.
    pub fn fix_for(self, uses_iam: bool, is_rds: bool) -> &'static str {
        match self {
            Self::TlsOff if !uses_iam => {
                "Set server_tls_sslmode to require or verify-full, and enable TLS on the server."
            }
            Self::TlsTrust if !is_rds => "",
            Self::Throttled if !uses_iam => "Check the load of the server and its authentication_timeout.",
            _ => self.info().fix,
        }
    }

    /// The URL of its section in the documentation.
    pub fn url(self) -> String {
        let LoginFailureInfo { id, title, .. } = self.info();
        section_url("pam-authentication-failed.md", &format!("{id}: {title}"))
    }
}

login_failures! {
    StaticToken = "IAM001", "static_token", "a token is stored as a password",
        "Remove the stored token and set server_auth=iam on the database line: a token is signed for each login.";
    NoCredentials = "IAM002", "no_credentials", "no AWS credentials, or the wrong ones",
        "Assign a role to the pod, task or instance, or set AWS_PROFILE or AWS_ACCESS_KEY_ID; aws_profile and aws_role_arn \
         select them per database.";
    NotAuthorized = "IAM003", "not_authorized", "the policy does not allow this login",
        "Allow rds-db:connect on the dbuser ARN with the resource ID (db-… or cluster-…, not the instance name); \
         `iambouncer policy` prints it. Conditions on source addresses or networks do not work with IAM logins.";
    NotRdsIam = "IAM004", "not_rds_iam", "the role is not an IAM user, or IAM is disabled",
        "GRANT rds_iam to the role, check the spelling and case of its name, and enable IAM database authentication \
         on the instance or cluster.";
    TlsOff = "IAM006", "tls_off", "the login was not encrypted",
        "Set server_tls_sslmode = verify-full: RDS accepts tokens over TLS only.";
    SignedHost = "IAM007", "signed_host", "the token was signed for a name that is not an RDS endpoint of this server",
        "If host is an alias, an address, a tunnel or a load balancer, set iam_host to the name of the RDS endpoint.";
    SignedPort = "IAM008", "signed_port", "the token was signed for another port",
        "Set iam_port to the port of the RDS endpoint, or remove it.";
    CredentialsEnding = "IAM009", "expired", "the AWS credentials have expired",
        "Check the source of the credentials and the clock: a token expires with the credentials that signed it.";
    BrokenToken = "IAM010", "token_broken", "a token is truncated, or cannot be signed",
        "Do not store tokens; set server_auth=iam. PostgreSQL accepts passwords up to 64 KiB: if a session token is longer, \
         use fewer session tags or policies.";
    InheritedGrant = "IAM011", "rds_iam_inherited", "a token is required of a user with a password",
        "REVOKE rds_iam from the role or from the role it inherits it from, or set server_auth=iam.";
    WrongRegion = "IAM012", "wrong_region", "the token was signed for another region",
        "Correct iam_region, or remove it if the endpoint's name contains the region.";
    ClockSkew = "IAM013", "clock_skew", "the local clock is wrong",
        "Synchronise the clock: AWS accepts a difference of a few minutes only.";
    Throttled = "IAM014", "throttled", "too many logins, or too little memory on the server",
        "Keep iam_login_rate below 200 and pools large enough to be reused; small instances need more memory for IAM.";
    MetadataUnreachable = "IAM015", "credentials_unreachable", "the source of AWS credentials does not answer",
        "Check the network path to it.";
    RoleRefused = "IAM016", "role_refused", "AWS refused to issue credentials",
        "Check the role's ARN, its trust policy and the external ID (aws_external_id).";
    TlsTrust = "IAM017", "tls_trust", "the server's certificate is not trusted",
        "The RDS authorities are built in; if server_tls_ca_file is set, it must contain the authority named here.";
    TokenLife = "IAM018", "token_life", "a stored token was signed for more than 15 minutes",
        "RDS refuses tokens signed for more than 900 seconds. Set server_auth=iam instead of storing one.";
    RdsProxy = "IAM019", "rds_proxy", "an RDS Proxy endpoint refuses the login",
        "For an RDS Proxy, the policy must name the proxy's resource ID (prx-…), and the proxy must allow IAM.";
    Network = "IAM020", "network", "the server does not answer",
        "Check the security groups, network ACLs and routes to it: packets are dropped, or there is no route.";
    UnexpectedIdentity = "IAM021", "unexpected_identity", "the AWS identity is not the intended one",
        "Check the source of the credentials: environment and web identity take precedence over container and instance roles.";
    Configuration = "IAM022", "configuration", "the configuration is wrong",
        "Correct the error; `iambouncer check FILE` shows the line.";
    Password = "IAM023", "password", "the stored password is refused or missing",
        "Correct password= on the database line or the entry in auth_file.";
    ServerBusy = "IAM024", "server_not_ready", "the server does not accept logins at present",
        "It is starting, stopping, in recovery or full; logins are retried.";
    Protocol = "IAM025", "protocol", "the server does not follow the protocol",
        "Check that host and port are those of a PostgreSQL server.";
    NoSuchDatabase = "IAM026", "no_such_database", "the server has no such database, or the user may not connect to it",
        "Correct dbname= on the database line, or GRANT CONNECT.";
    SecretRefused = "IAM027", "secret_refused", "Secrets Manager refuses access to the secret",
        "Allow secretsmanager:GetSecretValue on the secret, and kms:Decrypt if it has its own key; check its ARN \
         and that it is not scheduled for deletion.";
    SecretMalformed = "IAM028", "secret_malformed", "the secret does not contain a user name and a password",
        "The secret must be a JSON object, as created by RDS and RDS Proxy, with \"username\" and \"password\".";
    SecretsUnreachable = "IAM029", "secrets_unreachable", "Secrets Manager does not answer",
        "Check the network path to it: in a private network it needs a VPC endpoint for secretsmanager.";
    SecretPassword = "IAM030", "secret_password", "the server rejects the secret's password",
        "The secret and the role in the database must have the same password: rotate the secret, or correct it.";
    UnknownHost = "IAM031", "unknown_host", "the server's name does not resolve",
        "Check the spelling of host, and that the local name servers can resolve it (private zones, VPC DNS).";
    ConnectionRefused = "IAM032", "connection_refused", "the server refuses connections",
        "Check the port, and that the server is running and listens on this address; security groups do not refuse, they \
         let time out.";
    MissingRegion = "IAM033", "missing_region", "the region to sign for is unknown",
        "Set iam_host to the name of the RDS endpoint, which contains the region; otherwise set iam_region.";
    NoSuitableServer = "IAM034", "no_suitable_server", "no server is as target_session_attrs requires",
        "Logins are retried four times a second until a server is; if none will be, check the hosts and target_session_attrs.";
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
    fn every_cause_has_a_section_in_the_documentation() {
        let page = include_str!("../../../docs/pam-authentication-failed.md");
        for row in LoginFailure::ALL.iter().map(|cause| cause.info()) {
            let heading = format!("### {}: {}\n", row.id, row.title);
            assert!(page.contains(&heading), "missing: {heading}");
        }
    }

    #[test]
    fn section_urls_are_those_of_github() {
        let url = LoginFailure::NotRdsIam.url();
        assert!(
            url.ends_with(
                "/docs/pam-authentication-failed.md#iam004-the-role-is-not-an-iam-user-or-iam-is-disabled"
            ),
            "{url}"
        );
    }
}
