//! What a server gives up before it serves, seen from outside. That everything else still works is what all the other
//! tests show: their servers end at the first system call that is refused.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use unbuckle_tests::process::Process;
use unbuckle_tests::server::unbuckle_path;

fn binary() -> PathBuf {
    unbuckle_path(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))).unwrap()
}

/// A line of each thread's status.
fn of_every_thread(process: u32, name: &str) -> Vec<String> {
    let threads = std::fs::read_dir(format!("/proc/{process}/task")).unwrap();
    let status = |thread: std::io::Result<std::fs::DirEntry>| {
        let text = std::fs::read_to_string(thread.unwrap().path().join("status")).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        line.trim_start_matches(':').trim().to_owned()
    };
    threads.map(status).collect()
}

fn ask(address: SocketAddr, request: &str, end: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let (mut reply, mut bytes) = (String::new(), [0; 4096]);
    while !reply.ends_with(end) {
        let count = stream.read(&mut bytes).unwrap();
        assert_ne!(count, 0, "closed after {reply:?}");
        reply.push_str(std::str::from_utf8(&bytes[..count]).unwrap());
    }
    reply
}

#[test]
fn every_thread_is_confined_as_was_asked_for() {
    // The option, and what is seen of it: in each thread's status, in the settings, on standard error.
    for (threads, option, filter, is_alone, shown, said) in [
        ("1", "drop_privileges", "2", "1", "yes", "system calls are confined"),
        ("3", "drop_privileges", "2", "1", "yes", "system calls are confined"),
        ("3", "no_drop_privileges", "0", "0", "no", "sandbox: off"),
        ("3", "", "0", "1", "no", "files and sockets are confined"),
    ] {
        if option.is_empty() && !has_landlock() {
            eprintln!("skipped: the kernel has no Landlock");
            continue;
        }
        let arguments = ["-p", "-1", "-l", "127.0.0.1", "-v", "-t", threads, "-o", option];
        let mut server = Process::start_as_users_do(&binary(), &arguments).unwrap();
        ask(server.address(), "get a\r\n", "END\r\n");
        let process = server.id();
        server
            .wait_for("a filter for every thread", || {
                of_every_thread(process, "Seccomp").iter().all(|mode| mode == filter).then_some(())
            })
            .unwrap();
        assert!(of_every_thread(process, "NoNewPrivs").iter().all(|found| found == is_alone), "{option}");
        let settings = ask(server.address(), "stats settings\r\n", "END\r\n");
        assert!(settings.contains(&format!("STAT drop_privileges {shown}\r\n")), "{settings}");
        assert!(server.errors().contains(said), "{}", server.errors());
    }
}

/// A file of passwords, behind a link that can be pointed elsewhere.
struct Users {
    folder: PathBuf,
}

impl Users {
    fn new() -> Users {
        let folder = std::env::temp_dir().join(format!("unbuckle-sandbox-test-{}", std::process::id()));
        for part in ["link", "own", "other"] {
            std::fs::create_dir_all(folder.join(part)).unwrap();
        }
        Users { folder }
    }

    fn link(&self) -> PathBuf {
        self.folder.join("link/users")
    }

    fn point_to(&self, target: &str) {
        let partial = self.folder.join("link/new");
        std::os::unix::fs::symlink(self.folder.join(target), &partial).unwrap();
        std::fs::rename(partial, self.link()).unwrap();
    }

    /// Puts a new file in the place of an old one.
    fn write(&self, target: &str, password: &str) {
        let partial = self.folder.join("new");
        std::fs::write(&partial, format!("user:{password}\n")).unwrap();
        std::fs::rename(partial, self.folder.join(target)).unwrap();
    }
}

impl Drop for Users {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn is_admitted(server: SocketAddr, password: &str) -> bool {
    let login = format!("user {password}");
    ask(server, &format!("set a 0 0 {}\r\n{login}\r\n", login.len()), "\r\n") == "STORED\r\n"
}

fn hang_up(server: &Process) {
    assert!(Command::new("kill").args(["-HUP", &server.id().to_string()]).status().unwrap().success());
}

/// What is read again on demand may be replaced in its folder and in that which its link points to, and nothing else can be
/// read.
#[test]
fn files_of_others_cannot_be_read() {
    if !has_landlock() {
        eprintln!("skipped: the kernel has no Landlock");
        return;
    }
    for (option, reaches) in [("drop_privileges=kill", false), ("", false), ("no_drop_privileges", true)] {
        let users = Users::new();
        users.write("own/users", "first");
        users.write("other/users", "third");
        users.point_to("own/users");
        let link = users.link().display().to_string();
        let arguments = ["-p", "-1", "-l", "127.0.0.1", "-o", option, "-Y", &link];
        let mut server = Process::start_as_users_do(&binary(), &arguments).unwrap();
        let address = server.address();
        assert!(is_admitted(address, "first"));
        users.write("own/users", "second");
        hang_up(&server);
        server.wait_for("a new password", || is_admitted(address, "second").then_some(())).unwrap();
        users.point_to("other/users");
        hang_up(&server);
        if reaches {
            server.wait_for("a foreign one", || is_admitted(address, "third").then_some(())).unwrap();
        } else {
            let errors = server.folder.join("errors");
            let refused = || std::fs::read_to_string(&errors).ok()?.contains("stay in force").then_some(());
            server.wait_for("a refusal", refused).unwrap();
            assert!(is_admitted(address, "second") && !is_admitted(address, "third"));
        }
    }
}

fn has_landlock() -> bool {
    let modules = std::fs::read_to_string("/sys/kernel/security/lsm").unwrap_or_default();
    // Where nobody has mounted securityfs, there is no telling: then it must be there.
    modules.is_empty() || modules.contains("landlock")
}
