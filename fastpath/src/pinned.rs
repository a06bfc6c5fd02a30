//! What is pinned in a folder, as someone sees it who does not take it over: `unbuckle ctl`, and a daemon that must not
//! let an earlier one's programs answer for it.

use crate::loader::{Error, lock};
use crate::maps::Maps;
use aya::maps::{MapData, MapError};
use aya::programs::{ProgramInfo, SchedClassifier, TcAttachType};
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use unbuckle_fastpath_abi::{Counters, VERSION, name};

/// Pinned maps, and the names of the links beside them.
#[derive(Debug)]
pub struct Pinned {
    maps: Maps,
    folder: PathBuf,
    links: Vec<String>,
    region_bytes: u64,
}

impl Pinned {
    /// `None`: nothing is pinned there.
    pub fn open(folder: &Path) -> Result<Option<Pinned>, Error> {
        let refused = |source| Error::Folder { folder: folder.to_owned(), source };
        if !folder.join(name::CONFIG).try_exists().map_err(refused)? {
            return Ok(None);
        }
        let open = |map: &str| MapData::from_pin(folder.join(map)).map_err(|error| refused(other(error)));
        let (region, config, counters) = (open(name::REGION)?, open(name::CONFIG)?, open(name::COUNTERS)?);
        let entries =
            |map: &MapData| Ok::<_, Error>(map.info().map_err(|error| refused(other(error)))?.max_entries());
        let (elements, processors) = (entries(&region)? as usize, entries(&counters)? as usize);
        let maps =
            Maps::map(region.fd().as_fd(), elements, config.fd().as_fd(), counters.fd().as_fd(), processors)
                .map_err(Error::Memory)?;
        let mut links = Vec::new();
        for entry in std::fs::read_dir(folder).map_err(refused)? {
            let entry = entry.map_err(refused)?.file_name().to_string_lossy().into_owned();
            if ![name::REGION, name::CONFIG, name::COUNTERS].contains(&entry.as_str()) {
                links.push(entry);
            }
        }
        links.sort_unstable();
        let region_bytes = (elements * unbuckle_fastpath_abi::ELEMENT_BYTES) as u64;
        Ok(Some(Pinned { maps, folder: folder.to_owned(), links, region_bytes }))
    }

    /// Whether a daemon that is running holds the folder.
    pub fn is_busy(&self) -> bool {
        matches!(lock(&self.folder), Err(Error::Busy(_)))
    }

    /// Has the programs pass everything, unless a running daemon's they are. Returns whether they would have answered.
    pub fn silence(&self) -> Result<bool, Error> {
        let _lock = match lock(&self.folder) {
            Ok(lock) => lock,
            Err(Error::Busy(_)) => return Ok(false),
            Err(error) => return Err(error),
        };
        let answering = self.maps.is_enabled();
        self.maps.enable(false);
        Ok(answering)
    }

    /// Whether this build can read more than [`Pinned::silence`] touches.
    pub fn is_of_this_version(&self) -> bool {
        self.maps.version() == VERSION
    }

    /// Hook and interface of each pinned link, such as `tcx-eth0`.
    pub fn links(&self) -> &[String] {
        &self.links
    }

    pub fn region_bytes(&self) -> u64 {
        self.region_bytes
    }

    /// Whether the programs answer now, `now_ns` by CLOCK_BOOTTIME.
    pub fn is_answering(&self, now_ns: u64) -> bool {
        let (silent_ns, grace_ns) = self.silence_ns(now_ns);
        self.maps.is_enabled() && silent_ns <= grace_ns
    }

    /// How long the daemon has been silent, and how long the programs go on answering then, in nanoseconds. `now_ns` is
    /// CLOCK_BOOTTIME.
    pub fn silence_ns(&self, now_ns: u64) -> (u64, u64) {
        (now_ns.saturating_sub(self.maps.heartbeat_ns()), self.maps.grace_ns())
    }

    pub fn counters(&self) -> Counters {
        self.maps.counters()
    }
}

/// Names of our programs that are attached to an interface at tcx, whoever attached them.
pub fn attached(interface: &str) -> Result<Vec<String>, Error> {
    let (_, programs) = SchedClassifier::query_tcx(interface, TcAttachType::Ingress)?;
    let names = programs.iter().filter_map(ProgramInfo::name_as_str).map(str::to_owned);
    // The kernel keeps fifteen bytes of a name.
    Ok(names
        .filter(|known| [name::TCX, name::XDP].iter().any(|ours| ours.starts_with(known.as_str())))
        .collect())
}

fn other(error: MapError) -> io::Error {
    io::Error::other(error)
}
