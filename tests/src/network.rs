//! A network of a test's own: a namespace with `lo`, if wanted with a veth pair to another, and a bpffs to pin to.
//!
//! Needs root and iproute2. Made for one test, gone with it; nothing of the machine's own network is touched.

use anyhow::{Context, Result, bail, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};

/// Says why a test did not run, so that nobody takes it for one that passed; with `UNBUCKLE_NO_SKIPS` it fails.
pub fn runs_as_root(test: &str) -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        assert!(std::env::var_os("UNBUCKLE_NO_SKIPS").is_none(), "{test} needs root");
        eprintln!("SKIPPED {test}: it loads programs into the kernel; run it as root");
    }
    is_root
}

/// A name of our own, short enough for an interface.
fn fresh_name() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("ub{}x{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A network namespace. It is removed when this is dropped.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// With `lo` up, and nothing else.
    pub fn make() -> Result<Namespace> {
        let name = fresh_name();
        ip(&["netns", "add", &name])?;
        let namespace = Namespace { name };
        namespace.ip("link set lo up")?;
        Ok(namespace)
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// `ip`, with these words, in this namespace.
    pub fn ip(&self, words: &str) -> Result<()> {
        let all: Vec<&str> = ["-n", &self.name].into_iter().chain(words.split(' ')).collect();
        ip(&all)
    }

    /// `ethtool`, with these words, in this namespace.
    pub fn ethtool(&self, words: &str) -> Result<()> {
        let inside = ["netns", "exec", &self.name, "ethtool"];
        run(Command::new("ip").args(inside).args(words.split(' ')))
            .context("ethtool (apt-get install ethtool)")
    }

    /// A veth pair to another namespace: here `near`, there `far`, each with an address.
    pub fn veth(&self, other: &Namespace, near: &str, far: &str) -> Result<()> {
        self.ip(&format!("link add veth0 type veth peer name veth0 netns {}", other.name))?;
        for (namespace, address) in [(self, near), (other, far)] {
            namespace.ip(&format!("address add {address} dev veth0"))?;
            namespace.ip("link set veth0 up")?;
        }
        Ok(())
    }

    /// Runs `body` in this namespace, with the threads and processes that it starts.
    pub fn within<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                self.enter().expect("a namespace that was just made can be entered");
                body()
            });
            match inside.join() {
                Ok(value) => value,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    fn enter(&self) -> Result<()> {
        let file = std::fs::File::open(format!("/run/netns/{}", self.name))?;
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?;
        Ok(())
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // What is in it goes with it. There is nobody to tell of a failure.
        let _ = ip(&["netns", "delete", &self.name]);
    }
}

fn ip(arguments: &[&str]) -> Result<()> {
    run(Command::new("ip").args(arguments)).context("ip (apt-get install iproute2)")
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output()?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {}", errors.trim());
    Ok(())
}

/// A bpffs of a test's own. What is pinned there ends with this.
#[derive(Debug)]
pub struct Pins {
    mount: PathBuf,
}

impl Pins {
    pub fn make() -> Result<Pins> {
        let mount = std::env::temp_dir().join(fresh_name());
        std::fs::create_dir(&mount)?;
        let pins = Pins { mount };
        run(Command::new("mount").args(["-t", "bpf", "bpf"]).arg(&pins.mount))?;
        Ok(pins)
    }

    /// The folder to give to `--fastpath-pin`.
    pub fn folder(&self) -> PathBuf {
        self.mount.join("unbuckle")
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        let _ = run(Command::new("umount").arg(&self.mount));
        let _ = std::fs::remove_dir(&self.mount);
    }
}

/// What a finished process wrote, both streams together, and its exit code.
pub fn output(path: &Path, arguments: &[&str]) -> Result<(i32, String)> {
    let output = Command::new(path).args(arguments).output()?;
    let Some(code) = output.status.code() else { bail!("{arguments:?} ended by {}", output.status) };
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    Ok((code, text.concat()))
}
