//! What a fast path needs, each looked at by itself: what is there, what is missing, and how to get it.
//!
//! A server that can't have its fast path names the first that is missing; `unbuckle ctl doctor` lists all. The kernel has
//! the last word: what is not foreseen here it says when the programs are loaded.

use crate::options::{FastPathOptions, HookChoice, Options};
use rustix::thread::CapabilitySet;
use std::path::Path;
use unbuckle_fastpath::Hook;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Present,
    /// Without it there is no fast path.
    Missing,
    /// Nothing is wrong, and somebody should know.
    Notice,
}

/// One requirement, looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub state: State,
    pub what: String,
    pub remedy: Option<String>,
}

fn present(what: impl Into<String>) -> Finding {
    Finding { state: State::Present, what: what.into(), remedy: None }
}

fn missing(what: impl Into<String>, remedy: impl Into<String>) -> Finding {
    Finding { state: State::Missing, what: what.into(), remedy: Some(remedy.into()) }
}

fn notice(what: impl Into<String>, remedy: impl Into<String>) -> Finding {
    Finding { state: State::Notice, what: what.into(), remedy: Some(remedy.into()) }
}

/// Looks at everything that a server with these options needs.
pub fn findings(options: &Options) -> Vec<Finding> {
    let wanted = &options.fastpath;
    let mut findings = vec![kernel(wanted), privileges(), datagrams(options), authentication(options)];
    findings.extend(lockdown());
    findings.extend(interfaces(wanted));
    if let Some(folder) = &wanted.pin {
        findings.push(pin_folder(folder));
    }
    findings.push(memory(options));
    findings.push(notice(
        "the host's firewall rules are not consulted for what the fast path answers",
        "--udp-allow and -l say who is answered; rules for everything else hold",
    ));
    findings
}

fn kernel(wanted: &FastPathOptions) -> Finding {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let (hook, name, least) = match wanted.hook {
        HookChoice::Tcx => (Hook::Tcx, "tcx", "6.6"),
        HookChoice::Xdp => (Hook::Xdp, "XDP", "6.1"),
        HookChoice::Auto if kernel_has(Hook::Tcx) => (Hook::Tcx, "tcx", "6.6"),
        HookChoice::Auto => (Hook::Xdp, "XDP", "6.1 (6.6 for tcx)"),
    };
    if kernel_has(hook) {
        return present(format!("kernel {release} has {name}"));
    }
    missing(format!("kernel {release} is too old for {name}"), format!("Linux {least} or newer"))
}

/// Whether a kernel of this age has the hook, and what our programs need with it.
pub(super) fn kernel_has(hook: Hook) -> bool {
    let least = match hook {
        Hook::Tcx => (6, 6),
        Hook::Xdp => (6, 1),
    };
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    version(&release).is_some_and(|version| version >= least)
}

/// Major and minor number of a kernel's release.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|character: char| !character.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn privileges() -> Finding {
    const NEEDED: [(&str, CapabilitySet); 3] = [
        ("CAP_BPF", CapabilitySet::BPF),
        ("CAP_NET_ADMIN", CapabilitySet::NET_ADMIN),
        ("CAP_PERFMON", CapabilitySet::PERFMON),
    ];
    let effective = rustix::thread::capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.effective);
    let administrator = effective.contains(CapabilitySet::SYS_ADMIN);
    let lacking: Vec<&str> = NEEDED
        .iter()
        .filter(|(name, set)| !(effective.contains(*set) || administrator && *name != "CAP_NET_ADMIN"))
        .map(|(name, _)| *name)
        .collect();
    if lacking.is_empty() {
        return present("the capabilities to load and attach programs");
    }
    missing(
        format!("no {}", lacking.join(", ")),
        "start as root (with -u, privileges are dropped when all is attached), or with AmbientCapabilities=CAP_BPF \
         CAP_NET_ADMIN CAP_PERFMON in the systemd unit",
    )
}

fn datagrams(options: &Options) -> Finding {
    match options.udp_port {
        Some(0) => present("UDP is on, at any free port"),
        Some(port) => present(format!("UDP is on, at port {port}")),
        None => missing("UDP is off", "-U 11211 turns it on"),
    }
}

/// A program in the kernel knows no users.
fn authentication(options: &Options) -> Finding {
    if options.authenticates() {
        return missing(
            "authentication is on",
            "gets over UDP can't be authenticated: it is the one or the other",
        );
    }
    present("authentication is off")
}

