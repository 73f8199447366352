//! TLS for the registry's and the compat transport's TCP connections (registry.md section 5, wss.md section 1): rustls
//! with ring, nothing else.
//!
//! A server shows a certificate from files or makes one for itself; either way clients may pin it by its fingerprint, the
//! SHA-256 of the leaf certificate's DER in lower-case hex. Used by `rendezvous`, `registry_client` and `compat`.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme};
use sha2::{Digest, Sha256};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A file cannot be read.
    #[error("TLS: {}: {cause}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        cause: io::Error,
    },
    /// A file was read, but holds nothing of the kind.
    #[error("TLS: {} holds no {what}; expected PEM", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
        /// What was looked for.
        what: &'static str,
    },
    /// Certificate and key do not go together, or are of a kind that cannot be used.
    #[error("TLS: {0}")]
    Unusable(String),
    /// A fingerprint is not 64 hexadecimal digits.
    #[error(
        "TLS: {0:?} is no fingerprint; expected the 64 hexadecimal digits that the server prints when it starts"
    )]
    Fingerprint(String),
}

fn unusable(e: impl fmt::Display) -> TlsError {
    TlsError::Unusable(e.to_string())
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// The certificates of a PEM file.
///
/// # Errors
/// When it cannot be read, or has none.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let bytes = read(path)?;
    let found: Result<Vec<_>, _> = rustls_pemfile::certs(&mut bytes.as_slice()).collect();
    let found = found.map_err(|cause| TlsError::Read { path: path.to_owned(), cause })?;
    if found.is_empty() {
        return Err(TlsError::Missing { path: path.to_owned(), what: "certificate" });
    }
    Ok(found)
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let bytes = read(path)?;
    rustls_pemfile::private_key(&mut bytes.as_slice())
        .map_err(|cause| TlsError::Read { path: path.to_owned(), cause })?
        .ok_or_else(|| TlsError::Missing { path: path.to_owned(), what: "private key" })
}

/// Largest PEM file that is read, bytes.
const MAX_FILE: u64 = 4 << 20;

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    let failed = |cause| TlsError::Read { path: path.to_owned(), cause };
    let mut bytes = Vec::new();
    let file = fs::File::open(path).map_err(failed)?;
    io::Read::read_to_end(&mut io::Read::take(file, MAX_FILE), &mut bytes).map_err(failed)?;
    Ok(bytes)
}

/// The SHA-256 of a certificate's DER, 64 lower-case hex digits.
pub fn fingerprint(certificate: &CertificateDer<'_>) -> String {
    use fmt::Write;
    Sha256::digest(certificate).iter().fold(String::with_capacity(64), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// What a server shows.
#[derive(Clone)]
pub struct ServerTls {
    config: Arc<ServerConfig>,
    fingerprint: String,
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ServerTls({})", self.fingerprint)
    }
}

impl ServerTls {
    /// From a certificate chain and its key, PEM.
    ///
    /// # Errors
    /// See [`TlsError`].
    pub fn from_files(certificate: &Path, key: &Path) -> Result<Self, TlsError> {
        Self::new(certificates(certificate)?, private_key(key)?)
    }

    /// A certificate of its own for localhost: ECDSA P-256, one year. With `keep`, the pair is kept in that directory
    /// (`tls-cert.pem`, `tls-key.pem` with mode 0600), so that the fingerprint stays the same over restarts.
    ///
    /// # Errors
    /// When it cannot be made or kept, or what was kept cannot be used.
    pub fn self_signed(keep: Option<&Path>) -> Result<Self, TlsError> {
        if let Some(dir) = keep {
            let (certificate, key) = (dir.join("tls-cert.pem"), dir.join("tls-key.pem"));
            if certificate.exists() && key.exists() {
                return Self::from_files(&certificate, &key);
            }
        }
        let names = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
        let pair = rcgen::KeyPair::generate().map_err(unusable)?;
        let mut params = rcgen::CertificateParams::new(names).map_err(unusable)?;
        let now = std::time::SystemTime::now();
        params.not_before = now.into();
        params.not_after = (now + std::time::Duration::from_secs(365 * 24 * 3600)).into();
        let made = params.self_signed(&pair).map_err(unusable)?;
        if let Some(dir) = keep {
            // The key first: a certificate without one is made anew, a key without one is replaced.
            write(dir, "tls-key.pem", &pair.serialize_pem())?;
            write(dir, "tls-cert.pem", &made.pem())?;
        }
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(pair.serialize_der()));
        Self::new(vec![made.der().clone()], key)
    }

    fn new(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Result<Self, TlsError> {
        let fingerprint = chain.first().map(fingerprint).unwrap_or_default();
        let config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(unusable)?
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .map_err(unusable)?;
        Ok(ServerTls { config: Arc::new(config), fingerprint })
    }

    /// What clients pin.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.config.clone())
    }
}

