//! Limits and identity of the process: open files, core files, user.

use crate::options::{Options, Refusal, exit};
use crate::system;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors that are not connections: streams, listeners, polls, timers, event counters, and the one in reserve.
const DESCRIPTORS_BESIDE: u64 = 32;
const DESCRIPTORS_PER_THREAD: u64 = 8;

/// Makes room for `-c` connections.
pub(crate) fn raise_open_files(options: &Options) -> Result<(), Refusal> {
    let beside = DESCRIPTORS_BESIDE + DESCRIPTORS_PER_THREAD * options.threads as u64;
    let needed = u64::from(options.connections_max) + beside;
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= needed) {
        return Ok(());
    }
    let maximum = limit.maximum.map(|maximum| maximum.max(needed));
    let raised = setrlimit(Resource::Nofile, Rlimit { current: Some(needed), maximum });
    raised.map_err(|error| {
        let message = format!(
            "cannot open as many files as {} connections need ({error}): ask for fewer with -c, or raise the limit \
             with ulimit -n {needed}",
            options.connections_max
        );
        Refusal::new(exit::OS_ERROR, message)
    })
}

/// `-r`: core files as large as the system lets them be.
pub(crate) fn raise_core_files() -> Result<(), Refusal> {
    if setrlimit(Resource::Core, Rlimit { current: None, maximum: None }).is_err() {
        let maximum = getrlimit(Resource::Core).maximum;
        let _ = setrlimit(Resource::Core, Rlimit { current: maximum, maximum });
    }
    match getrlimit(Resource::Core).current {
        Some(0) => Err(Refusal::new(exit::OS_ERROR, "-r: the system allows no core files")),
        _ => Ok(()),
    }
}

/// `-k`: memory may be locked without limit. To be called while the process may still say so. Under a limit nothing can be
/// locked for good: mappings made later would fail.
pub(crate) fn raise_locked_memory() -> bool {
    let unlimited = Rlimit { current: None, maximum: None };
    setrlimit(Resource::Memlock, unlimited).is_ok() || getrlimit(Resource::Memlock).current.is_none()
}

/// `-u`. Started as root without it, the server runs as root and says so: memcached refuses, but then its own
/// documentation starts it with `-u root`.
pub(crate) fn drop_privileges(options: &Options, say: &mut dyn FnMut(String)) -> Result<(), Refusal> {
    if !rustix::process::getuid().is_root() && !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let Some(name) = &options.user else {
        say("running as root: -u chooses another user".to_owned());
        return Ok(());
    };
    let user = system::user_by_name(name)
        .ok_or_else(|| Refusal::new(exit::NO_USER, format!("cannot find the user \"{name}\" to become")))?;
    system::become_user(user)
        .map_err(|error| Refusal::new(exit::OS_ERROR, format!("cannot become the user \"{name}\": {error}")))
}
