//! Making the maps, loading the programs, attaching them, and keeping all of it beyond this process if that is asked for.

use crate::OBJECT;
use crate::interface::{self, Facts};
use crate::maps::Maps;
use crate::settings::{Coverage, Settings};
use aya::maps::{Map, MapData};
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::tc::TcAttachOptions;
use aya::programs::{LinkOrder, ProgramError, SchedClassifier, TcAttachType, Xdp, XdpMode};
use aya::{Ebpf, EbpfLoader, VerifierLogLevel};
use std::fs::{File, TryLockError};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use unbuckle_fastpath_abi::{Config, ELEMENT_BYTES, INTERFACES_MAX, VERSION, name};

/// Why there is no fast path.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "the kernel refused the programs or their maps (root, or CAP_BPF and CAP_NET_ADMIN, is needed): {0}"
    )]
    Ebpf(#[from] aya::EbpfError),
    #[error("the kernel refused a program: {0}")]
    Program(#[from] ProgramError),
    #[error("cannot map the fast path's memory: {0}")]
    Memory(#[source] io::Error),
    #[error("interface {interface}: {source}")]
    Interface { interface: String, source: io::Error },
    #[error("cannot use {} to pin to (a folder in a bpffs is needed): {source}", folder.display())]
    Folder { folder: PathBuf, source: io::Error },
    #[error("{} belongs to a daemon that is running", .0.display())]
    Busy(PathBuf),
    #[error("the pinned maps have {found}, expected {expected}")]
    Geometry { found: String, expected: String },
    #[error("programs are attached to {INTERFACES_MAX} interfaces already")]
    Interfaces,
    #[error("the object lacks {0}")]
    Object(&'static str),
    #[error("cannot pin a link: {0}")]
    Pin(String),
}

/// Where in the kernel a program looks at packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// Ingress of any interface. Linux 6.6.
    Tcx,
    /// The driver, before there is a packet buffer. Native mode only.
    Xdp,
}

impl Hook {
    /// As in a pinned link's name.
    pub fn name(self) -> &'static str {
        match self {
            Hook::Tcx => "tcx",
            Hook::Xdp => "xdp",
        }
    }
}

/// A loaded program, for whoever wants to look at it or to run it on packets of his own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Program {
    pub descriptor: i32,
    /// Instructions that the verifier walked; Linux 5.16.
    pub verified_instructions: Option<u32>,
}

/// The maps and programs of one fast path.
#[derive(Debug)]
pub struct Loader {
    ebpf: Ebpf,
    maps: Maps,
    interfaces: Vec<Facts>,
    /// What the programs have been told, but for what changes while they run.
    told: Option<Box<Config>>,
    paused: bool,
    /// Names of the pinned links that are in use.
    links: Vec<String>,
    pin: Option<PinFolder>,
}

/// Where maps and links outlive the process. The lock says who writes to them.
#[derive(Debug)]
struct PinFolder {
    path: PathBuf,
    _lock: File,
}

/// Takes the folder's lock.
pub(crate) fn lock(path: &Path) -> Result<File, Error> {
    let refused = |source| Error::Folder { folder: path.to_owned(), source };
    let folder = File::open(path).map_err(refused)?;
    match folder.try_lock() {
        Ok(()) => Ok(folder),
        Err(TryLockError::WouldBlock) => Err(Error::Busy(path.to_owned())),
        Err(TryLockError::Error(source)) => Err(refused(source)),
    }
}

impl Loader {
    /// Makes all maps, with a region of `region_bytes`, rounded up to a MiB. The kernel zeroes it at once: about one second
    /// a GiB.
    pub fn create(region_bytes: u64) -> Result<Loader, Error> {
        Loader::open(region_bytes, None)
    }

    /// The maps that are pinned in `folder`, which is in a bpffs and is made if there is none; new ones if nothing is
    /// pinned there. The flag says that they were there already: then the region holds a store.
    pub fn pinned(region_bytes: u64, folder: &Path) -> Result<(Loader, bool), Error> {
        std::fs::create_dir_all(folder)
            .map_err(|source| Error::Folder { folder: folder.to_owned(), source })?;
        let pin = PinFolder { path: folder.to_owned(), _lock: lock(folder)? };
        let adopted = folder.join(name::REGION).exists();
        let loader = Loader::open(region_bytes, Some(pin))?;
        let version = loader.maps.version();
        if adopted && version != VERSION {
            let (found, expected) = (format!("format {version}"), format!("format {VERSION}"));
            return Err(Error::Geometry { found, expected });
        }
        Ok((loader, adopted))
    }

