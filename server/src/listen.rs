//! Opening the sockets that clients come to.
//!
//! Several addresses may be asked for; a name may stand for several. An address family or an address that this machine
//! has not is passed over as long as one of a name's addresses works; a port in use is always an error.

use crate::options::{ListenAddress, Options, Protection, Protocol, Refusal, exit};
use rustix::fs::{FileType, Mode};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};
use std::fmt;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// Where a listener listens, as `stats conns` writes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Tcp(SocketAddr),
    Udp(SocketAddr),
    Unix(PathBuf),
}

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Tcp(address @ SocketAddr::V4(_)) => write!(formatter, "tcp:{address}"),
            Place::Tcp(address) => write!(formatter, "tcp6:{address}"),
            Place::Udp(address @ SocketAddr::V4(_)) => write!(formatter, "udp:{address}"),
            Place::Udp(address) => write!(formatter, "udp6:{address}"),
            Place::Unix(path) => write!(formatter, "unix:{}", path.display()),
        }
    }
}

impl Place {
    /// The address of a TCP client, from its place as text.
    pub(crate) fn peer(text: &str) -> Option<SocketAddr> {
        let (kind, address) = text.split_once(':')?;
        if kind.starts_with("tcp") { address.parse().ok() } else { None }
    }
}

/// A socket that accepts connections.
#[derive(Debug)]
pub(crate) struct Listener {
    pub(crate) socket: OwnedFd,
    pub(crate) place: Place,
    pub(crate) protection: Protection,
    pub(crate) protocol: Protocol,
}

/// One UDP address: a socket for each worker, between which the kernel divides the clients.
#[derive(Debug)]
pub(crate) struct DatagramDoor {
    pub(crate) sockets: Vec<OwnedFd>,
    pub(crate) address: SocketAddr,
    pub(crate) protocol: Protocol,
}

#[derive(Debug, Default)]
pub(crate) struct Listening {
    pub(crate) listeners: Vec<Listener>,
    pub(crate) datagram_doors: Vec<DatagramDoor>,
}

pub(crate) fn open(options: &Options) -> Result<Listening, Refusal> {
    let mut listening = Listening::default();
    if let Some(port) = options.tcp_port {
        listening
            .listeners
            .extend(open_all(options, port, "TCP", |address, entry| open_tcp(address, entry, options))?);
    }
    if let Some(port) = options.udp_port {
        listening.datagram_doors =
            open_all(options, port, "UDP", |address, entry| open_udp(address, entry, options))?;
    }
    Ok(listening)
}

/// Opens what is a file, and so belongs to whom the server runs as: to be called when privileges have been dropped.
pub(crate) fn open_files(listening: &mut Listening, options: &Options) -> Result<(), Refusal> {
    if let Some(path) = &options.unix_socket {
        listening.listeners.push(open_unix(path, options)?);
    }
    write_port_file(listening);
    Ok(())
}

/// Opens every address that `-l` names, or all there are.
fn open_all<T: Bound>(
    options: &Options,
    port: u16,
    protocol: &str,
    open: impl Fn(SocketAddr, &ListenAddress) -> Result<T, Errno>,
) -> Result<Vec<T>, Refusal> {
    let everywhere = [ListenAddress::everywhere()];
    let entries = if options.listen.is_empty() { &everywhere[..] } else { &options.listen[..] };
    let mut opened: Vec<T> = Vec::new();
    for entry in entries {
        let before = opened.len();
        let mut failure = None;
        for mut address in resolve(entry, entry.port.unwrap_or(port))? {
            if address.port() == 0 {
                // "Any free port" is one port for all addresses, where it is free on all.
                address.set_port(opened.first().map_or(0, |first| first.port()));
            }
            match open(address, entry) {
                Ok(socket) => opened.push(socket),
                Err(error @ (Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL)) => failure = Some((address, error)),
                Err(error) => return Err(refuse(protocol, address, error)),
            }
        }
        if let (Some((address, error)), true) = (failure, opened.len() == before) {
            return Err(refuse(protocol, address, error));
        }
    }
    Ok(opened)
}

