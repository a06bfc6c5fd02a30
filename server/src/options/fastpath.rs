//! `--fastpath` and what belongs to it: which interfaces answer gets in the kernel, and how.

use super::Refusal;
use std::path::PathBuf;

/// Where pins are, unless the user says otherwise: the place where systemd mounts the bpffs.
pub const PIN_FOLDER_DEFAULT: &str = "/sys/fs/bpf/unbuckle";
const GRACE_S_DEFAULT: u32 = 10;
/// The programs hear of the daemon once a second: a shorter grace would make them pass between two beats.
const GRACE_S_MIN: u32 = 3;
const GRACE_S_MAX: u32 = 86_400;
/// As many as the programs know.
const INTERFACES_MAX: usize = 8;
/// `IFNAMSIZ`, less the zero at the end.
const INTERFACE_BYTES_MAX: usize = 15;

/// Where in the kernel packets are looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HookChoice {
    /// tcx where the kernel has it, else XDP.
    #[default]
    Auto,
    Tcx,
    Xdp,
}

/// What the user asked of the fast path.
#[derive(Clone, Debug)]
pub struct FastPathOptions {
    /// Empty: there is none.
    pub interfaces: Vec<String>,
    pub hook: HookChoice,
    /// Where maps and links outlive this process, if they are to.
    pub pin: Option<PathBuf>,
    /// How long the programs go on without the daemon.
    pub grace_s: u32,
    /// Without a fast path there is to be no service.
    pub required: bool,
}

impl Default for FastPathOptions {
    fn default() -> FastPathOptions {
        FastPathOptions {
            interfaces: Vec::new(),
            hook: HookChoice::default(),
            pin: None,
            grace_s: GRACE_S_DEFAULT,
            required: false,
        }
    }
}

impl FastPathOptions {
    pub(super) fn add_interface(&mut self, name: &str) -> Result<(), Refusal> {
        // The name becomes part of a pin's.
        let possible = !name.is_empty()
            && name.len() <= INTERFACE_BYTES_MAX
            && name != "."
            && name != ".."
            && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/');
        if !possible {
            return Err(Refusal::usage(format!(
                "--fastpath: expected the name of an interface, got \"{name}\""
            )));
        }
        if !self.interfaces.iter().any(|known| known == name) {
            self.interfaces.push(name.to_owned());
        }
        if self.interfaces.len() > INTERFACES_MAX {
            return Err(Refusal::usage(format!("--fastpath: at most {INTERFACES_MAX} interfaces")));
        }
        Ok(())
    }

    pub(super) fn hook_set(&mut self, name: &str) -> Result<(), Refusal> {
        self.hook = match name {
            "auto" => HookChoice::Auto,
            "tcx" => HookChoice::Tcx,
            "xdp" => HookChoice::Xdp,
            _ => {
                let message = format!("--fastpath-hook: expected auto, tcx or xdp; got \"{name}\"");
                return Err(Refusal::usage(message));
            }
        };
        Ok(())
    }

    /// `folder` empty: the default.
    pub(super) fn pin_set(&mut self, folder: &str) -> Result<(), Refusal> {
        let folder = if folder.is_empty() { PIN_FOLDER_DEFAULT } else { folder };
        if !folder.starts_with('/') {
            return Err(Refusal::usage(format!(
                "--fastpath-pin: expected an absolute path in a bpffs, got \"{folder}\""
            )));
        }
        self.pin = Some(PathBuf::from(folder));
        Ok(())
    }

    pub(super) fn grace_set(&mut self, seconds: &str) -> Result<(), Refusal> {
        self.grace_s =
            seconds.parse().ok().filter(|grace_s| (GRACE_S_MIN..=GRACE_S_MAX).contains(grace_s)).ok_or_else(
                || {
                    let range = format!("{GRACE_S_MIN} to {GRACE_S_MAX}");
                    Refusal::usage(format!("--fastpath-grace: expected seconds, {range}; got \"{seconds}\""))
                },
            )?;
        Ok(())
    }

    /// Whether any of it makes sense without an interface.
    pub(super) fn is_idle(&self) -> bool {
        self.interfaces.is_empty() && (self.pin.is_some() || self.required || self.hook != HookChoice::Auto)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_are_names() {
        let mut options = FastPathOptions::default();
        for name in ["lo", "eth0", "lo", "veth-7.2@x"] {
            options.add_interface(name).unwrap();
        }
        assert_eq!(options.interfaces, ["lo", "eth0", "veth-7.2@x"]);
        for name in ["", "..", "a/b", "a name", "sixteen-letters.", "\u{e9}th0"] {
            assert!(options.add_interface(name).is_err(), "{name}");
        }
        for number in 0..INTERFACES_MAX - 3 {
            options.add_interface(&format!("more{number}")).unwrap();
        }
        assert!(options.add_interface("one-too-many").is_err());
    }

    #[test]
    fn values_are_checked() {
        let mut options = FastPathOptions::default();
        assert!(options.hook_set("tc").is_err() && options.hook_set("xdp").is_ok());
        assert!(options.is_idle());
        assert!(options.pin_set("relative").is_err() && options.pin_set("").is_ok());
        assert_eq!(options.pin, Some(PIN_FOLDER_DEFAULT.into()));
        for seconds in ["", "0", "2", "86401", "x", "-1"] {
            assert!(options.grace_set(seconds).is_err(), "{seconds}");
        }
        options.grace_set("3").unwrap();
        assert_eq!(options.grace_s, 3);
    }
}
