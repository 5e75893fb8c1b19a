//! What clients' logins have revealed for logins to servers. Owns what a new password and a refused one change; never
//! logs in.

use super::acquire::Pool;
use crate::auth::server_passwords::ServerAccount;
use crate::server::LoginError;
use crate::server::target::LearnedCredential;

impl Pool {
    /// Keeps what a client's login has revealed, for logins to the server.
    pub fn learn(&self, credential: LearnedCredential) {
        let is_new_password = self.shared.set_learned(credential);
        // The password was changed: the next client is not refused for the previous one.
        if is_new_password && self.shared.failure().is_some_and(|failure| failure.login.error.is_about_user())
        {
            self.forget_failure();
        }
    }

    /// True if the server has refused a password that clients have replaced since `version`.
    pub(super) fn is_about_previous_password(&self, error: &LoginError, version: u64) -> bool {
        error.is_about_user() && self.shared.password_version() != version
    }

    /// The server no longer accepts what a client has shown: passwords of this user that it verified before are outdated.
    pub(super) fn forget_verified_password(&self, error: &LoginError) {
        if !error.is_about_user() || self.shared.learned().is_none() {
            return;
        }
        let process = &self.context.process;
        let account = {
            let line = self.database.line.borrow();
            ServerAccount::of(&process.key, &line, &self.database.name, &self.user)
        };
        process.proofs.passwords.forget_good(|known| *known == account);
    }
}
