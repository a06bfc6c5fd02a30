//! `-e FILE`: a cache that outlives its server.
//!
//! The store's region is a file, mapped shared, on any file system. After an orderly end the region is sealed, and may be
//! adopted whenever; after a crash only in the same boot, for then everything that was written is in the page
//! cache. In any other case, and whenever the file can't be made sense of, the cache starts empty and says why. How a region
//! is read is [`unbuckle_store::Store::adopt`]'s business; here is what needs files, locks and the time.

use crate::clock::Clock;
use crate::memory;
use crate::options::{Options, Refusal, exit};
use rustix::fs::{FallocateFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::time::{SystemTime, UNIX_EPOCH};
use unbuckle_store::{Adopted, Left, Store, Unreadable};

/// The memory file of a server that runs. The lock on it is held as long as this lives.
#[derive(Debug)]
pub(crate) struct MemoryFile {
    path: PathBuf,
    words: &'static [AtomicU64],
    page_bytes: usize,
    descriptor: OwnedFd,
}

/// What was found in a file, and whether it is to be used.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) file: MemoryFile,
    /// What can be adopted, and the clock that goes on from there.
    pub(crate) kept: Option<(Left, Clock)>,
}

impl MemoryFile {
    /// Opens the file, locks it, makes it as long as the cache needs it, and maps it.
    pub(crate) fn open(path: &Path, options: &Options, say: &mut dyn FnMut(&str)) -> Result<Opened, Refusal> {
        let refuse = |what: &str| refusal(path, what);
        let failed = |what: &str, error: Errno| refuse(&format!("{what}: {error}"));
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
        let descriptor = rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)
            .map_err(|error| failed("cannot open it", error))?;
        let status = rustix::fs::fstat(&descriptor).map_err(|error| failed("cannot look at it", error))?;
        if !rustix::fs::FileType::from_raw_mode(status.st_mode).is_file() {
            return Err(refuse("it is not a regular file"));
        }
        match rustix::fs::flock(&descriptor, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(refuse("another server uses it")),
            Err(error) => return Err(failed("cannot lock it", error)),
        }
        if status.st_mode & 0o077 != 0 {
            // What clients store is nobody else's to read.
            let _ = rustix::fs::fchmod(&descriptor, Mode::RUSR | Mode::WUSR);
        }
        leave_memcached_behind(path, say).map_err(|what| refuse(&what))?;
        let file_bytes = u64::try_from(status.st_size).unwrap_or(0);
        let kept = match read_left(&descriptor, file_bytes, options) {
            Ok(kept) => kept,
            Err(why) => {
                say(&format!("{}: {why}; the cache starts empty", path.display()));
                None
            }
        };
        let log2 = match &kept {
            Some((left, _)) => left.page_bytes_log2,
            None => {
                // Nothing of what was there is to be seen in the new cache.
                rustix::fs::ftruncate(&descriptor, 0).map_err(|error| failed("cannot empty it", error))?;
                unbuckle_store::page_bytes_log2(options.memory_bytes)
            }
        };
        let needed = options.memory_bytes.div_ceil(1 << log2) << log2;
        let bytes = kept.as_ref().map_or(0, |(left, _)| left.words * 8).max(needed);
        lengthen(&descriptor, bytes).map_err(|error| failed("cannot make it as large as -m", error))?;
        let words = memory::map_shared(&descriptor, bytes).map_err(|error| failed("cannot map it", error))?;
        let file = MemoryFile { path: path.to_owned(), words, page_bytes: 1 << log2, descriptor };
        if let Some((left, _)) = &kept {
            file.prepare(left).map_err(|error| failed("cannot write to it", error))?;
        }
        Ok(Opened { file, kept })
    }

    /// Empties it: zeroes, in the mapping as well.
    pub(crate) fn empty(&self) -> Result<(), Refusal> {
        let bytes = (self.words.len() * 8) as u64;
        rustix::fs::ftruncate(&self.descriptor, 0)
            .and_then(|()| lengthen(&self.descriptor, bytes))
            .map_err(|error| refusal(&self.path, &format!("cannot empty it: {error}")))
    }

    /// The region.
    pub(crate) fn words(&self) -> &'static [AtomicU64] {
        self.words
    }

    /// Has what will be read brought into memory, and the seal taken off for good.
    fn prepare(&self, left: &Left) -> Result<(), Errno> {
        let page_words = self.page_bytes / 8;
        let mut run = 0..0;
        for number in unbuckle_store::pages_noted(self.words, left.page_bytes_log2) {
            let number = number as usize;
            if run.end != number {
                memory::read_ahead(self.words.get(run.start * page_words..run.end * page_words));
                run.start = number;
            }
            run.end = number + 1;
        }
        memory::read_ahead(self.words.get(run.start * page_words..run.end * page_words));
        if left.sealed.is_some() {
            unbuckle_store::unseal(self.words);
            // Should the power fail, pages that were written since must not be taken for sealed ones.
            memory::write_back(self.words.get(..page_words))?;
        }
        Ok(())
    }

    /// After an orderly end, when no worker is left: everything is on the medium, and the header says so.
    pub(crate) fn seal(&self, store: &Store<'_>, clock: &Clock) -> Result<(), Refusal> {
        let write_back =
            |words| memory::write_back(words).map_err(|error| refusal(&self.path, &error.to_string()));
        write_back(Some(self.words))?;
        store.seal(clock.now_s(), unix_s());
        write_back(self.words.get(..self.page_bytes / 8))
    }
}

