//! Comparison of a password with its stored form. Owns which forms there are and that the comparison takes the same time wherever
//! the difference is.

use super::md5;
use super::scram::keys::{SaltedPassword, ScramSecret};

/// True if both are the same.
pub fn same(a: &[u8], b: &[u8]) -> bool {
    aws_lc_rs::constant_time::verify_slices_are_equal(a, b).is_ok()
}

/// True if the password matches the SCRAM secret. Takes the time of a key derivation.
pub fn has_secret(password: &str, secret: &ScramSecret) -> bool {
    let derived = SaltedPassword::derive(password, &secret.salt, secret.iterations);
    derived.is_ok_and(|salted| same(&salted.keys().server, &secret.server))
}

/// True if the password is the stored text, or has it as its hash. A SCRAM secret is compared with [`has_secret`].
pub fn is_stored_as(user: &str, password: &str, text: &str) -> bool {
    match md5::is_stored(text) {
        true => same(md5::stored(user, password).as_bytes(), text.as_bytes()),
        false => same(password.as_bytes(), text.as_bytes()),
    }
}