    fn open(region_bytes: u64, pin: Option<PinFolder>) -> Result<Loader, Error> {
        let elements = region_bytes.div_ceil(ELEMENT_BYTES as u64).max(1);
        let elements = u32::try_from(elements).map_err(|_| Error::Object("room for so large a region"))?;
        let processors = aya::util::nr_cpus().map_err(|(_, error)| Error::Memory(error))?;
        let mut loader = EbpfLoader::new();
        // The verifier's reason without its every step, which can be longer than any buffer: then there is no reason at all.
        loader.verifier_log_level(VerifierLogLevel::STATS);
        loader.map_max_entries(name::REGION, elements);
        loader.map_max_entries(name::COUNTERS, u32::try_from(processors).unwrap_or(u32::MAX));
        let paths = pin.iter().flat_map(|pin| {
            [name::REGION, name::CONFIG, name::COUNTERS].map(|map| (map, pin.path.join(map)))
        });
        for (map, path) in paths {
            loader.map_pin_path(map, path);
        }
        let ebpf = loader.load(OBJECT)?;
        let region = array(&ebpf, name::REGION)?;
        let found = region.info().map_err(|error| Error::Memory(io::Error::other(error)))?.max_entries();
        if found != elements {
            let (found, expected) = (format!("{found} MiB"), format!("{elements} MiB"));
            return Err(Error::Geometry { found, expected });
        }
        let descriptor = |map: &'static str| Ok::<_, Error>(array(&ebpf, map)?.fd());
        let (config, counters) = (descriptor(name::CONFIG)?, descriptor(name::COUNTERS)?);
        let maps =
            Maps::map(region.fd().as_fd(), elements as usize, config.as_fd(), counters.as_fd(), processors)
                .map_err(Error::Memory)?;
        Ok(Loader { ebpf, maps, interfaces: Vec::new(), told: None, paused: false, links: Vec::new(), pin })
    }

    /// Attaches the program for `hook` to an interface, after whatever is attached there already. A link that is pinned is
    /// taken over: packets go from the old program to the new one without a gap.
    pub fn attach(&mut self, interface: &str, hook: Hook) -> Result<(), Error> {
        let refused = |source| Error::Interface { interface: interface.to_owned(), source };
        let facts = interface::facts(interface).map_err(refused)?;
        let known = self.interfaces.iter().any(|known| known.index == facts.index);
        if !known && self.interfaces.len() == INTERFACES_MAX {
            return Err(Error::Interfaces);
        }
        let link = format!("{}-{interface}", hook.name());
        let pin = self.pin.as_ref().map(|pin| pin.path.join(&link));
        self.load(hook)?;
        match hook {
            Hook::Tcx => attach_tcx(self.tcx()?, interface, pin.as_deref())?,
            Hook::Xdp => attach_xdp(self.xdp()?, interface, pin.as_deref())?,
        }
        if !known {
            self.interfaces.push(facts);
        }
        self.links.push(link);
        Ok(())
    }

    /// Has the kernel verify the program for `hook`, if it has not yet.
    pub fn load(&mut self, hook: Hook) -> Result<Program, Error> {
        let (descriptor, info) = match hook {
            Hook::Tcx => {
                let program = self.tcx()?;
                if program.fd().is_err() {
                    program.load()?;
                }
                (program.fd()?.as_fd().as_raw_fd(), program.info()?)
            }
            Hook::Xdp => {
                let program = self.xdp()?;
                if program.fd().is_err() {
                    program.load()?;
                }
                (program.fd()?.as_fd().as_raw_fd(), program.info()?)
            }
        };
        Ok(Program { descriptor, verified_instructions: info.verified_instruction_count() })
    }

    fn tcx(&mut self) -> Result<&mut SchedClassifier, Error> {
        let program = self.ebpf.program_mut(name::TCX).ok_or(Error::Object(name::TCX))?;
        Ok(program.try_into()?)
    }

    fn xdp(&mut self) -> Result<&mut Xdp, Error> {
        let program = self.ebpf.program_mut(name::XDP).ok_or(Error::Object(name::XDP))?;
        Ok(program.try_into()?)
    }

    /// Says whose packets are answered, and switches the programs on: they are off for the few microseconds in which their
    /// tables change. The caller has sent, or sends at once, a heartbeat.
    pub fn configure(&mut self, settings: &Settings, now_ns: u64) -> Result<Coverage, Error> {
        let refused = |source| Error::Interface { interface: "addresses".to_owned(), source };
        let addresses = interface::addresses().map_err(refused)?;
        self.look_at_interfaces();
        let (config, coverage) = settings.config(&addresses, &self.interfaces);
        self.maps.enable(false);
        self.maps.config_set(&config);
        self.maps.heartbeat(now_ns);
        self.maps.enable(!self.paused);
        self.told = Some(Box::new(config));
        Ok(coverage)
    }

    /// Learns of VLANs and MAC addresses that have changed. An interface that has gone does not come back under its number.
    fn look_at_interfaces(&mut self) {
        for known in &mut self.interfaces {
            if let Ok(facts) = interface::facts(&known.name)
                && facts.index == known.index
            {
                *known = facts;
            }
        }
    }