/// The same for memory that outlives the process by itself: the header says that the end was orderly.
pub(crate) fn seal_in_memory(store: &Store<'_>, clock: &Clock) {
    store.seal(clock.now_s(), unix_s());
}

/// Makes the file `bytes` long, with room for all of it on its medium.
fn lengthen(descriptor: &OwnedFd, bytes: u64) -> Result<(), Errno> {
    rustix::fs::ftruncate(descriptor, bytes)?;
    match rustix::fs::fallocate(descriptor, FallocateFlags::empty(), 0, bytes) {
        // A file system that can't reserve room may run out of it later: nothing can be done about that here.
        Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INTR) => Ok(()),
        done => done,
    }
}

fn refusal(path: &Path, what: &str) -> Refusal {
    Refusal::new(exit::FAILURE, format!("cannot keep the cache in {} (-e): {what}", path.display()))
}

/// Tells what has become of the items, where there is something to tell.
pub(crate) fn tell(what: &str, left: &Left, adopted: &Adopted, verbosity: u32, say: &mut dyn FnMut(&str)) {
    if verbosity == 0 && left.sealed.is_some() && adopted.dropped == 0 {
        return;
    }
    let end = if left.sealed.is_some() { "" } else { " of a server that did not end well" };
    let Adopted { items, dropped, repaired_lines } = adopted;
    say(&format!(
        "{what}: {items} items{end}; {dropped} entries dropped, {repaired_lines} index lines repaired"
    ));
}

/// What to say of a file whose index can't be used.
pub(crate) fn damaged(what: &str) -> String {
    format!("{what}: its header is damaged: the index it tells of can't be; the cache starts empty")
}

