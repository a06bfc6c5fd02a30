//! The findings and the table at the end: a ratio with its spread over rounds, its target, and whether it is met.

/// Median, least and greatest of the values of several rounds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spread {
    pub(super) median: f64,
    pub(super) least: f64,
    pub(super) greatest: f64,
}

impl Spread {
    pub(super) fn of(values: impl IntoIterator<Item = f64>) -> Spread {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
        let last = values.len().saturating_sub(1);
        Spread { median: (at(last / 2) + at(values.len() / 2)) / 2.0, least: at(0), greatest: at(last) }
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Target {
    AtMost(f64),
    AtLeast(f64),
    /// Printed for orientation.
    None,
}

struct Finding {
    what: String,
    spread: Spread,
    target: Target,
}

pub(super) struct Report {
    /// The peer is the version that the targets count against.
    pub(super) counts: bool,
    findings: Vec<Finding>,
}

impl Report {
    pub(super) fn new(counts: bool) -> Self {
        Report { counts, findings: Vec::new() }
    }

    pub(super) fn add(&mut self, what: impl Into<String>, spread: Spread, target: Target) {
        let finding = Finding { what: what.into(), spread, target };
        println!("  {}", line(&finding, self.counts));
        self.findings.push(finding);
    }

    pub(super) fn print(&self) {
        println!("\n# ratios: median (least .. greatest over rounds)");
        for finding in &self.findings {
            println!("{}", line(finding, self.counts));
        }
        let targets: Vec<&Finding> =
            self.findings.iter().filter(|f| !matches!(f.target, Target::None)).collect();
        let met = targets.iter().filter(|finding| is_met(finding)).count();
        println!("{met} of {} targets met", targets.len());
    }
}

fn is_met(finding: &Finding) -> bool {
    match finding.target {
        Target::AtMost(most) => finding.spread.median <= most,
        Target::AtLeast(least) => finding.spread.median >= least,
        Target::None => true,
    }
}

fn line(finding: &Finding, counts: bool) -> String {
    let Spread { median, least, greatest } = finding.spread;
    let target = match finding.target {
        Target::AtMost(most) => format!("<= {most}"),
        Target::AtLeast(least) => format!(">= {least}"),
        Target::None => String::new(),
    };
    let verdict = match (finding.target, is_met(finding), counts) {
        (Target::None, ..) => "",
        (_, true, true) => "met",
        (_, false, true) => "MISSED",
        (_, true, false) => "met (indicative)",
        (_, false, false) => "MISSED (indicative)",
    };
    let range = format!("({} .. {})", number(least), number(greatest));
    format!("{:<58} {:>9} {:<22} {:>9}  {verdict}", finding.what, number(median), range, target)
}

/// Three significant places for ratios, whole numbers for counts.
fn number(value: f64) -> String {
    if value.abs() >= 1000.0 { format!("{value:.0}") } else { format!("{value:.3}") }
}
