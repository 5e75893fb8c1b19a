//! What a client's password is held against: the entry of `auth_file`, or the secret that its database line names. Owns
//! the choice between them; how passwords are compared is [`super::authenticate`]'s.

use crate::context::Context;
use crate::server::target::secret_of;
use rds_iam::secrets::{DatabaseSecret, SecretKey};
use std::rc::Rc;
use std::sync::Arc;
use zeroize::Zeroizing;

/// What is known of a user.
pub(super) enum Stored {
    /// Nothing.
    Nothing,
    /// What stands in `auth_file`: a password, a hash, a SCRAM secret, or an empty text.
    Entry(Zeroizing<String>),
    /// What the secret holds, and for some time what it held before.
    Secret { key: SecretKey, versions: Vec<Arc<DatabaseSecret>> },
}

impl Stored {
    /// Looks a user of a database up. The secret counts for the user it names; all others are those of `auth_file`.
    pub(super) async fn find(context: &Rc<Context>, database: &str, user: &str) -> Self {
        let config = context.config();
        if let Some(key) = config.database_for(database).and_then(secret_of) {
            let versions = versions(context, &key, user).await;
            if !versions.is_empty() {
                return Self::Secret { key, versions };
            }
        }
        let loaded = context.loaded();
        loaded
            .users
            .get(user)
            .map_or(Self::Nothing, |entry| Self::Entry(Zeroizing::new(entry.password.expose().to_owned())))
    }

    /// True when the user is known at all, whatever the password.
    pub(super) fn is_known(&self) -> bool {
        !matches!(self, Self::Nothing)
    }

    /// Texts that a password may be held against; none that is empty.
    pub(super) fn texts(&self) -> Vec<Zeroizing<String>> {
        let texts = match self {
            Self::Nothing => Vec::new(),
            Self::Entry(text) => vec![text.clone()],
            Self::Secret { versions, .. } => versions.iter().map(|version| text_of(version)).collect(),
        };
        texts.into_iter().filter(|text| !text.is_empty()).collect()
    }

    /// After a proof that fits nothing: what the secret holds by now, if that is something else and for this user. A
    /// client may well know of a rotation before the pooler.
    pub(super) async fn newer(&self, context: &Rc<Context>, user: &str) -> Option<Zeroizing<String>> {
        let Self::Secret { key, versions } = self else { return None };
        let (cache, key, refused) = (context.secrets.clone(), key.clone(), versions.first()?.clone());
        let newer =
            context.on_control(async move { cache.after_refusal(&key, &refused).await }).await.flatten()?;
        (newer.username == user).then(|| text_of(&newer))
    }
}

fn text_of(secret: &DatabaseSecret) -> Zeroizing<String> {
    Zeroizing::new(secret.expose().to_owned())
}

/// The versions that are for this user. With alternating users each version is for another one.
async fn versions(context: &Rc<Context>, key: &SecretKey, user: &str) -> Vec<Arc<DatabaseSecret>> {
    let (cache, wanted) = (context.secrets.clone(), key.clone());
    match context.on_control(async move { cache.get_with_previous(&wanted).await }).await {
        Some(Ok(versions)) => versions.into_iter().filter(|version| version.username == user).collect(),
        Some(Err(error)) => {
            tracing::warn!(user, "a client cannot be held against its secret: {error}");
            Vec::new()
        }
        None => Vec::new(),
    }
}
