//! The command line: what the user asked for, checked, as plain values.
//!
//! Flags and their meaning are memcached 1.6.45's; where it would take garbage for a number (`-m 1g` is one megabyte
//! to it), this refuses. Exit codes are memcached's. Nothing is opened or changed here.

mod addresses;
mod extended;
mod fastpath;
mod flags;
mod rules;
mod tls;
mod values;

pub(crate) use addresses::mapped;
pub use addresses::{Cidr, ListenAddress, Protection};
pub use extended::{Extended, Sandbox};
pub use fastpath::{FastPathOptions, HookChoice, PIN_FOLDER_DEFAULT};
use flags::{Found, Id, Takes};
use rules::check;
use std::ffi::OsString;
use std::path::PathBuf;
pub use tls::{KeyFormat, TlsOptions, TlsVersion, VerifyMode};
use values::{item_bytes, megabytes, port, positive, protocol};

/// Exit codes of sysexits.h, as memcached uses them.
pub mod exit {
    pub const FAILURE: u8 = 1;
    pub const USAGE: u8 = 64;
    pub const NO_USER: u8 = 67;
    pub const OS_ERROR: u8 = 71;
}

/// Why the server does not start.
#[derive(Debug)]
pub struct Refusal {
    pub exit_code: u8,
    pub message: String,
}

impl Refusal {
    pub fn new(exit_code: u8, message: impl Into<String>) -> Refusal {
        Refusal { exit_code, message: message.into() }
    }
    pub(crate) fn usage(message: impl Into<String>) -> Refusal {
        Refusal::new(exit::USAGE, message)
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.message)
    }
}

impl std::error::Error for Refusal {}

/// What the command line asks for.
#[derive(Debug)]
pub enum Command {
    Run(Box<Options>),
    /// Print this and end well.
    Print(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Auto,
    Ascii,
    Binary,
}

impl Protocol {
    /// As memcached writes it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Protocol::Auto => "auto-negotiate",
            Protocol::Ascii => "ascii",
            Protocol::Binary => "binary",
        }
    }

    /// As the engine has it.
    pub(crate) fn spoken(self) -> unbuckle_engine::Protocol {
        match self {
            Protocol::Auto => unbuckle_engine::Protocol::Negotiated,
            Protocol::Ascii => unbuckle_engine::Protocol::Text,
            Protocol::Binary => unbuckle_engine::Protocol::Binary,
        }
    }
}

/// Everything that the user can set. Sizes in bytes.
#[derive(Clone, Debug)]
pub struct Options {
    /// `None`: no TCP. Port 0: any free one.
    pub tcp_port: Option<u16>,
    pub udp_port: Option<u16>,
    pub unix_socket: Option<PathBuf>,
    pub unix_mask: u32,
    /// Empty: all addresses.
    pub listen: Vec<ListenAddress>,
    /// As the user wrote it, for `stats settings`.
    pub listen_text: Option<String>,
    pub udp_allow: Vec<Cidr>,
    pub shutdown_enabled: bool,
    pub daemon: bool,
    pub core_dumps: bool,
    pub user: Option<String>,
    pub pid_file: Option<PathBuf>,
    pub memory_bytes: u64,
    pub evict: bool,
    pub connections_max: u32,
    pub backlog: i32,
    pub lock_memory: bool,
    /// Where the cache is kept across restarts. Absolute: a daemon leaves its directory.
    pub memory_file: Option<PathBuf>,
    pub verbosity: u32,
    pub growth_factor: f64,
    /// Key, value and flags that the smallest size class holds.
    pub chunk_bytes_min: u32,
    pub prefix_delimiter: char,
    pub detail_enabled: bool,
    pub threads: usize,
    pub requests_per_event: u32,
    pub cas: bool,
    pub protocol: Protocol,
    /// Binary clients authenticate by SASL.
    pub sasl: bool,
    /// Text clients authenticate by what is in this file.
    pub auth_file: Option<PathBuf>,
    pub item_bytes_max: u64,
    pub flush_enabled: bool,
    pub dump_enabled: bool,
    pub watch_enabled: bool,
    /// Clients may move the clock.
    pub debug_time: bool,
    /// `-Z`
    pub tls_enabled: bool,
    pub extended: Extended,
    pub fastpath: FastPathOptions,
    /// Lines for standard error: what was accepted without effect.
    pub notes: Vec<String>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            tcp_port: Some(11211),
            udp_port: None,
            unix_socket: None,
            unix_mask: 0o700,
            listen: Vec::new(),
            listen_text: None,
            udp_allow: Vec::new(),
            shutdown_enabled: false,
            daemon: false,
            core_dumps: false,
            user: None,
            pid_file: None,
            memory_bytes: 64 << 20,
            evict: true,
            connections_max: 1024,
            backlog: 1024,
            lock_memory: false,
            memory_file: None,
            verbosity: 0,
            growth_factor: 1.25,
            chunk_bytes_min: 48,
            prefix_delimiter: ':',
            detail_enabled: false,
            threads: threads_default(),
            requests_per_event: 20,
            cas: true,
            protocol: Protocol::Auto,
            sasl: false,
            auth_file: None,
            item_bytes_max: 1 << 20,
            flush_enabled: true,
            dump_enabled: true,
            watch_enabled: true,
            debug_time: false,
            tls_enabled: false,
            extended: Extended::default(),
            fastpath: FastPathOptions::default(),
            notes: Vec::new(),
        }
    }
}

