//! A client's own tests, how they are played and judged.
//!
//! A test that fails must be named in the suite's list with the reason why it fails on memcached 1.6.45 too; with a peer at
//! hand the peer decides. What a runner printed stays in `target/clients/play/NAME/`.

use super::fetch::Sources;
use super::folder;
use super::network::Network;
use super::report::{Form, Report, Word};
use super::stage::Stage;
use crate::outcome::Outcome;
use crate::run::last_lines;
use anyhow::{Result, bail, ensure};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// One play may take this long.
const PLAY_SECONDS_MAX: u32 = 150;
const SUITES_AT_ONCE: usize = 2;

#[derive(Debug)]
pub(super) struct Suite {
    pub(super) name: &'static str,
    /// What has to be there, and the sentence that tells how it gets there.
    pub(super) needs: &'static [(&'static str, &'static str)],
    /// The servers that its authors expect to run, by their arguments. `{sockets}`, `{sources}`: where these lie.
    pub(super) servers: &'static [&'static str],
    pub(super) program: fn(&Sources) -> PathBuf,
    pub(super) arguments: fn(&Sources) -> Vec<String>,
    pub(super) environment: &'static [(&'static str, &'static str)],
    /// Where it is started, within the sources.
    pub(super) folder: &'static str,
    pub(super) form: Form,
    pub(super) is_crate: bool,
    /// Fewer tests than these have not been a play.
    pub(super) passed_min: usize,
    /// Parts of names of tests that fail on 1.6.45 as well, and why.
    pub(super) fails_on_memcached: &'static [(&'static str, &'static str)],
    /// Parts of names of tests that may be played a second time, and which race they can lose whoever serves them.
    pub(super) can_lose_a_race: &'static [(&'static str, &'static str)],
}

impl Suite {
    pub(super) fn title(&self) -> String {
        format!("client's own tests: {}", self.name)
    }

    fn missing(&self) -> Option<String> {
        let wanted = self
            .needs
            .iter()
            .find(|(file, _)| crate::run::program(file).is_none() && !Path::new(file).exists());
        wanted.map(|(_, enable)| (*enable).to_owned())
    }

