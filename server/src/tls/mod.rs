//! TLS: what `-Z` turns on.
//!
//! - `credentials.rs` reads certificates and keys; `ciphers.rs` reads OpenSSL's cipher lists
//! - `verifier.rs` what is asked of clients
//! - `session.rs` one connection's state: records in, records out, no socket
//!
//! A session begun with one certificate keeps it; a refresh changes what new ones get. Sessions are resumed by ticket,
//! and with `ssl_session_cache` by id, too; a refresh forgets them all, since whom the server trusts may have changed.
//! One kind of listener never resumes what another began: who was not asked for a certificate there, is asked here.

mod ciphers;
mod credentials;
pub(crate) mod session;
mod verifier;

use crate::options::{Protection, TlsOptions, TlsVersion, VerifyMode};
use credentials::Credentials;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::{
    NoServerSessionStorage, ServerConfig, ServerSessionMemoryCache, StoresServerSessions,
    UnbufferedServerConnection,
};
use rustls::sign::SingleCertAndKey;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

/// Sessions that `ssl_session_cache` remembers, of some hundred bytes each, or a client certificate's more.
const SESSIONS_MAX: usize = 4096;

/// One for each kind of listener.
struct Contexts {
    configured: Arc<ServerConfig>,
    server_only: Arc<ServerConfig>,
    mutual: Arc<ServerConfig>,
}

/// What all workers share.
pub(crate) struct Tls {
    options: TlsOptions,
    provider: Arc<CryptoProvider>,
    contexts: RwLock<Contexts>,
    /// Uptime of the last refresh.
    refreshed_s: AtomicU32,
}

impl Tls {
    /// Reads what `options` name. An error is a message for the user.
    pub(crate) fn load(options: &TlsOptions) -> Result<Tls, String> {
        let mut options = options.clone();
        for path in [&mut options.chain_cert, &mut options.key, &mut options.ca_cert].into_iter().flatten() {
            // A daemon leaves the folder that they may be relative to.
            *path = std::path::absolute(&*path).unwrap_or_else(|_| PathBuf::clone(path));
        }
        let mut provider = aws_lc_rs::default_provider();
        if let Some(list) = &options.ciphers {
            provider.cipher_suites = ciphers::choose(list, &provider.cipher_suites)?;
        }
        let provider = Arc::new(provider);
        let contexts = RwLock::new(Contexts::build(&options, &provider)?);
        Ok(Tls { options, provider, contexts, refreshed_s: AtomicU32::new(0) })
    }

    /// Reads all files again. On an error everything stays as it was.
    pub(crate) fn refresh(&self, uptime_s: u32) -> Result<(), String> {
        let contexts = Contexts::build(&self.options, &self.provider)?;
        *self.contexts.write().unwrap_or_else(PoisonError::into_inner) = contexts;
        self.refreshed_s.store(uptime_s, Ordering::Relaxed);
        Ok(())
    }

    pub(crate) fn since_refresh_s(&self, uptime_s: u32) -> u32 {
        uptime_s.saturating_sub(self.refreshed_s.load(Ordering::Relaxed))
    }

    /// A new connection's state machine. `None` where the listener wants no TLS.
    fn accept(&self, protection: Protection) -> Option<Result<UnbufferedServerConnection, rustls::Error>> {
        let contexts = self.contexts.read().unwrap_or_else(PoisonError::into_inner);
        let context = match protection {
            Protection::None => return None,
            Protection::Configured => &contexts.configured,
            Protection::ServerOnly => &contexts.server_only,
            Protection::Mutual => &contexts.mutual,
        };
        Some(UnbufferedServerConnection::new(Arc::clone(context)))
    }
}

impl Contexts {
    fn build(options: &TlsOptions, provider: &Arc<CryptoProvider>) -> Result<Contexts, String> {
        let credentials = Credentials::read(options, provider)?;
        let context = |mode| context(options, provider, &credentials, mode).map(Arc::new);
        Ok(Contexts {
            configured: context(options.verify_mode)?,
            server_only: context(VerifyMode::None)?,
            mutual: context(VerifyMode::Require)?,
        })
    }
}

fn context(
    options: &TlsOptions,
    provider: &Arc<CryptoProvider>,
    credentials: &Credentials,
    mode: VerifyMode,
) -> Result<ServerConfig, String> {
    let versions: &[_] = match options.min_version {
        TlsVersion::Tls12 => &[&rustls::version::TLS13, &rustls::version::TLS12],
        TlsVersion::Tls13 => &[&rustls::version::TLS13],
    };
    let builder = ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(versions)
        .map_err(|error| format!("ssl_ciphers and ssl_min_version leave nothing to serve: {error}"))?;
    let builder = match verifier::verifier(mode, credentials.authorities.as_ref(), provider)? {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    };
    let certificate = SingleCertAndKey::from(Arc::clone(&credentials.server));
    let mut config = builder.with_cert_resolver(Arc::new(certificate));
    config.session_storage = session_storage(options.session_cache);
    config.ticketer = aws_lc_rs::Ticketer::new().map_err(|error| format!("no session tickets: {error}"))?;
    Ok(config)
}

fn session_storage(enabled: bool) -> Arc<dyn StoresServerSessions> {
    if enabled { ServerSessionMemoryCache::new(SESSIONS_MAX) } else { Arc::new(NoServerSessionStorage {}) }
}
