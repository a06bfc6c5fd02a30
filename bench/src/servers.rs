//! The servers under comparison: where their binaries are, how they are started, pinned and ended.

use crate::control::Control;
use crate::floor::Canned;
use crate::sys;
use crate::veth::Place;
use anyhow::{Context, Result, bail};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The version that the targets count against.
pub const PEER_VERSION: &str = "1.6.45";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Unbuckle,
    Memcached,
    Floor,
}

impl Kind {
    pub const ALL: [Kind; 3] = [Kind::Unbuckle, Kind::Memcached, Kind::Floor];
    /// Those that store.
    pub const STORES: [Kind; 2] = [Kind::Unbuckle, Kind::Memcached];

    pub fn name(self) -> &'static str {
        match self {
            Kind::Unbuckle => "unbuckle",
            Kind::Memcached => "memcached",
            Kind::Floor => "floor",
        }
    }
}

#[derive(Clone, Debug)]
pub struct Binaries {
    pub unbuckle: PathBuf,
    pub memcached: PathBuf,
    pub floor: PathBuf,
}

impl Binaries {
    /// Ours lie beside the running program unless named; the peer is named, or in `MEMCACHED`, or on the path.
    pub fn find(unbuckle: Option<PathBuf>, peer: Option<PathBuf>) -> Result<Self> {
        let beside = std::env::current_exe()?.parent().map(Path::to_path_buf).unwrap_or_default();
        let peer = peer.or_else(|| std::env::var_os("MEMCACHED").map(PathBuf::from));
        let found = Binaries {
            unbuckle: unbuckle.unwrap_or_else(|| beside.join("unbuckle")),
            memcached: peer.unwrap_or_else(|| PathBuf::from("memcached")),
            floor: beside.join("floor"),
        };
        if !found.unbuckle.exists() {
            bail!("no server at {}: build it with `cargo build --release`", found.unbuckle.display());
        }
        Ok(found)
    }

    fn path(&self, kind: Kind) -> &Path {
        match kind {
            Kind::Unbuckle => &self.unbuckle,
            Kind::Memcached => &self.memcached,
            Kind::Floor => &self.floor,
        }
    }

    /// What the server says it is.
    pub fn version(&self, kind: Kind) -> Result<String> {
        let path = self.path(kind);
        let output = Command::new(path).arg("-V").output().with_context(|| {
            format!(
                "running {} -V: is it installed? (apt-get install memcached, --peer PATH or MEMCACHED)",
                path.display()
            )
        })?;
        Ok(String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or("").trim().to_owned())
    }
}

/// One core for the servers, one for the load; the same when the machine has only one.
#[derive(Clone, Debug)]
pub struct Cores {
    pub load: usize,
    pub server: usize,
}

impl Cores {
    pub fn choose() -> Result<Self> {
        let cores = sys::cores()?;
        let first = *cores.first().context("no core to run on")?;
        let last = *cores.last().context("no core to run on")?;
        Ok(Cores { load: first, server: last })
    }
}

#[derive(Clone, Debug)]
pub struct Settings {
    pub memory_mb: u64,
    pub threads: usize,
    pub udp: bool,
    pub connections_max: usize,
    /// `-I` when given.
    pub item_bytes_max: Option<u64>,
    /// `-e` when given.
    pub memory_file: Option<PathBuf>,
    /// `--fastpath` of this interface when given; ours alone has it.
    pub fast_path: Option<String>,
    /// False: the kernel gives its memory small pages only.
    pub huge_pages: bool,
    /// Chain and key: the server has TLS, and a second port without it.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// What a floor answers.
    pub canned: Canned,
    /// On which cores.
    pub cores: Vec<usize>,
    /// In a network of its own; else on loopback.
    pub place: Option<Place>,
}

impl Settings {
    pub fn new(cores: &Cores, canned: Canned) -> Self {
        let cores = vec![cores.server];
        Settings {
            memory_mb: 1024,
            threads: 1,
            udp: false,
            connections_max: 2048,
            item_bytes_max: None,
            memory_file: None,
            fast_path: None,
            huge_pages: true,
            tls: None,
            canned,
            cores,
            place: None,
        }
    }

    fn address(&self) -> Ipv4Addr {
        self.place.as_ref().map_or(Ipv4Addr::LOCALHOST, |place| place.address)
    }
}

