//! What the server gives up before it serves, so that who takes it over by a fault gets little.
//!
//! Two fences, each of which stands without the other. Landlock (`files.rs`) puts files, programs and TCP out of reach: it is
//! asked when something is opened, costs a request nothing, and is on unless `-o no_drop_privileges` says otherwise. seccomp
//! (`calls.rs`) takes every system call away that serving does not need, and with `-o drop_privileges` alone, as in
//! memcached: it costs each call about 35 ns, which is 2 % of a get that comes alone. A kernel that lacks one is no failure:
//! the server serves, and says at `-v` what it could not give up.

mod calls;
mod files;
mod filter;
mod kernel;

use crate::authentication::Passwords;
use crate::options::{Options, Sandbox};
use crate::shared::Shared;
use calls::Needs;
use files::Exceptions;
use filter::Otherwise;
use kernel::Reach;
use rustix::io;
use std::path::{Path, PathBuf};

/// Gives up files and networks. To be called when everything is open and no thread has been started.
pub(crate) fn confine_files(shared: &Shared<'_>) {
    let options = &shared.options;
    if options.extended.sandbox == Sandbox::Off {
        return tell(shared, "off (-o no_drop_privileges)");
    }
    match files::confine(&exceptions(options, shared.passwords.as_ref().map(Passwords::path))) {
        Ok(version) => tell(shared, &format!("files and sockets are confined (Landlock {version})")),
        Err(error) => {
            tell(shared, &format!("files and sockets are not confined, the kernel has no Landlock: {error}"));
        }
    }
}

/// Gives up system calls, for all threads that there are. To be called when they have been started.
pub(crate) fn confine_calls(shared: &Shared<'_>) {
    let otherwise = match shared.options.extended.sandbox {
        Sandbox::Off | Sandbox::Files => return,
        Sandbox::Calls => Otherwise::Fail,
        Sandbox::Strict => Otherwise::Kill,
    };
    match install(&shared.options, otherwise, Reach::Process) {
        Ok(()) => tell(shared, "system calls are confined (seccomp)"),
        Err(error) => {
            tell(
                shared,
                &format!("system calls are not confined, the kernel has no seccomp for it: {error}"),
            );
        }
    }
}

fn tell(shared: &Shared<'_>, line: &str) {
    if shared.options.verbosity > 0 {
        crate::say(&format!("sandbox: {line}"));
    }
}

fn install(options: &Options, otherwise: Otherwise, reach: Reach) -> io::Result<()> {
    let needs = Needs {
        addresses: !options.fastpath.interfaces.is_empty(),
        removes: options.pid_file.is_some() || options.unix_socket.is_some(),
    };
    let mut program = filter::program(&calls::rules(needs), otherwise).ok_or(io::Errno::NOSYS)?;
    kernel::install_filter(&mut program, reach)
}

fn exceptions(options: &Options, passwords: Option<&Path>) -> Exceptions {
    let tls = &options.extended.tls;
    let certificates = [&tls.chain_cert, &tls.key, &tls.ca_cert].into_iter().flatten();
    let certificates = certificates.filter(|_| options.tls_enabled).cloned();
    let read: Vec<PathBuf> = certificates.chain(passwords.map(Path::to_owned)).collect();
    let has_fast_path = !options.fastpath.interfaces.is_empty();
    Exceptions {
        read,
        // Which VLANs end at an interface is told in there, by a path that is new for each thread.
        read_beneath: if has_fast_path { vec!["/proc".into()] } else { Vec::new() },
        remove: [&options.pid_file, &options.unix_socket].into_iter().flatten().cloned().collect(),
        dump_into: if options.core_dumps { files::dump_folder() } else { None },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::parsed;
    use std::io::ErrorKind::PermissionDenied;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::process::Command;

    /// Confinement is for good: each test gives up the rights of a thread that ends with it.
    fn in_a_thread(check: impl FnOnce() + Send) {
        std::thread::scope(|scope| scope.spawn(check).join().unwrap());
    }

    fn is_denied<T>(result: std::io::Result<T>) -> bool {
        result.is_err_and(|error| error.kind() == PermissionDenied)
    }

    #[test]
    fn system_calls_that_serving_does_not_need_are_refused() {
        in_a_thread(|| {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            install(&parsed("-p 0"), Otherwise::Fail, Reach::Thread).unwrap();
            let (mut server, _) = listener.accept().unwrap();
            client.write_all(b"get").unwrap();
            let mut request = [0; 3];
            server.read_exact(&mut request).unwrap();
            assert_eq!(&request, b"get");
            assert!(std::fs::read("/proc/self/comm").is_ok());
            assert!(is_denied(std::fs::write(std::env::temp_dir().join("unbuckle-no-such-file"), "x")));
            assert!(is_denied(std::fs::File::options().append(true).open("/dev/null")));
            assert!(is_denied(UdpSocket::bind("127.0.0.1:0")));
            assert!(is_denied(TcpStream::connect("127.0.0.1:1")));
            assert!(is_denied(Command::new("true").status()));
            assert!(is_denied(std::fs::remove_file("/no/such/file")));
        });
    }

    #[test]
    fn a_fast_path_looks_interfaces_up_while_it_serves() {
        if kernel::landlock_version().is_err() {
            eprintln!("skipped: the kernel has no Landlock");
            return;
        }
        in_a_thread(|| {
            let options = parsed("-U 11211 --fastpath lo");
            files::confine(&exceptions(&options, None)).unwrap();
            install(&options, Otherwise::Fail, Reach::Thread).unwrap();
            assert!(std::fs::read_to_string("/proc/thread-self/net/dev").unwrap().contains("lo:"));
            assert!(is_denied(UdpSocket::bind("127.0.0.1:0")));
        });
    }

    #[test]
    fn files_and_networks_are_out_of_reach() {
        if kernel::landlock_version().is_err() {
            eprintln!("skipped: the kernel has no Landlock");
            return;
        }
        let folder = std::env::temp_dir().join(format!("unbuckle-sandbox-{}", std::process::id()));
        std::fs::create_dir_all(folder.join("kept")).unwrap();
        let (inside, outside) = (folder.join("kept/users"), folder.join("other"));
        let pid_file = folder.join("kept/pid");
        for file in [&inside, &outside, &pid_file] {
            std::fs::write(file, "user:password").unwrap();
        }
        let pid_option = format!("-P {}", pid_file.display());
        in_a_thread(|| {
            let version = files::confine(&exceptions(&parsed(&pid_option), Some(&inside))).unwrap();
            assert!(std::fs::read(&inside).is_ok());
            // A new one in the old one's place is read as well, though nobody here can put it there.
            assert!(is_denied(std::fs::write(folder.join("kept/new"), "")));
            assert!(is_denied(std::fs::read(&outside)) && is_denied(std::fs::remove_file(&outside)));
            assert!(is_denied(std::fs::write(&inside, "")) && is_denied(std::fs::read_dir("/")));
            assert!(
                is_denied(Command::new("/bin/true").status()) && is_denied(std::fs::read("/proc/version"))
            );
            std::fs::remove_file(&pid_file).unwrap();
            if version >= 4 {
                assert!(is_denied(TcpListener::bind("127.0.0.1:0")));
                assert!(is_denied(TcpStream::connect("127.0.0.1:1")));
            }
        });
        std::fs::remove_dir_all(folder).unwrap();
    }
}
