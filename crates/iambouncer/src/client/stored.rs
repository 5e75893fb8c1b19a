//! Credentials that a client's password is checked against: the entry in `auth_file`, the answer of `auth_query`, or the
//! secret named by the database line. Owns the choice between them; comparing passwords belongs to [`super::authenticate`]. Unknown users
//! get a mock that no password matches.

use super::auth_query::AuthTarget;
use super::authenticate::ClientClaim;
use crate::admin;
use crate::auth::lookups::LookupAnswer;
use crate::auth::mock::{Form, Pattern};
use crate::auth::scram::keys::{SALT_BYTES, ScramSecret};
use crate::client_error::ClientError;
use crate::config::{AuthType, Config, Secret};
use crate::context::Context;
use crate::log_limit::warn_unauthenticated;
use crate::server::target::LearnedCredential;
use rds_iam::secrets::{DatabaseSecret, SecretKey};
use std::rc::Rc;
use std::sync::Arc;
use zeroize::Zeroizing;

/// The stored credentials of a user.
pub(super) struct StoredCredentials {
    entry: Option<StoredEntry>,
    secret: Option<SecretCredentials>,
    /// Stand-ins for a user that does not exist; made for every user, so that the time is the same.
    mocks: Vec<Zeroizing<String>>,
    /// `auth_query` has not found the user.
    is_unknown_to_server: bool,
}

/// A password, a hash, a SCRAM secret, or an empty text.
enum StoredEntry {
    /// From `auth_file`, which logins to servers read, too.
    File(Zeroizing<String>),
    /// From `auth_query`.
    Server(Zeroizing<String>),
}

impl StoredEntry {
    fn text(&self) -> &Zeroizing<String> {
        match self {
            Self::File(text) | Self::Server(text) => text,
        }
    }
}

/// The secret of the user's database.
struct SecretCredentials {
    key: SecretKey,
    /// Its current version at the time of the lookup, for whatever user.
    held: Arc<DatabaseSecret>,
    /// Number of versions.
    count: usize,
    /// The versions, including the previous one, that are for this user.
    versions: Vec<Arc<DatabaseSecret>>,
}

impl StoredCredentials {
    /// Looks up a user of a database. A secret is used for the user it names only; all other users, and those of the
    /// console, come from `auth_file`.
    ///
    /// # Errors
    /// `auth_query` could not be run.
    pub(super) async fn find(context: &Rc<Context>, claim: &ClientClaim<'_>) -> Result<Self, ClientError> {
        let &ClientClaim { user, database, .. } = claim;
        let config = context.config();
        let line = config.database_for(database).filter(|_| database != admin::DATABASE);
        let secret = match line.and_then(crate::config::Database::secret_key) {
            Some(key) => Box::pin(SecretCredentials::find(context, key, user)).await,
            None => None,
        };
        let entry = Self::entry(context, claim).await?;
        let looked_up = claim.lookup.as_ref().is_ok_and(Option::is_some);
        let form_on_servers = context.process.lookups.last_form().filter(|_| looked_up);
        let pattern = context.forms().pattern(user, &context.process.key, secret.is_some());
        let mocks = match (pattern, &secret) {
            // All versions of a secret are tried.
            (Pattern::Other, Some(secret)) => (0..secret.count)
                .map(|n| Form::Clear.mock(&format!("{n}{user}"), &context.process.key))
                .collect(),
            // A user that is not in `auth_file` would be on a server.
            _ if let Some(form) = form_on_servers => vec![form.mock(user, &context.process.key)],
            (Pattern::Sampled(form), _) => vec![form.mock(user, &context.process.key)],
            _ => vec![default_form(&config).mock(user, &context.process.key)],
        };
        let is_unknown_to_server = looked_up && entry.is_none();
        Ok(Self { entry, secret, mocks, is_unknown_to_server })
    }

    /// A user that has to exist and to show nothing. Does not ask AWS if another source has the user.
    ///
    /// # Errors
    /// `auth_query` could not be run.
    pub(super) async fn known(
        context: &Rc<Context>,
        claim: &ClientClaim<'_>,
    ) -> Result<Option<KnownUser>, ClientError> {
        if let Some(entry) = Self::entry(context, claim).await? {
            return Ok(Some(KnownUser { learned: learned_of(&entry) }));
        }
        let is_auth_user = |target: &AuthTarget| target.is_auth_user(claim.user);
        if claim.lookup.as_ref().is_ok_and(|target| target.as_ref().is_some_and(is_auth_user)) {
            return Ok(Some(KnownUser { learned: None }));
        }
        let secret = Box::pin(Self::find(context, claim)).await?.secret;
        Ok(secret.filter(|secret| !secret.versions.is_empty()).map(|_| KnownUser { learned: None }))
    }

