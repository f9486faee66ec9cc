//! TLS: the certificate, its renewal without a restart, and the certificates of clients.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use std::{fs, io};

use parking_lot::RwLock;
use rustls::crypto::ring;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{InconsistentKeys, RootCertStore, ServerConfig};
use schema::Uid;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tracing::{error, info};
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// How often the files are looked at. What has changed is loaded when it is the same at two looks: certificate and key
/// are not replaced in one instant.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);
/// What a connection may hold that its client has not taken yet, in bytes: the largest record. The default is four
/// times as much.
const UNSENT_MAX: usize = 16 * 1024;

/// What a port needs to speak TLS.
#[derive(Clone, Debug)]
pub struct TlsSettings {
    /// PEM file: the certificate with its chain.
    pub cert: PathBuf,
    /// PEM file: the certificate's private key, not encrypted.
    pub key: PathBuf,
    /// PEM file: whose client certificates count. `None`: clients are not asked for one.
    pub client_ca: Option<PathBuf>,
    /// Whether a client must have a certificate. Without `client_ca` it can't.
    pub client_cert_required: bool,
    /// The name of what is spoken inside (ALPN): a client that names protocols has to name this one, so that nobody can
    /// turn a client of one port to another.
    pub protocol: &'static str,
}

/// A file that TLS can't be spoken with.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// There is no such file, or we may not read it.
    #[error("can't read {file}")]
    Unreadable {
        /// Which one.
        file: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// It is not what it should be.
    #[error("{file} does not hold {expected} in PEM format")]
    Malformed {
        /// Which one.
        file: PathBuf,
        /// What should be in it.
        expected: &'static str,
        /// What is wrong.
        #[source]
        source: pem::Error,
    },
    /// Each is fine, but not with the other.
    #[error("{key} is not the key of the certificate in {cert}")]
    Mismatch {
        /// The certificate.
        cert: PathBuf,
        /// The other one.
        key: PathBuf,
    },
    /// It is of a kind that can't be used.
    #[error("{file} can't be used")]
    Unusable {
        /// Which one.
        file: PathBuf,
        /// Why.
        #[source]
        source: rustls::Error,
    },
}

/// A certificate that a client was let in with names no user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the client's certificate has no common name that is a uid")]
pub struct Nameless;

/// What new connections are greeted with. Cheap to clone.
#[derive(Clone)]
pub struct Tls(Arc<Inner>);

struct Inner {
    settings: TlsSettings,
    current: RwLock<Loaded>,
}

struct Loaded {
    config: Arc<ServerConfig>,
    /// Of the files that it was made from.
    fingerprint: u64,
}

/// The contents of all files, as far as they can be read.
#[derive(Hash)]
struct Files {
    cert: Result<Vec<u8>, io::ErrorKind>,
    key: Result<Vec<u8>, io::ErrorKind>,
    client_ca: Option<Result<Vec<u8>, io::ErrorKind>>,
}

// === impl Tls ===

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// [`TlsError`] with the file at fault.
    pub fn load(settings: TlsSettings) -> Result<Self, TlsError> {
        let current = RwLock::new(Loaded::read(&settings)?);
        Ok(Tls(Arc::new(Inner { settings, current })))
    }

    /// Reads the files again. Connections that exist stay as they are.
    ///
    /// # Errors
    /// [`TlsError`] with the file at fault; new connections go on with what was there before.
    pub fn reload(&self) -> Result<(), TlsError> {
        let loaded = Loaded::read(&self.0.settings)?;
        *self.0.current.write() = loaded;
        Ok(())
    }

    /// Looks at the files for ever, and takes new ones. What can't be used is logged once.
    pub async fn follow_files(self) {
        self.follow(LOOK_INTERVAL).await;
    }

    async fn follow(self, interval: Duration) {
        let mut last = self.0.current.read().fingerprint;
        let mut refused = None;
        loop {
            tokio::time::sleep(interval).await;
            let inner = self.0.clone();
            let look = move || Files::read(&inner.settings).fingerprint();
            let Ok(now) = tokio::task::spawn_blocking(look).await else {
                continue;
            };
            let is_settled = std::mem::replace(&mut last, now) == now;
            let is_known = now == self.0.current.read().fingerprint || refused == Some(now);
            if !is_settled || is_known {
                continue;
            }
            let cert = self.0.settings.cert.display();
            match self.reload() {
                Ok(()) => info!(%cert, "a new certificate is in use"),
                Err(error) => {
                    refused = Some(now);
                    let source = std::error::Error::source(&error).map(ToString::to_string);
                    error!(%error, source, "the new certificate can't be used; the old one stays");
                }
            }
        }
    }

    /// Greets a client. Takes as long as the client takes: set a limit.
    ///
    /// # Errors
    /// [`io::Error`] when the connection ends, or the client does not agree with us.
    pub async fn accept<S>(&self, socket: S) -> io::Result<TlsStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let config = self.0.current.read().config.clone();
        let accepting = TlsAcceptor::from(config).accept_with(socket, |connection| {
            connection.set_buffer_limit(Some(UNSENT_MAX));
        });
        accepting.await
    }
}

