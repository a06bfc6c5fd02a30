//! What a suite says of each of its tests, read from what its runner prints.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Word {
    Passed,
    Failed,
    Skipped,
}

/// How a runner prints its results.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// `pytest -v`: `path::test PASSED [ 10%]`.
    Pytest,
    /// `unittest`, verbose: `test_name (path) ... ok`, or the same with a description on a line between.
    Unittest,
    /// `cargo test`: `test name ... ok`, after the name of the file that holds it.
    Cargo,
}

/// The results of one play, by the test's name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Report {
    words: BTreeMap<String, Word>,
}

impl Report {
    pub(super) fn read(form: Form, text: &str) -> Report {
        let mut report = Report::default();
        match form {
            Form::Pytest => report.read_pytest(text),
            Form::Unittest => report.read_unittest(text),
            Form::Cargo => report.read_cargo(text),
        }
        report
    }

    pub(super) fn names(&self, wanted: Word) -> BTreeSet<&str> {
        self.words.iter().filter(|(_, word)| **word == wanted).map(|(name, _)| name.as_str()).collect()
    }

    /// What failed and passes in a second play has passed.
    pub(super) fn after(mut self, second: &Report) -> Report {
        for (name, word) in &mut self.words {
            if *word == Word::Failed && second.words.get(name) == Some(&Word::Passed) {
                *word = Word::Passed;
            }
        }
        self
    }

    /// A failure stays one, whatever is said of the test later.
    fn add(&mut self, name: &str, word: Word) {
        let entry = self.words.entry(name.to_owned()).or_insert(word);
        if word == Word::Failed {
            *entry = Word::Failed;
        }
    }

    fn read_pytest(&mut self, text: &str) {
        const WORDS: [(&str, Word); 6] = [
            (" PASSED", Word::Passed),
            (" FAILED", Word::Failed),
            (" ERROR", Word::Failed),
            (" SKIPPED", Word::Skipped),
            (" XFAIL", Word::Skipped),
            (" XPASS", Word::Passed),
        ];
        for line in text.lines().filter(|line| line.contains("::")) {
            let found = WORDS.iter().find_map(|(mark, word)| Some((line.find(mark)?, *word)));
            if let Some((at, word)) = found {
                self.add(line.get(..at).unwrap_or_default().trim(), word);
            }
        }
        // A file that can't even be loaded.
        for line in text.lines().filter_map(|line| line.strip_prefix("ERROR ")) {
            self.add(line.split(" - ").next().unwrap_or(line).trim(), Word::Failed);
        }
    }

    fn read_unittest(&mut self, text: &str) {
        let mut latest = String::new();
        for line in text.lines() {
            if line.starts_with("test") && line.contains(" (") {
                line.split(" ... ").next().unwrap_or(line).trim().clone_into(&mut latest);
            }
            let Some((_, end)) = line.rsplit_once(" ... ") else { continue };
            let word = match end.split_whitespace().next() {
                Some("ok" | "expected") => Word::Passed,
                Some("FAIL" | "ERROR" | "unexpected") => Word::Failed,
                Some("skipped") => Word::Skipped,
                _ => continue,
            };
            let name = latest.clone();
            self.add(&name, word);
        }
        // What failed while its class was set up has no line of its own, nor have parts of a test.
        for line in text.lines() {
            if let Some(name) = line.strip_prefix("ERROR: ").or_else(|| line.strip_prefix("FAIL: ")) {
                self.add(name.split(" [").next().unwrap_or(name).trim(), Word::Failed);
            }
        }
    }

    fn read_cargo(&mut self, text: &str) {
        let mut file = "";
        for line in text.lines() {
            if let Some(running) = line.trim_start().strip_prefix("Running ") {
                file = running.split(" (").next().unwrap_or(running).trim_start_matches("unittests ");
            }
            let Some((name, end)) = line.strip_prefix("test ").and_then(|test| test.rsplit_once(" ... "))
            else {
                continue;
            };
            let word = match end.split([',', ' ']).next() {
                Some("ok") => Word::Passed,
                Some("FAILED") => Word::Failed,
                Some("ignored") => Word::Skipped,
                _ => continue,
            };
            self.add(&format!("{file} {name}"), word);
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = |word| self.names(word).len();
        write!(
            formatter,
            "{} passed, {} failed, {} skipped",
            count(Word::Passed),
            count(Word::Failed),
            count(Word::Skipped)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pytest_lines_are_read() {
        let text = "tests/a.py::Class::test_one PASSED   [ 10%]\ntests/a.py::test[x y] FAILED [ 20%]\n\
                    tests/b.py::test_three SKIPPED (no reason) [ 30%]\nERROR tests/c.py - ModuleNotFoundError\n";
        let report = Report::read(Form::Pytest, text);
        assert_eq!(report.to_string(), "1 passed, 2 failed, 1 skipped");
        assert!(report.names(Word::Failed).contains("tests/c.py"));
    }

    #[test]
    fn unittest_lines_are_read_with_descriptions_and_subtests() {
        let text = "test_add (cache.tests.A.test_add) ... ok\ntest_b (cache.tests.A.test_b)\nWhat it is about. ... ok\n\
                    test_c (cache.tests.A.test_c) ... skipped 'why'\ntest_d (cache.tests.A.test_d) ... ok\n\
                    FAIL: test_d (cache.tests.A.test_d) [part]\n";
        let report = Report::read(Form::Unittest, text);
        assert_eq!(report.to_string(), "2 passed, 1 failed, 1 skipped");
        assert!(report.names(Word::Failed).contains("test_d (cache.tests.A.test_d)"));
    }

    #[test]
    fn what_passes_in_a_second_play_has_passed() {
        let first = Report::read(Form::Cargo, "test a ... FAILED\ntest b ... FAILED\ntest c ... ok\n");
        let second = Report::read(Form::Cargo, "test a ... ok\ntest b ... FAILED\ntest c ... FAILED\n");
        assert_eq!(first.after(&second).to_string(), "2 passed, 1 failed, 0 skipped");
    }

    #[test]
    fn cargo_lines_are_read_by_file() {
        let text = "     Running unittests src/lib.rs (target/x)\ntest a ... ok\n     Running tests/b.rs (target/y)\n\
                    test a ... FAILED\ntest c ... ignored, why\ntest result: FAILED. 1 passed\n";
        let report = Report::read(Form::Cargo, text);
        assert_eq!(report.to_string(), "1 passed, 1 failed, 1 skipped");
        assert!(report.names(Word::Failed).contains("tests/b.rs a"));
    }
}
