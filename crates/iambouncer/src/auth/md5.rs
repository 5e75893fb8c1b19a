//! PostgreSQL's md5 passwords: `md5` + hex(md5(hex(md5(password + user)) + salt)). Owns this formula. For old clients
//! and servers only; SCRAM is better in every respect.

use md5::{Digest, Md5};
use zeroize::Zeroizing;

fn hex(digest: impl AsRef<[u8]>) -> String {
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The stored form: `md5` and 32 hex digits.
pub fn stored(user: &str, password: &str) -> Zeroizing<String> {
    let mut hash = Md5::new();
    hash.update(password.as_bytes());
    hash.update(user.as_bytes());
    Zeroizing::new(format!("md5{}", hex(hash.finalize())))
}

/// True for a stored md5 password.
pub fn is_stored(secret: &str) -> bool {
    let is_digit = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
    secret.len() == 35 && secret.strip_prefix("md5").is_some_and(|digits| digits.bytes().all(is_digit))
}

/// A client's answer for `salt`. `secret` is the password or its stored form.
pub fn answer(user: &str, secret: &str, salt: [u8; 4]) -> Zeroizing<String> {
    let made;
    let inner = if is_stored(secret) {
        &secret[3..]
    } else {
        made = stored(user, secret);
        &made[3..]
    };
    let mut hash = Md5::new();
    hash.update(inner.as_bytes());
    hash.update(salt);
    Zeroizing::new(format!("md5{}", hex(hash.finalize())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_that_of_md5sum() {
        // echo -n postgresalice | md5sum
        assert_eq!(stored("alice", "postgres").as_str(), "md53028c639a499cc77099550a33e389877");
        assert!(is_stored(&stored("alice", "postgres")));
        assert!(!is_stored("md5short"));
        // In upper case it is a password, as in PostgreSQL.
        assert!(!is_stored("md53028C639A499CC77099550A33E389877"));
    }

    #[test]
    fn the_stored_form_gives_the_same_answer_as_the_password() {
        let salt = [1, 2, 3, 4];
        let stored = stored("u", "p");
        assert_eq!(answer("u", "p", salt), answer("u", &stored, salt));
        assert_ne!(answer("u", "p", salt), answer("u", "q", salt));
    }
}
