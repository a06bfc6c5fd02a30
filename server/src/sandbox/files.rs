//! Files and networks that are out of reach while the server serves (Landlock, Linux 5.13 and newer).
//!
//! What it has open stays open: sockets, the memory file, its standard streams. Beside that it may read what it reads again
//! on demand, remove what it leaves behind when it ends, and nothing more. Checked when something is opened, so that
//! serving costs no more than before.

use super::kernel::{self, Handled, Ruleset};
use rustix::fs::{Mode, OFlags};
use rustix::io;
use std::path::{Path, PathBuf};

/// Rights by their bits in `linux/landlock.h`.
const WRITE_FILE: u64 = 1 << 1;
const READ_FILE: u64 = 1 << 2;
const REMOVE_FILE: u64 = 1 << 5;
const MAKE_REGULAR: u64 = 1 << 8;
const TRUNCATE: u64 = 1 << 14;

/// What each version of Landlock can forbid.
fn handled(version: u32) -> Handled {
    let files = match version {
        0 => 0,
        1 => (1 << 13) - 1,
        2 => (1 << 14) - 1,
        3 | 4 => (1 << 15) - 1,
        _ => (1 << 16) - 1,
    };
    // To bind and to connect TCP sockets.
    let network = if version >= 4 { 0b11 } else { 0 };
    // Abstract unix sockets of others, and signals to others.
    let scopes = if version >= 6 { 0b11 } else { 0 };
    Handled { files, network, scopes }
}

/// What stays allowed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Exceptions {
    /// Files that are read while the server serves.
    pub(super) read: Vec<PathBuf>,
    /// Folders beneath which everything may be read.
    pub(super) read_beneath: Vec<PathBuf>,
    /// Files that are removed when it ends.
    pub(super) remove: Vec<PathBuf>,
    /// A folder in which the kernel may write a core file in the server's name.
    pub(super) dump_into: Option<PathBuf>,
}

/// Gives up everything else, for this thread and those that it will start. The version of Landlock.
pub(super) fn confine(exceptions: &Exceptions) -> io::Result<u32> {
    let version = kernel::landlock_version()?;
    let handled = handled(version);
    let ruleset = Ruleset::new(handled)?;
    let allow = |path: &Path, rights: u64| match open(path) {
        Ok(descriptor) => ruleset.allow(descriptor, rights & handled.files),
        // What is not there, or is not for this user, can't be read or removed later either.
        Err(_) => Ok(()),
    };
    allow(Path::new("/dev/null"), READ_FILE)?;
    for file in &exceptions.read {
        for folder in folders(file) {
            allow(&folder, READ_FILE)?;
        }
    }
    for folder in &exceptions.read_beneath {
        allow(folder, READ_FILE)?;
    }
    for file in &exceptions.remove {
        allow(parent(file), REMOVE_FILE)?;
    }
    if let Some(folder) = &exceptions.dump_into {
        allow(folder, WRITE_FILE | MAKE_REGULAR | TRUNCATE)?;
    }
    ruleset.enforce()?;
    Ok(version)
}

fn open(path: &Path) -> io::Result<std::os::fd::OwnedFd> {
    rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
}

/// Where a file may be when it has been replaced: its folder, and the folder of what it is a link to. A rule for the file
/// alone would hold for the old one, which is gone when a new one has taken its name.
fn folders(file: &Path) -> Vec<PathBuf> {
    let mut folders = vec![parent(file).to_owned()];
    if let Ok(target) = file.canonicalize() {
        folders.push(parent(&target).to_owned());
    }
    folders.dedup();
    folders
}

fn parent(file: &Path) -> &Path {
    match file.parent() {
        Some(folder) if folder.as_os_str().is_empty() => Path::new("."),
        Some(folder) => folder,
        None => file,
    }
}

/// Where the kernel writes core files, if it writes them to a file.
pub(super) fn dump_folder() -> Option<PathBuf> {
    dump_folder_of(&std::fs::read_to_string("/proc/sys/kernel/core_pattern").ok()?)
}

fn dump_folder_of(pattern: &str) -> Option<PathBuf> {
    match pattern.trim() {
        "" => None,
        // A program that runs for itself.
        pattern if pattern.starts_with('|') => None,
        pattern => Some(parent(Path::new(pattern)).to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_may_come_back_where_it_was_and_where_its_link_points() {
        let folder = std::env::temp_dir().join(format!("unbuckle-folders-{}", std::process::id()));
        std::fs::create_dir_all(folder.join("live")).unwrap();
        std::fs::create_dir_all(folder.join("archive")).unwrap();
        std::fs::write(folder.join("archive/key1"), "").unwrap();
        std::os::unix::fs::symlink("../archive/key1", folder.join("live/key")).unwrap();
        let folder = folder.canonicalize().unwrap();
        assert_eq!(folders(&folder.join("live/key")), [folder.join("live"), folder.join("archive")]);
        assert_eq!(folders(Path::new("key")), [PathBuf::from(".")]);
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn core_files_have_a_folder_unless_a_program_takes_them() {
        assert_eq!(dump_folder_of("core\n"), Some(".".into()));
        assert_eq!(dump_folder_of("/var/crash/core.%p\n"), Some("/var/crash".into()));
        assert_eq!(dump_folder_of("|/usr/lib/systemd/systemd-coredump %P\n"), None);
    }

    #[test]
    fn an_older_kernel_is_asked_for_what_it_knows() {
        assert_eq!(handled(1).files, 0x1fff);
        assert_eq!((handled(3).files, handled(3).network), (0x7fff, 0));
        assert_eq!((handled(4).network, handled(4).scopes), (3, 0));
        assert_eq!((handled(7).files, handled(7).scopes), (0xffff, 3));
    }
}
