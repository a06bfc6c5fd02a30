//! `-d`: the server goes to the background and leaves its folder. What it was given by relative paths is meant from where
//! it was started, as long as it runs and when it cleans up.

use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use unbuckle_tests::server::{STRICT_SANDBOX, unbuckle_path};

const WAIT_MAX: Duration = Duration::from_secs(20);

/// A daemon in a folder of its own. It is ended when this is dropped.
struct Daemon {
    folder: PathBuf,
    id: Option<Pid>,
}

impl Daemon {
    fn start(name: &str, arguments: &[&str]) -> Daemon {
        let folder = std::env::temp_dir().join(format!("unbuckle-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let binary = unbuckle_path(&Path::new(env!("CARGO_MANIFEST_DIR")).join("..")).unwrap();
        let parent = Command::new(binary)
            .args(STRICT_SANDBOX)
            .args(["-d", "-P", "pid", "-m", "8", "-t", "1"])
            .args(arguments)
            .current_dir(&folder)
            .status()
            .unwrap();
        assert!(parent.success());
        let mut daemon = Daemon { folder, id: None };
        let text = wait_for("its pid", || std::fs::read_to_string(daemon.folder.join("pid")).ok());
        daemon.id = Pid::from_raw(text.trim().parse().unwrap());
        daemon
    }

    fn has(&self, name: &str) -> bool {
        self.folder.join(name).exists()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            let _ = kill_process(id, Signal::KILL);
        }
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(started.elapsed() < WAIT_MAX, "no sign of {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn what_relative_paths_name_is_removed_where_it_was_made() {
    let daemon = Daemon::start("daemon", &["-s", "name"]);
    let mut stream = UnixStream::connect(daemon.folder.join("name")).unwrap();
    stream.write_all(b"get x\r\n").unwrap();
    let mut line = String::new();
    BufReader::new(&stream).read_line(&mut line).unwrap();
    assert_eq!(line, "END\r\n");
    assert!(!Path::new("/pid").exists());
    kill_process(daemon.id.unwrap(), Signal::TERM).unwrap();
    wait_for("its end", || (!daemon.has("name") && !daemon.has("pid")).then_some(()));
}
