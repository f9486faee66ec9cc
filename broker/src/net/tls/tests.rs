//! Real handshakes over loopback, with certificates made here.

use std::error::Error;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsConnector, client};

use super::*;

/// Signs certificates, and keeps the server's files.
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: TempDir,
}

/// A certificate and its key, as PEM.
struct Pair(String, String);

impl Authority {
    /// With a certificate for a server.
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let authority = Authority {
            issuer: CertifiedIssuer::self_signed(params, key).unwrap(),
            folder: TempDir::new().unwrap(),
        };
        authority.write("ca.pem", &authority.issuer.pem());
        let Pair(cert, key) = authority.pair("server");
        authority.write("cert.pem", &cert);
        authority.write("key.pem", &key);
        authority
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.folder.path().join(name), text).unwrap();
    }

    fn pair(&self, name: &str) -> Pair {
        self.pair_of(&[name])
    }

    fn pair_of(&self, names: &[&str]) -> Pair {
        let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        if let [name] = names {
            params.distinguished_name.push(DnType::CommonName, *name);
        }
        let key = KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        Pair(cert.pem(), key.serialize_pem())
    }

    pub(crate) fn settings(&self) -> TlsSettings {
        TlsSettings {
            cert: self.folder.path().join("cert.pem"),
            key: self.folder.path().join("key.pem"),
            client_ca: None,
            client_cert_required: false,
            protocol: "mqtt",
        }
    }

    pub(crate) fn settings_with_clients(&self, client_cert_required: bool) -> TlsSettings {
        TlsSettings {
            client_ca: Some(self.folder.path().join("ca.pem")),
            client_cert_required,
            ..self.settings()
        }
    }

    fn anonymous(&self) -> ClientConfig {
        self.client(None)
    }

    fn client(&self, pair: Option<Pair>) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).unwrap();
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let Some(Pair(cert, key)) = pair else {
            return builder.with_no_client_auth();
        };
        let cert = CertificateDer::from_pem_slice(cert.as_bytes()).unwrap();
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
        builder.with_client_auth_cert(vec![cert], key).unwrap()
    }

    /// A client with a certificate of that name, or without any.
    pub(crate) async fn connect(
        &self,
        socket: TcpStream,
        name: Option<&str>,
    ) -> io::Result<client::TlsStream<TcpStream>> {
        let config = self.client(name.map(|name| self.pair(name)));
        connect(socket, Arc::new(config)).await
    }
}

async fn connect(
    socket: TcpStream,
    config: Arc<ClientConfig>,
) -> io::Result<client::TlsStream<TcpStream>> {
    let localhost = ServerName::try_from("localhost").unwrap();
    TlsConnector::from(config).connect(localhost, socket).await
}

/// A handshake and a byte each way. Who the server takes the client for, and the certificate that the client saw.
async fn meet(
    tls: &Tls,
    client: &Arc<ClientConfig>,
) -> io::Result<(Result<Option<Uid>, Nameless>, CertificateDer<'static>)> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let socket = TcpStream::connect(listener.local_addr().unwrap())
        .await
        .unwrap();
    let server = async {
        let (socket, _) = listener.accept().await?;
        let mut stream = tls.accept(socket).await?;
        let uid = certified(&stream);
        let byte = stream.read_u8().await?;
        stream.write_u8(byte).await?;
        stream.shutdown().await?;
        Ok(uid)
    };
    let client = async {
        let mut stream = connect(socket, client.clone()).await?;
        stream.write_u8(7).await?;
        assert_eq!(stream.read_u8().await?, 7);
        let (_, connection) = stream.get_ref();
        Ok::<_, io::Error>(connection.peer_certificates().unwrap()[0].clone())
    };
    let (server, client): (io::Result<_>, _) = tokio::join!(server, client);
    Ok((server?, client?))
}

fn der(pem: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
}

#[tokio::test]
async fn clients_are_who_their_certificates_say() {
    let authority = Authority::new();
    let stranger = Authority::new();
    let optional = Tls::load(authority.settings_with_clients(false)).unwrap();
    let required = Tls::load(authority.settings_with_clients(true)).unwrap();
    let unasked = Tls::load(authority.settings()).unwrap();

    let alice: Uid = "alice".parse().unwrap();
    let of_alice = || Some(authority.pair("alice"));
    for (tls, pair, expected) in [
        (&optional, None, Some(Ok(None))),
        (&optional, of_alice(), Some(Ok(Some(alice.clone())))),
        (&required, of_alice(), Some(Ok(Some(alice)))),
        (&required, None, None),
        (&optional, Some(stranger.pair("alice")), None),
        (
            &optional,
            Some(authority.pair("no uid")),
            Some(Err(Nameless)),
        ),
        (
            &optional,
            Some(authority.pair("$anonymous")),
            Some(Err(Nameless)),
        ),
        (&optional, Some(authority.pair_of(&[])), Some(Err(Nameless))),
        (&unasked, of_alice(), Some(Ok(None))),
    ] {
        let client = Arc::new(authority.client(pair));
        let met = meet(tls, &client).await.ok().map(|(uid, _)| uid);
        assert_eq!(met, expected);
        if let Some(expected) = expected {
            // Once more, by the ticket of the first time.
            assert_eq!(meet(tls, &client).await.unwrap().0, expected);
        }
    }
}