fn refuse(protocol: &str, address: SocketAddr, error: Errno) -> Refusal {
    let hint = match error {
        Errno::ADDRINUSE => ": another server has it; -p and -U choose other ports",
        Errno::ACCESS => ": ports below 1024 need privileges",
        _ => "",
    };
    Refusal::new(exit::OS_ERROR, format!("failed to listen on {protocol} {address}: {error}{hint}"))
}

fn resolve(entry: &ListenAddress, port: u16) -> Result<Vec<SocketAddr>, Refusal> {
    let Some(host) = &entry.host else {
        let any: [IpAddr; 2] = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
        return Ok(any.map(|address| SocketAddr::new(address, port)).to_vec());
    };
    let addresses = (host.as_str(), port)
        .to_socket_addrs()
        .map_err(|error| Refusal::new(exit::OS_ERROR, format!("failed to listen on {host}: {error}")))?;
    let mut unique: Vec<SocketAddr> = Vec::new();
    for address in addresses {
        if !unique.contains(&address) {
            unique.push(address);
        }
    }
    Ok(unique)
}

/// What has been bound, and to which port.
trait Bound {
    fn port(&self) -> u16;
}
impl Bound for Listener {
    fn port(&self) -> u16 {
        match &self.place {
            Place::Tcp(address) | Place::Udp(address) => address.port(),
            Place::Unix(_) => 0,
        }
    }
}
impl Bound for DatagramDoor {
    fn port(&self) -> u16 {
        self.address.port()
    }
}

fn socket(address: SocketAddr, kind: SocketType) -> Result<OwnedFd, Errno> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = rustix::net::socket_with(family, kind, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC, None)?;
    if address.is_ipv6() {
        // Else it would take the IPv4 port too, which has a listener of its own.
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    Ok(socket)
}

fn bound_address(socket: &OwnedFd, asked: SocketAddr) -> SocketAddr {
    rustix::net::getsockname(socket).ok().and_then(|name| SocketAddr::try_from(name).ok()).unwrap_or(asked)
}

fn open_tcp(address: SocketAddr, entry: &ListenAddress, options: &Options) -> Result<Listener, Errno> {
    let socket = socket(address, SocketType::STREAM)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    // Connections inherit both.
    sockopt::set_socket_keepalive(&socket, true)?;
    sockopt::set_tcp_nodelay(&socket, true)?;
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, options.backlog)?;
    let place = Place::Tcp(bound_address(&socket, address));
    // `-Z` or not is known here, so that nobody else has to ask.
    let protection = if options.tls_enabled { entry.protection } else { Protection::None };
    Ok(Listener { socket, place, protection, protocol: options.protocol_at(entry) })
}

/// Asked for, not demanded: the kernel gives what its limits allow.
const UDP_BUFFER_BYTES: usize = 4 << 20;

fn open_udp(address: SocketAddr, entry: &ListenAddress, options: &Options) -> Result<DatagramDoor, Errno> {
    let (sockets, protocol) = (options.threads, options.protocol_at(entry));
    // Alone first: sockets that share a port would share it with another server of the same user, too.
    let probe = socket(address, SocketType::DGRAM)?;
    rustix::net::bind(&probe, &address)?;
    let address = bound_address(&probe, address);
    if sockets == 1 {
        enlarge_buffers(&probe);
        return Ok(DatagramDoor { sockets: vec![probe], address, protocol });
    }
    drop(probe);
    let mut opened = Vec::with_capacity(sockets);
    for _ in 0..sockets {
        let socket = socket(address, SocketType::DGRAM)?;
        sockopt::set_socket_reuseport(&socket, true)?;
        rustix::net::bind(&socket, &address)?;
        enlarge_buffers(&socket);
        opened.push(socket);
    }
    Ok(DatagramDoor { sockets: opened, address, protocol })
}

fn enlarge_buffers(socket: &OwnedFd) {
    let _ = sockopt::set_socket_recv_buffer_size(socket, UDP_BUFFER_BYTES);
    let _ = sockopt::set_socket_send_buffer_size(socket, UDP_BUFFER_BYTES);
}

