//! Text and JSON output of a report. Owns both formats and their stability: names in JSON do not change.

use super::checks::{CheckStatus, DoctorReport, Finding, TargetReport};
use crate::printable;
use serde_json::{Value, json};
use std::collections::HashSet;

/// Version of the JSON format; raised by incompatible changes.
const JSON_FORM: u32 = 1;
/// Width of the column of check names.
const NAME_COLUMNS: usize = 12;
/// Width at which explanations are wrapped.
const TEXT_COLUMNS: usize = 100;

/// Text output: a line for each check, then a block for each cause with what to do.
pub fn text(report: &DoctorReport) -> String {
    let mut text = String::new();
    for finding in &report.general {
        push_line(&mut text, finding);
    }
    for target in &report.targets {
        text.push_str(&format!("\n{}\n", title(target)));
        for finding in &target.findings {
            push_line(&mut text, finding);
        }
    }
    let mut printed = HashSet::new();
    for finding in report.findings() {
        let Some(outcome) = &finding.outcome else { continue };
        if printed.insert(&outcome.hint) {
            let info = outcome.cause.info();
            text.push_str(&format!("\n{} {}: {}\n", finding.status.sign(), info.id, info.title));
            // The number is already in the heading.
            let hint = outcome.hint.trim_end_matches(&format!(" [{}]", info.id));
            for line in fold(&printable::lines(hint), TEXT_COLUMNS - 2) {
                text.push_str(&format!("  {line}\n"));
            }
            text.push_str(&format!("  {}\n", outcome.cause.url()));
        }
    }
    text
}

fn title(target: &TargetReport) -> String {
    let TargetReport { database, host, port, user, .. } = target;
    let user = user.as_deref().map(|user| format!(", user {user}")).unwrap_or_default();
    printable::line(&format!("database {database}: {host}:{port}{user}"))
}

fn push_line(text: &mut String, finding: &Finding) {
    let took =
        finding.took.map(|took| format!(" ({:.1} ms)", took.as_secs_f64() * 1000.0)).unwrap_or_default();
    let number = finding.outcome.as_ref().map(|outcome| format!(" [{}]", outcome.cause.info().id));
    text.push_str(&format!(
        "  {} {:NAME_COLUMNS$} {}{took}{}\n",
        finding.status.sign(),
        finding.check.id(),
        printable::line(&finding.summary),
        number.unwrap_or_default()
    ));
}

/// Wraps at spaces. A longer word is not split, since it may be an ARN or a name to be copied.
fn fold(text: &str, columns: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= columns => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// JSON output.
pub fn json(report: &DoctorReport) -> Value {
    let targets = report.targets.iter().map(|target| {
        json!({
            "database": target.database,
            "host": target.host,
            "port": target.port,
            "user": target.user,
            "checks": target.findings.iter().map(finding_json).collect::<Vec<_>>(),
        })
    });
    json!({
        "form": JSON_FORM,
        "version": env!("CARGO_PKG_VERSION"),
        "result": report.status().name(),
        "checks": report.general.iter().map(finding_json).collect::<Vec<_>>(),
        "targets": targets.collect::<Vec<_>>(),
    })
}

fn finding_json(finding: &Finding) -> Value {
    let mut value = json!({
        "id": finding.check.id(),
        "status": finding.status.name(),
        "summary": finding.summary,
        "docs": finding.check.url(),
    });
    if let Some(took) = finding.took {
        value["took_ms"] = json!(took.as_micros() as f64 / 1000.0);
    }
    if let Some(outcome) = &finding.outcome {
        let info = outcome.cause.info();
        value["cause"] = json!({
            "id": info.id,
            "reason": info.label,
            "title": info.title,
            "hint": outcome.hint,
            "docs": outcome.cause.url(),
        });
    }
    value
}

/// True if the exit code should report a failure.
pub fn is_bad(report: &DoctorReport, strict: bool) -> bool {
    report.status() >= if strict { CheckStatus::Warning } else { CheckStatus::Failure }
}

#[cfg(test)]
mod tests {
    use super::super::checks::Check;
    use super::*;
    use crate::login_failure::LoginFailure;
    use std::time::Duration;

    fn report() -> DoctorReport {
        let failure =
            Finding::failure(Check::Login, "refused", LoginFailure::NotAuthorized, Some("RDS says no."));
        let target = TargetReport {
            database: "app".into(),
            host: "db".into(),
            port: 5432,
            user: None,
            findings: vec![Finding::pass(Check::Tcp, "open").took(Duration::from_micros(1250)), failure],
        };
        DoctorReport { general: vec![Finding::pass(Check::Config, "ok")], targets: vec![target] }
    }

    #[test]
    fn text_has_a_line_for_each_check_and_a_block_for_each_cause() {
        let text = text(&report());
        assert!(text.starts_with("  ✔ config       ok\n\ndatabase app: db:5432\n"), "{text}");
        assert!(
            text.contains("  ✔ tcp          open (1.2 ms)\n  ✘ login        refused [IAM003]\n"),
            "{text}"
        );
        assert!(text.contains("\n✘ IAM003: the policy does not allow this login\n  RDS says no. "), "{text}");
        assert_eq!(text.matches("IAM003").count(), 2, "{text}");
        assert!(
            text.lines().all(|line| line.chars().count() <= TEXT_COLUMNS || line.contains("://")),
            "{text}"
        );
    }

    #[test]
    fn json_has_the_same_findings_under_stable_names() {
        let value = json(&report());
        let check = &value["targets"][0]["checks"][1];
        assert_eq!((value["result"].as_str(), value["form"].as_u64()), (Some("failure"), Some(1)));
        assert_eq!((check["id"].as_str(), check["status"].as_str()), (Some("login"), Some("failure")));
        assert_eq!(check["cause"]["id"], "IAM003");
        assert_eq!(value["targets"][0]["checks"][0]["took_ms"], 1.25);
        assert!(is_bad(&report(), false) && !is_bad(&DoctorReport::default(), true));
    }
}
