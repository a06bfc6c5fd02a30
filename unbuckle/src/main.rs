//! The binary: the server, or behind `ctl` the operator's commands. What they do is in `unbuckle-server` and
//! `unbuckle-ctl`.

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1).peekable();
    if arguments.next_if(|first| first == "ctl").is_some() {
        return ExitCode::from(unbuckle_ctl::main(arguments));
    }
    ExitCode::from(unbuckle_server::main(arguments))
}
