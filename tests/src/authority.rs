//! A throw-away certificate authority, made by the `openssl` command in a scratch folder.
//!
//! Every name below is a file `NAME.pem` with its key in `NAME.key`. The folder goes with the value, or, where the value
//! lasts as long as the process, with the next one that is made. What is made here guards nothing: keys are fresh,
//! readable and worth nothing.

use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Debug)]
pub struct Authority {
    folder: PathBuf,
}

impl Authority {
    /// An authority (`ca`), another that nobody trusts (`stranger-ca`), a server of ours (`server`), and clients: of
    /// ours (`client`), of ours but expired (`expired`), of the other (`stranger`).
    pub fn new() -> Result<Authority> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let scratch = scratch();
        sweep(&scratch);
        let folder = scratch.join(format!("{}-{number}", std::process::id()));
        std::fs::create_dir_all(&folder)?;
        let authority = Authority { folder };
        authority.found("ca")?;
        authority.found("stranger-ca")?;
        authority.issue("ca", "server", 7)?;
        authority.issue("ca", "client", 7)?;
        authority.issue("ca", "expired", -1)?;
        authority.issue("stranger-ca", "stranger", 7)?;
        Ok(authority)
    }

    /// One for the whole process, where nothing is changed.
    pub fn shared() -> Result<&'static Authority> {
        static SHARED: OnceLock<Result<Authority, String>> = OnceLock::new();
        let made = SHARED.get_or_init(|| Authority::new().map_err(|error| format!("{error:#}")));
        made.as_ref().map_err(|error| anyhow::anyhow!("no certificates for TLS: {error}"))
    }

    pub fn certificate(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.pem"))
    }

    pub fn key(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.key"))
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The server's options for a certificate of this name.
    pub fn options(&self, name: &str) -> Vec<String> {
        let (certificate, key) = (self.certificate(name), self.key(name));
        let named = format!("ssl_chain_cert={},ssl_key={}", certificate.display(), key.display());
        ["-Z", "-o", &named].map(str::to_owned).to_vec()
    }

    fn found(&self, name: &str) -> Result<()> {
        let subject = format!("/O=Unbuckle tests/CN={name}");
        let mut request = self.new_key(name);
        request.args(["-x509", "-days", "7", "-subj", &subject, "-out"]).arg(self.certificate(name));
        run(&mut request)
    }

    /// A certificate for `name`, which is also its unit (OU), so that it can be told from others.
    pub fn issue(&self, authority: &str, name: &str, days: i32) -> Result<()> {
        let extensions = self.folder.join("extensions");
        std::fs::write(
            &extensions,
            "basicConstraints=CA:FALSE\nsubjectAltName=DNS:localhost,IP:127.0.0.1\n",
        )?;
        self.sign(authority, name, days, Some(&extensions))
    }

    /// The same in the first version of X.509, which has no extensions.
    pub fn issue_plain(&self, authority: &str, name: &str) -> Result<()> {
        self.sign(authority, name, 7, None)
    }

    fn sign(&self, authority: &str, name: &str, days: i32, extensions: Option<&Path>) -> Result<()> {
        let wish = self.folder.join(format!("{name}.csr"));
        run(self.new_key(name).args(["-subj", &format!("/OU={name}/CN=localhost"), "-out"]).arg(&wish))?;
        let mut sign = Command::new("openssl");
        sign.args(["x509", "-req", "-sha256", "-days", &days.to_string(), "-in"]).arg(&wish);
        sign.arg("-CA").arg(self.certificate(authority)).arg("-CAkey").arg(self.key(authority));
        sign.arg("-CAcreateserial").arg("-out").arg(self.certificate(name));
        if let Some(extensions) = extensions {
            sign.arg("-extfile").arg(extensions);
        }
        run(&mut sign)
    }

    fn new_key(&self, name: &str) -> Command {
        let mut request = Command::new("openssl");
        request.args([
            "req",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-keyout",
        ]);
        request.arg(self.key(name));
        request
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn scratch() -> PathBuf {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace.join("target"), PathBuf::from);
    let folder = target.join("authorities");
    std::path::absolute(&folder).unwrap_or(folder)
}

/// Removes what processes that have ended left behind.
fn sweep(scratch: &Path) {
    for entry in std::fs::read_dir(scratch).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let process = name.to_str().and_then(|name| name.split('-').next());
        if process.is_none_or(|process| !Path::new("/proc").join(process).exists()) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// Runs openssl; its words are shown only when it fails.
pub fn run(command: &mut Command) -> Result<()> {
    let output =
        command.stdin(Stdio::null()).output().context("cannot run openssl: apt-get install openssl")?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}
