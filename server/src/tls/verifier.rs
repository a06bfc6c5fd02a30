//! What is asked of a client's certificate.

use crate::options::VerifyMode;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme,
};
use std::sync::Arc;

/// `None`: clients are not asked.
pub(super) fn verifier(
    mode: VerifyMode,
    authorities: Option<&Arc<RootCertStore>>,
    provider: &Arc<CryptoProvider>,
) -> Result<Option<Arc<dyn ClientCertVerifier>>, String> {
    let mandatory = match mode {
        VerifyMode::None => return Ok(None),
        VerifyMode::Request => false,
        VerifyMode::Require => true,
    };
    let Some(authorities) = authorities else {
        return Ok(Some(Arc::new(WithoutAuthority { mandatory, provider: Arc::clone(provider) })));
    };
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::clone(authorities), Arc::clone(provider));
    let builder = if mandatory { builder } else { builder.allow_unauthenticated() };
    let verifier = builder.build().map_err(|error| format!("Error loading the CA certificate: {error}"))?;
    Ok(Some(verifier))
}

/// There is nobody who could vouch for a client: every certificate is a bad one.
#[derive(Debug)]
struct WithoutAuthority {
    mandatory: bool,
    provider: Arc<CryptoProvider>,
}

const UNKNOWN: Error = Error::InvalidCertificate(CertificateError::UnknownIssuer);

impl ClientCertVerifier for WithoutAuthority {
    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Err(UNKNOWN)
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(UNKNOWN)
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(UNKNOWN)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
