//! Starts a server on a free port or socket, and ends it: by process id, never by name.

use crate::authority::Authority;
use crate::module;
use crate::transcript::{Case, Transport, Users, UsersForm};
use anyhow::{Context, Result, bail};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A server binary and what it understands.
#[derive(Clone, Debug)]
pub struct Target {
    pub path: PathBuf,
    pub kind: Kind,
    /// Memcached's debug build, for cases that move its clock.
    pub debug_path: Option<PathBuf>,
    /// Arguments for every server that serves UDP.
    pub datagram_options: Vec<String>,
    /// In another network namespace; `None` is this one's loopback.
    pub place: Option<Place>,
}

/// A network namespace by name, and an address there that can be reached from here.
#[derive(Clone, Debug)]
pub struct Place {
    pub namespace: String,
    pub address: Ipv4Addr,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Unbuckle,
    Memcached,
    /// Unbuckle, as the kernel module.
    Module,
}

impl Kind {
    /// Does a case that is for `name` mean this? Most that mean Unbuckle mean each of its doors.
    pub fn is_called(self, name: &str) -> bool {
        match self {
            Kind::Unbuckle => matches!(name, "unbuckle" | "server"),
            Kind::Module => matches!(name, "unbuckle" | "module"),
            Kind::Memcached => name == "memcached",
        }
    }
}

impl Target {
    pub fn memcached(path: PathBuf) -> Target {
        let debug = path.with_file_name("memcached-debug");
        Target {
            debug_path: debug.exists().then_some(debug),
            path,
            kind: Kind::Memcached,
            datagram_options: Vec::new(),
            place: None,
        }
    }

    pub fn unbuckle(path: PathBuf) -> Target {
        Target { path, kind: Kind::Unbuckle, debug_path: None, datagram_options: Vec::new(), place: None }
    }

    /// Has its gets over UDP answered in the kernel, where they come in by `interface`. Servers of this target do not
    /// start where that can't be.
    pub fn with_fast_path(mut self, interface: &str) -> Target {
        self.datagram_options = ["--fastpath", interface, "--fastpath-required"].map(str::to_owned).to_vec();
        self
    }

    /// As [`Target::with_fast_path`], at the XDP hook, at the other end of a cable.
    pub fn with_xdp(mut self, interface: &str, place: Place) -> Target {
        self = self.with_fast_path(interface);
        self.datagram_options.extend(["--fastpath-hook", "xdp"].map(str::to_owned));
        self.place = Some(place);
        self
    }

    /// Whether the `except` of a case's header means it.
    pub fn is_excepted(&self, name: &str) -> bool {
        self.kind.is_called(name) || name == "fastpath" && !self.datagram_options.is_empty()
    }

    pub fn module(path: PathBuf) -> Target {
        Target { path, kind: Kind::Module, debug_path: None, datagram_options: Vec::new(), place: None }
    }

    /// Why it cannot play a case, if it cannot.
    pub fn refusal(&self, case: &Case) -> Option<String> {
        match self.kind {
            Kind::Module => module::parameters(case).err().map(|error| error.to_string()),
            Kind::Unbuckle | Kind::Memcached => None,
        }
    }

    pub fn understands(&self, transport: Transport) -> bool {
        self.kind != Kind::Module || transport != Transport::Unix
    }

    /// Can its clock be moved?
    pub fn moves_time(&self) -> bool {
        match self.kind {
            Kind::Unbuckle => understands_debug_time(&self.path),
            Kind::Memcached => self.debug_path.is_some(),
            Kind::Module => true,
        }
    }

    fn command(&self, move_time: bool) -> Command {
        let path = match (&self.debug_path, move_time) {
            (Some(debug), true) => debug,
            _ => &self.path,
        };
        let mut command = match &self.place {
            None => Command::new(path),
            // It becomes the server: the process stays the same.
            Some(place) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", &place.namespace]).arg(path);
                command
            }
        };
        if self.kind == Kind::Unbuckle {
            command.args(STRICT_SANDBOX);
            if move_time {
                command.arg(DEBUG_TIME_FLAG);
            }
        }
        command
    }
}

/// A server that tries what its sandbox refuses ends at once, rather than make do without.
pub const STRICT_SANDBOX: [&str; 2] = ["-o", "drop_privileges=kill"];

/// Makes Unbuckle understand `debugtime SECONDS`, as memcached's debug build does.
pub const DEBUG_TIME_FLAG: &str = "--debug-time";

/// Does the server at `path` name that flag in its help?
pub fn understands_debug_time(path: &Path) -> bool {
    let help = Command::new(path).arg("-h").stdin(Stdio::null()).output();
    help.is_ok_and(|help| String::from_utf8_lossy(&help.stdout).contains(DEBUG_TIME_FLAG))
}

/// Where a started server listens.
#[derive(Clone, Debug)]
pub enum Address {
    Port(SocketAddr),
    Path(PathBuf),
}

