//! A network of our own, with nothing in it but a loopback: suites ask for the ports that their authors chose, and none of
//! these is taken here. A process holds the namespace; it ends, and with it the namespace, when this is dropped.

use crate::run::{captured, program};
use anyhow::{Context, Result, ensure};
use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

#[derive(Debug)]
pub(super) struct Network {
    holder: Child,
    /// An unprivileged user owns the namespace by way of a user namespace.
    by_user: bool,
}

impl Network {
    /// What would have to be installed or allowed, if it cannot be made here.
    pub(super) fn missing() -> Option<&'static str> {
        let tools = ["unshare", "nsenter", "ip", "id"];
        if tools.iter().any(|tool| program(tool).is_none()) {
            return Some("apt-get install util-linux iproute2");
        }
        Network::new()
            .is_err()
            .then_some("allow network namespaces (as root, or kernel.unprivileged_userns_clone=1)")
    }

    pub(super) fn new() -> Result<Network> {
        let by_user = captured(Command::new("id").arg("-u"))?.trim() != "0";
        let mut command = Command::new("unshare");
        if by_user {
            command.args(["--user", "--map-root-user"]);
        }
        // `cat` ends with its input, which is ours.
        command.args(["--net", "sh", "-c", "ip link set lo up && echo up && exec cat"]);
        let mut holder =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let output = holder.stdout.take().context("no output")?;
        let network = Network { holder, by_user };
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line)?;
        ensure!(line == "up\n", "a network namespace could not be made");
        Ok(network)
    }

    /// A command that runs inside. Its process id is the program's own.
    pub(super) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg("--target").arg(self.holder.id().to_string()).arg("--net");
        if self.by_user {
            command.args(["--user", "--preserve-credentials"]);
        }
        command.arg("--").arg(program);
        command
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // Both fail only when it has already gone.
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}
