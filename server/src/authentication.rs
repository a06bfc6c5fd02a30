//! Users and their passwords: the file of `-Y`, and the database that MEMCACHED_SASL_PWDB names for `-S`.
//!
//! Both have a line `user:password` for each user. The file of `-Y` is read at the start and on SIGHUP; the database is read
//! at each attempt, as memcached does, so that a new user need not wait for a signal. What cannot be read lets nobody in.
//! Passwords are never shown: not in a message, not by `Debug`.
//!
//! However many connections an address opens, it may be wrong [`FAILURES_PER_S`] times a second; then its attempts are
//! refused unseen for a while. Nobody else notices, and whoever is in stays in.

use crate::options::{Options, Refusal, exit};
use crate::roster::lock;
use crate::sources::{Rate, Sources};
use std::fmt;
use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::hint::black_box;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;
use unbuckle_engine::{Admission, Gate};

/// The environment variable that names the database.
const DATABASE_VARIABLE: &str = "MEMCACHED_SASL_PWDB";
/// No file of passwords is longer: it is read while clients wait.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Wrong passwords that one source may offer in a second for long,
const FAILURES_PER_S: u32 = 4;
/// and at once: a few clients that have not been told of a new password are no attack.
const FAILURES_MAX: u32 = 64;

/// The passwords that the server's clients have to know.
pub(crate) struct Passwords {
    path: PathBuf,
    form: Form,
    guesses: Guesses,
}

/// Who has been wrong how often.
struct Guesses {
    since: Instant,
    left: Mutex<Sources>,
    /// Attempts that nobody has looked at.
    unheard: AtomicU64,
}

impl Guesses {
    fn new() -> Guesses {
        // Nobody shall choose addresses that fall together.
        let seed = RandomState::new().hash_one(0);
        let rate = Rate { per_s: FAILURES_PER_S, most: FAILURES_MAX };
        Guesses {
            since: Instant::now(),
            left: Mutex::new(Sources::new(rate, seed)),
            unheard: AtomicU64::new(0),
        }
    }

    fn now_s(&self) -> u32 {
        u32::try_from(self.since.elapsed().as_secs()).unwrap_or(u32::MAX)
    }

    /// What `try_it` says, if the source may try at `now_s`. A guess is paid for before it is known to be wrong, so that many
    /// at the same time are not more than one after another.
    fn admission(&self, source: u64, now_s: u32, try_it: impl FnOnce() -> bool) -> Admission {
        let paid = lock(&self.left).spend(source, now_s);
        if !paid {
            self.unheard.fetch_add(1, Ordering::Relaxed);
            return Admission::Unheard;
        }
        if !try_it() {
            return Admission::Wrong;
        }
        lock(&self.left).give_back(source, now_s);
        Admission::Admitted
    }
}

enum Form {
    /// `-Y`, as last read.
    File(Mutex<Vec<Entry>>),
    /// `-S`
    Database,
}

#[derive(Debug, PartialEq, Eq)]
struct Malformed;

struct Entry {
    user: Vec<u8>,
    password: Vec<u8>,
}

impl Passwords {
    /// What the options ask for; `None` if everybody may come in.
    pub(crate) fn open(options: &Options) -> Result<Option<Passwords>, Refusal> {
        if let Some(path) = &options.auth_file {
            let entries = read(path).and_then(|text| entries_of_file(&text).map_err(io::Error::from));
            let entries = entries.map_err(|error| unreadable("-Y", path, &error))?;
            let (path, form) = (path.clone(), Form::File(Mutex::new(entries)));
            return Ok(Some(Passwords { path, form, guesses: Guesses::new() }));
        }
        if !options.sasl {
            return Ok(None);
        }
        let Some(path) = std::env::var_os(DATABASE_VARIABLE).filter(|path| !path.is_empty()) else {
            return Err(Refusal::usage(format!(
                "-S: {DATABASE_VARIABLE} must name the file of users, with a line user:password for each; there is no \
                 other source (no saslauthd, no sasldb)"
            )));
        };
        // It is read again by a daemon, which leaves the folder that this may be relative to.
        let path = std::path::absolute(&path).unwrap_or_else(|_| PathBuf::from(&path));
        read(&path).map_err(|error| unreadable(DATABASE_VARIABLE, &path, &error))?;
        Ok(Some(Passwords { path, form: Form::Database, guesses: Guesses::new() }))
    }

    /// The file that is read again, on SIGHUP or at each attempt.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the file of `-Y` again. If that fails, the passwords stay as they were.
    pub(crate) fn reload(&self) -> Result<(), String> {
        let Form::File(entries) = &self.form else { return Ok(()) };
        let read = read(&self.path).and_then(|text| entries_of_file(&text).map_err(io::Error::from));
        let new = read.map_err(|error| unreadable("-Y", &self.path, &error).message)?;
        *lock(entries) = new;
        Ok(())
    }
}

impl Passwords {
    /// Attempts that were refused unseen.
    pub(crate) fn unheard(&self) -> u64 {
        self.guesses.unheard.load(Ordering::Relaxed)
    }

    fn are_right(&self, user: &[u8], password: &[u8]) -> bool {
        match &self.form {
            Form::File(entries) => is_among(&lock(entries), user, password),
            Form::Database => {
                read(&self.path).is_ok_and(|text| is_among(&entries_of_database(&text), user, password))
            }
        }
    }
}

