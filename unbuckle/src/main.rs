//! The server's binary. What it does is in `unbuckle-server`.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(unbuckle_server::main(std::env::args_os().skip(1)))
}
