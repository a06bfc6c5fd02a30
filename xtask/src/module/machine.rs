//! A virtual machine that starts a kernel, runs one script and ends.
//!
//! Emulated, not virtualised: it works inside any other machine. Its first process is `module/vm/init`; what the script
//! says comes through the second serial port, what the kernel says through the first. Only a line with the script's own
//! status counts as its end: a machine that stops early has failed.

use super::kernel::Kernel;
use super::{folder, kbuild, source};
use crate::run::{captured, last_lines};
use anyhow::{Context, Result, bail, ensure};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

pub(crate) const TOOLS: [(&str, &str); 5] = [
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("busybox", "busybox-static"),
    ("cpio", "cpio"),
    ("timeout", "coreutils"),
    ("ldd", "libc-bin"),
];

/// How much longer everything may take on a kernel with detectors.
const DETECTORS_SLOWNESS: u32 = 5;

/// What a machine is started with.
#[derive(Clone, Debug)]
pub(crate) struct Machine<'a> {
    pub(crate) kernel: &'a Kernel,
    pub(crate) name: &'a str,
    pub(crate) script: PathBuf,
    /// Files and folders that it finds in `/`, under their own names.
    pub(crate) files: Vec<PathBuf>,
    /// Programs that it finds in its path.
    pub(crate) programs: Vec<PathBuf>,
    /// What its script finds as variables, `NAME=VALUE`.
    pub(crate) variables: Vec<String>,
    pub(crate) memory_mb: u32,
    pub(crate) seconds_max: u32,
    pub(crate) processors: Processors,
}

/// Begins the first line that a machine sends.
const BOOTED: &str = "booted ";
/// How often a machine of [`Processors::TwoAtOnce`] is started until it boots.
const BOOTS_MAX: u32 = 3;

/// Those of a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Processors {
    /// One, whose clock counts instructions, a nanosecond each: it is never late, however busy the host is, and waiting
    /// takes no time.
    OneThatCounts,
    /// Two, at the same time, and booted again if it dies of that while it boots. This emulator loses a write to code that the other processor runs just then, which a kernel
    /// makes when it throws one of its switches (`module/vm/hold.c` keeps netfilter's where it is).
    TwoAtOnce,
    /// Two, in turns: whatever throws switches under load.
    TwoInTurns,
}

