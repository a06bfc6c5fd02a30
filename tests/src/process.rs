//! A server with exactly the arguments that a test gives it, for what transcripts can't say: several addresses, users,
//! signals, files. It tells its ports by itself.

use crate::server::STRICT_SANDBOX;
use anyhow::{Context, Result, bail};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How long a server may take to listen, or to end.
const WAIT_MAX: Duration = Duration::from_secs(15);
/// Between two looks: there is no event to wait for, the process is not ours.
const STEP: Duration = Duration::from_millis(4);

/// A running server. It is killed when this is dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    pub tcp_port: u16,
    /// 0 if it has none.
    pub udp_port: u16,
    /// A folder of its own.
    pub folder: PathBuf,
}

impl Process {
    /// Starts the server at `path`; `arguments` should ask for free ports (`-p -1`, `-U -1`).
    pub fn start(path: &Path, arguments: &[&str]) -> Result<Process> {
        // Before what the test gives, which has the last word. None is an argument, too.
        let sandbox = if arguments.is_empty() { &[] } else { &STRICT_SANDBOX[..] };
        Process::start_as_users_do(path, &[sandbox, arguments].concat())
    }

    /// The same, with the sandbox that a server has by itself.
    pub fn start_as_users_do(path: &Path, arguments: &[&str]) -> Result<Process> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("unbuckle-process-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&folder)?;
        // The server may become another user before it writes here.
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o777))?;
        let ports = folder.join("ports");
        let child = Command::new(path)
            .args(arguments)
            .env("MEMCACHED_PORT_FILENAME", &ports)
            .current_dir(&folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(folder.join("errors"))?)
            .spawn()
            .with_context(|| format!("cannot start {}", path.display()))?;
        let mut process = Process { child, tcp_port: 0, udp_port: 0, folder };
        let text = process.wait_for("its ports", || std::fs::read_to_string(&ports).ok())?;
        let port = |protocol: &str| {
            let line = text.lines().find(|line| line.starts_with(protocol));
            line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0)
        };
        (process.tcp_port, process.udp_port) = (port("TCP"), port("UDP"));
        Ok(process)
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.tcp_port))
    }

    /// What it wrote to its standard error.
    pub fn errors(&self) -> String {
        // With -vv, what clients have sent is in it.
        String::from_utf8_lossy(&std::fs::read(self.folder.join("errors")).unwrap_or_default()).into_owned()
    }

    /// Waits until `look` sees something.
    pub fn wait_for<T>(&mut self, what: &str, mut look: impl FnMut() -> Option<T>) -> Result<T> {
        let started = Instant::now();
        loop {
            if let Some(seen) = look() {
                return Ok(seen);
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("waiting for {what}, the server ended with {status}: {}", self.errors());
            }
            if started.elapsed() > WAIT_MAX {
                bail!("no sign of {what} within {WAIT_MAX:?}: {}", self.errors());
            }
            std::thread::sleep(STEP);
        }
    }

    /// How it ended, which it must do by itself.
    pub fn wait_for_end(&mut self) -> Result<ExitStatus> {
        let started = Instant::now();
        while started.elapsed() < WAIT_MAX {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            std::thread::sleep(STEP);
        }
        bail!("the server did not end within {WAIT_MAX:?}: {}", self.errors());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // All fail only when there is nothing left to do.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
