//! `iambouncer authorities`: the built-in certificate authorities, with origin and expiry. Owns the columns.

use super::Failure;
use rds_iam::roots;

pub(super) fn print() -> Result<(), Failure> {
    let all = roots::authorities();
    let width = all.iter().map(|authority| authority.subject.len()).max().unwrap_or(0);
    let lines: String = all
        .iter()
        .map(|authority| {
            format!("{:width$}  {}  {}\n", authority.subject, authority.ends_on, authority.origin)
        })
        .collect();
    super::print(lines.as_bytes())
}
