//! Debian's stock kernel: headers to build against and an image to start, from apt, unpacked and never installed.

use super::folder;
use crate::run::captured;
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The flavour without drivers for machines that exist: small, and what runs in clouds.
const FLAVOUR: &str = "cloud-amd64";

pub(crate) const TOOLS: [(&str, &str); 8] = [
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
}

/// The kernel that apt would install today. Downloaded once for each release.
pub(crate) fn stock() -> Result<Kernel> {
    let release = release()?;
    let unpacked = folder().join(format!("kernel-{release}"));
    let done = unpacked.join("unpacked");
    if !done.exists() {
        unpack(&release, &unpacked)?;
        fs::write(&done, "")?;
    }
    Ok(Kernel {
        build: unpacked.join(format!("usr/src/linux-headers-{release}")),
        image: unpacked.join(format!("boot/vmlinuz-{release}")),
        modules: unpacked.join(format!("lib/modules/{release}")),
        release,
    })
}

fn release() -> Result<String> {
    let package = format!("linux-image-{FLAVOUR}");
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

fn unpack(release: &str, to: &Path) -> Result<()> {
    let headers = format!("linux-headers-{release}");
    // Its compiler is the one that is there.
    let mut packages: Vec<String> =
        dependencies(&headers)?.into_iter().filter(|name| !name.starts_with("linux-compiler")).collect();
    packages.extend([headers.clone(), format!("linux-image-{release}")]);
    let downloads = to.with_extension("debs");
    fs::create_dir_all(&downloads)?;
    for package in &packages {
        captured(Command::new("apt-get").current_dir(&downloads).args(["-q", "download", package]))
            .with_context(|| format!("downloading {package}"))?;
    }
    for file in fs::read_dir(&downloads)? {
        captured(Command::new("dpkg").arg("-x").arg(file?.path()).arg(to))?;
    }
    fs::remove_dir_all(&downloads)?;
    // The headers believe that they are installed.
    let makefile = to.join("usr/src").join(&headers).join("Makefile");
    let text = fs::read_to_string(&makefile)?;
    let moved = text.replace("include /usr/src/", &format!("include {}/usr/src/", to.display()));
    ensure!(moved != text, "{} does not include what it used to", makefile.display());
    Ok(fs::write(&makefile, moved)?)
}
