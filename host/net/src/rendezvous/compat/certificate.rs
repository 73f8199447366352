//! A certificate that follows its files, so that a renewed one is shown without a restart. Used by the accepting task.

use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use tokio_rustls::TlsAcceptor;

use crate::tls::{ServerTls, TlsError};

/// A certificate chain and its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The chain, PEM, leaf first.
    pub certificate: PathBuf,
    /// The private key, PEM.
    pub key: PathBuf,
}

/// What tells one state of a file from another: device, inode, size, and time of the last change in nanoseconds.
type Stamp = Option<(u64, u64, u64, i64, i64)>;

impl CertificateFiles {
    fn stamps(&self) -> [Stamp; 2] {
        [&self.certificate, &self.key].map(|path| {
            let data = std::fs::metadata(path).ok()?;
            Some((data.dev(), data.ino(), data.size(), data.mtime(), data.mtime_nsec()))
        })
    }

    fn read(&self) -> Result<ServerTls, TlsError> {
        ServerTls::from_files(&self.certificate, &self.key)
    }
}

/// The present certificate.
pub(in crate::rendezvous) struct Certificate {
    files: CertificateFiles,
    stamps: [Stamp; 2],
    tls: ServerTls,
}

impl Certificate {
    /// Reads the files.
    ///
    /// # Errors
    /// When they cannot be read, or do not go together.
    pub fn load(files: CertificateFiles) -> Result<Self, TlsError> {
        // Before the reading: a change in between is then seen at the next look.
        let stamps = files.stamps();
        let tls = files.read()?;
        Ok(Self { files, stamps, tls })
    }

    /// For the next connection.
    pub fn acceptor(&self) -> TlsAcceptor {
        self.tls.acceptor()
    }

    /// Takes changed files. What cannot be used is named once per change, and the old certificate stays: between the
    /// change of the one file and of the other they do not go together.
    pub async fn refresh(&mut self) {
        let files = self.files.clone();
        let known = self.stamps;
        let look = move || {
            let stamps = files.stamps();
            (stamps != known).then(|| (stamps, files.read()))
        };
        // A panic in there is the only other outcome; the old certificate stays.
        let Ok(Some((stamps, read))) = tokio::task::spawn_blocking(look).await else { return };
        self.stamps = stamps;
        match read {
            Ok(tls) => {
                tracing::info!(fingerprint = tls.fingerprint(), "compat beacon: certificate exchanged");
                self.tls = tls;
            }
            Err(e) => {
                tracing::warn!(error = %e, "compat beacon: the changed certificate is not used, the old one stays");
            }
        }
    }
}
