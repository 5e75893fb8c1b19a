//! Users that do not exist, as far as a client can see. Owns what is held against the password of one: a text that nothing
//! fits, of a form that users of this pooler have. Whoever asks for a user that does not exist sees the same requests, in
//! the same time, as for one that does.

use super::md5;
use super::scram::keys::{Key, ScramSecret, hmac_sha256};
use std::collections::BinaryHeap;
use std::hash::{DefaultHasher, Hash, Hasher};
use zeroize::Zeroizing;

/// Users whose forms stand for those of all.
const MAX_SAMPLES: usize = 64;

/// How a password is stored, which a client can tell from the request and from the time of the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Form {
    /// The password itself.
    Clear,
    /// A hash.
    Md5,
    /// A SCRAM secret.
    Scram {
        /// Its rounds.
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

    /// A text of this form that no password fits, always the same for one user and process.
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

/// Whom a user that does not exist looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pattern {
    /// A user of the sample.
    Sampled(Form),
    /// One of the others.
    Other,
    /// There is nobody.
    Nobody,
}

/// The forms that stored texts of a pooler have.
#[derive(Debug, Default)]
pub struct Forms(Vec<Form>);

impl Forms {
    /// Those of some users, for all workers the same ones.
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

    /// Whom a user that does not exist looks like, where there may be further users than those in the sample.
    pub fn pattern(&self, user: &str, process_key: &Key, has_others: bool) -> Pattern {
        let number = hmac_sha256(process_key, &[b"form", user.as_bytes()]);
        let number = number.first_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes) as usize);
        let place = number.checked_rem(self.0.len() + usize::from(has_others));
        match place.map(|place| self.0.get(place)) {
            Some(Some(form)) => Pattern::Sampled(*form),
            Some(None) => Pattern::Other,
            None => Pattern::Nobody,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: Key = [7; 32];

    #[test]
    fn an_unknown_user_has_a_form_that_users_have() {
        let scram = ScramSecret::mock("x", &KEY, 5000, 12).stored_text();
        let users = [("a", "secret"), ("b", scram.as_str()), ("empty", "")];
        let forms = Forms::sample(users.into_iter());
        let all: Vec<Pattern> = (0..50).map(|n| forms.pattern(&n.to_string(), &KEY, true)).collect();
        let scram = Form::Scram { iterations: 5000, salt_bytes: 12 };
        for pattern in [Pattern::Sampled(Form::Clear), Pattern::Sampled(scram), Pattern::Other] {
            assert!(all.contains(&pattern), "{pattern:?}");
        }
        assert!(!all.contains(&Pattern::Nobody));
        assert_eq!(forms.pattern("ghost", &KEY, true), forms.pattern("ghost", &KEY, true));
        assert_eq!(Forms::default().pattern("ghost", &KEY, false), Pattern::Nobody);
        assert_eq!(Forms::default().pattern("ghost", &KEY, true), Pattern::Other);
    }

    #[test]
    fn a_mock_is_of_its_form_and_the_users_own() {
        for form in [Form::Clear, Form::Md5, Form::Scram { iterations: 10, salt_bytes: 20 }] {
            let text = form.mock("ghost", &KEY);
            assert_eq!(Form::of(&text), form);
            assert_eq!(text, form.mock("ghost", &KEY));
            assert_ne!(text, form.mock("other", &KEY));
        }
    }
}
