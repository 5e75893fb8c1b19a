//! Mock credentials of users that do not exist. Owns the texts that their passwords are checked against: no password
//! matches them, and their form is one that existing users have. A client that logs in as an unknown user receives
//! the same messages, in the same time, as for a known one.

use super::md5;
use super::scram::keys::{Key, ScramSecret, hmac_sha256};
use std::collections::BinaryHeap;
use std::hash::{DefaultHasher, Hash, Hasher};
use zeroize::Zeroizing;

/// Maximum number of users whose forms are sampled.
const MAX_SAMPLES: usize = 64;

/// How a password is stored; a client can infer it from the authentication request and the response time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Form {
    /// The password itself.
    Clear,
    /// A hash.
    Md5,
    /// A SCRAM secret.
    Scram {
        /// Number of iterations.
        iterations: u32,
        /// Length of its salt.
        salt_bytes: usize,
    },
}

impl Form {
    /// The form of a stored text.
    pub fn of(text: &str) -> Self {
        match ScramSecret::parse(text) {
            Some(secret) => Self::Scram { iterations: secret.iterations, salt_bytes: secret.salt.len() },
            None if md5::is_stored(text) => Self::Md5,
            None => Self::Clear,
        }
    }

    /// A text of this form that no password matches; constant for a user and process.
    pub fn mock(self, user: &str, process_key: &Key) -> Zeroizing<String> {
        let hex = |part: &[u8]| -> String {
            let key = hmac_sha256(process_key, &[part, user.as_bytes()]);
            key.iter().take(16).map(|byte| format!("{byte:02x}")).collect()
        };
        match self {
            Self::Clear => Zeroizing::new(hex(b"password")),
            Self::Md5 => Zeroizing::new(format!("md5{}", hex(b"md5"))),
            Self::Scram { iterations, salt_bytes } => {
                ScramSecret::mock(user, process_key, iterations, salt_bytes).stored_text()
            }
        }
    }
}

/// Whose form an unknown user imitates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pattern {
    /// That of a user in the sample.
    Sampled(Form),
    /// That of a user outside the sample.
    Other,
    /// There are no users.
    NoUsers,
}

/// The forms of stored passwords.
#[derive(Debug, Default)]
pub struct Forms(Vec<Form>);

impl Forms {
    /// The forms of a sample of users, the same for all workers.
    pub fn sample<'a>(users: impl Iterator<Item = (&'a str, &'a str)>) -> Self {
        let mut chosen = BinaryHeap::with_capacity(MAX_SAMPLES + 1);
        for (user, text) in users.filter(|(_, text)| !text.is_empty()) {
            let mut hasher = DefaultHasher::new();
            user.hash(&mut hasher);
            chosen.push((hasher.finish(), text));
            if chosen.len() > MAX_SAMPLES {
                chosen.pop();
            }
        }
        let mut forms: Vec<Form> = chosen.into_iter().map(|(_, text)| Form::of(text)).collect();
        forms.sort_unstable();
        Self(forms)
    }

    /// Selects the form that an unknown user imitates. `has_others` if there may be users outside the sample.
    pub fn pattern(&self, user: &str, process_key: &Key, has_others: bool) -> Pattern {
        let number = hmac_sha256(process_key, &[b"form", user.as_bytes()]);
        let number = number.first_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes) as usize);
        let place = number.checked_rem(self.0.len() + usize::from(has_others));
        match place.map(|place| self.0.get(place)) {
            Some(Some(form)) => Pattern::Sampled(*form),
            Some(None) => Pattern::Other,
            None => Pattern::NoUsers,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: Key = [7; 32];

    #[test]
    fn an_unknown_user_has_the_form_of_an_existing_one() {
        let scram = ScramSecret::mock("x", &KEY, 5000, 12).stored_text();
        let users = [("a", "secret"), ("b", scram.as_str()), ("empty", "")];
        let forms = Forms::sample(users.into_iter());
        let all: Vec<Pattern> = (0..50).map(|n| forms.pattern(&n.to_string(), &KEY, true)).collect();
        let scram = Form::Scram { iterations: 5000, salt_bytes: 12 };
        for pattern in [Pattern::Sampled(Form::Clear), Pattern::Sampled(scram), Pattern::Other] {
            assert!(all.contains(&pattern), "{pattern:?}");
        }
        assert!(!all.contains(&Pattern::NoUsers));
        assert_eq!(forms.pattern("ghost", &KEY, true), forms.pattern("ghost", &KEY, true));
        assert_eq!(Forms::default().pattern("ghost", &KEY, false), Pattern::NoUsers);
        assert_eq!(Forms::default().pattern("ghost", &KEY, true), Pattern::Other);
    }

    #[test]
    fn a_mock_has_its_form_and_differs_between_users() {
        for form in [Form::Clear, Form::Md5, Form::Scram { iterations: 10, salt_bytes: 20 }] {
            let text = form.mock("ghost", &KEY);
            assert_eq!(Form::of(&text), form);
            assert_eq!(text, form.mock("ghost", &KEY));
            assert_ne!(text, form.mock("other", &KEY));
        }
    }
}
