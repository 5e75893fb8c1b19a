//! Credentials that a client's password is checked against: the entry in `auth_file`, or the secret named by the
//! database line. Owns the choice between them; comparing passwords belongs to [`super::authenticate`]. Unknown users
//! get a mock that no password matches.

use crate::admin;
use crate::auth::mock::{Form, Pattern};
use crate::auth::scram::keys::SALT_BYTES;
use crate::config::{AuthType, Config};
use crate::context::Context;
use crate::log_limit::warn_unauthenticated;
use rds_iam::secrets::{DatabaseSecret, SecretKey};
use std::rc::Rc;
use std::sync::Arc;
use zeroize::Zeroizing;

/// The stored credentials of a user.
pub(super) struct StoredCredentials {
    /// The `auth_file` entry: a password, a hash, a SCRAM secret, or an empty text.
    entry: Option<Zeroizing<String>>,
    secret: Option<SecretCredentials>,
    /// Stand-ins for a user that does not exist; made for every user, so that the time is the same.
    mocks: Vec<Zeroizing<String>>,
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
    pub(super) async fn find(context: &Rc<Context>, database: &str, user: &str) -> Self {
        let config = context.config();
        let line = config.database_for(database).filter(|_| database != admin::DATABASE);
        let secret = match line.and_then(crate::config::Database::secret_key) {
            Some(key) => SecretCredentials::find(context, key, user).await,
            None => None,
        };
        let pattern = context.forms().pattern(user, &context.process.key, secret.is_some());
        let mocks = match (pattern, &secret) {
            // All versions of a secret are tried.
            (Pattern::Other, Some(secret)) => (0..secret.count)
                .map(|n| Form::Clear.mock(&format!("{n}{user}"), &context.process.key))
                .collect(),
            (Pattern::Sampled(form), _) => vec![form.mock(user, &context.process.key)],
            _ => vec![default_form(&config).mock(user, &context.process.key)],
        };
        Self { entry: Self::entry(context, user), secret, mocks }
    }

    /// Like [`Self::find`], without asking AWS if `auth_file` has an entry: with `trust`, any entry is enough.
    pub(super) async fn is_known(context: &Rc<Context>, database: &str, user: &str) -> bool {
        if Self::entry(context, user).is_some() {
            return true;
        }
        let stored = Self::find(context, database, user).await;
        stored.secret.is_some_and(|secret| !secret.versions.is_empty())
    }

    fn entry(context: &Context, user: &str) -> Option<Zeroizing<String>> {
        let loaded = context.loaded();
        loaded.users.get(user).map(|entry| Zeroizing::new(entry.password.expose().to_owned()))
    }

    /// Texts to check a password against: at least one, and none of them empty.
    pub(super) fn texts(&self) -> Vec<Zeroizing<String>> {
        let mut texts: Vec<_> = match &self.secret {
            Some(secret) if !secret.versions.is_empty() => {
                secret.versions.iter().map(|version| text_of(version)).collect()
            }
            _ => self.entry.iter().cloned().collect(),
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

/// The form of mocks if no user has a password.
fn default_form(config: &Config) -> Form {
    let settings = &config.settings;
    match settings.auth_type {
        AuthType::Md5 => Form::Md5,
        _ => Form::Scram { iterations: settings.scram_iterations, salt_bytes: SALT_BYTES },
    }
}

fn text_of(secret: &DatabaseSecret) -> Zeroizing<String> {
    Zeroizing::new(secret.expose().to_owned())
}
