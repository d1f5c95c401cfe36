//! TLS to the gateway itself (`supports_tls`).

use std::{io, sync::Arc};

use tokio::net::TcpStream;
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{self, ClientConfig, RootCertStore, crypto::ring, pki_types::ServerName},
};

/// Why TLS with the gateway did not come about.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// No certificate that could vouch for the gateway.
    #[error("there is no root certificate to trust{}", .0.as_deref().map(|e| format!(": {e}")).unwrap_or_default())]
    Roots(Option<String>),
    /// The configuration of TLS.
    #[error("TLS cannot be set up: {0}")]
    Setup(#[from] rustls::Error),
    /// A host that no certificate can be for.
    #[error("{0:?} is no name that a certificate can be for")]
    Name(String),
    /// The other side does not speak what was asked for.
    #[error("the gateway's TLS does not speak HTTP/2 (ALPN)")]
    OtherProtocol,
    /// The handshake.
    #[error("TLS handshake: {0}")]
    Handshake(#[from] io::Error),
}

/// What is spoken over TLS, as ALPN says it (RFC 7301).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Speaks {
    /// HTTP/1.1, also where the other side does not say.
    Http1,
    /// HTTP/2.
    Http2,
}

impl Speaks {
    const fn name(self) -> &'static [u8] {
        match self {
            Self::Http1 => b"http/1.1",
            Self::Http2 => b"h2",
        }
    }
}

/// Trusts what the host trusts, or what `SSL_CERT_FILE` and `SSL_CERT_DIR` name.
///
/// # Errors
/// [`TlsError::Roots`] if that is nothing.
pub fn native() -> Result<Arc<ClientConfig>, TlsError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        return Err(TlsError::Roots(found.errors.first().map(ToString::to_string)));
    }
    config(roots)
}

/// Trusts `roots`.
///
/// # Errors
/// [`TlsError::Setup`].
pub fn config(roots: RootCertStore) -> Result<Arc<ClientConfig>, TlsError> {
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// Speaks TLS on a connection to `host`.
///
/// # Errors
/// [`TlsError::Name`] or [`TlsError::Handshake`].
pub async fn handshake(
    config: &Arc<ClientConfig>,
    speaks: Speaks,
    host: &str,
    stream: TcpStream,
) -> Result<TlsStream<TcpStream>, TlsError> {
    let literal = host.trim_start_matches('[').trim_end_matches(']');
    let name = ServerName::try_from(literal.to_owned()).map_err(|_| TlsError::Name(host.to_owned()))?;
    let connector = TlsConnector::from(Arc::clone(config));
    let stream = connector.with_alpn(vec![speaks.name().to_vec()]).connect(name, stream).await?;
    match stream.get_ref().1.alpn_protocol() {
        None if speaks == Speaks::Http2 => Err(TlsError::OtherProtocol),
        _ => Ok(stream),
    }
}