/// More threads than cores only cost.
fn threads_default() -> usize {
    std::thread::available_parallelism().map_or(4, usize::from).min(4)
}

impl Options {
    /// What clients speak who come to this address.
    pub(crate) fn protocol_at(&self, address: &ListenAddress) -> Protocol {
        address.protocol.unwrap_or(self.protocol)
    }

    /// Whether clients have to say who they are.
    pub fn authenticates(&self) -> bool {
        self.sasl || self.auth_file.is_some()
    }

    /// Makes the paths that are used again later independent of the folder that the process is in. (TLS and the SASL
    /// database hold theirs themselves.)
    pub(crate) fn paths_keep(&mut self) {
        let paths = [&mut self.unix_socket, &mut self.pid_file, &mut self.memory_file, &mut self.auth_file];
        for path in paths.into_iter().flatten() {
            if let Ok(absolute) = std::path::absolute(&*path) {
                *path = absolute;
            }
        }
    }

    /// The largest size class, by memcached's rule: half a page once items may exceed one.
    pub fn chunk_bytes_max(&self) -> u32 {
        let half_page = 512 << 10;
        let asked = self.extended.chunk_bytes_max.unwrap_or(half_page);
        asked.min(u32::try_from(self.item_bytes_max).unwrap_or(half_page))
    }
}

/// Remembered while flags are read, for rules that span several.
#[derive(Debug, Default)]
struct Seen {
    tcp_port: bool,
    protocol: bool,
    item_bytes_max: Option<String>,
}

/// Reads the arguments (without the program's name).
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Command, Refusal> {
    let mut parser = lexopt::Parser::from_args(arguments);
    let mut options = Options::default();
    let mut seen = Seen::default();
    let mut any = false;
    loop {
        let argument = parser.next().map_err(|error| Refusal::new(exit::FAILURE, error.to_string()))?;
        let by_long_name = matches!(argument, Some(lexopt::Arg::Long(_)));
        let flag = match argument {
            None => break,
            Some(lexopt::Arg::Short(name)) => flags::by_short(name).ok_or_else(|| {
                Refusal::new(exit::FAILURE, format!("illegal argument \"-{name}\"; see --help"))
            })?,
            Some(lexopt::Arg::Long(name)) => match flags::by_long(name) {
                Found::Flag(flag) => flag,
                Found::Unknown => {
                    return Err(Refusal::new(
                        exit::FAILURE,
                        format!("illegal argument \"--{name}\"; see --help"),
                    ));
                }
                Found::Ambiguous => {
                    return Err(Refusal::new(
                        exit::FAILURE,
                        format!("\"--{name}\" can mean several; see --help"),
                    ));
                }
            },
            Some(lexopt::Arg::Value(value)) => {
                options.notes.push(format!("{}: not an option, ignored", value.to_string_lossy()));
                continue;
            }
        };
        any = true;
        let value = take_value(&mut parser, flag, by_long_name)?;
        match flag.id {
            Id::Help => return Ok(Command::Print(flags::help_text())),
            Id::Version => {
                return Ok(Command::Print(concat!("unbuckle ", env!("CARGO_PKG_VERSION"), "\n").to_owned()));
            }
            Id::Licence => return Ok(Command::Print(LICENCE.to_owned())),
            _ => apply(&mut options, &mut seen, flag.id, &value)?,
        }
    }
    if !any {
        options.listen = vec![ListenAddress::host("localhost")];
    }
    check(&mut options, &seen, any)?;
    Ok(Command::Run(Box::new(options)))
}

