//! What the suites are made of, fetched once: a Python with the clients, the clients' source packages from PyPI, and the two
//! crates, built. All versions are pinned, in `tests/clients/` for Python and here for Rust.
//!
//! The sources are played as they are shipped, but for the fixed paths of unix sockets, which would be shared with
//! whoever else uses this machine, and for benchmarks, whose dependencies would double the time to build.

use super::folder;
use crate::run::{captured, root, target_folder};
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use std::process::Command;

const MEMCACHE_CRATE: (&str, &str) = ("memcache", "0.21.0");
const ASYNC_CRATE: (&str, &str) = ("async-memcached", "0.9.0");
/// A unix socket's path may have 107 bytes.
const SOCKETS_PATH_MAX: usize = 80;
/// The path that suites have built in, up to where they differ.
const BUILT_IN_SOCKET: &str = "/tmp/memcached";

/// Where everything is, once it is there.
#[derive(Debug)]
pub(super) struct Sources {
    folder: PathBuf,
    sockets: PathBuf,
}

impl Sources {
    /// The crates take the longest, so only if they are wanted.
    pub(super) fn fetch(with_crates: bool) -> Result<Sources> {
        let sources = Sources { folder: folder().join("sources"), sockets: sockets_folder() };
        std::fs::create_dir_all(&sources.sockets)?;
        std::fs::create_dir_all(&sources.folder)?;
        // The one waits for PyPI, the other for the compiler.
        std::thread::scope(|scope| {
            let crates = scope.spawn(|| if with_crates { sources.crates() } else { Ok(()) });
            python()?;
            sources.packages()?;
            crates.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })?;
        Ok(sources)
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Replaces `{sockets}`, `{sources}`, `{ours}` (the folder of our own scripts) and `{build}` (what cargo built).
    pub(super) fn fill(&self, text: &str) -> String {
        let places = [
            ("{sockets}", &self.sockets),
            ("{sources}", &self.folder),
            ("{ours}", &root().join("tests/clients")),
            ("{build}", &build_folder()),
        ];
        places.iter().fold(text.to_owned(), |text, (mark, path)| text.replace(mark, &path.to_string_lossy()))
    }

    /// The source packages, each unpacked under its client's name.
    fn packages(&self) -> Result<()> {
        let ours = root().join("tests/clients");
        let list = ours.join("sources.txt");
        let fixtures = std::fs::read_to_string(ours.join("bmemcached_conftest.py"))?;
        let wanted = format!("{}{fixtures}{}", std::fs::read_to_string(&list)?, self.sockets.display());
        once(&self.folder.join("pypi.txt"), &wanted, || {
            let packages: Vec<String> = std::fs::read_to_string(&list)?.lines().map(str::to_owned).collect();
            let names: Vec<&str> = packages.iter().filter_map(|line| line.split("==").next()).collect();
            let downloads = self.folder.join("downloads");
            let mut pip = Command::new(python_path());
            pip.args(["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]);
            pip.args(["--no-binary", &names.join(",")]).arg("--dest").arg(&downloads).arg("-r").arg(&list);
            captured(&mut pip)?;
            for package in &packages {
                self.unpack(&downloads, package)?;
            }
            let tests = self.folder.join("python-binary-memcached/test");
            std::fs::write(tests.join("conftest.py"), &fixtures)?;
            self.move_sockets("bmemcached", "python-binary-memcached/test")
        })
    }

    fn unpack(&self, downloads: &Path, package: &str) -> Result<()> {
        let (name, version) = package.split_once("==").context("a line of sources.txt is NAME==VERSION")?;
        // PyPI writes names in lower case, with one kind of hyphen.
        let archive = downloads.join(format!("{}-{version}.tar.gz", name.to_lowercase().replace('-', "_")));
        let into = self.folder.join(name);
        std::fs::create_dir_all(&into)?;
        captured(Command::new("tar").arg("xzf").arg(archive).args(["--strip-components=1", "-C"]).arg(into))?;
        Ok(())
    }

    /// The crates' packages as cargo unpacks them, copied to where they can be built.
    fn crates(&self) -> Result<()> {
        let versions: String = [MEMCACHE_CRATE, ASYNC_CRATE]
            .map(|(name, version)| format!("{name} = \"={version}\"\n"))
            .concat();
        let wanted = format!("{versions}{}", self.sockets.display());
        once(&self.folder.join("crates.txt"), &wanted, || {
            let fetcher = self.folder.join("fetcher");
            std::fs::create_dir_all(fetcher.join("src"))?;
            let package = "[package]\nname = \"fetcher\"\nedition = \"2024\"\n[workspace]\n";
            std::fs::write(fetcher.join("Cargo.toml"), format!("{package}[dependencies]\n{versions}"))?;
            std::fs::write(fetcher.join("src/lib.rs"), "")?;
            let metadata =
                captured(cargo().args(["metadata", "--format-version", "1"]).current_dir(&fetcher))?;
            for (name, version) in [MEMCACHE_CRATE, ASYNC_CRATE] {
                self.copy_crate(&metadata, name, version)?;
            }
            self.move_sockets("crate", "memcache/tests")?;
            self.move_sockets("crate", "memcache/src")
        })?;
        for (name, _) in [MEMCACHE_CRATE, ASYNC_CRATE] {
            let mut build = cargo();
            build.args(["test", "--no-run", "--quiet", "--all-features", "--lib", "--tests"]);
            captured(build.current_dir(self.folder.join(name)))?;
        }
        Ok(())
    }

    fn copy_crate(&self, metadata: &str, name: &str, version: &str) -> Result<()> {
        let end = format!("/{name}-{version}/Cargo.toml\"");
        let at = metadata.find(&end).with_context(|| format!("cargo has not fetched {name} {version}"))?;
        let start = metadata.get(..at).and_then(|text| text.rfind('"')).context("not cargo's metadata")?;
        let from =
            PathBuf::from(metadata.get(start + 1..at).unwrap_or_default()).join(format!("{name}-{version}"));
        let into = self.folder.join(name);
        let _ = std::fs::remove_dir_all(&into);
        captured(Command::new("cp").arg("-r").arg(from).arg(&into))?;
        let manifest = into.join("Cargo.toml");
        let sections = std::fs::read_to_string(&manifest)?;
        let kept: Vec<&str> = sections
            .split("\n[")
            .filter(|section| {
                !["[bench]]", "dev-dependencies.criterion]"].iter().any(|name| section.starts_with(name))
            })
            .collect();
        std::fs::write(manifest, format!("{}\n[workspace]\n", kept.join("\n[")))?;
        Ok(())
    }

    /// Each client gets paths of its own: suites play at the same time.
    fn move_sockets(&self, client: &str, folder: &str) -> Result<()> {
        let ours = self.sockets.join(client);
        let folder = self.folder.join(folder);
        for file in std::fs::read_dir(folder)? {
            let path = file?.path();
            if let Ok(text) = std::fs::read_to_string(&path)
                && text.contains(BUILT_IN_SOCKET)
            {
                std::fs::write(path, text.replace(BUILT_IN_SOCKET, &ours.to_string_lossy()))?;
            }
        }
        Ok(())
    }
}

/// Cargo for the crates, whose builds are kept.
fn cargo() -> Command {
    let mut command = Command::new(cargo_path());
    command.env("CARGO_TARGET_DIR", build_folder()).env("CARGO_PROFILE_TEST_DEBUG", "0");
    command
}

fn build_folder() -> PathBuf {
    folder().join("build")
}

pub(super) fn cargo_path() -> PathBuf {
    std::env::var_os("CARGO").map_or_else(|| "cargo".into(), PathBuf::from)
}

pub(super) fn python_path() -> PathBuf {
    folder().join("python/bin/python")
}

/// A Python with the clients installed; made once for each list of requirements.
pub(super) fn python() -> Result<PathBuf> {
    let folder = folder().join("python");
    let requirements = root().join("tests/clients/requirements.txt");
    let wanted = std::fs::read_to_string(&requirements)?;
    once(&folder.join("installed.txt"), &wanted, || {
        captured(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&folder))?;
        let mut pip = Command::new(python_path());
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r"]);
        captured(pip.arg(&requirements)).map(drop)
    })?;
    Ok(python_path())
}

/// Does it, unless the stamp says that this very thing has been done.
fn once(stamp: &Path, wanted: &str, work: impl FnOnce() -> Result<()>) -> Result<()> {
    if std::fs::read_to_string(stamp).is_ok_and(|done| done == wanted) {
        return Ok(());
    }
    work()?;
    std::fs::write(stamp, wanted).with_context(|| format!("cannot write {}", stamp.display()))
}

/// A folder of this checkout's own, with a path short enough for sockets.
fn sockets_folder() -> PathBuf {
    let near = folder().join("sockets");
    if near.as_os_str().len() <= SOCKETS_PATH_MAX {
        return near;
    }
    let unique = target_folder()
        .to_string_lossy()
        .bytes()
        .fold(0_u64, |sum, byte| sum.wrapping_mul(1_099_511_628_211).wrapping_add(u64::from(byte)));
    std::env::temp_dir().join(format!("unbuckle-clients-{unique:x}"))
}