fn open_unix(path: &Path, options: &Options) -> Result<Listener, Refusal> {
    let refuse = |error: Errno| {
        Refusal::new(exit::OS_ERROR, format!("failed to listen on unix socket {}: {error}", path.display()))
    };
    // What an earlier server left behind. A file of another kind stays, and binding fails.
    if rustix::fs::lstat(path).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Socket) {
        rustix::fs::unlink(path).map_err(refuse)?;
    }
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).map_err(refuse)?;
    let address = SocketAddrUnix::new(path).map_err(refuse)?;
    let mask_before = rustix::process::umask(Mode::from_raw_mode(!options.unix_mask & 0o777));
    let bound = rustix::net::bind(&socket, &address);
    rustix::process::umask(mask_before);
    bound.map_err(refuse)?;
    rustix::net::listen(&socket, options.backlog).map_err(refuse)?;
    let place = Place::Unix(path.to_owned());
    Ok(Listener { socket, place, protection: Protection::None, protocol: options.protocol })
}

/// The ports that were bound, for whoever asked for any free one: the file that this variable names appears whole.
fn write_port_file(listening: &Listening) {
    let Some(path) = std::env::var_os("MEMCACHED_PORT_FILENAME").map(PathBuf::from) else { return };
    let mut text = String::new();
    let mut add = |protocol: &str, address: &SocketAddr| {
        let family = if address.is_ipv4() { "INET" } else { "INET6" };
        text.push_str(&format!("{protocol} {family}: {}\n", address.port()));
    };
    for listener in &listening.listeners {
        if let Place::Tcp(address) = &listener.place {
            add("TCP", address);
        }
    }
    for door in &listening.datagram_doors {
        add("UDP", &door.address);
    }
    let mut partial = path.clone().into_os_string();
    partial.push(".lck");
    let partial = PathBuf::from(partial);
    let written = std::fs::File::create(&partial)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .and_then(|()| std::fs::rename(&partial, &path));
    if let Err(error) = written {
        eprintln!("cannot write the ports to {}: {error}", path.display());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::parsed;

    #[test]
    fn one_free_port_for_every_address_and_its_udp_workers() {
        let listening = open(&parsed("-l 127.0.0.1,127.0.0.2 -p -1 -U -1 -t 2")).unwrap();
        let ports: Vec<u16> = listening.listeners.iter().map(Bound::port).collect();
        assert_eq!(ports.len(), 2);
        assert!(ports[0] != 0 && ports[0] == ports[1]);
        assert_eq!(listening.datagram_doors.len(), 2);
        assert_eq!(listening.datagram_doors[0].sockets.len(), 2);
    }

    #[test]
    fn a_port_in_use_is_an_error_for_tcp_and_for_udp() {
        let first = open(&parsed("-l 127.0.0.1 -p -1 -U -1 -t 2")).unwrap();
        let (tcp, udp) = (first.listeners[0].port(), first.datagram_doors[0].port());
        for line in [format!("-l 127.0.0.1 -p {tcp}"), format!("-l 127.0.0.1 -t 2 -p 0 -U {udp}")] {
            let refusal = open(&parsed(&line)).unwrap_err();
            assert_eq!(refusal.exit_code, 71);
            assert!(refusal.message.contains("another server"), "{refusal}");
        }
    }

    #[test]
    fn names_that_do_not_resolve_and_addresses_of_others_are_errors() {
        for line in ["-l fooble.invalid", "-l 192.0.2.1 -p -1"] {
            assert_eq!(open(&parsed(line)).unwrap_err().exit_code, 71, "{line}");
        }
    }

    #[test]
    fn places_are_written_as_stats_conns_has_them() {
        assert_eq!(Place::Tcp("127.0.0.1:5".parse().unwrap()).to_string(), "tcp:127.0.0.1:5");
        assert_eq!(Place::Udp("[::1]:5".parse().unwrap()).to_string(), "udp6:[::1]:5");
        assert_eq!(Place::Unix("/tmp/x".into()).to_string(), "unix:/tmp/x");
    }
}