const LICENCE: &str =
    "unbuckle is licensed under the MIT licence or the Apache License 2.0, as you choose.\n";

fn take_value(
    parser: &mut lexopt::Parser,
    flag: &flags::Flag,
    by_long_name: bool,
) -> Result<String, Refusal> {
    match flag.takes {
        Takes::Nothing => Ok(String::new()),
        Takes::OptionalIgnored => {
            // After a short name, as in `-vd`, what follows is more flags.
            if by_long_name {
                let _ = parser.optional_value();
            }
            Ok(String::new())
        }
        Takes::Optional(_) => {
            let value = if by_long_name { parser.optional_value() } else { None };
            let not_text = |_| Refusal::usage("the value of an option is not UTF-8");
            value.map_or(Ok(String::new()), |value| value.into_string().map_err(not_text))
        }
        Takes::Value(word) => {
            let value = parser.value().map_err(|_| {
                let name = flag.short.map_or(String::new(), |short| format!("-{short} "));
                Refusal::new(exit::FAILURE, format!("option {name}needs a value: <{word}>"))
            })?;
            match value.into_string() {
                Ok(value) => Ok(value.trim_start().to_owned()),
                Err(_) => Err(Refusal::usage(format!("the value of <{word}> is not UTF-8"))),
            }
        }
    }
}

/// Gives one flag its effect.
fn apply(options: &mut Options, seen: &mut Seen, id: Id, value: &str) -> Result<(), Refusal> {
    match id {
        Id::Port => {
            options.tcp_port = port(value)?;
            seen.tcp_port = true;
        }
        Id::UdpPort => options.udp_port = port(value)?,
        Id::UnixSocket => options.unix_socket = Some(PathBuf::from(value)),
        Id::UnixMask => {
            options.unix_mask = u32::from_str_radix(value, 8)
                .ok()
                .filter(|mask| *mask <= 0o7777)
                .ok_or_else(|| Refusal::usage(format!("-a: expected an octal mask, got \"{value}\"")))?;
        }
        Id::EnableShutdown => options.shutdown_enabled = true,
        Id::Listen => listen(options, value)?,
        Id::UdpAllow => {
            options.udp_allow.extend(Cidr::parse_allowed(value).ok_or_else(|| {
                Refusal::usage(format!(
                    "--udp-allow: expected a range such as 10.0.0.0/8, or any; got \"{value}\""
                ))
            })?);
        }
        Id::Daemon => options.daemon = true,
        Id::CoreDumps => options.core_dumps = true,
        Id::User => options.user = Some(value.to_owned()),
        Id::MemoryLimit => options.memory_bytes = megabytes(value)?,
        Id::DisableEvictions => options.evict = false,
        Id::ConnectionLimit => {
            options.connections_max = positive(value, "the number of connections (-c)", 10_000_000)? as u32;
        }
        Id::LockMemory => options.lock_memory = true,
        Id::Verbose => options.verbosity += 1,
        Id::PidFile => options.pid_file = Some(PathBuf::from(value)),
        Id::GrowthFactor => {
            options.growth_factor =
                value.parse().ok().filter(|factor: &f64| *factor > 1.0 && factor.is_finite()).ok_or_else(
                    || Refusal::new(exit::FAILURE, format!("-f: must be above 1, got \"{value}\"")),
                )?;
        }
        Id::SizeMin => options.chunk_bytes_min = positive(value, "the smallest chunk (-n)", 1 << 20)? as u32,
        // Large pages are asked for anyway.
        Id::LargePages => {}
        Id::PrefixDelimiter => {
            options.prefix_delimiter = value
                .chars()
                .next()
                .ok_or_else(|| Refusal::new(exit::FAILURE, "-D: expected a character, got nothing"))?;
            options.detail_enabled = true;
        }
        Id::Threads => options.threads = positive(value, "the number of threads (-t)", 1024)? as usize,
        Id::RequestsPerEvent => {
            options.requests_per_event =
                positive(value, "the requests per event (-R)", u32::MAX.into())? as u32;
        }
        Id::DisableCas => options.cas = false,
        Id::Backlog => options.backlog = positive(value, "the backlog (-b)", i32::MAX as u64)? as i32,
        Id::Protocol => {
            options.protocol = protocol(value)?;
            seen.protocol = true;
        }
        Id::ItemSizeMax => {
            options.item_bytes_max = item_bytes(value)?;
            seen.item_bytes_max = Some(value.to_owned());
        }
        Id::DisableFlushAll => options.flush_enabled = false,
        Id::DisableDumping => options.dump_enabled = false,
        Id::DisableWatch => options.watch_enabled = false,
        Id::DebugTime => options.debug_time = true,
        Id::FastPath => options.fastpath.add_interface(value)?,
        Id::FastPathHook => options.fastpath.hook_set(value)?,
        Id::FastPathPin => options.fastpath.pin_set(value)?,
        Id::FastPathGrace => options.fastpath.grace_set(value)?,
        Id::FastPathRequired => options.fastpath.required = true,
        Id::Extended => options.extended.apply(value, &mut options.notes)?,
        Id::Sasl => options.sasl = true,
        Id::AuthFile => options.auth_file = Some(PathBuf::from(value)),
        Id::Tls => options.tls_enabled = true,
        Id::MemoryFile => {
            options.memory_file = Some(
                std::path::absolute(value)
                    .map_err(|error| Refusal::usage(format!("-e: not a path, \"{value}\": {error}")))?,
            );
        }
        Id::NapiIds => options.notes.push("-N: accepted, has no effect here".to_owned()),
        Id::Help | Id::Version | Id::Licence => {}
    }
    Ok(())
}

