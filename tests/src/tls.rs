//! Certificates made for one test, and connections that trust them.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use anyhow::Result;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// One who signs certificates.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    cert: rcgen::Certificate,
}

/// Trust in one authority, and in no other.
#[derive(Clone)]
pub struct Trust(CertificateDer<'static>);

/// A certificate with its key.
pub struct Certified {
    cert: rcgen::Certificate,
    key: KeyPair,
}

// === impl Authority ===

impl Authority {
    /// A new one, whom nobody trusts yet.
    pub fn new() -> Result<Self> {
        let mut params = named("Tidings Test Authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate()?;
        let cert = params.self_signed(&key)?;
        Ok(Authority {
            issuer: Issuer::new(params, key),
            cert,
        })
    }

    /// A certificate for a server on this machine.
    pub fn server(&self) -> Result<Certified> {
        let mut params = named("localhost");
        let names = ["localhost".to_owned(), Ipv4Addr::LOCALHOST.to_string()];
        params.subject_alt_names = CertificateParams::new(names)?.subject_alt_names;
        self.sign(params, ExtendedKeyUsagePurpose::ServerAuth)
    }

    /// A certificate for a client with this common name.
    pub fn client(&self, common_name: &str) -> Result<Certified> {
        self.sign(named(common_name), ExtendedKeyUsagePurpose::ClientAuth)
    }

    fn sign(
        &self,
        mut params: CertificateParams,
        usage: ExtendedKeyUsagePurpose,
    ) -> Result<Certified> {
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate()?;
        let cert = params.signed_by(&key, &self.issuer)?;
        Ok(Certified { cert, key })
    }

    /// For `--cafile`.
    pub fn cert_pem(&self) -> String {
        self.cert.pem()
    }

    /// What its clients go by.
    pub fn trust(&self) -> Trust {
        Trust(self.cert.der().clone())
    }
}

// === impl Trust ===

impl Trust {
    /// Opens a TLS connection, and shows `identity`.
    pub async fn connect(
        &self,
        address: SocketAddr,
        identity: Option<&Certified>,
    ) -> Result<TlsStream<TcpStream>> {
        let socket = TcpStream::connect(address).await?;
        socket.set_nodelay(true)?;
        let mut roots = RootCertStore::empty();
        roots.add(self.0.clone())?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots);
        let config = match identity {
            None => config.with_no_client_auth(),
            Some(identity) => {
                config.with_client_auth_cert(vec![identity.cert.der().clone()], identity.key())?
            }
        };
        let name = ServerName::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST).into());
        let connector = TlsConnector::from(Arc::new(config));
        Ok(connector.connect(name, socket).await?)
    }
}

// === impl Certified ===

impl Certified {
    pub fn cert_pem(&self) -> String {
        self.cert.pem()
    }

    pub fn key_pem(&self) -> String {
        self.key.serialize_pem()
    }

    /// The certificate as it goes over the wire.
    pub fn der(&self) -> &CertificateDer<'static> {
        self.cert.der()
    }

    fn key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(self.key.serialize_der().into())
    }
}

fn named(common_name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params
        .distinguished_name
        .push(DnType::CommonName, common_name);
    params
}
