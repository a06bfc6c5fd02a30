//! Plays many cases, several at a time, over the transports they fit.

use crate::play::play;
use crate::server::Target;
use crate::transcript::{Case, Transport};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How one case went over one transport.
#[derive(Debug)]
pub struct Outcome {
    pub case: String,
    pub line: usize,
    pub transport: Transport,
    pub result: Result<(), String>,
}

#[derive(Debug, Default)]
pub struct Report {
    pub outcomes: Vec<Outcome>,
    /// Cases that the target cannot play, with the reason.
    pub skipped: Vec<String>,
}

impl Report {
    pub fn failed(&self) -> impl Iterator<Item = &Outcome> {
        self.outcomes.iter().filter(|outcome| outcome.result.is_err())
    }

    pub fn passed_count(&self) -> usize {
        self.outcomes.iter().filter(|outcome| outcome.result.is_ok()).count()
    }
}

/// Plays every case that fits, `jobs` at a time. Most of a case is waiting for a process to start.
pub fn run(cases: &[Case], target: &Target, transports: &[Transport], jobs: usize) -> Report {
    let mut report = Report::default();
    let mut plays = Vec::new();
    let moves_time = target.moves_time();
    for case in cases {
        if case.except.iter().any(|name| target.is_excepted(name)) {
            continue;
        }
        if !case.targets.is_empty() && !case.targets.iter().any(|name| target.kind.is_called(name)) {
            continue;
        }
        if case.moves_time() && !moves_time {
            report.skipped.push(format!("{}: needs a clock that can be moved: memcached-debug beside memcached, or a server with --debug-time", case.name));
            continue;
        }
        if let Some(reason) = target.refusal(case) {
            report.skipped.push(format!("{}: {reason}", case.name));
            continue;
        }
        let fits = |transport: &&Transport| case.fits(**transport) && target.understands(**transport);
        plays.extend(transports.iter().filter(fits).map(|transport| (case, *transport)));
    }
    let next = AtomicUsize::new(0);
    let outcomes = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                while let Some((case, transport)) = plays.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let result = play(case, target, *transport).map_err(|error| format!("{error:#}"));
                    let outcome =
                        Outcome { case: case.name.clone(), line: case.line, transport: *transport, result };
                    outcomes.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(outcome);
                }
            });
        }
    });
    report.outcomes = outcomes.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    report.outcomes.sort_by(|a, b| (&a.case, a.transport.name()).cmp(&(&b.case, b.transport.name())));
    report
}