fn listen(options: &mut Options, value: &str) -> Result<(), Refusal> {
    for entry in value.split([',', ';']).map(str::trim).filter(|entry| !entry.is_empty()) {
        let address = ListenAddress::parse(entry).map_err(Refusal::usage)?;
        if !options.listen.contains(&address) {
            options.listen.push(address);
        }
    }
    match &mut options.listen_text {
        Some(text) => {
            text.push(',');
            text.push_str(value);
        }
        None => options.listen_text = Some(value.to_owned()),
    }
    Ok(())
}

/// A command line that runs a server, for other files' tests.
#[cfg(test)]
pub(crate) fn parsed(line: &str) -> Options {
    tests::run(line).expect("a command line")
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn run(line: &str) -> Result<Options, Refusal> {
        match parse(line.split_whitespace().map(OsString::from))? {
            Command::Run(options) => Ok(*options),
            Command::Print(text) => panic!("printed {text}"),
        }
    }

    #[test]
    fn no_argument_at_all_is_loopback_and_64_mb() {
        let options = run("").unwrap();
        assert_eq!(options.listen, [ListenAddress::host("localhost")]);
        assert_eq!((options.tcp_port, options.udp_port), (Some(11211), None));
        assert_eq!(options.memory_bytes, 64 << 20);
        assert!(matches!(&options.notes[..], [note] if note.contains("loopback, port 11211, with 64 MB")));
    }

    #[test]
    fn any_option_without_l_is_all_addresses() {
        assert!(run("-m 128").unwrap().listen.is_empty());
        assert_eq!(run("-m 128 -l 127.0.0.1").unwrap().listen, [ListenAddress::host("127.0.0.1")]);
    }

    #[test]
    fn flags_bundle_and_carry_values_as_getopt_has_them() {
        let options = run("-vvdp11300 -m64 --threads=2 --conn-lim 9 -I2m --verbose=1 -vA").unwrap();
        assert_eq!(options.verbosity, 4);
        assert!(options.daemon && options.shutdown_enabled);
        assert_eq!(options.tcp_port, Some(11300));
        assert_eq!((options.threads, options.connections_max), (2, 9));
        assert_eq!(options.item_bytes_max, 2 << 20);
    }

    #[test]
    fn ports() {
        assert_eq!(run("-U 11300").unwrap().tcp_port, Some(11300));
        assert_eq!(run("-U 11300 -p 5").unwrap().tcp_port, Some(5));
        assert_eq!(run("-p -1").unwrap().tcp_port, Some(0));
        assert_eq!(run("-p 0").unwrap().tcp_port, None);
        assert_eq!(run("-p 70000").unwrap_err().exit_code, 64);
        let unix = run("-s /tmp/x -p 5 -U 5").unwrap();
        assert_eq!((unix.tcp_port, unix.udp_port), (None, None));
    }

    #[test]
    fn the_fast_path() {
        let options = run("-U 5 --fastpath lo --fastpath=eth0 --fastpath-pin --fastpath-grace 30").unwrap();
        assert_eq!(options.fastpath.interfaces, ["lo", "eth0"]);
        assert_eq!((options.fastpath.grace_s, options.fastpath.required), (30, false));
        assert_eq!(options.fastpath.pin, Some(PathBuf::from(PIN_FOLDER_DEFAULT)));
        let options = run("--fastpath lo --fastpath-pin=/run/bpf/x --fastpath-hook tcx").unwrap();
        assert_eq!(options.fastpath.pin, Some(PathBuf::from("/run/bpf/x")));
        assert_eq!(options.fastpath.hook, HookChoice::Tcx);
        for line in ["--fastpath-pin", "--fastpath lo -e /tmp/file", "--fastpath-hook xdp", "--fastpath a/b"]
        {
            assert_eq!(run(line).unwrap_err().exit_code, 64, "{line}");
        }
    }

    #[test]
    fn wrong_values_are_refused_with_memcached_exit_codes() {
        for line in ["-c 0", "-c -1", "-t 0", "-R 0", "-f 1", "-n 0", "-Q", "--fooble", "-o fooble", "-p"] {
            assert_eq!(run(line).unwrap_err().exit_code, 1, "{line}");
        }
        for line in [
            "-B http",
            "-I 1000",
            "-I 256m",
            "-m 0",
            "-m x",
            "-Z",
            "-Z -p 0 -o ssl_chain_cert=a",
            "-l notls:a",
            "-U 65536",
        ] {
            assert_eq!(run(line).unwrap_err().exit_code, 64, "{line}");
        }
    }

    #[test]
    fn sizes() {
        assert_eq!(run("-I 1024").unwrap().item_bytes_max, 1024);
        assert_eq!(run("-I 512k").unwrap().item_bytes_max, 512 << 10);
        assert_eq!(run("-m 256 -I 32m").unwrap().item_bytes_max, 32 << 20);
        assert_eq!(run("-m 2g").unwrap().memory_bytes, 2 << 30);
        assert_eq!(run("-m 100m").unwrap().memory_bytes, 100 << 20);
    }

    #[test]
    fn addresses_with_a_protocol_of_their_own_authenticate_by_it() {
        let protocols = |line: &str| {
            run(line).map(|options| {
                options.listen.iter().map(|address| options.protocol_at(address)).collect::<Vec<_>>()
            })
        };
        let (ascii, binary) = (Protocol::Ascii, Protocol::Binary);
        let listen = "-l proto[ascii]:127.0.0.1,proto[negotiating]:127.0.0.2,127.0.0.3";
        assert_eq!(protocols(listen).unwrap(), vec![ascii, Protocol::Auto, Protocol::Auto]);
        assert_eq!(protocols(&format!("-Y x {listen}")).unwrap(), vec![ascii; 3]);
        assert_eq!(protocols("-S -l proto[binary]:127.0.0.1,127.0.0.2").unwrap(), vec![binary; 2]);
        for line in
            ["-Y x -l proto[binary]:localhost", "-S -l proto[ascii]:localhost", "-S -l proto[neg]:localhost"]
        {
            assert_eq!(protocols(line).unwrap_err().exit_code, 64, "{line}");
        }
    }

    #[test]
    fn authentication_has_its_protocol_and_no_udp() {
        assert_eq!(run("-S").unwrap().protocol, Protocol::Binary);
        assert_eq!(run("-Y file").unwrap().protocol, Protocol::Ascii);
        assert_eq!(run("-B binary -S").unwrap().protocol, Protocol::Binary);
        for line in [
            "-S -B auto",
            "-S -B ascii",
            "-Y file -B binary",
            "-Y file -B auto",
            "-S -U 5",
            "-Y file -U 5",
            "-S -Y file",
        ] {
            assert_eq!(run(line).unwrap_err().exit_code, 64, "{line}");
        }
    }

    #[test]
    fn recognised_but_harmless_flags_are_noted() {
        let options = run("-l 127.0.0.1 -N 2 -X -W").unwrap();
        assert_eq!(options.notes.len(), 1, "{:?}", options.notes);
        assert!(!options.dump_enabled && !options.watch_enabled);
    }
}