/// The user that the client's certificate names; `None` for a client without one.
///
/// # Errors
/// [`Nameless`] for a certificate that names none.
pub fn certified<S>(stream: &TlsStream<S>) -> Result<Option<Uid>, Nameless> {
    let (_, connection) = stream.get_ref();
    match connection.peer_certificates() {
        None | Some([]) => Ok(None),
        Some([certificate, ..]) => common_name(certificate).map(Some),
    }
}

fn common_name(certificate: &[u8]) -> Result<Uid, Nameless> {
    let (_, certificate) = X509Certificate::from_der(certificate).map_err(|_| Nameless)?;
    let mut names = certificate.subject().iter_common_name();
    let (Some(name), None) = (names.next(), names.next()) else {
        return Err(Nameless);
    };
    let name = name.as_str().map_err(|_| Nameless)?;
    name.parse().map_err(|_| Nameless)
}

// === impl Loaded ===

impl Loaded {
    fn read(settings: &TlsSettings) -> Result<Self, TlsError> {
        let files = Files::read(settings);
        Ok(Loaded {
            fingerprint: files.fingerprint(),
            config: Arc::new(files.into_config(settings)?),
        })
    }
}

impl Files {
    fn read(settings: &TlsSettings) -> Self {
        // By their contents: links are swapped, times are set back, and a whole file is not much longer than a name.
        let read = |path: &Path| fs::read(path).map_err(|error| error.kind());
        Files {
            cert: read(&settings.cert),
            key: read(&settings.key),
            client_ca: settings.client_ca.as_deref().map(read),
        }
    }

    fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.hash(&mut hasher);
        hasher.finish()
    }

    fn into_config(self, settings: &TlsSettings) -> Result<ServerConfig, TlsError> {
        let (cert, key) = (&settings.cert, &settings.key);
        let chain = certificates(cert, self.cert)?;
        let key_bytes = readable(key, self.key)?;
        let private = PrivateKeyDer::from_pem_slice(&key_bytes)
            .map_err(|source| malformed(key, "a private key without password", source))?;
        let unusable = |file: &Path, source| TlsError::Unusable {
            file: file.to_owned(),
            source,
        };

        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|source| unusable(cert, source))?;
        let builder = match (&settings.client_ca, self.client_ca) {
            (Some(file), Some(bytes)) => {
                let authorities = certificates(file, bytes)?;
                let verifier = client_verifier(authorities, settings.client_cert_required)
                    .map_err(|source| unusable(file, source))?;
                builder.with_client_cert_verifier(verifier)
            }
            _ => builder.with_no_client_auth(),
        };
        let mut config =
            builder
                .with_single_cert(chain, private)
                .map_err(|source| match source {
                    rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
                        TlsError::Mismatch {
                            cert: cert.clone(),
                            key: key.clone(),
                        }
                    }
                    source => unusable(cert, source),
                })?;
        config.alpn_protocols = vec![settings.protocol.into()];
        // With new keys at each reload: who was let in by an authority that is gone can't come back by a ticket.
        config.ticketer = ring::Ticketer::new().map_err(|source| unusable(cert, source))?;
        Ok(config)
    }
}

fn client_verifier(
    authorities: Vec<CertificateDer>,
    is_required: bool,
) -> Result<Arc<dyn ClientCertVerifier>, rustls::Error> {
    let mut roots = RootCertStore::empty();
    for authority in authorities {
        roots.add(authority)?;
    }
    let provider = Arc::new(ring::default_provider());
    let mut builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    if !is_required {
        builder = builder.allow_unauthenticated();
    }
    builder
        .build()
        .map_err(|error| rustls::Error::General(error.to_string()))
}

/// All certificates of a file, of which there is at least one.
fn certificates(
    file: &Path,
    bytes: Result<Vec<u8>, io::ErrorKind>,
) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    const EXPECTED: &str = "a certificate";
    let bytes = readable(file, bytes)?;
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    match all {
        Ok(all) if all.is_empty() => Err(malformed(file, EXPECTED, pem::Error::NoItemsFound)),
        Ok(all) => Ok(all),
        Err(source) => Err(malformed(file, EXPECTED, source)),
    }
}

fn readable(file: &Path, bytes: Result<Vec<u8>, io::ErrorKind>) -> Result<Vec<u8>, TlsError> {
    bytes.map_err(|kind| TlsError::Unreadable {
        file: file.to_owned(),
        source: kind.into(),
    })
}

fn malformed(file: &Path, expected: &'static str, source: pem::Error) -> TlsError {
    TlsError::Malformed {
        file: file.to_owned(),
        expected,
        source,
    }
}

#[cfg(test)]
pub(crate) mod tests;
