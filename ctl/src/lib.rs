//! `unbuckle ctl`: what an operator does beside the server, most of it without one.
//!
//! One file for each command. Exit codes: 0, done or all well; 1, not; 64, the command line is wrong.

mod detach;
mod doctor;

use std::ffi::OsString;
use std::io::Write;

const USAGE: &str = "\
usage: unbuckle ctl COMMAND
  doctor [OPTION]...   what a server with these options needs for its fast path, what is missing and
                       how to get it, and what is active
  detach [DIR]         end a pinned fast path, with no server running: programs, links and memory
                       (default: /sys/fs/bpf/unbuckle)
";
const FAILURE: u8 = 1;
const WRONG_USAGE: u8 = 64;

/// Does what the arguments behind `ctl` ask for. Returns the exit code.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> u8 {
    let mut arguments = arguments.into_iter();
    let command = arguments.next().unwrap_or_default();
    match command.to_str() {
        Some("doctor") => doctor::run(arguments),
        Some("detach") => detach::run(arguments),
        Some("help" | "-h" | "--help") => {
            print(USAGE);
            0
        }
        _ => {
            complain(USAGE.trim_end());
            WRONG_USAGE
        }
    }
}

/// A reader who has seen enough is not an error.
fn print(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

fn complain(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_command_is_wrong_usage() {
        for words in [&[][..], &["fooble"], &["detach", "a", "b"], &["doctor", "--fooble"]] {
            assert_ne!(main(words.iter().map(OsString::from)), 0, "{words:?}");
        }
        assert_eq!(main(["help".into()]), 0);
    }
}
