//! TLS as the command line asks for it: the `ssl_*` names of `-o`.
//!
//! Values are memcached 1.6.45's. No file is read here, and no cipher name looked up: that is `server/src/tls/`.

use super::Refusal;
use std::path::PathBuf;

/// Which of the options a name sets.
#[derive(Clone, Copy, Debug)]
pub(super) enum Setting {
    ChainCert,
    Key,
    KeyFormat,
    VerifyMode,
    Ciphers,
    CaCert,
    WriteBuffer,
    SessionCache,
    KernelTls,
    MinVersion,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeyFormat {
    #[default]
    Pem,
    Der,
}

/// What is asked of clients. memcached's mode 3, "once", is its 2 where there is no renegotiation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum VerifyMode {
    #[default]
    None,
    /// A certificate is asked for; who has one must have a good one.
    Request,
    Require,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    #[default]
    Tls12,
    Tls13,
}

impl TlsVersion {
    pub fn name(self) -> &'static str {
        match self {
            TlsVersion::Tls12 => "tlsv1.2",
            TlsVersion::Tls13 => "tlsv1.3",
        }
    }
}

const WRITE_BUFFER_BYTES: u64 = 16 << 10;

#[derive(Clone, Debug)]
pub struct TlsOptions {
    pub chain_cert: Option<PathBuf>,
    pub key: Option<PathBuf>,
    pub key_format: KeyFormat,
    pub verify_mode: VerifyMode,
    /// As `stats settings` has it: OpenSSL's flags for the mode that was asked for.
    pub verify_flags: u32,
    /// A cipher list in OpenSSL's notation.
    pub ciphers: Option<String>,
    pub ca_cert: Option<PathBuf>,
    /// Shown only.
    pub write_buffer_bytes: u64,
    pub session_cache: bool,
    /// Shown only.
    pub kernel_tls: bool,
    pub min_version: TlsVersion,
    set: bool,
}

impl Default for TlsOptions {
    fn default() -> TlsOptions {
        TlsOptions {
            chain_cert: None,
            key: None,
            key_format: KeyFormat::default(),
            verify_mode: VerifyMode::default(),
            verify_flags: 0,
            ciphers: None,
            ca_cert: None,
            write_buffer_bytes: WRITE_BUFFER_BYTES,
            session_cache: false,
            kernel_tls: false,
            min_version: TlsVersion::default(),
            set: false,
        }
    }
}

impl TlsOptions {
    /// Any of the names was given.
    pub(super) fn is_set(&self) -> bool {
        self.set
    }

    /// `number` is the value as a number, for those that are one; its range has been checked.
    pub(super) fn set(
        &mut self,
        setting: Setting,
        value: &str,
        number: u64,
        notes: &mut Vec<String>,
    ) -> Result<(), Refusal> {
        self.set = true;
        match setting {
            Setting::ChainCert => self.chain_cert = Some(value.into()),
            Setting::Key => self.key = Some(value.into()),
            Setting::CaCert => self.ca_cert = Some(value.into()),
            Setting::Ciphers => self.ciphers = Some(value.to_owned()),
            Setting::KeyFormat => {
                self.key_format = match number {
                    1 => KeyFormat::Pem,
                    2 => KeyFormat::Der,
                    _ => return Err(Refusal::usage("-o ssl_keyformat: expected 1 (PEM) or 2 (DER)")),
                };
            }
            Setting::VerifyMode => {
                (self.verify_mode, self.verify_flags) = match number {
                    0 => (VerifyMode::None, 0),
                    1 => (VerifyMode::Request, 1),
                    2 => (VerifyMode::Require, 3),
                    _ => (VerifyMode::Require, 7),
                };
            }
            Setting::MinVersion => {
                self.min_version = if number < 3 { TlsVersion::Tls12 } else { TlsVersion::Tls13 };
                if number < 2 {
                    notes.push(
                        "-o ssl_min_version: TLS 1.0 and 1.1 are not served; the least is TLS 1.2".to_owned(),
                    );
                }
            }
            Setting::SessionCache => self.session_cache = true,
            Setting::WriteBuffer => self.write_buffer_bytes = number << 10,
            Setting::KernelTls => {
                self.kernel_tls = true;
                notes.push(
                    "-o ssl_kernel_tls: accepted, has no effect here: TLS stays in user space".to_owned(),
                );
            }
        }
        Ok(())
    }

    /// What `-Z` cannot do without.
    pub(super) fn check(&self, notes: &mut Vec<String>) -> Result<(), Refusal> {
        if self.chain_cert.is_none() {
            return Err(Refusal::usage(
                "-Z: TLS needs a certificate: -o ssl_chain_cert=<file>,ssl_key=<file>",
            ));
        }
        if self.verify_mode != VerifyMode::None && self.ca_cert.is_none() {
            notes.push("-o ssl_verify_mode: without ssl_ca_cert no client's certificate is good".to_owned());
        }
        Ok(())
    }
}
