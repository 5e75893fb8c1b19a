//! The account that the pooler runs as. Owns the refusal to run as root, and the switch to `user`. The switch must come
//! before the first additional thread, since it changes the calling thread only.

use crate::accounts::{self, HostUser};
use crate::config::Settings;
use anyhow::{Context as _, bail};
use rustix::process::{Gid, Uid, getegid, geteuid, getpid};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

/// Checks whether the process may run as root with these settings, which came from a file or not.
///
/// # Errors
/// It may not: with a file, as in PgBouncer, unless it is the first process of a container, which has no other account.
pub(super) fn check_root(settings: &Settings, is_file: bool) -> anyhow::Result<()> {
    if geteuid().is_root() && is_file && settings.user.is_empty() && !is_first_process() {
        bail!(
            "the pooler must not run as root: start it as another user, or name one with user = NAME or -u NAME"
        );
    }
    Ok(())
}

fn is_first_process() -> bool {
    getpid().as_raw_nonzero().get() == 1
}

/// Logs that the process runs as root, if it does.
pub(super) fn report_root(settings: &Settings) {
    if !geteuid().is_root() {
        return;
    }
    if settings.user == "root" {
        tracing::info!("running as root, as configured (user = root)");
    } else if is_first_process() {
        tracing::warn!(
            "running as root, as the first process of a container; another account would be safer"
        );
    } else {
        tracing::warn!("running as root; another account would be safer (--set user=NAME)");
    }
}

/// Switches to the configured user, if it is another one.
///
/// # Errors
/// The user is unknown, or the kernel refuses the change.
pub(super) fn switch(settings: &Settings) -> anyhow::Result<()> {
    let name = settings.user.as_str();
    if name.is_empty() {
        return Ok(());
    }
    let user = accounts::user(name).with_context(|| format!("user = {name}: there is no such user"))?;
    let uid = Uid::from_raw(user.uid);
    if uid == geteuid() {
        return Ok(());
    }
    change(&user).with_context(|| format!("cannot switch to user {name}"))?;
    tracing::info!("switched to user {name}");
    Ok(())
}

fn change(user: &HostUser) -> anyhow::Result<()> {
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    let groups: Vec<Gid> = accounts::groups_of(user).into_iter().map(Gid::from_raw).collect();
    // Groups first: without root's rights they can no longer be set.
    set_thread_groups(&groups)?;
    set_thread_res_gid(gid, gid, gid)?;
    set_thread_res_uid(uid, uid, uid)?;
    anyhow::ensure!(geteuid() == uid && getegid() == gid, "the kernel did not change the account");
    Ok(())
}