impl Gate for Passwords {
    fn admits(&self, source: u64, user: &[u8], password: &[u8]) -> Admission {
        self.guesses.admission(source, self.guesses.now_s(), || self.are_right(user, password))
    }
}

impl fmt::Debug for Passwords {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Passwords").field("path", &self.path).finish_non_exhaustive()
    }
}

impl From<Malformed> for io::Error {
    fn from(Malformed: Malformed) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidData, "a line is not user:password")
    }
}

fn unreadable(what: &str, path: &Path, error: &io::Error) -> Refusal {
    let message = format!("{what}: cannot read the passwords in {}: {error}", path.display());
    Refusal::new(exit::FAILURE, message)
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    let read = File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut text)?;
    if read as u64 > FILE_BYTES_MAX {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("longer than {FILE_BYTES_MAX} bytes"),
        ));
    }
    Ok(text)
}

fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let lines = text.strip_suffix(b"\n").unwrap_or(text).split(|byte| *byte == b'\n');
    lines.map(|line| line.strip_suffix(b"\r").unwrap_or(line))
}

fn entry(line: &[u8]) -> Option<Entry> {
    let colon = line.iter().position(|byte| *byte == b':')?;
    Some(Entry { user: line[..colon].to_vec(), password: line[colon + 1..].to_vec() })
}

/// Every line must be one of a user, so that a slip of the pen does not lock a user out unnoticed.
fn entries_of_file(text: &[u8]) -> Result<Vec<Entry>, Malformed> {
    lines(text).map(|line| entry(line).ok_or(Malformed)).collect()
}

/// Other fields may follow the password; other lines are passed over.
fn entries_of_database(text: &[u8]) -> Vec<Entry> {
    let mut entries: Vec<Entry> = lines(text).filter_map(entry).collect();
    for entry in &mut entries {
        let end = entry.password.iter().position(|byte| *byte == b':').unwrap_or(entry.password.len());
        entry.password.truncate(end);
    }
    entries
}

/// Looks at all of every entry, whichever matches, so that the time taken tells nothing of how much was right.
fn is_among(entries: &[Entry], user: &[u8], password: &[u8]) -> bool {
    entries.iter().fold(false, |found, entry| {
        let user_differs = difference(&entry.user, user);
        let password_differs = difference(&entry.password, password);
        black_box(found | ((user_differs | password_differs) == 0))
    })
}

/// 0 if they are the same. The time taken depends on the length of what was offered alone.
fn difference(known: &[u8], offered: &[u8]) -> u64 {
    let padded = known.iter().copied().chain(std::iter::repeat(0));
    let differing = offered
        .iter()
        .zip(padded)
        .fold(0, |differing, (offered, known)| black_box(differing | offered ^ known));
    u64::from(differing) | (known.len() ^ offered.len()) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_a_line_for_each_user() {
        let entries = entries_of_file(b"foo:bar\r\nbaz:b:c\nlast:one").unwrap();
        assert!(is_among(&entries, b"foo", b"bar"));
        assert!(is_among(&entries, b"baz", b"b:c"));
        assert!(is_among(&entries, b"last", b"one"));
        for (user, password) in
            [("foo", "ba"), ("foo", "bar\0"), ("foo", "b:c"), ("", ""), ("fo", "bar"), ("foo", "")]
        {
            assert!(!is_among(&entries, user.as_bytes(), password.as_bytes()), "{user} {password}");
        }
        assert!(entries_of_file(b"foo:bar\n\nbaz:qux\n").is_err());
        assert!(entries_of_file(b"foo\n").is_err());
        assert!(entries_of_file(b"").is_err());
    }

    #[test]
    fn a_database_has_other_fields_and_other_lines() {
        let entries = entries_of_database(b"# users\nfoo:bar:baz\nqux:quux:\nlast:one\n");
        assert_eq!(entries.len(), 3);
        assert!(is_among(&entries, b"foo", b"bar"));
        assert!(is_among(&entries, b"qux", b"quux"));
        assert!(is_among(&entries, b"last", b"one"));
        assert!(!is_among(&entries, b"foo", b"bar:baz"));
    }

    #[test]
    fn guesses_of_one_source_are_bounded_whoever_else_is_there() {
        let guesses = Guesses::new();
        let (attacker, other) = (1, 2);
        let guess = |source, now_s, right| guesses.admission(source, now_s, || right);
        for _ in 0..FAILURES_MAX {
            assert_eq!(guess(attacker, 5, false), Admission::Wrong);
            // To be right costs nothing.
            assert_eq!(guess(other, 5, true), Admission::Admitted);
        }
        assert_eq!(guess(attacker, 5, true), Admission::Unheard);
        assert_eq!(guess(other, 5, true), Admission::Admitted);
        for _ in 0..FAILURES_PER_S {
            assert_eq!(guess(attacker, 6, false), Admission::Wrong);
        }
        assert_eq!(guess(attacker, 6, false), Admission::Unheard);
        assert_eq!(guess(attacker, 7, true), Admission::Admitted);
        assert_eq!(guesses.unheard.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn passwords_are_not_shown() {
        let entry = Entry { user: b"foo".to_vec(), password: b"secret".to_vec() };
        let form = Form::File(Mutex::new(vec![entry]));
        let passwords = Passwords { path: "/x".into(), form, guesses: Guesses::new() };
        assert!(!format!("{passwords:?}").contains("secret"));
    }
}