    /// Configures again if this host's addresses or interfaces have changed.
    pub fn refresh(&mut self, settings: &Settings, now_ns: u64) -> Result<(), Error> {
        let refused = |source| Error::Interface { interface: "addresses".to_owned(), source };
        let addresses = interface::addresses().map_err(refused)?;
        self.look_at_interfaces();
        let (config, _) = settings.config(&addresses, &self.interfaces);
        let same = |told: &Config| Config { second_zero_ns: config.second_zero_ns, ..*told } == config;
        if self.told.as_deref().is_some_and(same) {
            return Ok(());
        }
        self.configure(settings, now_ns).map(|_| ())
    }

    /// Detaches the programs that are pinned and that [`Loader::attach`] has not been called for.
    pub fn detach_others(&self) -> Result<(), Error> {
        let Some(pin) = &self.pin else { return Ok(()) };
        let refused = |source| Error::Folder { folder: pin.path.clone(), source };
        for entry in std::fs::read_dir(&pin.path).map_err(refused)? {
            let entry = entry.map_err(refused)?;
            let name = entry.file_name();
            let is_link = [Hook::Tcx, Hook::Xdp].iter().any(|hook| {
                name.to_str().is_some_and(|name| {
                    name.starts_with(hook.name()) && !self.links.iter().any(|link| link == name)
                })
            });
            if is_link {
                std::fs::remove_file(entry.path()).map_err(refused)?;
            }
        }
        Ok(())
    }

    /// From now on the programs pass everything, until the next [`Loader::configure`].
    pub fn switch_off(&self) {
        self.maps.enable(false);
    }

    /// While it is paused, everything is passed. Nothing else changes.
    pub fn pause(&mut self, on: bool) {
        if self.paused != on {
            self.paused = on;
            self.maps.enable(!on && self.told.is_some());
        }
    }

    /// What the maps hold.
    pub fn maps(&self) -> Maps {
        self.maps
    }
}

fn array<'e>(ebpf: &'e Ebpf, map: &'static str) -> Result<&'e MapData, Error> {
    match ebpf.map(map) {
        Some(Map::Array(data)) => Ok(data),
        _ => Err(Error::Object(map)),
    }
}

fn pin_error(error: impl std::fmt::Display) -> Error {
    Error::Pin(error.to_string())
}

/// The link that is pinned there, if one is.
fn pinned_link(path: Option<&Path>) -> Result<Option<FdLink>, Error> {
    match path.filter(|path| path.exists()) {
        Some(path) => Ok(Some(PinnedLink::from_pin(path).map_err(pin_error)?.into())),
        None => Ok(None),
    }
}

/// A pinned link leads nowhere when its interface has gone, even if there is another of that name now.
fn forget_link(pin: Option<&Path>) -> Result<(), Error> {
    pin.map_or(Ok(()), std::fs::remove_file).map_err(pin_error)
}

fn attach_tcx(program: &mut SchedClassifier, interface: &str, pin: Option<&Path>) -> Result<(), Error> {
    if let Some(link) = pinned_link(pin)? {
        if let Ok(link) = program.attach_to_link(link.try_into().map_err(pin_error)?) {
            // The pin holds it; ours may go.
            drop(program.take_link(link)?);
            return Ok(());
        }
        forget_link(pin)?;
    }
    let options = TcAttachOptions::TcxOrder(LinkOrder::default());
    let link = program.attach_with_options(interface, TcAttachType::Ingress, options)?;
    if let Some(path) = pin {
        let link: FdLink = program.take_link(link)?.try_into().map_err(pin_error)?;
        link.pin(path).map_err(pin_error)?;
    }
    Ok(())
}

fn attach_xdp(program: &mut Xdp, interface: &str, pin: Option<&Path>) -> Result<(), Error> {
    if let Some(link) = pinned_link(pin)? {
        if let Ok(link) = program.attach_to_link(link.try_into().map_err(pin_error)?) {
            drop(program.take_link(link)?);
            return Ok(());
        }
        forget_link(pin)?;
    }
    let link = program.attach(interface, XdpMode::Driver)?;
    if let Some(path) = pin {
        let link: FdLink = program.take_link(link)?.try_into().map_err(pin_error)?;
        link.pin(path).map_err(pin_error)?;
    }
    Ok(())
}

/// Removes everything that is pinned in `folder`, and the folder: programs are detached and memory is freed, with no
/// daemon running. Refused while one is.
pub fn unpin(folder: &Path) -> Result<(), Error> {
    let refused = |source| Error::Folder { folder: folder.to_owned(), source };
    let _lock = lock(folder)?;
    // The kernel detaches a little after the last name of a link is gone; from here on nothing is answered.
    if let Ok(config) = MapData::from_pin(folder.join(name::CONFIG)) {
        Maps::disable(config.fd().as_fd()).map_err(Error::Memory)?;
    }
    for entry in std::fs::read_dir(folder).map_err(refused)? {
        std::fs::remove_file(entry.map_err(refused)?.path()).map_err(refused)?;
    }
    std::fs::remove_dir(folder).map_err(refused)
}
