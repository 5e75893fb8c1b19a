//! Names of settings that clients have set and that are not tracked for all clients. Owns their numbers, which are the
//! same at all workers.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, PoisonError};

/// Maximum number of names in the process. Names are kept until it ends; only clients that have
/// logged in add any.
const MAX_NAMES: usize = 32 * 1024;
/// Longest name, in bytes.
const MAX_NAME_BYTES: usize = 128;

#[derive(Default)]
struct SettingNames {
    numbers: HashMap<&'static str, u16>,
    names: Vec<&'static str>,
}

static NAMES: LazyLock<Mutex<SettingNames>> = LazyLock::new(Mutex::default);

/// The number of a name in lower case. `None` if there are too many names, or it is too long.
pub(super) fn number(name: &str) -> Option<u16> {
    let mut known = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(number) = known.numbers.get(name) {
        return Some(*number);
    }
    if known.names.len() >= MAX_NAMES || name.len() > MAX_NAME_BYTES {
        return None;
    }
    let number = u16::try_from(known.names.len()).ok()?;
    let name: &'static str = Box::leak(name.into());
    known.names.push(name);
    known.numbers.insert(name, number);
    Some(number)
}

/// The name with this number; empty if there is none.
pub(super) fn name(number: u16) -> &'static str {
    let known = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
    known.names.get(usize::from(number)).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_one_number() {
        let first = number("app.one").unwrap();
        assert_eq!((number("app.one"), name(first)), (Some(first), "app.one"));
        assert_ne!(number("app.two"), Some(first));
        assert_eq!((number(&"x".repeat(MAX_NAME_BYTES + 1)), name(u16::MAX)), (None, ""));
    }
}