/// A server of our own. It is killed when this is dropped.
#[derive(Debug)]
pub struct Server {
    /// `None` for the module.
    child: Option<Child>,
    pub address: Address,
    errors: PathBuf,
    /// There only if the server asks for passwords.
    pub users_file: PathBuf,
}

/// How long a server may take to listen.
const START_MAX: Duration = Duration::from_secs(15);
/// Between two looks at a server that is starting: there is no event to wait for, the process is not ours.
const START_STEP: Duration = Duration::from_millis(4);

impl Server {
    /// Starts `target` for one case over one transport.
    pub fn start_for(target: &Target, case: &Case, transport: Transport) -> Result<Server> {
        if target.kind == Kind::Module {
            let address = Address::Port(module::ready(&target.path, case)?);
            let none = PathBuf::new();
            return Ok(Server { child: None, address, errors: none.clone(), users_file: none });
        }
        Server::start_guarded(target, &case.options, case.users.as_ref(), transport, case.moves_time())
    }

    /// Starts a process of `target` for one transport. A port that somebody took meanwhile is replaced by another.
    pub fn start(
        target: &Target,
        options: &[String],
        transport: Transport,
        move_time: bool,
    ) -> Result<Server> {
        Server::start_guarded(target, options, None, transport, move_time)
    }

    /// As [`Server::start`], for those of `users` only.
    pub fn start_guarded(
        target: &Target,
        options: &[String],
        users: Option<&Users>,
        transport: Transport,
        move_time: bool,
    ) -> Result<Server> {
        let mut last = None;
        for _ in 0..5 {
            match Server::try_start(target, options, users, transport, move_time, None) {
                Ok(server) => return Ok(server),
                Err(error) => last = Some(error),
            }
        }
        Err(last.context("no attempt was made")?)
    }

    /// Starts `target` for UDP and TCP where an earlier server has been.
    pub fn start_again(target: &Target, options: &[String], port: u16) -> Result<Server> {
        Server::try_start(target, options, None, Transport::Udp, false, Some(port))
    }

    pub fn socket_address(&self) -> Result<SocketAddr> {
        match self.address {
            Address::Port(address) => Ok(address),
            Address::Path(_) => bail!("it listens at a unix socket"),
        }
    }

    fn try_start(
        target: &Target,
        options: &[String],
        users: Option<&Users>,
        transport: Transport,
        move_time: bool,
        port: Option<u16>,
    ) -> Result<Server> {
        let mut command = target.command(move_time);
        let udp = matches!(transport, Transport::Udp | Transport::Datagram);
        if !options.iter().any(|option| option == "-t") {
            // Datagrams of one client may go to different threads: with one, they are served in order.
            command.args(["-t", if udp { "1" } else { "2" }]);
        }
        command.args(options);
        if udp {
            command.args(&target.datagram_options);
        }
        if target.kind == Kind::Memcached {
            command.args(["-u", "root"]);
        }
        if transport == Transport::Tls {
            command.args(Authority::shared()?.options("server"));
        }
        let scratch = scratch_path();
        let address = match transport {
            Transport::Unix => {
                command.arg("-s").arg(&scratch);
                Address::Path(scratch.clone())
            }
            Transport::Tcp | Transport::Drip | Transport::Tls | Transport::Udp | Transport::Datagram => {
                let port = port.map_or_else(|| free_port(udp), Ok)?;
                let host = target.place.as_ref().map_or(Ipv4Addr::LOCALHOST, |place| place.address);
                command.args(["-l", &host.to_string(), "-p", &port.to_string()]);
                command.args(["-U", &if udp { port } else { 0 }.to_string()]);
                Address::Port(SocketAddr::from((host, port)))
            }
        };
        let errors = scratch.with_extension("err");
        let users_file = scratch.with_extension("users");
        if let Some(users) = users {
            std::fs::write(&users_file, users.lines.join("\n") + "\n")?;
            match users.form {
                UsersForm::Text => command.arg("-Y").arg(&users_file),
                UsersForm::Sasl => command.arg("-S").env("MEMCACHED_SASL_PWDB", &users_file),
            };
        }
        let file =
            std::fs::File::create(&errors).with_context(|| format!("cannot write {}", errors.display()))?;
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(file);
        let child = command.spawn().with_context(|| format!("cannot start {}", target.path.display()))?;
        let mut server = Server { child: Some(child), address, errors, users_file };
        server.wait_until_listening()?;
        Ok(server)
    }

    fn wait_until_listening(&mut self) -> Result<()> {
        let started = Instant::now();
        while started.elapsed() < START_MAX {
            if let Some(status) = self.ended() {
                bail!("the server ended at its start with {status}: {}", self.errors_text());
            }
            let listening = match &self.address {
                Address::Port(address) => is_listening(self.process_id(), *address),
                Address::Path(path) => std::os::unix::net::UnixStream::connect(path).is_ok(),
            };
            if listening {
                return Ok(());
            }
            std::thread::sleep(START_STEP);
        }
        bail!("the server did not listen within {START_MAX:?}: {}", self.errors_text());
    }

