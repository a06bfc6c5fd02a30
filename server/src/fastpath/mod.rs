//! The fast path's daemon side: gets over UDP that are answered in the kernel, from this server's own memory.
//!
//! [`prepare`] makes the maps and attaches the programs while the process may still do so; the store then lives in the
//! maps; [`FastPath::switch_on`] tells the programs whose packets to answer, and a worker's tick
//! ([`FastPath::tick`]) that the daemon lives. What the programs do is not here: `fastpath/program`, and
//! `docs/FASTPATH.md` for the whole.
//!
//! One rule above all: no program may answer from memory that is not this server's store. So whatever was pinned by an
//! earlier daemon is either taken over or silenced before anything is served.

mod requirements;

pub use requirements::{Finding, State, findings};

use crate::clock::{Clock, boot_ns};
use crate::options::{Cidr, FastPathOptions, HookChoice, Options, PIN_FOLDER_DEFAULT, Refusal, exit};
use crate::roster::lock;
use crate::watch::Hub;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;
use std::time::Duration;
use unbuckle_fastpath::{Counters, Coverage, Error, Hook, Loader, Maps, Pinned, Range, Settings};

/// Programs that are attached, and the maps that they share with this process.
#[derive(Debug)]
pub(crate) struct FastPath {
    maps: Maps,
    /// Interfaces with the hook that was found for each.
    attached: Vec<(String, Hook)>,
    /// The maps were there already: an earlier daemon's store may be in them.
    found: bool,
    pinned: bool,
    /// What earlier daemons have counted.
    before: Counters,
    state: Mutex<Live>,
}

#[derive(Debug)]
struct Live {
    loader: Loader,
    /// `None` before the programs are switched on.
    settings: Option<Settings>,
}

/// Makes the fast path that the options ask for, if they do: maps of the size of the cache, programs attached and still
/// passing everything. Needs privileges. Where it can't be had the user is told why and the server goes on
/// without, or does not start if it is required.
pub(crate) fn prepare(options: &Options, say: &mut dyn FnMut(&str)) -> Result<Option<FastPath>, Refusal> {
    let wanted = &options.fastpath;
    if wanted.pin.as_deref() != Some(Path::new(PIN_FOLDER_DEFAULT)) {
        silence(Path::new(PIN_FOLDER_DEFAULT), say);
    }
    if wanted.interfaces.is_empty() {
        return Ok(None);
    }
    let why = match missing(options) {
        Some(why) => why,
        None => match open(options, say) {
            Ok(fast_path) => return Ok(Some(fast_path)),
            Err(error) => causes(&error),
        },
    };
    if let Some(folder) = &wanted.pin {
        silence(folder, say);
    }
    if wanted.required {
        let message = format!("no fast path: {why}; \"unbuckle ctl doctor\" tells more");
        return Err(Refusal::new(exit::OS_ERROR, message));
    }
    say(&format!("no fast path: {why}; going on without it (\"unbuckle ctl doctor\" tells more)"));
    Ok(None)
}

/// The first requirement that is not met, with the way to meet it.
fn missing(options: &Options) -> Option<String> {
    let finding = findings(options).into_iter().find(|finding| finding.state == State::Missing)?;
    Some(match finding.remedy {
        Some(remedy) => format!("{} ({remedy})", finding.what),
        None => finding.what,
    })
}

/// An error with what caused it, on one line.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    // The verifier's log is long.
    text.lines().next().unwrap_or_default().to_owned()
}

/// An earlier daemon's programs may still answer, from its store: until their grace is over, or this.
fn silence(folder: &Path, say: &mut dyn FnMut(&str)) {
    let silenced = match Pinned::open(folder) {
        Ok(Some(pinned)) => pinned.silence(),
        // Where nothing can be seen there is nothing that could be done either.
        Ok(None) | Err(_) => return,
    };
    match silenced {
        Ok(true) => say(&format!(
            "switched off the fast path that an earlier server has left in {} (\"unbuckle ctl detach\" removes it)",
            folder.display()
        )),
        Ok(false) => {}
        Err(error) => say(&format!("warning: {error}: programs left by an earlier server may still answer")),
    }
}

fn open(options: &Options, say: &mut dyn FnMut(&str)) -> Result<FastPath, Error> {
    let wanted = &options.fastpath;
    let (mut loader, found) = match &wanted.pin {
        None => (Loader::create(options.memory_bytes)?, false),
        Some(folder) => open_pinned(options.memory_bytes, folder, say)?,
    };
    let mut attached = Vec::new();
    for interface in &wanted.interfaces {
        attached.push((interface.clone(), attach(&mut loader, interface, wanted)?));
    }
    loader.detach_others()?;
    let (maps, pinned) = (loader.maps(), wanted.pin.is_some());
    let state = Mutex::new(Live { loader, settings: None });
    Ok(FastPath { maps, attached, found, pinned, before: maps.counters(), state })
}

/// Takes over what is pinned; what does not fit this cache makes room for what does.
fn open_pinned(region_bytes: u64, folder: &Path, say: &mut dyn FnMut(&str)) -> Result<(Loader, bool), Error> {
    match Loader::pinned(region_bytes, folder) {
        Err(Error::Geometry { found, expected }) => {
            say(&format!(
                "{}: an earlier server's fast path has {found} where this one has {expected}; the cache starts empty",
                folder.display()
            ));
            unbuckle_fastpath::unpin(folder)?;
            Loader::pinned(region_bytes, folder)
        }
        opened => opened,
    }
}

