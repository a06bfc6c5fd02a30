//! Debian's stock kernels: headers to build against and an image to start, from apt, unpacked and never installed.

use super::folder;
use crate::run::captured;
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Kernels without drivers for machines that exist: small, and what runs in clouds. The first is what Debian installs.
pub(crate) const STOCK: [&str; 2] = ["cloud-amd64", "6.12-cloud-amd64"];

pub(crate) const TOOLS: [(&str, &str); 9] = [
    ("xz", "xz-utils"),
    ("apt-cache", "apt"),
    ("dpkg", "dpkg"),
    ("make", "build-essential"),
    ("gcc", "build-essential"),
    ("ld", "binutils"),
    ("nm", "binutils"),
    ("objcopy", "binutils"),
    ("objdump", "binutils"),
];

#[derive(Clone, Debug)]
pub(crate) struct Kernel {
    /// As `uname -r` says.
    pub(crate) release: String,
    /// Where modules are built.
    pub(crate) build: PathBuf,
    pub(crate) image: PathBuf,
    /// `/lib/modules/RELEASE` of the image.
    pub(crate) modules: PathBuf,
    /// It looks for faults, for which it takes its time.
    pub(crate) has_detectors: bool,
}

impl Kernel {
    /// One of its modules, which may have come compressed.
    pub(crate) fn module(&self, name: &str) -> Result<PathBuf> {
        let plain = self.modules.join(name);
        if !plain.exists() {
            captured(Command::new("xz").args(["--decompress", "--keep"]).arg(plain.with_extension("ko.xz")))?;
        }
        Ok(plain)
    }
}

/// The kernel of this flavour that apt would install today. Downloaded once for each release.
pub(crate) fn stock(flavour: &str) -> Result<Kernel> {
    let release = release(flavour)?;
    let unpacked = folder().join(format!("kernel-{release}"));
    let done = unpacked.join("unpacked");
    if !done.exists() {
        unpack_stock(&release, &unpacked)?;
        fs::write(&done, "")?;
    }
    Ok(Kernel {
        build: unpacked.join(format!("usr/src/linux-headers-{release}")),
        image: unpacked.join(format!("boot/vmlinuz-{release}")),
        modules: unpacked.join(format!("lib/modules/{release}")),
        release,
        has_detectors: false,
    })
}

/// A make without what cargo tells its children about jobs, which is not for it.
pub(crate) fn make() -> Command {
    let mut make = Command::new("make");
    for name in ["MAKEFLAGS", "MFLAGS", "CARGO_MAKEFLAGS"] {
        make.env_remove(name);
    }
    make
}

fn release(flavour: &str) -> Result<String> {
    let package = format!("linux-image-{flavour}");
    dependencies(&package)?
        .iter()
        .find_map(|name| name.strip_prefix("linux-image-").map(str::to_owned))
        .with_context(|| format!("apt knows no {package}: run apt-get update"))
}

/// The packages that a package depends on.
fn dependencies(package: &str) -> Result<Vec<String>> {
    let text = captured(Command::new("apt-cache").args(["depends", package]))?;
    let names = text.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
    Ok(names.map(str::to_owned).collect())
}

fn unpack_stock(release: &str, to: &Path) -> Result<()> {
    let headers = format!("linux-headers-{release}");
    // Its compiler is the one that is there.
    let mut packages: Vec<String> =
        dependencies(&headers)?.into_iter().filter(|name| !name.starts_with("linux-compiler")).collect();
    packages.extend([headers.clone(), format!("linux-image-{release}")]);
    unpack(&packages, to)?;
    // The headers believe that they are installed.
    let makefile = to.join("usr/src").join(&headers).join("Makefile");
    let text = fs::read_to_string(&makefile)?;
    let moved = text.replace("include /usr/src/", &format!("include {}/usr/src/", to.display()));
    ensure!(moved != text, "{} does not include what it used to", makefile.display());
    Ok(fs::write(&makefile, moved)?)
}

/// Downloads packages and unpacks them; a name may have `=VERSION` behind it.
pub(crate) fn unpack(packages: &[String], to: &Path) -> Result<()> {
    let downloads = to.with_extension("debs");
    fs::create_dir_all(&downloads)?;
    for package in packages {
        captured(Command::new("apt-get").current_dir(&downloads).args(["-q", "download", package]))
            .with_context(|| format!("downloading {package}"))?;
    }
    for file in fs::read_dir(&downloads)? {
        captured(Command::new("dpkg").arg("-x").arg(file?.path()).arg(to))?;
    }
    Ok(fs::remove_dir_all(&downloads)?)
}