/// A locked-down kernel lets no program read memory that is shared.
fn lockdown() -> Option<Finding> {
    let text = std::fs::read_to_string("/sys/kernel/security/lockdown").ok()?;
    text.contains("[confidentiality]").then(|| {
        missing("the kernel is locked down (confidentiality)", "boot without lockdown=confidentiality")
    })
}

fn interfaces(wanted: &FastPathOptions) -> Vec<Finding> {
    if wanted.interfaces.is_empty() {
        return vec![missing("no interface is named", "--fastpath lo, or --fastpath eth0")];
    }
    let look = |name: &String| match rustix::net::netdevice::name_to_index(any_socket()?, name) {
        Ok(_) => Some(interface(wanted, name)),
        Err(_) => Some(missing(format!("there is no interface \"{name}\""), "\"ip link\" lists them")),
    };
    wanted.interfaces.iter().filter_map(look).collect()
}

/// An interface that is there.
fn interface(wanted: &FastPathOptions, name: &str) -> Finding {
    let what = format!("interface {name}");
    match wanted.hook {
        HookChoice::Auto if !kernel_has(Hook::Tcx) && !is_card(name) => missing(
            format!(
                "{what} is no network card's, and there XDP, which is all that this kernel has, may lose replies"
            ),
            "Linux 6.6 has tcx for it; --fastpath-hook xdp insists",
        ),
        HookChoice::Xdp if !is_card(name) => notice(
            format!("{what} is no network card's: veth loses what is sent from XDP"),
            "the other end needs an XDP program, too, or this one --fastpath-hook tcx",
        ),
        _ => present(what),
    }
}

/// Whether there is hardware behind the interface, as far as can be seen.
fn is_card(name: &str) -> bool {
    let device = std::fs::canonicalize(Path::new("/sys/class/net").join(name));
    device.is_ok_and(|device| !device.starts_with("/sys/devices/virtual"))
}

/// Names of interfaces are asked for through a socket, any socket.
fn any_socket() -> Option<std::os::fd::OwnedFd> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType};
    rustix::net::socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
        .or_else(|_| {
            rustix::net::socket_with(AddressFamily::INET6, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
        })
        .ok()
}

/// `BPF_FS_MAGIC`
const BPFFS: u64 = 0xcafe_4a11;

fn pin_folder(folder: &Path) -> Finding {
    // The folder itself is made by whoever pins first.
    let there = folder.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(Path::new("/"));
    match rustix::fs::statfs(there) {
        Ok(status) if status.f_type as u64 & 0xffff_ffff == BPFFS => {
            present(format!("{} is in a bpffs", folder.display()))
        }
        _ => missing(
            format!("{} is not in a bpffs", folder.display()),
            "mount -t bpf bpf /sys/fs/bpf, or --fastpath-pin=DIR with a folder in one",
        ),
    }
}

fn memory(options: &Options) -> Finding {
    notice(
        format!(
            "{} MB are taken at once, when the server starts, and stay in memory",
            options.memory_bytes >> 20
        ),
        "-m bounds them; cache_memlimit can't raise them later; the memory cgroup must have room",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_have_versions() {
        assert_eq!(version("6.1.0-49-cloud-amd64"), Some((6, 1)));
        assert_eq!(version("6.18.44"), Some((6, 18)));
        assert_eq!(version("fooble"), None);
        assert!(version("5.15.0").unwrap() < (6, 1) && version("6.12-rc1").unwrap() >= (6, 6));
    }

    #[test]
    fn what_is_missing_is_named() {
        let mut options = Options::default();
        let text = |options: &Options| {
            let missing = findings(options).into_iter().filter(|finding| finding.state == State::Missing);
            missing.map(|finding| finding.what).collect::<Vec<_>>().join("\n")
        };
        options.fastpath.interfaces = vec!["lo".into(), "no-such-one".into()];
        options.fastpath.pin = Some("/etc/unbuckle".into());
        let found = text(&options);
        for what in ["UDP is off", "no interface \"no-such-one\"", "/etc/unbuckle is not in a bpffs"] {
            assert!(found.contains(what), "{what} in {found}");
        }
        assert!(!found.contains("\"lo\"") && !is_card("lo") && !is_card("no-such-one"));
    }
}