    fn play(&self, sources: &Sources, server: &Path, label: &str) -> Result<Report> {
        let slug = self.name.replace(' ', "-");
        let mut stage = Stage::new(folder().join("play").join(format!("{slug}-{label}")), server)?;
        for line in self.servers {
            let arguments: Vec<String> = line.split_whitespace().map(|word| sources.fill(word)).collect();
            // What needs this server will fail, and be named.
            if let Err(error) = stage.start(&arguments) {
                println!("{}: {error:#}", self.name);
            }
        }
        let log = stage.folder().join("output.txt");
        let output = File::create(&log)?;
        let mut command: Command = stage.command(&(self.program)(sources), PLAY_SECONDS_MAX)?;
        command
            .args((self.arguments)(sources))
            .envs(self.environment.iter().map(|(name, value)| (name, sources.fill(value))))
            .current_dir(sources.folder().join(self.folder))
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output);
        let status = command.status()?;
        let text = String::from_utf8_lossy(&std::fs::read(&log)?).into_owned();
        let report = Report::read(self.form, &text);
        if status.code() == Some(124) {
            bail!("not done after {PLAY_SECONDS_MAX} s ({report}): see {}", log.display());
        }
        let passed = report.names(Word::Passed).len();
        ensure!(
            passed >= self.passed_min || !report.names(Word::Failed).is_empty(),
            "only {passed} tests passed, at least {} were expected:\n{}",
            self.passed_min,
            last_lines(&text, 15)
        );
        stage.check_alive()?;
        Ok(report)
    }

    /// What fails and should not. With a peer: what passes there must pass here. Without: what fails must be known to fail
    /// there.
    fn wrong<'r>(&self, report: &'r Report, peer: Option<&Report>) -> BTreeSet<&'r str> {
        let failed = report.names(Word::Failed);
        let excused: BTreeSet<&str> = match peer {
            Some(peer) => peer.names(Word::Failed),
            None => failed.iter().filter(|name| is_among(self.fails_on_memcached, name)).copied().collect(),
        };
        failed.into_iter().filter(|name| !excused.contains(name)).collect()
    }

    fn judge(&self, report: &Report, peer: Option<&Report>) -> Result<()> {
        let wrong: Vec<&str> = self.wrong(report, peer).into_iter().collect();
        ensure!(wrong.is_empty(), "{report}; these should not fail:\n{}", wrong.join("\n"));
        let skipped = report.names(Word::Skipped);
        let lost: Vec<&str> = peer
            .map_or_else(BTreeSet::new, |peer| peer.names(Word::Passed))
            .intersection(&skipped)
            .copied()
            .collect();
        ensure!(lost.is_empty(), "{report}; skipped here, passed by the peer:\n{}", lost.join("\n"));
        Ok(())
    }

    fn compared(
        &self,
        sources: &Sources,
        server: &Path,
        peer: Option<&Path>,
    ) -> Result<(Report, Option<Report>)> {
        let report = self.play(sources, server, "server")?;
        let other = peer.map(|peer| self.play(sources, peer, "peer")).transpose()?;
        Ok((report, other))
    }

    /// A failure is one, even if it is not seen a second time: a fault that shows now and then is one, too. Only where a test is
    /// known to lose a race of its own making, and nothing else has failed, there is a second play.
    fn outcome(&self, sources: &Sources, server: &Path, peer: Option<&Path>) -> Outcome {
        let started = Instant::now();
        let played = self.compared(sources, server, peer).and_then(|(mut report, other)| {
            let wrong = self.wrong(&report, other.as_ref());
            if !wrong.is_empty() && wrong.iter().all(|name| is_among(self.can_lose_a_race, name)) {
                let names: Vec<&str> = wrong.into_iter().collect();
                println!("{}: ONCE MORE, for a race that these can lose: {}", self.name, names.join(", "));
                report = report.after(&self.play(sources, server, "server")?);
            }
            let others = other.as_ref().map(|other| format!("; peer: {other}")).unwrap_or_default();
            println!("{}: {report}{others} ({:.0?})", self.name, started.elapsed());
            self.judge(&report, other.as_ref())
        });
        Outcome::new(self.title(), played)
    }
}

fn is_among(parts: &[(&str, &str)], name: &str) -> bool {
    parts.iter().any(|(part, _)| name.contains(part))
}

/// Fetches what the suites need, then plays them.
pub(super) fn play_all(suites: &[Suite], server: &Path, peer: Option<&Path>) -> Vec<Outcome> {
    if suites.is_empty() {
        return Vec::new();
    }
    let (ready, missing): (Vec<&Suite>, Vec<&Suite>) =
        suites.iter().partition(|suite| suite.missing().is_none());
    let mut outcomes: Vec<Outcome> = missing
        .iter()
        .map(|suite| Outcome::skipped(suite.title(), suite.missing().unwrap_or_default()))
        .collect();
    if let Some(enable) = Network::missing() {
        outcomes.extend(ready.iter().map(|suite| Outcome::skipped(suite.title(), enable)));
        return outcomes;
    }
    let sources = match Sources::fetch(ready.iter().any(|suite| suite.is_crate)) {
        Ok(sources) => sources,
        Err(error) => {
            let enable = format!("a way to PyPI and crates.io ({error:#})");
            outcomes.extend(ready.iter().map(|suite| Outcome::skipped(suite.title(), enable.as_str())));
            return outcomes;
        }
    };
    outcomes.extend(in_turns(&ready, |suite| suite.outcome(&sources, server, peer)));
    outcomes
}

/// Some at once: much of a suite is waiting for seconds to pass. The order of the results is that of the suites.
fn in_turns(suites: &[&Suite], play: impl Fn(&Suite) -> Outcome + Sync) -> Vec<Outcome> {
    let next = AtomicUsize::new(0);
    let outcomes = Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        for _ in 0..SUITES_AT_ONCE {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let Some(suite) = suites.get(number) else { break };
                    let outcome = play(suite);
                    outcomes.lock().unwrap_or_else(PoisonError::into_inner).insert(number, outcome);
                }
            });
        }
    });
    outcomes.into_inner().unwrap_or_else(PoisonError::into_inner).into_values().collect()
}