impl Machine<'_> {
    /// Starts it and waits for its end. What the script wrote, if its status is 0.
    pub(crate) fn run(&self) -> Result<String> {
        let place = folder().join("vm").join(format!("{}-{}", self.name, self.kernel.release));
        let _ = fs::remove_dir_all(&place);
        fs::create_dir_all(&place)?;
        let disk = self.disk(&place)?;
        let (console, results) = (place.join("console.log"), place.join("results.log"));
        let seconds_max =
            if self.kernel.has_detectors { self.seconds_max * DETECTORS_SLOWNESS } else { self.seconds_max };
        let mut machine = Command::new("timeout");
        machine.arg(seconds_max.to_string()).arg("qemu-system-x86_64");
        machine.args(match self.processors {
            Processors::OneThatCounts => {
                &["-accel", "tcg,thread=single", "-icount", "shift=0,sleep=off", "-smp", "1"][..]
            }
            Processors::TwoAtOnce => &["-accel", "tcg,thread=multi", "-smp", "2"],
            Processors::TwoInTurns => &["-accel", "tcg,thread=single", "-smp", "2"],
        });
        machine.args(["-m", &self.memory_mb.to_string()]);
        // Emulated byte by byte, the fast string instructions are the slow ones.
        let mut processor = "max,-erms,-fsrm".to_owned();
        if self.kernel.has_detectors {
            // While it finds out what its processor is, a kernel forgets for a moment that tables have five levels; an
            // interrupt in that moment is a wild access to KASAN.
            processor.push_str(",-la57");
        }
        machine.args(["-cpu", &processor, "-nodefaults", "-display", "none", "-no-reboot"]);
        machine.arg("-serial").arg(format!("file:{}", console.display()));
        machine.arg("-serial").arg(format!("file:{}", results.display()));
        machine.arg("-kernel").arg(&self.kernel.image).arg("-initrd").arg(disk);
        // Everything may be late on a busy host: a timer is not to be given up for that, and nobody reported who has not run
        // for 20 s. Without multi-shot, KASAN speaks once and never again; other kernels do not know the word.
        let words = format!(
            "console=ttyS0 panic=-1 oops=panic no_timer_check watchdog_thresh=60 \
             rcupdate.rcu_cpu_stall_timeout=120 kasan_multi_shot {}",
            self.variables.join(" ")
        );
        machine.args(["-append", &words]);
        machine.stdin(Stdio::null());
        let mut boots = 0;
        let (status, said) = loop {
            let status = machine.status().context("cannot run qemu-system-x86_64")?;
            let said = fs::read_to_string(&results).unwrap_or_default().replace('\r', "");
            boots += 1;
            let has_booted = said.lines().any(|line| line.starts_with(BOOTED));
            if has_booted || self.processors != Processors::TwoAtOnce || boots == BOOTS_MAX {
                break (status, said);
            }
            println!(
                "{}: the machine stopped while it booted, before anything of ours ran; once more",
                self.name
            );
        };
        match said.lines().find_map(|line| line.strip_prefix("TEST-STATUS=")) {
            Some("0") => Ok(said),
            Some(other) => bail!("{} ended with {other}:\n{}", self.name, last_lines(&said, 60)),
            None => {
                let kernel = fs::read_to_string(&console).unwrap_or_default().replace('\r', "");
                bail!(
                    "{} did not end within {} s, or the machine stopped ({status}):\n{}\nthe kernel's last words:\n{}",
                    self.name,
                    seconds_max,
                    last_lines(&said, 30),
                    last_lines(&kernel, 40)
                )
            }
        }
    }

    /// Its first and only file system.
    fn disk(&self, place: &Path) -> Result<PathBuf> {
        let tree = place.join("tree");
        for folder in ["bin", "sbin", "proc", "sys", "dev", "tmp", "etc", "usr/bin", "usr/sbin"] {
            fs::create_dir_all(tree.join(folder))?;
        }
        let busybox = captured(Command::new("sh").args(["-c", "command -v busybox"]))?;
        fs::copy(busybox.trim(), tree.join("bin/busybox"))?;
        symlink("busybox", tree.join("bin/sh"))?;
        fs::write(tree.join("etc/passwd"), "root:x:0:0::/:/bin/sh\n")?;
        fs::write(tree.join("etc/group"), "root:x:0:\n")?;
        fs::copy(source().join("vm/init"), tree.join("init"))?;
        fs::set_permissions(tree.join("init"), fs::Permissions::from_mode(0o755))?;
        fs::copy(&self.script, tree.join("test.sh"))?;
        if self.processors == Processors::TwoAtOnce {
            fs::copy(kbuild::build_hold(self.kernel)?, tree.join("hold.ko"))?;
        }
        for file in &self.files {
            captured(Command::new("cp").arg("-rL").arg(file).arg(&tree))?;
        }
        for program in &self.programs {
            let name = program.file_name().context("a program without a name")?;
            captured(Command::new("strip").arg("-o").arg(tree.join("bin").join(name)).arg(program))?;
            for library in libraries(program) {
                let place = tree.join(library.strip_prefix("/").unwrap_or(&library));
                fs::create_dir_all(place.parent().unwrap_or(&tree))?;
                fs::copy(&library, &place).with_context(|| format!("copying {}", library.display()))?;
            }
        }
        // As it is: to unpack it would take the longest part of a slow kernel's start.
        let disk = place.join("disk");
        let pack =
            format!("cd '{}' && find . | cpio -o -H newc --quiet > '{}'", tree.display(), disk.display());
        captured(Command::new("sh").args(["-ec", &pack])).context("packing the machine's disk")?;
        ensure!(fs::metadata(&disk)?.len() > 0, "the machine's disk is empty");
        fs::remove_dir_all(&tree)?;
        Ok(disk)
    }
}

/// What a program is linked with, its loader included; nothing, if it is static.
fn libraries(program: &Path) -> Vec<PathBuf> {
    let text = captured(Command::new("ldd").arg(program)).unwrap_or_default();
    let words = text.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
    words.map(PathBuf::from).collect()
}
