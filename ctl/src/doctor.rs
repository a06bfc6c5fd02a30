//! `unbuckle ctl doctor`: what a fast path needs, what is missing, and what is active.
//!
//! It takes a server's own options, so that it looks at what that server will look at. It changes nothing.

use crate::{FAILURE, WRONG_USAGE, complain, print};
use std::ffi::OsString;
use std::path::Path;
use unbuckle_fastpath::{Pinned, Reason};
use unbuckle_server::clock::boot_ns;
use unbuckle_server::fastpath::{Finding, State, findings};
use unbuckle_server::options::{self, Command, Options, PIN_FOLDER_DEFAULT};

pub(crate) fn run(arguments: impl Iterator<Item = OsString>) -> u8 {
    let options = match options::parse(arguments) {
        Ok(Command::Run(options)) => options,
        Ok(Command::Print(text)) => {
            print(&text);
            return 0;
        }
        Err(refusal) => {
            complain(&format!("unbuckle ctl doctor: {refusal}"));
            return WRONG_USAGE;
        }
    };
    let findings = findings(&options);
    let mut text = String::from("what a fast path needs:\n");
    findings.iter().for_each(|finding| push_finding(&mut text, finding));
    text.push_str("what is active:\n");
    push_active(&mut text, &options);
    print(&text);
    if findings.iter().any(|finding| finding.state == State::Missing) { FAILURE } else { 0 }
}

fn push_finding(text: &mut String, finding: &Finding) {
    let mark = match finding.state {
        State::Present => "ok     ",
        State::Missing => "MISSING",
        State::Notice => "note   ",
    };
    text.push_str(&format!("  {mark}  {}\n", finding.what));
    if let Some(remedy) = &finding.remedy {
        text.push_str(&format!("           {remedy}\n"));
    }
}

fn push_active(text: &mut String, options: &Options) {
    for interface in &options.fastpath.interfaces {
        let state = match unbuckle_fastpath::attached(interface) {
            Ok(names) if names.is_empty() => "no program of ours".to_owned(),
            Ok(names) => names.join(", "),
            Err(error) => format!("can't be looked at: {error}"),
        };
        text.push_str(&format!("  {interface}: {state}\n"));
    }
    let folder = options.fastpath.pin.as_deref().unwrap_or(Path::new(PIN_FOLDER_DEFAULT));
    let shown = folder.display();
    match Pinned::open(folder) {
        Ok(None) => text.push_str(&format!("  {shown}: nothing is pinned\n")),
        Ok(Some(pinned)) => push_pinned(text, folder, &pinned),
        Err(error) => text.push_str(&format!("  {shown}: can't be looked at: {error}\n")),
    }
}

fn push_pinned(text: &mut String, folder: &Path, pinned: &Pinned) {
    let daemon = if pinned.is_busy() { "a server that is running" } else { "no running server's" };
    text.push_str(&format!(
        "  {}: {} MB, links {}, {daemon}\n",
        folder.display(),
        pinned.region_bytes() >> 20,
        if pinned.links().is_empty() { "none".to_owned() } else { pinned.links().join(" ") },
    ));
    if !pinned.is_of_this_version() {
        text.push_str("    of another version: \"unbuckle ctl detach\" removes it\n");
        return;
    }
    let (silent_ns, grace_ns) = pinned.silence_ns(boot_ns());
    let answers = if pinned.is_answering(boot_ns()) { "answering" } else { "passing everything" };
    text.push_str(&format!(
        "    {answers}: the server was heard of {} s ago, the grace is {} s\n",
        silent_ns / 1_000_000_000,
        grace_ns / 1_000_000_000
    ));
    let counters = pinned.counters();
    text.push_str(&format!("    served {} requests, {} keys\n", counters.served, counters.hits));
    let passed = Reason::NAMES.iter().zip(counters.passed).filter(|(_, count)| *count > 0);
    let passed: Vec<String> = passed.map(|(reason, count)| format!("{reason} {count}")).collect();
    if !passed.is_empty() {
        text.push_str(&format!("    passed: {}\n", passed.join(", ")));
    }
}