/// What the file holds that can be adopted. `Ok(None)`: a new file. `Err`: why not.
fn read_left(
    descriptor: &OwnedFd,
    file_bytes: u64,
    options: &Options,
) -> Result<Option<(Left, Clock)>, String> {
    if file_bytes == 0 {
        return Ok(None);
    }
    let mut header = vec![0u8; usize::try_from(file_bytes).unwrap_or(usize::MAX).min(HEADER_BYTES_MAX)];
    let mut filled = 0;
    while filled < header.len() {
        match rustix::io::pread(descriptor, &mut header[filled..], filled as u64) {
            Ok(0) => break,
            Ok(bytes) => filled += bytes,
            Err(Errno::INTR) => {}
            Err(error) => return Err(format!("cannot be read: {error}")),
        }
    }
    let (words, _) = header.as_chunks::<8>();
    let words: Vec<AtomicU64> = words.iter().map(|word| AtomicU64::new(u64::from_ne_bytes(*word))).collect();
    let left = unbuckle_store::left(&words).map_err(|unreadable| describe(unreadable).to_owned())?;
    if left.words.checked_mul(8).is_none_or(|bytes| bytes > file_bytes) {
        return Err(format!("it has been cut short, to {file_bytes} bytes"));
    }
    if options.memory_bytes >> left.page_bytes_log2 < PAGES_MIN {
        return Err("it is of a cache too large for this -m".to_owned());
    }
    let same_boot = boot_id().is_some_and(|boot_id| boot_id == left.life.boot_id);
    match (left.sealed, same_boot) {
        (None, false) => {
            Err("the machine went down while it was in use, and it may be incomplete".to_owned())
        }
        (sealed, true) => Clock::resume(&left.life, sealed.map_or(0, |(now_s, _)| now_s)),
        (Some((sealed_s, sealed_unix_s)), false) => {
            // What no clock of this machine has counted, the wall clock tells.
            let away_s = u32::try_from(unix_s().saturating_sub(sealed_unix_s)).unwrap_or(u32::MAX);
            Clock::rebase(sealed_s.saturating_add(away_s))
        }
    }
    .map(|clock| Some((left, clock)))
}

/// What can be adopted of memory that has outlived its server in this boot.
pub(crate) fn left_in_maps(words: &[AtomicU64], options: &Options) -> Result<(Left, Clock), String> {
    let left = unbuckle_store::left(words).map_err(|unreadable| describe(unreadable).to_owned())?;
    if left.words > words.len() as u64 {
        return Err("its header is damaged: it is larger than its memory".to_owned());
    }
    if options.memory_bytes >> left.page_bytes_log2 < PAGES_MIN {
        return Err("it is of a cache too large for this -m".to_owned());
    }
    let clock = Clock::resume(&left.life, left.sealed.map_or(0, |(now_s, _)| now_s))?;
    Ok((left, clock))
}

const HEADER_BYTES_MAX: usize = 1 << 20;
/// Pages of a store, at least.
const PAGES_MIN: u64 = 16;

fn describe(unreadable: Unreadable) -> &'static str {
    match unreadable {
        Unreadable::NotARegion => "it is not a memory file of this server",
        Unreadable::Version(_) => "it is of another version of this server",
        Unreadable::Geometry => "its header is damaged: sizes that can't be",
        Unreadable::Damaged => "its header is damaged: the checksum is wrong",
    }
}

/// memcached keeps what it needs to restart in a second file. Its cache can't be read here, and must not be read by it
/// once this server has used the memory file. A second file that is not memcached's is nothing to delete: like it, this
/// server does not start then.
fn leave_memcached_behind(path: &Path, say: &mut dyn FnMut(&str)) -> Result<(), String> {
    let mut name = path.as_os_str().to_owned();
    name.push(".meta");
    let meta = PathBuf::from(name);
    let Ok(content) = std::fs::read(&meta) else { return Ok(()) };
    if !content.starts_with(b"T") {
        return Err(format!("{} is there, and it is not memcached's", meta.display()));
    }
    say(&format!("{}: of memcached, whose cache can't be read here; removed", meta.display()));
    std::fs::remove_file(&meta).map_err(|error| format!("cannot remove {}: {error}", meta.display()))
}

/// Which boot this is; `None` where the kernel does not tell.
pub(crate) fn boot_id() -> Option<[u64; 2]> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let bits = u128::from_str_radix(&text.trim().replace('-', ""), 16).ok()?;
    Some([bits as u64, (bits >> 64) as u64])
}

fn unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
