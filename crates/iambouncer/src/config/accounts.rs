//! Names of the host's accounts. Owns the reading of `/etc/passwd`: the C library's lookup would load modules (LDAP,
//! sssd), which a static binary cannot.

use std::fs::File;
use std::io::Read;

/// Longest part of `/etc/passwd` that is read, in bytes.
const MAX_PASSWD_BYTES: u64 = 16 * 1024 * 1024;

/// The first name of this user ID in `/etc/passwd`. Blocks.
pub fn account_name(uid: u32) -> Option<String> {
    let mut text = Vec::new();
    File::open("/etc/passwd").ok()?.take(MAX_PASSWD_BYTES).read_to_end(&mut text).ok()?;
    name_in(&String::from_utf8_lossy(&text), uid)
}

fn name_in(passwd: &str, uid: u32) -> Option<String> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let has_uid = fields.nth(1)?.parse() == Ok(uid);
        (has_uid && !name.is_empty()).then(|| name.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_account_with_the_id_is_found() {
        let passwd =
            "root:x:0:0::/root:/bin/sh\n# comment\n:x:7::\nann:x:1000:1000::/:\nbob:x:1000:1000::/:\n";
        assert_eq!(name_in(passwd, 0).as_deref(), Some("root"));
        assert_eq!(name_in(passwd, 1000).as_deref(), Some("ann"));
        assert_eq!((name_in(passwd, 7), name_in(passwd, 100)), (None, None));
    }
}