fn attach(loader: &mut Loader, interface: &str, wanted: &FastPathOptions) -> Result<Hook, Error> {
    let hook = match wanted.hook {
        HookChoice::Tcx => Hook::Tcx,
        HookChoice::Xdp => Hook::Xdp,
        // XDP restarts the queues of many network cards when it is attached: that is for the user to ask for.
        HookChoice::Auto if requirements::kernel_has(Hook::Tcx) => Hook::Tcx,
        HookChoice::Auto => Hook::Xdp,
    };
    loader.attach(interface, hook)?;
    Ok(hook)
}

impl FastPath {
    /// The memory for the store.
    pub(crate) fn words(&self) -> &'static [AtomicU64] {
        self.maps.region()
    }

    /// Whether an earlier daemon's store may be in the memory.
    pub(crate) fn was_found(&self) -> bool {
        self.found
    }

    /// Whether memory and programs outlive this process.
    pub(crate) fn is_pinned(&self) -> bool {
        self.pinned
    }

    /// From now on everything is passed: the memory is about to change in ways that the programs must not see.
    pub(crate) fn switch_off(&self) {
        lock(&self.state).loader.switch_off();
    }

    /// From now on gets are answered, for the sockets that are bound to these addresses. The store must be there.
    pub(crate) fn switch_on(
        &self,
        sockets: Vec<SocketAddr>,
        options: &Options,
        clock: &Clock,
        say: &mut dyn FnMut(&str),
    ) -> Result<(), Error> {
        let allowed =
            if options.udp_allow.is_empty() { Cidr::private_ranges() } else { options.udp_allow.clone() };
        let settings = Settings {
            sockets,
            allowed: allowed.iter().flat_map(ranges).collect(),
            cas: options.cas,
            grace: Duration::from_secs(u64::from(options.fastpath.grace_s)),
            second_zero_ns: clock.second_zero_ns(),
        };
        let mut live = lock(&self.state);
        let coverage = live.loader.configure(&settings, boot_ns())?;
        live.settings = Some(settings);
        if coverage != Coverage::default() {
            let Coverage { addresses_left_out, ranges_left_out, ports_left_out } = coverage;
            say(&format!(
                "the fast path has no room for {addresses_left_out} addresses, {ranges_left_out} ranges and \
                 {ports_left_out} ports: the server itself answers for these"
            ));
        }
        Ok(())
    }

    /// Each second: the daemon lives, and knows whether its addresses have changed.
    pub(crate) fn tick(&self) {
        self.maps.heartbeat(boot_ns());
        let live = &mut *lock(&self.state);
        if let Some(settings) = &live.settings {
            // What can't be learned now is learned in a second.
            let _ = live.loader.refresh(settings, boot_ns());
        }
    }

    /// Somebody is told of each get, or counts them by prefix: then the server must see them all.
    pub(crate) fn attend(&self, hub: &Hub) {
        // Asked under the lock: whoever asks last has the last word.
        let mut live = lock(&self.state);
        live.loader.pause(hub.wants_gets());
    }

    /// The clock has been moved.
    pub(crate) fn follow(&self, clock: &Clock) {
        let mut live = lock(&self.state);
        let second_zero_ns = clock.second_zero_ns();
        if let Some(settings) = &mut live.settings {
            settings.second_zero_ns = second_zero_ns;
        }
        self.maps.second_zero_set(second_zero_ns);
    }

    /// What has been counted since this process began.
    pub(crate) fn counters(&self) -> Counters {
        let (now, before) = (self.maps.counters(), &self.before);
        let mut passed = now.passed;
        for (count, before) in passed.iter_mut().zip(before.passed) {
            *count = count.wrapping_sub(before);
        }
        Counters {
            served: now.served.wrapping_sub(before.served),
            hits: now.hits.wrapping_sub(before.hits),
            bytes_read: now.bytes_read.wrapping_sub(before.bytes_read),
            bytes_written: now.bytes_written.wrapping_sub(before.bytes_written),
            passed,
        }
    }

    /// Interfaces and hooks, for people.
    pub(crate) fn describe(&self) -> String {
        let doors = self.attached.iter().map(|(interface, hook)| format!("{interface}:{}", hook.name()));
        doors.collect::<Vec<_>>().join(",")
    }
}

impl Drop for FastPath {
    fn drop(&mut self) {
        // Without pins the programs go with the loader; until the last of them has gone they pass. With pins they go
        // on for their grace: the next daemon takes over.
        if !self.pinned {
            self.switch_off();
        }
    }
}

/// A range as the programs have it. One that allows everything is one of each family.
fn ranges(cidr: &Cidr) -> Vec<Range> {
    const MAPPED_BITS: u8 = 96;
    let (address, prefix) = (Ipv6Addr::from_bits(cidr.bits()), cidr.prefix());
    match (address.to_ipv4_mapped(), prefix) {
        (_, 0) => vec![
            Range { address: IpAddr::V4(Ipv4Addr::UNSPECIFIED), prefix: 0 },
            Range { address: IpAddr::V6(Ipv6Addr::UNSPECIFIED), prefix: 0 },
        ],
        (Some(address), MAPPED_BITS..) => {
            vec![Range { address: IpAddr::V4(address), prefix: prefix - MAPPED_BITS }]
        }
        _ => vec![Range { address: IpAddr::V6(address), prefix }],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_those_of_the_server() {
        let of = |text: &str| ranges(&Cidr::parse(text).unwrap());
        let range = |address: &str, prefix| Range { address: address.parse().unwrap(), prefix };
        assert_eq!(of("10.0.0.0/8"), [range("10.0.0.0", 8)]);
        assert_eq!(of("0.0.0.0/0"), [range("0.0.0.0", 0)]);
        assert_eq!(of("192.0.2.7"), [range("192.0.2.7", 32)]);
        assert_eq!(of("fe80::/10"), [range("fe80::", 10)]);
        assert_eq!(of("::1"), [range("::1", 128)]);
        assert_eq!(of("::/0"), [range("0.0.0.0", 0), range("::", 0)]);
    }
}
