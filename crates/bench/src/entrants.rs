//! The contenders of one run with their programs. Owns copying the programs to where their account can read
//! them, and their versions; it starts none of them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::bed::Bed;
use crate::contenders::{Contender, ContenderKind};
use crate::plan::PlanRow;
use crate::process;

/// The first PgBouncer that can share prepared statements in transaction pooling.
const FIRST_WITH_PREPARED: (u32, u32) = (1, 21);

/// A contender that takes part.
pub(crate) struct Entrant {
    /// Which one.
    pub(crate) contender: Contender,
    /// Its program; [`Contender::Direct`] has none, and neither has a spike that is not built.
    pub(crate) program: Option<PathBuf>,
    /// First line of `--version`.
    pub(crate) version: String,
}

impl Entrant {
    /// Copies the program at `original` into the bed and asks its version.
    pub(crate) fn install(bed: &Bed, contender: Contender, original: &Path) -> Result<Self> {
        let program = bed.dir().join(contender.file());
        fs::copy(original, &program)
            .with_context(|| format!("{} not found at {}", contender.name(), original.display()))?;
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
        let version = match process::ask(&program, &[contender.version_option()]) {
            Ok(text) => text.lines().next().unwrap_or_default().to_owned(),
            // How the others are asked has changed between their versions; that is no reason to end a run.
            Err(_) if contender.is_optional() => "unknown version".to_owned(),
            Err(error) => return Err(error),
        };
        Ok(Self { contender, program: Some(program), version })
    }

    /// One that would take part if it were built.
    fn not_built(contender: Contender) -> Self {
        Self { contender, program: None, version: String::new() }
    }

    /// Why it has no figures in `row`, in which it should take part; `None` if nothing is known against it.
    pub(crate) fn gap(&self, row: &PlanRow) -> Option<String> {
        let Self { contender, program, version } = self;
        if program.is_none() && contender.kind() != ContenderKind::Nothing {
            return Some("not built; `make bench` does".to_owned());
        }
        (row.shares_prepared && !self.shares_prepared())
            .then(|| format!("{version} cannot share prepared statements in transaction pooling"))
    }

    /// No program at all: clients talk to PostgreSQL.
    pub(crate) fn direct() -> Self {
        Self { contender: Contender::Direct, program: None, version: String::new() }
    }

    /// Whether a prepared statement works on any server of a transaction pool.
    fn shares_prepared(&self) -> bool {
        self.contender.kind() != ContenderKind::Pooler
            || pgbouncer_version(&self.version).is_none_or(|version| version >= FIRST_WITH_PREPARED)
    }
}

/// All that take part, in the order in which they are measured.
pub(crate) struct Entrants(pub(crate) Vec<Entrant>);

impl Entrants {
    /// Installs `programs`, and adds what needs none.
    pub(crate) fn install(bed: &Bed, programs: &[(Contender, PathBuf)]) -> Result<Self> {
        let mut entrants = Vec::new();
        for contender in Contender::ALL {
            if contender.kind() == ContenderKind::Nothing {
                entrants.push(Entrant::direct());
            } else if let Some((_, original)) = programs.iter().find(|(one, _)| *one == contender) {
                entrants.push(if contender.is_spike() && !original.exists() {
                    Entrant::not_built(contender)
                } else {
                    Entrant::install(bed, contender, original)?
                });
            }
        }
        Ok(Self(entrants))
    }

    /// Whether both readers of the INI file can share prepared statements, and so know the setting.
    pub(crate) fn all_share_prepared(&self) -> bool {
        self.0.iter().all(Entrant::shares_prepared)
    }
}

/// `(1, 18)` from `PgBouncer 1.18.0`; `None` for a program that is not PgBouncer.
fn pgbouncer_version(line: &str) -> Option<(u32, u32)> {
    let mut parts = line.strip_prefix("PgBouncer ")?.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{args, plan};

    #[test]
    fn versions_are_read() {
        assert_eq!(pgbouncer_version("PgBouncer 1.18.0"), Some((1, 18)));
        assert_eq!(pgbouncer_version("iambouncer 0.1.0"), None);
    }

    #[test]
    fn an_old_pgbouncer_shares_no_statements() {
        let with = |version: &str| Entrant {
            contender: Contender::PgBouncer,
            program: None,
            version: version.to_owned(),
        };
        assert!(!with("PgBouncer 1.18.0").shares_prepared());
        assert!(with("PgBouncer 1.24.1").shares_prepared());
        assert!(Entrant::direct().shares_prepared());
    }

    #[test]
    fn what_is_not_built_is_a_gap_and_direct_is_none() {
        let rows = plan::rows(false, &args::FULL);
        let row = rows.iter().find(|row| row.admits(Contender::MutexPool)).unwrap();
        assert!(Entrant::not_built(Contender::MutexPool).gap(row).is_some());
        assert!(Entrant::direct().gap(row).is_none());
    }
}
