//! Where a suite plays: a private network, the servers that its authors expect, and a `memcached` in the path for suites
//! that start servers of their own.

use super::network::Network;
use anyhow::{Context, Result, bail};
use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a server may take to listen.
const START_MAX: Duration = Duration::from_secs(15);
/// Between two looks at a server that is starting: there is no event to wait for, the process is not ours.
const START_STEP: Duration = Duration::from_millis(5);

/// Our own server ends at what its sandbox refuses; a peer has another.
fn strict_sandbox(server: &Path) -> &'static [&'static str] {
    use unbuckle_tests::server::{STRICT_SANDBOX, understands_debug_time};
    if understands_debug_time(server) { &STRICT_SANDBOX } else { &[] }
}

#[derive(Debug)]
pub(super) struct Stage {
    servers: Vec<Child>,
    network: Network,
    /// Holds `bin/memcached` and what else a play leaves behind; made anew each time.
    folder: PathBuf,
    server: PathBuf,
}

impl Stage {
    pub(super) fn new(folder: PathBuf, server: &Path) -> Result<Stage> {
        // What an earlier play has left. It is not there the first time.
        let _ = std::fs::remove_dir_all(&folder);
        let programs = folder.join("bin");
        std::fs::create_dir_all(&programs)?;
        let wrapper = programs.join("memcached");
        // Later words win, so a suite may name another user.
        let sandbox = strict_sandbox(server).join(" ");
        std::fs::write(
            &wrapper,
            format!("#!/bin/sh\nexec '{}' -u root {sandbox} \"$@\"\n", server.display()),
        )?;
        std::fs::set_permissions(&wrapper, PermissionsExt::from_mode(0o755))?;
        let network = Network::new()?;
        Ok(Stage { servers: Vec::new(), network, folder, server: server.to_path_buf() })
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// A bounded command on this stage: it is ended after `seconds_max`.
    pub(super) fn command(&self, program: &Path, seconds_max: u32) -> Result<Command> {
        let mut command = self.network.command("timeout");
        command.args(["--kill-after", "5", &seconds_max.to_string()]).arg(program);
        let mut path = self.folder.join("bin").into_os_string();
        path.push(":");
        path.push(std::env::var_os("PATH").context("no PATH")?);
        command
            .env("PATH", path)
            .env("MEMCACHED_BIN", self.folder.join("bin/memcached"))
            .env("MEMCACHED_HOST", "localhost");
        Ok(command)
    }

    /// Starts the server with these arguments, and waits until it listens.
    pub(super) fn start(&mut self, arguments: &[String]) -> Result<()> {
        let errors = self.folder.join(format!("server-{}.err", self.servers.len()));
        let mut command = self.network.command(&self.server);
        command
            .args(["-u", "root"])
            .args(strict_sandbox(&self.server))
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        let mut child = command.stderr(File::create(&errors)?).spawn()?;
        let started = Instant::now();
        while !is_listening(child.id(), arguments) {
            if child.try_wait()?.is_some() || started.elapsed() > START_MAX {
                end(&mut child);
                let text = std::fs::read_to_string(&errors).unwrap_or_default();
                bail!("`{}` did not start: {}", arguments.join(" "), text.trim());
            }
            std::thread::sleep(START_STEP);
        }
        self.servers.push(child);
        Ok(())
    }

    /// The servers must have outlived the suite.
    pub(super) fn check_alive(&mut self) -> Result<()> {
        for (number, server) in self.servers.iter_mut().enumerate() {
            if let Some(status) = server.try_wait()? {
                let errors = self.folder.join(format!("server-{number}.err"));
                let text = std::fs::read_to_string(errors).unwrap_or_default();
                bail!("a server ended with {status}: {}", text.trim());
            }
        }
        Ok(())
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.servers.iter_mut().for_each(end);
    }
}

fn end(server: &mut Child) {
    // Both fail only when it has already gone.
    let _ = server.kill();
    let _ = server.wait();
}

/// Does the process listen on the last port or path of its arguments? The process sees the tables of its own network.
fn is_listening(process: u32, arguments: &[String]) -> bool {
    const LISTENING: &str = " 0A ";
    let value = |option: &str| {
        arguments.iter().position(|argument| argument == option).and_then(|at| arguments.get(at + 1))
    };
    let table =
        |name: &str| std::fs::read_to_string(format!("/proc/{process}/net/{name}")).unwrap_or_default();
    if let Some(path) = value("-s") {
        return table("unix").lines().any(|row| row.ends_with(path.as_str()));
    }
    let Some(port) = value("-p").and_then(|port| port.parse::<u16>().ok()) else { return false };
    let port = format!(":{port:04X} ");
    ["tcp", "tcp6"]
        .iter()
        .any(|name| table(name).lines().any(|row| row.contains(&port) && row.contains(LISTENING)))
}
