//! A client's end of a TLS connection. The server's certificate is verified, as a careful client does.

use crate::authority::Authority;
use anyhow::{Context, Result};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{
    ClientConfig, ClientConnection, HandshakeKind, RootCertStore, StreamOwned, SupportedProtocolVersion,
};
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;

/// Counts the records that come, on their way from the socket.
#[derive(Debug)]
struct Tap {
    socket: TcpStream,
    header: Vec<u8>,
    /// Bytes of the record that has begun.
    left: usize,
    /// Records that look like data; TLS 1.3 makes everything look so once it is encrypted.
    data_records: usize,
}

const HEADER_BYTES: usize = 5;
const DATA: u8 = 23;

impl Tap {
    fn note(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let skipped = self.left.min(bytes.len());
            self.left -= skipped;
            bytes = &bytes[skipped..];
            let wanted = (HEADER_BYTES - self.header.len()).min(bytes.len());
            self.header.extend_from_slice(&bytes[..wanted]);
            bytes = &bytes[wanted..];
            if let [kind, _, _, high, low] = self.header[..] {
                self.left = usize::from(u16::from_be_bytes([high, low]));
                self.data_records += usize::from(kind == DATA);
                self.header.clear();
            }
        }
    }
}

impl Read for Tap {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.socket.read(buffer)?;
        self.note(&buffer[..count]);
        Ok(count)
    }
}

impl Write for Tap {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.socket.write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.socket.flush()
    }
}

/// What a client brings along. Connections made from one value resume each other's sessions.
#[derive(Clone, Debug)]
pub struct Identity {
    config: Arc<ClientConfig>,
}

impl Identity {
    /// Trusts `ca` of `authority`, and shows the certificate `client`, if any.
    pub fn new(
        authority: &Authority,
        client: Option<&str>,
        versions: &[&'static SupportedProtocolVersion],
    ) -> Result<Identity> {
        let mut trusted = RootCertStore::empty();
        trusted.add(CertificateDer::from_pem_file(authority.certificate("ca"))?)?;
        let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(versions)?
            .with_root_certificates(trusted);
        let config = match client {
            None => builder.with_no_client_auth(),
            Some(name) => {
                let certificate = CertificateDer::from_pem_file(authority.certificate(name))?;
                let key = PrivateKeyDer::from_pem_file(authority.key(name))?;
                builder.with_client_auth_cert(vec![certificate], key)?
            }
        };
        Ok(Identity { config: Arc::new(config) })
    }

    /// One that any server of [`Authority::shared`] accepts.
    pub fn plain() -> Result<Identity> {
        Identity::new(Authority::shared()?, None, rustls::ALL_VERSIONS)
    }

    /// A client's side of the protocol, without a connection.
    pub fn machine(&self) -> Result<ClientConnection> {
        let name = ServerName::try_from("localhost").context("a name")?;
        Ok(ClientConnection::new(Arc::clone(&self.config), name)?)
    }

    /// One that gives its keys away.
    pub fn revealing_machine(&self) -> Result<ClientConnection> {
        let mut config = ClientConfig::clone(&self.config);
        config.enable_secret_extraction = true;
        Identity { config: Arc::new(config) }.machine()
    }

    /// Connects. The handshake happens with the first read or write.
    pub fn connect(&self, address: SocketAddr) -> Result<TlsStream> {
        let socket = TcpStream::connect(address)?;
        socket.set_nodelay(true)?;
        let connection = self.machine()?;
        let tap = Tap { socket, header: Vec::new(), left: 0, data_records: 0 };
        Ok(TlsStream { stream: StreamOwned::new(connection, tap) })
    }
}

#[derive(Debug)]
pub struct TlsStream {
    stream: StreamOwned<ClientConnection, Tap>,
}

impl TlsStream {
    pub fn socket(&self) -> &TcpStream {
        &self.stream.sock.socket
    }

    /// Says that nothing more follows.
    pub fn finish(&mut self) -> Result<()> {
        self.stream.conn.send_close_notify();
        while self.stream.conn.wants_write() {
            self.stream.conn.write_tls(&mut self.stream.sock)?;
        }
        self.socket().shutdown(Shutdown::Write)?;
        Ok(())
    }

    /// Known once something has been read.
    pub fn was_resumed(&self) -> bool {
        self.stream.conn.handshake_kind() == Some(HandshakeKind::Resumed)
    }

    /// The server's certificate, encoded.
    pub fn peer_certificate(&self) -> Vec<u8> {
        let certificate = self.stream.conn.peer_certificates().and_then(<[_]>::first);
        certificate.map(|certificate| certificate.to_vec()).unwrap_or_default()
    }

    pub fn data_records(&self) -> usize {
        self.stream.sock.data_records
    }
}

impl Read for TlsStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.read(buffer)
    }
}

impl Write for TlsStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}
