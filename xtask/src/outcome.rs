//! What a check came to, and the list at the end.

use std::process::ExitCode;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Passed,
    /// With what was seen.
    Failed(String),
    /// With how to enable it.
    Skipped(String),
}

#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    pub(crate) name: String,
    pub(crate) verdict: Verdict,
}

impl Outcome {
    pub(crate) fn new(name: impl Into<String>, result: anyhow::Result<()>) -> Outcome {
        let verdict = match result {
            Ok(()) => Verdict::Passed,
            Err(error) => Verdict::Failed(format!("{error:#}")),
        };
        Outcome { name: name.into(), verdict }
    }

    pub(crate) fn skipped(name: impl Into<String>, enable: impl Into<String>) -> Outcome {
        Outcome { name: name.into(), verdict: Verdict::Skipped(enable.into()) }
    }
}

/// Prints every check by name, then the counts on the last line.
pub(crate) fn summary(outcomes: &[Outcome]) -> ExitCode {
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    println!();
    for outcome in outcomes {
        match &outcome.verdict {
            Verdict::Passed => {
                passed += 1;
                println!("passed   {}", outcome.name);
            }
            Verdict::Failed(reason) => {
                failed += 1;
                println!("FAILED   {}: {}", outcome.name, reason.replace('\n', "\n         "));
            }
            Verdict::Skipped(enable) => {
                skipped += 1;
                println!("SKIPPED  {}; to enable it: {enable}", outcome.name);
            }
        }
    }
    println!("{passed} passed, {failed} failed, {skipped} skipped");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