    async fn entry(
        context: &Rc<Context>,
        claim: &ClientClaim<'_>,
    ) -> Result<Option<StoredEntry>, ClientError> {
        let of_file = context.loaded().users.get(claim.user).map(|entry| match entry.is_iam_token() {
            true => Zeroizing::default(),
            false => text_of_secret(&entry.password),
        });
        if let Some(text) = of_file {
            return Ok(Some(StoredEntry::File(text)));
        }
        let target = match claim.lookup {
            Ok(Some(target)) => target,
            Ok(None) => return Ok(None),
            Err(error) => return Err(error.clone()),
        };
        // In a box, since every login reserves, and copies, the memory of its future.
        Ok(match Box::pin(target.look_up(context, claim.user)).await? {
            LookupAnswer::NoUser => None,
            LookupAnswer::User(password) => {
                Some(StoredEntry::Server(password.as_ref().map(text_of_secret).unwrap_or_default()))
            }
        })
    }

    /// What a password that was checked without being shown is good for.
    pub(super) fn learned(&self) -> Option<LearnedCredential> {
        self.entry.as_ref().and_then(learned_of)
    }

    /// True if a password that the client has shown is of use for logins to servers: `auth_file` does not have it.
    pub(super) fn lacks_password(&self) -> bool {
        match &self.entry {
            Some(StoredEntry::File(text)) => ScramSecret::parse(text).is_some(),
            Some(StoredEntry::Server(_)) => true,
            None => false,
        }
    }

    /// True if `auth_query` has not found the user.
    pub(super) fn is_unknown_to_server(&self) -> bool {
        self.is_unknown_to_server
    }

    /// Texts to check a password against: at least one, and none of them empty.
    pub(super) fn texts(&self) -> Vec<Zeroizing<String>> {
        let mut texts: Vec<_> = match &self.secret {
            Some(secret) if !secret.versions.is_empty() => {
                secret.versions.iter().map(|version| text_of(version)).collect()
            }
            _ => self.entry.iter().map(|entry| entry.text().clone()).collect(),
        };
        texts.retain(|text| !text.is_empty());
        if texts.is_empty() { self.mocks.clone() } else { texts }
    }

    /// After a failed check: the current content of the secret, if it has changed and is for this user. A client may
    /// learn of a rotation, or of a switch between alternating users, before the pooler does.
    pub(super) async fn newer(&self, context: &Rc<Context>, user: &str) -> Option<Zeroizing<String>> {
        let SecretCredentials { key, held, versions, .. } = self.secret.as_ref()?;
        let (cache, key, held) = (context.process.secrets.clone(), key.clone(), held.clone());
        let newer =
            context.on_control(async move { cache.after_refusal(&key, &held).await }).await.flatten()?;
        // Requested for every user: the time taken must not reveal which users exist.
        let counts = !versions.is_empty() || self.entry.is_none();
        (counts && newer.username == user).then(|| text_of(&newer))
    }
}

impl SecretCredentials {
    async fn find(context: &Rc<Context>, key: SecretKey, user: &str) -> Option<Self> {
        let (cache, own_key) = (context.process.secrets.clone(), key.clone());
        let all = match context.on_control(async move { cache.get_with_previous(&own_key).await }).await? {
            Ok(all) => all,
            Err(error) => {
                warn_unauthenticated!(
                    context,
                    "secret",
                    user,
                    "cannot read the secret that a client is checked against: {error}"
                );
                return None;
            }
        };
        let held = all.first()?.clone();
        let count = all.len();
        let versions = all.into_iter().filter(|version| version.username == user).collect();
        Some(Self { key, held, count, versions })
    }
}

/// A user that exists.
pub(super) struct KnownUser {
    /// What is known for logins to servers besides `auth_file`.
    pub(super) learned: Option<LearnedCredential>,
}

/// What an answer of `auth_query` is good for: servers accept a password and its MD5 hash, but not a SCRAM secret.
fn learned_of(entry: &StoredEntry) -> Option<LearnedCredential> {
    match entry {
        StoredEntry::Server(text) if !text.is_empty() && ScramSecret::parse(text).is_none() => {
            Some(LearnedCredential::Password(Secret::new(text.as_str())))
        }
        _ => None,
    }
}

/// The form of mocks if no user has a password.
fn default_form(config: &Config) -> Form {
    let settings = &config.settings;
    match settings.auth_type {
        AuthType::Md5 => Form::Md5,
        _ => Form::Scram { iterations: settings.scram_iterations, salt_bytes: SALT_BYTES },
    }
}

fn text_of_secret(secret: &Secret) -> Zeroizing<String> {
    Zeroizing::new(secret.expose().to_owned())
}

fn text_of(secret: &DatabaseSecret) -> Zeroizing<String> {
    Zeroizing::new(secret.expose().to_owned())
}