fn write(dir: &Path, name: &str, text: &str) -> Result<(), TlsError> {
    use std::os::unix::fs::PermissionsExt;
    let path = dir.join(name);
    let failed = |cause| TlsError::Read { path: path.clone(), cause };
    fs::create_dir_all(dir).map_err(failed)?;
    let mode = fs::Permissions::from_mode(0o600);
    let mut temp = tempfile::Builder::new().permissions(mode).tempfile_in(dir).map_err(failed)?;
    io::Write::write_all(&mut temp, text.as_bytes()).map_err(failed)?;
    temp.as_file().sync_all().map_err(failed)?;
    temp.persist(&path).map_err(|e| failed(e.error))?;
    Ok(())
}

/// Whom a client believes.
#[derive(Clone)]
pub struct ClientTls(Arc<ClientConfig>);

impl fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientTls")
    }
}

impl ClientTls {
    /// The server whose leaf certificate has this fingerprint, and nobody else; names and dates are not looked at.
    ///
    /// # Errors
    /// [`TlsError::Fingerprint`].
    pub fn pinned(fingerprint: &str) -> Result<Self, TlsError> {
        let want = fingerprint.trim().to_ascii_lowercase();
        if want.len() != 64 || !want.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(TlsError::Fingerprint(fingerprint.to_owned()));
        }
        let provider = provider();
        let verifier = Pin { want: Some(want), provider: provider.clone() };
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(unusable)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth();
        Ok(ClientTls(Arc::new(config)))
    }

    /// Servers whose certificate leads to one of the roots in a PEM file, under the name that was dialled.
    ///
    /// # Errors
    /// See [`TlsError`].
    pub fn roots(path: &Path) -> Result<Self, TlsError> {
        let mut roots = RootCertStore::empty();
        for root in certificates(path)? {
            roots.add(root).map_err(unusable)?;
        }
        let config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(unusable)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(ClientTls(Arc::new(config)))
    }

    /// Servers whose certificate leads to one of the system's roots; `SSL_CERT_FILE` and `SSL_CERT_DIR` are honoured. Looked
    /// up at each call. A system without roots is an error, not a client that believes nobody.
    ///
    /// # Errors
    /// [`TlsError::Unusable`].
    pub fn system() -> Result<Self, TlsError> {
        let found = rustls_native_certs::load_native_certs();
        let mut roots = RootCertStore::empty();
        // Systems carry certificates that nobody can use; the others count.
        roots.add_parsable_certificates(found.certs);
        if roots.is_empty() {
            let why = found.errors.first().map(|e| format!(": {e}")).unwrap_or_default();
            return Err(TlsError::Unusable(format!(
                "the system has no root certificates{why}; install ca-certificates, or set SSL_CERT_FILE"
            )));
        }
        let config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(unusable)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(ClientTls(Arc::new(config)))
    }

    /// No server at all: for connections in the clear, whose TLS settings nobody asks for.
    ///
    /// # Errors
    /// [`TlsError::Unusable`].
    pub fn none() -> Result<Self, TlsError> {
        let config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(unusable)?
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        Ok(ClientTls(Arc::new(config)))
    }

    /// Any server. Only for finding out what is there; nothing that matters may be said to it.
    ///
    /// # Errors
    /// [`TlsError::Unusable`].
    pub(crate) fn unverified() -> Result<Self, TlsError> {
        let provider = provider();
        let config = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(unusable)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Pin { want: None, provider }))
            .with_no_client_auth();
        Ok(ClientTls(Arc::new(config)))
    }

    /// For streams that the caller has opened.
    pub fn connector(&self) -> TlsConnector {
        TlsConnector::from(self.0.clone())
    }
}

/// Accepts one certificate, or any.
#[derive(Debug)]
struct Pin {
    want: Option<String>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pin {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(want) = &self.want else { return Ok(ServerCertVerified::assertion()) };
        let got = fingerprint(end_entity);
        if got == *want {
            return Ok(ServerCertVerified::assertion());
        }
        Err(rustls::Error::General(format!("certificate fingerprint mismatch: got {got}, want {want}")))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kept_certificate_keeps_its_fingerprint() {
        let dir = tempfile::tempdir().unwrap();
        let first = ServerTls::self_signed(Some(dir.path())).unwrap();
        let again = ServerTls::self_signed(Some(dir.path())).unwrap();
        assert_eq!(first.fingerprint(), again.fingerprint());
        assert_ne!(first.fingerprint(), ServerTls::self_signed(None).unwrap().fingerprint());
        let mode = std::os::unix::fs::PermissionsExt::mode(
            &fs::metadata(dir.path().join("tls-key.pem")).unwrap().permissions(),
        );
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn what_is_no_fingerprint_or_file_is_named() {
        let text = ClientTls::pinned("abc").unwrap_err().to_string();
        assert!(text.contains("\"abc\" is no fingerprint"), "{text}");
        let dir = tempfile::tempdir().unwrap();
        let empty = dir.path().join("empty.pem");
        fs::write(&empty, "nothing").unwrap();
        let text = ClientTls::roots(&empty).unwrap_err().to_string();
        assert!(text.contains("holds no certificate"), "{text}");
        let text = ServerTls::from_files(&empty, &dir.path().join("none")).unwrap_err().to_string();
        assert!(text.contains("holds no certificate"), "{text}");
    }
}
