//! TLS for the load: a throw-away certificate, and connections that look like plain ones.
//!
//! The client verifies nothing: its own work is not what is measured, and the less it does, the more the server can be
//! made to do. All of it uses one cipher suite and one key exchange, so that every server does the same.

use anyhow::{Context, Result, ensure};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CipherSuite, ClientConfig, ClientConnection, DigitallySignedStruct, Error, NamedGroup, SignatureScheme,
    StreamOwned,
};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsRawFd, RawFd};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;

/// What the servers show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    EcdsaP256,
    Rsa2048,
}

impl Key {
    pub fn name(self) -> &'static str {
        match self {
            Key::EcdsaP256 => "ECDSA P-256",
            Key::Rsa2048 => "RSA 2048",
        }
    }
}

/// A certificate and its key, in a folder that goes with this.
#[derive(Debug)]
pub struct Certificate {
    folder: PathBuf,
}

impl Certificate {
    pub fn make(key: Key) -> Result<Certificate> {
        let folder = std::env::temp_dir().join(format!("unbuckle-bench-{}-{key:?}", std::process::id()));
        std::fs::create_dir_all(&folder)?;
        let certificate = Certificate { folder };
        let kind: &[&str] = match key {
            Key::EcdsaP256 => &["ec", "-pkeyopt", "ec_paramgen_curve:P-256"],
            Key::Rsa2048 => &["rsa:2048"],
        };
        let mut command = Command::new("openssl");
        command
            .args(["req", "-x509", "-days", "2", "-nodes", "-subj", "/CN=localhost", "-newkey"])
            .args(kind);
        command.arg("-keyout").arg(certificate.key_file()).arg("-out").arg(certificate.chain_file());
        let status = command.stdin(Stdio::null()).stderr(Stdio::null()).status();
        ensure!(status.context("running openssl: apt-get install openssl")?.success(), "{command:?}");
        Ok(certificate)
    }

    pub fn chain_file(&self) -> PathBuf {
        self.folder.join("chain.pem")
    }

    pub fn key_file(&self) -> PathBuf {
        self.folder.join("key.pem")
    }
}

impl Drop for Certificate {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// How connections are made.
#[derive(Clone, Debug)]
pub struct Client {
    config: Arc<ClientConfig>,
}

impl Client {
    /// TLS 1.3 with AES-128-GCM and X25519; every handshake is a whole one.
    pub fn new() -> Result<Client> {
        let mut provider = aws_lc_rs::default_provider();
        provider.cipher_suites.retain(|suite| suite.suite() == CipherSuite::TLS13_AES_128_GCM_SHA256);
        provider.kx_groups.retain(|group| group.name() == NamedGroup::X25519);
        let provider = Arc::new(provider);
        let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Credulous(provider)))
            .with_no_client_auth();
        config.resumption = Resumption::disabled();
        Ok(Client { config: Arc::new(config) })
    }

    /// A handshake over a blocking socket.
    pub fn greet(&self, mut socket: TcpStream) -> Result<StreamOwned<ClientConnection, TcpStream>> {
        let mut machine =
            ClientConnection::new(Arc::clone(&self.config), ServerName::try_from("localhost")?)?;
        while machine.is_handshaking() {
            machine.complete_io(&mut socket)?;
        }
        Ok(StreamOwned::new(machine, socket))
    }
}

/// A connection of the load.
#[derive(Debug)]
pub enum Wire {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Wire {
    pub fn socket(&self) -> &TcpStream {
        match self {
            Wire::Plain(socket) => socket,
            Wire::Tls(stream) => &stream.sock,
        }
    }
}

impl AsRawFd for Wire {
    fn as_raw_fd(&self) -> RawFd {
        self.socket().as_raw_fd()
    }
}

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Wire::Plain(socket) => socket.read(buffer),
            Wire::Tls(stream) => stream.read(buffer),
        }
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Wire::Plain(socket) => socket.write(bytes),
            Wire::Tls(stream) => stream.write(bytes),
        }
    }
    fn flush(&mut self) -> io::Result<()> {
        match self {
            Wire::Plain(socket) => socket.flush(),
            Wire::Tls(stream) => stream.flush(),
        }
    }
}

#[derive(Debug)]
struct Credulous(Arc<CryptoProvider>);

impl ServerCertVerifier for Credulous {
    fn verify_server_cert(
        &self,
        _certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _stapled: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