#[tokio::test]
async fn a_client_of_another_protocol_is_turned_away() {
    let authority = Authority::new();
    let tls = Tls::load(authority.settings()).unwrap();
    for (protocols, is_welcome) in [
        (vec![], true),
        (vec!["mqtt"], true),
        (vec!["x", "mqtt"], true),
        (vec!["http/1.1"], false),
    ] {
        let mut client = authority.anonymous();
        client.alpn_protocols = protocols.iter().map(|name| (*name).into()).collect();
        let met = meet(&tls, &Arc::new(client)).await;
        assert_eq!(met.is_ok(), is_welcome, "{protocols:?}");
    }
}

#[tokio::test]
async fn tls_1_2_is_spoken_too() {
    let authority = Authority::new();
    let tls = Tls::load(authority.settings_with_clients(true)).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(authority.issuer.der().clone()).unwrap();
    let Pair(cert, key) = authority.pair("alice");
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
    let client = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(vec![der(&cert)], key)
        .unwrap();
    let (uid, _) = meet(&tls, &Arc::new(client)).await.unwrap();
    assert_eq!(uid, Ok(Some("alice".parse().unwrap())));
}

#[test]
fn what_is_wrong_with_the_files_is_told() {
    let authority = Authority::new();
    let path = |name: &str| authority.folder.path().join(name);
    authority.write("empty.pem", "");
    authority.write(
        "bad.pem",
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    );
    authority.write("other-key.pem", &authority.pair("server").1);
    let good = authority.settings();
    for (settings, expected) in [
        (
            TlsSettings {
                cert: path("gone.pem"),
                ..good.clone()
            },
            "can't read DIR/gone.pem",
        ),
        (
            TlsSettings {
                key: path("gone.pem"),
                ..good.clone()
            },
            "can't read DIR/gone.pem",
        ),
        (
            TlsSettings {
                cert: path("empty.pem"),
                ..good.clone()
            },
            "DIR/empty.pem does not hold a certificate in PEM format",
        ),
        (
            TlsSettings {
                cert: path("bad.pem"),
                ..good.clone()
            },
            "DIR/bad.pem can't be used",
        ),
        (
            TlsSettings {
                key: path("cert.pem"),
                ..good.clone()
            },
            "DIR/cert.pem does not hold a private key without password in PEM format",
        ),
        (
            TlsSettings {
                key: path("other-key.pem"),
                ..good.clone()
            },
            "DIR/other-key.pem is not the key of the certificate in DIR/cert.pem",
        ),
        (
            TlsSettings {
                client_ca: Some(path("gone.pem")),
                ..good.clone()
            },
            "can't read DIR/gone.pem",
        ),
        (
            TlsSettings {
                client_ca: Some(path("empty.pem")),
                ..good.clone()
            },
            "DIR/empty.pem does not hold a certificate in PEM format",
        ),
        (
            TlsSettings {
                client_ca: Some(path("bad.pem")),
                ..good.clone()
            },
            "DIR/bad.pem can't be used",
        ),
    ] {
        let error = Tls::load(settings).err().unwrap();
        let folder = authority.folder.path().to_str().unwrap();
        assert_eq!(error.to_string().replace(folder, "DIR"), expected);
        let has_source = error.source().is_some();
        assert_eq!(has_source, !matches!(error, TlsError::Mismatch { .. }));
    }
}

#[tokio::test]
async fn a_bad_certificate_does_not_replace_a_good_one() {
    let authority = Authority::new();
    let tls = Tls::load(authority.settings()).unwrap();
    let client = Arc::new(authority.anonymous());
    let (_, old) = meet(&tls, &client).await.unwrap();
    let Pair(cert, key) = authority.pair("server");

    authority.write("cert.pem", &cert);
    assert!(matches!(tls.reload(), Err(TlsError::Mismatch { .. })));
    assert_eq!(meet(&tls, &client).await.unwrap().1, old);

    authority.write("key.pem", &key);
    tls.reload().unwrap();
    assert_eq!(meet(&tls, &client).await.unwrap().1, der(&cert));
}

#[tokio::test]
async fn swapped_links_are_followed() {
    let authority = Authority::new();
    let folder = authority.folder.path().to_owned();
    // As Kubernetes mounts a secret: the files are links through a link, and that one is replaced.
    let renew = |version: &str, Pair(cert, key): &Pair| {
        fs::create_dir(folder.join(version)).unwrap();
        authority.write(&format!("{version}/cert.pem"), cert);
        authority.write(&format!("{version}/key.pem"), key);
        std::os::unix::fs::symlink(version, folder.join("new")).unwrap();
        fs::rename(folder.join("new"), folder.join("data")).unwrap();
    };
    let (first, second) = (authority.pair("server"), authority.pair("server"));
    renew("1", &first);
    for name in ["cert.pem", "key.pem"] {
        fs::remove_file(folder.join(name)).unwrap();
        std::os::unix::fs::symlink(format!("data/{name}"), folder.join(name)).unwrap();
    }

    let tls = Tls::load(authority.settings()).unwrap();
    let following = tokio::spawn(tls.clone().follow(Duration::from_millis(10)));
    let client = Arc::new(authority.anonymous());
    assert_eq!(meet(&tls, &client).await.unwrap().1, der(&first.0));

    // What can't be used changes nothing, and is no end to following.
    let strange = Pair(second.0.clone(), first.1.clone());
    renew("2", &strange);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(meet(&tls, &client).await.unwrap().1, der(&first.0));

    renew("3", &second);
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while meet(&tls, &client).await.unwrap().1 != der(&second.0) {
        assert!(tokio::time::Instant::now() < deadline, "not followed");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    following.abort();
}
