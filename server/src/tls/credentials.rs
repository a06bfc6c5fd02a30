//! Reading the server's certificate, its key, and the authorities that clients are verified against.
//!
//! Messages name files and what is wrong with them, never what is in them.

use crate::options::{KeyFormat, TlsOptions};
use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use std::path::Path;
use std::sync::Arc;

/// What was read, and fits together.
pub(super) struct Credentials {
    pub(super) server: Arc<CertifiedKey>,
    /// `None`: no file was named, so that no client can be verified.
    pub(super) authorities: Option<Arc<RootCertStore>>,
}

impl Credentials {
    pub(super) fn read(options: &TlsOptions, provider: &CryptoProvider) -> Result<Credentials, String> {
        let chain_file = options.chain_cert.as_deref().unwrap_or(Path::new(""));
        let chain = certificates(chain_file).map_err(|error| {
            format!("Error loading the certificate chain: {}: {error}", chain_file.display())
        })?;
        // As memcached's help has it, the key may be part of the chain's file.
        let key_file = options.key.as_deref().unwrap_or(chain_file);
        let key = private_key(key_file, options.key_format)
            .and_then(|key| provider.key_provider.load_private_key(key).map_err(|error| error.to_string()))
            .map_err(|error| format!("Error loading the key: {}: {error}", key_file.display()))?;
        let server = CertifiedKey::new(chain, key);
        if !is_consistent(&server) {
            let (key, chain) = (key_file.display(), chain_file.display());
            return Err(format!("Error validating the certificate: the key {key} is not that of {chain}"));
        }
        let authorities = options
            .ca_cert
            .as_deref()
            .map(|file| {
                authorities(file)
                    .map_err(|error| format!("Error loading the CA certificate: {}: {error}", file.display()))
            })
            .transpose()?;
        Ok(Credentials { server: Arc::new(server), authorities: authorities.map(Arc::new) })
    }
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let found = CertificateDer::pem_file_iter(file).map_err(describe)?;
    let certificates = found.collect::<Result<Vec<_>, _>>().map_err(describe)?;
    if certificates.is_empty() {
        return Err("no certificate in it".to_owned());
    }
    Ok(certificates)
}

fn private_key(file: &Path, format: KeyFormat) -> Result<PrivateKeyDer<'static>, String> {
    let bytes = std::fs::read(file).map_err(|error| error.to_string())?;
    match format {
        KeyFormat::Der => PrivateKeyDer::try_from(bytes).map_err(str::to_owned),
        KeyFormat::Pem => PrivateKeyDer::from_pem_slice(&bytes).map_err(|error| {
            if contains(&bytes, b"ENCRYPTED") {
                "the key is encrypted; a server cannot ask for its passphrase".to_owned()
            } else {
                match error {
                    pem::Error::NoItemsFound => "no private key in it".to_owned(),
                    error => describe(error),
                }
            }
        }),
    }
}

fn authorities(file: &Path) -> Result<RootCertStore, String> {
    let mut authorities = RootCertStore::empty();
    let (added, _) = authorities.add_parsable_certificates(certificates(file)?);
    if added == 0 {
        return Err("no certificate in it can be an authority".to_owned());
    }
    Ok(authorities)
}

fn describe(error: pem::Error) -> String {
    match error {
        pem::Error::Io(error) => error.to_string(),
        error => error.to_string(),
    }
}

/// Whether the certificate speaks of this key.
fn is_consistent(server: &CertifiedKey) -> bool {
    if server.keys_match().is_ok() {
        return true;
    }
    // Certificates of X.509's first version, which many a home-made authority issues, cannot be parsed here, and need
    // not be: the client does that. They hold their key's encoding like all others.
    let Some(key) = server.key.public_key() else { return true };
    server.end_entity_cert().is_ok_and(|certificate| contains(certificate, &key))
}

fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len().max(1)).any(|window| window == wanted)
}
