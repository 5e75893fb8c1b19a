//! Accounts of the host: users and groups by name or number. Owns reading `/etc/passwd` and `/etc/group`; other
//! sources of accounts (NSS) are not consulted, since a static binary cannot load their modules.

use std::fs;

const PASSWD: &str = "/etc/passwd";
const GROUP: &str = "/etc/group";

/// A user of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostUser {
    /// Name.
    pub name: String,
    /// Number.
    pub uid: u32,
    /// Number of the primary group.
    pub gid: u32,
}

/// The user with this name, or whose number this is.
pub fn user(name: &str) -> Option<HostUser> {
    let users = fs::read_to_string(PASSWD).ok()?;
    let by_name = users.lines().filter_map(parse_user).find(|user| user.name == name);
    by_name.or_else(|| {
        let uid: u32 = name.parse().ok()?;
        users.lines().filter_map(parse_user).find(|user| user.uid == uid)
    })
}

/// The first name of this user ID. Blocks.
pub fn user_name(uid: u32) -> Option<String> {
    name_in(&fs::read_to_string(PASSWD).ok()?, uid)
}

fn name_in(passwd: &str, uid: u32) -> Option<String> {
    passwd.lines().filter_map(parse_user).find(|user| user.uid == uid).map(|user| user.name)
}

/// The number of a group, by name or number.
pub fn group(name: &str) -> Option<u32> {
    let groups = fs::read_to_string(GROUP).unwrap_or_default();
    let by_name = groups.lines().filter_map(parse_group).find(|group| group.name == name);
    by_name.map_or_else(|| name.parse().ok(), |group| Some(group.gid))
}

/// The numbers of all groups of a user: the primary one and those that list the name.
pub fn groups_of(user: &HostUser) -> Vec<u32> {
    let groups = fs::read_to_string(GROUP).unwrap_or_default();
    let listed = groups.lines().filter_map(parse_group).filter(|group| group.has(&user.name));
    let mut numbers = vec![user.gid];
    numbers.extend(listed.map(|group| group.gid).filter(|gid| *gid != user.gid));
    numbers
}

/// `name:password:uid:gid:…` (passwd(5)).
fn parse_user(line: &str) -> Option<HostUser> {
    let mut fields = line.split(':');
    let name = fields.next().filter(|name| !name.is_empty())?.to_owned();
    let uid = fields.nth(1)?.parse().ok()?;
    let gid = fields.next()?.parse().ok()?;
    Some(HostUser { name, uid, gid })
}

struct HostGroup<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

impl HostGroup<'_> {
    fn has(&self, user: &str) -> bool {
        self.members.split(',').any(|member| member.trim() == user)
    }
}

/// `name:password:gid:member,member` (group(5)).
fn parse_group(line: &str) -> Option<HostGroup<'_>> {
    let mut fields = line.split(':');
    let name = fields.next().filter(|name| !name.is_empty())?;
    let gid = fields.nth(1)?.parse().ok()?;
    Some(HostGroup { name, gid, members: fields.next().unwrap_or_default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_is_found_by_name_and_number() {
        let root = HostUser { name: "root".to_owned(), uid: 0, gid: 0 };
        assert_eq!((user("root"), user("0")), (Some(root.clone()), Some(root.clone())));
        assert_eq!(group("root"), Some(0));
        assert_eq!(groups_of(&root).first(), Some(&0));
        assert_eq!((user("no such user"), group("no such group")), (None, None));
    }

    #[test]
    fn the_first_account_with_the_id_is_found() {
        let passwd =
            "root:x:0:0::/root:/bin/sh\n# comment\n:x:7::\nann:x:1000:1000::/:\nbob:x:1000:1000::/:\n";
        assert_eq!(name_in(passwd, 0).as_deref(), Some("root"));
        assert_eq!(name_in(passwd, 1000).as_deref(), Some("ann"));
        assert_eq!((name_in(passwd, 7), name_in(passwd, 100)), (None, None));
    }

    #[test]
    fn faulty_lines_are_skipped() {
        let faulty = ["", ":", "a", "a:x", "a:x:b:0", "a:x:1", "+::::::", "#a:x:z"];
        assert!(faulty.iter().all(|line| parse_user(line).is_none()));
        assert!(["", "g:x", "g:x:y:z", "::1"].iter().all(|line| parse_group(line).is_none()));
        let group = parse_group("ssl-cert:x:103:postgres, app").unwrap();
        assert!(group.has("app") && group.has("postgres") && !group.has("ap"));
    }
}
