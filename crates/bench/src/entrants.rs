//! The contenders of one run with their programs. Owns copying the programs to where the poolers' account can
//! read them, and their versions; never starts them, except to print the version.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::contenders::{Contender, ContenderKind};
use crate::plan::PlanRow;
use crate::process;
use crate::test_bed::TestBed;

/// The first PgBouncer with prepared statements in transaction pooling.
const FIRST_WITH_PREPARED: (u32, u32) = (1, 21);

/// A contender that takes part in a run.
pub(crate) struct Entrant {
    /// The contender.
    pub(crate) contender: Contender,
    /// Its program; `None` for [`Contender::Direct`] and for a spike that is not built.
    pub(crate) program: Option<PathBuf>,
    /// First line of `--version`.
    pub(crate) version: String,
}

impl Entrant {
    /// Copies the program at `original` into the test bed and reads its version.
    pub(crate) fn install(test_bed: &TestBed, contender: Contender, original: &Path) -> Result<Self> {
        let program = test_bed.dir().join(contender.file());
        fs::copy(original, &program)
            .with_context(|| format!("{} not found at {}", contender.name(), original.display()))?;
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
        let version = match process::read_output(&program, &[contender.version_option()]) {
            Ok(text) => text.lines().next().unwrap_or_default().to_owned(),
            // The version option of optional contenders differs between their versions; that must not end a
            // run.
            Err(_) if contender.is_optional() => "unknown version".to_owned(),
            Err(error) => return Err(error),
        };
        Ok(Self { contender, program: Some(program), version })
    }

    /// A spike that is not built.
    fn not_built(contender: Contender) -> Self {
        Self { contender, program: None, version: String::new() }
    }

    /// The reason why it cannot run `row`, in which it should take part; `None` if it can.
    pub(crate) fn gap(&self, row: &PlanRow) -> Option<String> {
        let Self { contender, program, version } = self;
        if program.is_none() && contender.kind() != ContenderKind::Nothing {
            return Some("not built; `make bench` builds it".to_owned());
        }
        (row.shares_prepared && !self.shares_prepared())
            .then(|| format!("{version} cannot share prepared statements in transaction pooling"))
    }

    /// No program: clients connect to PostgreSQL.
    pub(crate) fn direct() -> Self {
        Self { contender: Contender::Direct, program: None, version: String::new() }
    }

    /// True if a prepared statement works on any server of a transaction pool.
    fn shares_prepared(&self) -> bool {
        self.contender.kind() != ContenderKind::Pooler
            || pgbouncer_version(&self.version).is_none_or(|version| version >= FIRST_WITH_PREPARED)
    }
}

/// All contenders that take part, in the order of measurements.
pub(crate) struct Entrants(pub(crate) Vec<Entrant>);

impl Entrants {
    /// Installs `programs`, and adds contenders without a program.
    pub(crate) fn install(test_bed: &TestBed, programs: &[(Contender, PathBuf)]) -> Result<Self> {
        let mut entrants = Vec::new();
        for contender in Contender::ALL {
            if contender.kind() == ContenderKind::Nothing {
                entrants.push(Entrant::direct());
            } else if let Some((_, original)) = programs.iter().find(|(one, _)| *one == contender) {
                entrants.push(if contender.is_spike() && !original.exists() {
                    Entrant::not_built(contender)
                } else {
                    Entrant::install(test_bed, contender, original)?
                });
            }
        }
        Ok(Self(entrants))
    }

    /// True if both readers of the INI file can share prepared statements, and therefore accept the setting.
    pub(crate) fn all_share_prepared(&self) -> bool {
        self.0.iter().all(Entrant::shares_prepared)
    }
}

/// `(1, 18)` from `PgBouncer 1.18.0`; `None` for another program.
fn pgbouncer_version(line: &str) -> Option<(u32, u32)> {
    let mut parts = line.strip_prefix("PgBouncer ")?.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{args, plan};

    #[test]
    fn pgbouncer_versions_are_parsed() {
        assert_eq!(pgbouncer_version("PgBouncer 1.18.0"), Some((1, 18)));
        assert_eq!(pgbouncer_version("iambouncer 0.1.0"), None);
    }

    #[test]
    fn an_old_pgbouncer_does_not_share_statements() {
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
    fn a_spike_that_is_not_built_is_a_gap_and_direct_is_not() {
        let rows = plan::rows(false, &args::FULL);
        let row = rows.iter().find(|row| row.admits(Contender::MutexPool)).unwrap();
        assert!(Entrant::not_built(Contender::MutexPool).gap(row).is_some());
        assert!(Entrant::direct().gap(row).is_none());
    }
}