    /// Sends a signal, by its name, and waits for the end.
    pub fn end(&mut self, signal: &str) -> Result<std::process::ExitStatus> {
        let process = self.process_id();
        // The shell has it built in: no other program is needed.
        let sent = Command::new("sh").args(["-c", &format!("kill -s {signal} {process}")]).status()?;
        if !sent.success() {
            bail!("cannot send {signal} to the server");
        }
        self.wait()
    }

    /// Waits until the server ends by itself.
    pub fn wait(&mut self) -> Result<std::process::ExitStatus> {
        Ok(self.child.as_mut().context("the server is not ours")?.wait()?)
    }

    pub fn process_id(&self) -> u32 {
        self.child.as_ref().map_or(0, Child::id)
    }

    /// The status, if the server has ended by itself.
    pub fn ended(&mut self) -> Option<std::process::ExitStatus> {
        self.child.as_mut()?.try_wait().ok().flatten()
    }

    /// What the server wrote to its standard error.
    pub fn errors_text(&self) -> String {
        let text = std::fs::read(&self.errors).unwrap_or_default();
        let tail = text.len().saturating_sub(2000);
        String::from_utf8_lossy(&text[tail..]).trim().to_owned()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let Some(child) = &mut self.child else { return };
        // Both fail only when the process has already gone, which is what is wanted.
        let _ = child.kill();
        let _ = child.wait();
        let _ = std::fs::remove_file(&self.errors);
        let _ = std::fs::remove_file(&self.users_file);
        if let Address::Path(path) = &self.address {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// What a server answers to this command, one of `stats`' own: names and values.
pub fn stats(server: SocketAddr, command: &str) -> Result<BTreeMap<String, String>> {
    let mut stream = TcpStream::connect(server)?;
    stream.set_read_timeout(Some(START_MAX))?;
    stream.write_all(command.as_bytes())?;
    let mut values = BTreeMap::new();
    for line in BufReader::new(stream).lines() {
        let line = line?;
        match line.split(' ').collect::<Vec<_>>()[..] {
            ["STAT", name, value] => values.insert(name.to_owned(), value.to_owned()),
            ["END"] => return Ok(values),
            _ => bail!("{command:?} was answered `{line}`"),
        };
    }
    bail!("{command:?}: the server closed");
}

/// One of them that is a number, and must be there.
pub fn count(stats: &BTreeMap<String, String>, name: &str) -> u64 {
    stats.get(name).unwrap_or_else(|| panic!("{name} is not in {stats:?}")).parse().expect("a number")
}

/// Whether this very process listens at the address, of IPv4. A connection would prove less: it may reach another process that got
/// the port first, or, where nobody listens, itself.
fn is_listening(process: u32, address: SocketAddr) -> bool {
    const LISTENING: &str = "0A";
    let table = std::fs::read_to_string(format!("/proc/{process}/net/tcp")).unwrap_or_default();
    let host = match address.ip() {
        IpAddr::V4(host) => u32::from_ne_bytes(host.octets()),
        IpAddr::V6(_) => return false,
    };
    let wanted = format!("{host:08X}:{:04X}", address.port());
    let socket = table.lines().skip(1).find_map(|row| {
        let columns: Vec<&str> = row.split_whitespace().collect();
        match columns[..] {
            [_, local, _, LISTENING, _, _, _, _, _, inode, ..] if local == wanted => {
                Some(format!("socket:[{inode}]"))
            }
            _ => None,
        }
    });
    let files = std::fs::read_dir(format!("/proc/{process}/fd"));
    socket.zip(files.ok()).is_some_and(|(socket, files)| {
        files
            .flatten()
            .any(|file| std::fs::read_link(file.path()).is_ok_and(|link| link.as_os_str() == socket.as_str()))
    })
}

/// A port that nobody has bound a moment ago, and that was not given to another server of this process.
pub fn free_port(udp_too: bool) -> Result<u16> {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    for _ in 0..1000 {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let free = !udp_too || UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
        if free && GIVEN.lock().unwrap_or_else(PoisonError::into_inner).insert(port) {
            return Ok(port);
        }
    }
    bail!("no port is free for both TCP and UDP");
}

/// A name of our own, short enough for a unix socket.
fn scratch_path() -> PathBuf {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    std::env::temp_dir().join(format!("unbuckle-{}-{number}.sock", std::process::id()))
}

/// The Unbuckle binary to test: `UNBUCKLE`, or what cargo builds now.
pub fn unbuckle_path(workspace: &Path) -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("UNBUCKLE") {
        return Ok(PathBuf::from(path));
    }
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(["build", "--quiet", "--package", "unbuckle"])
        .current_dir(workspace)
        .status()?;
    if !status.success() {
        bail!("cargo build --package unbuckle failed");
    }
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace.join("target"), PathBuf::from);
    Ok(target.join("debug/unbuckle"))
}