/// A running server; ended when dropped.
#[derive(Debug)]
pub struct Server {
    pub kind: Kind,
    pub address: SocketAddrV4,
    /// Without TLS, where that is another.
    clear: SocketAddrV4,
    child: Child,
}

impl Server {
    pub fn start(kind: Kind, binaries: &Binaries, settings: &Settings) -> Result<Server> {
        let (port, clear_port) = (free_port()?, free_port()?);
        let mut command = match &settings.place {
            None => Command::new(binaries.path(kind)),
            // It becomes the server: the process stays the same.
            Some(place) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", &place.namespace]).arg(binaries.path(kind));
                command
            }
        };
        match kind {
            Kind::Floor => floor_arguments(&mut command, port, settings),
            Kind::Unbuckle | Kind::Memcached => store_arguments(&mut command, port, clear_port, settings)?,
        }
        // A child inherits the affinity of the thread that starts it.
        let before = sys::cores()?;
        sys::pin(&settings.cores)?;
        sys::huge_pages_allow(settings.huge_pages)?;
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        sys::huge_pages_allow(true)?;
        sys::pin(&before)?;
        let child = child.with_context(|| format!("starting {}", binaries.path(kind).display()))?;
        let address = SocketAddrV4::new(settings.address(), port);
        let clear =
            SocketAddrV4::new(settings.address(), if settings.tls.is_some() { clear_port } else { port });
        let mut server = Server { kind, address, clear, child };
        if kind != Kind::Floor || !settings.udp {
            server.wait_until_listening().with_context(|| format!("{command:?}"))?;
        }
        Ok(server)
    }

    /// Sends a signal, by its name, and waits for the end.
    pub fn end(mut self, signal: &str) -> Result<()> {
        let process = self.process();
        // The shell has it built in: no other program is needed.
        let sent = Command::new("sh").args(["-c", &format!("kill -s {signal} {process}")]).status()?;
        if !sent.success() {
            bail!("cannot send {signal} to {}", self.kind.name());
        }
        self.child.wait()?;
        Ok(())
    }

    pub fn process(&self) -> u32 {
        self.child.id()
    }

    pub fn control(&self) -> Result<Control> {
        Control::connect(self.clear)
    }

    fn wait_until_listening(&mut self) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(self.clear).is_err() {
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended at once: {status}", self.kind.name());
            }
            if Instant::now() > deadline {
                bail!("{} does not listen on {} after 20 s", self.kind.name(), self.address);
            }
            // Nothing announces that another process listens: ask again soon.
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // A cache has nothing to save, and the errors of a process that is gone already mean nothing.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn floor_arguments(command: &mut Command, port: u16, settings: &Settings) {
    command.args(["--address", &settings.address().to_string(), "--port", &port.to_string()]);
    command.args(["--request-bytes", &settings.canned.request_bytes.to_string()]);
    command.args(["--reply-bytes", &settings.canned.reply_bytes.to_string()]);
    command.args(["--threads", &settings.threads.to_string()]);
    if settings.udp {
        command.arg("--udp");
    }
}

fn store_arguments(command: &mut Command, port: u16, clear_port: u16, settings: &Settings) -> Result<()> {
    let port = port.to_string();
    let mut listen = settings.address().to_string();
    if let Some((chain, key)) = &settings.tls {
        listen = format!("{listen}:{port},notls:{listen}:{clear_port}");
        let named = format!("ssl_chain_cert={},ssl_key={}", chain.display(), key.display());
        command.args(["-Z", "-o", &named]);
    }
    command.args(["-l", &listen, "-p", &port, "-m", &settings.memory_mb.to_string()]);
    command.args(["-t", &settings.threads.to_string(), "-c", &settings.connections_max.to_string()]);
    command.args(["-U", if settings.udp { &port } else { "0" }]);
    if let Some(bytes) = settings.item_bytes_max {
        command.args(["-I", &bytes.to_string()]);
    }
    if let Some(interface) = &settings.fast_path {
        command.args(["--fastpath", interface, "--fastpath-required"]);
    }
    if let Some(path) = &settings.memory_file {
        command.arg("-e").arg(path);
    }
    if std::fs::metadata("/proc/self")?.uid() == 0 {
        command.args(["-u", "root"]);
    }
    Ok(())
}

fn free_port() -> Result<u16> {
    // The kernel picks; the port is free again by the time the server binds it, and rarely taken by another meanwhile.
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
