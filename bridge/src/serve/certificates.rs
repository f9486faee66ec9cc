//! The certificates of all TLS ports.

use broker::net::{Tls, TlsSettings};
use tokio::task::JoinSet;
use tracing::{error, info};

use crate::settings::{ClientCert, Settings, is_unset};
use crate::store::chain;

/// `None` where nobody listens.
pub(super) struct Certificates {
    pub(super) mqtts: Option<Tls>,
    pub(super) https: Option<Tls>,
    /// Where bridges join.
    pub(super) link: Option<Tls>,
}

impl Certificates {
    pub(super) fn load(settings: &Settings) -> anyhow::Result<Self> {
        Ok(Certificates {
            mqtts: mqtts(settings)?,
            https: https(settings)?,
            link: None,
        })
    }

    /// Of a broker that bridges join.
    pub(super) fn load_with_link(settings: &Settings) -> anyhow::Result<Self> {
        Ok(Certificates {
            link: link(settings)?,
            ..Self::load(settings)?
        })
    }

    /// Of a bridge, which has no clients.
    pub(super) fn load_https(settings: &Settings) -> anyhow::Result<Self> {
        Ok(Certificates {
            mqtts: None,
            https: https(settings)?,
            link: None,
        })
    }

    fn all(&self) -> impl Iterator<Item = &Tls> {
        self.mqtts.iter().chain(&self.https).chain(&self.link)
    }

    /// Looks whether their files were replaced, for as long as the tasks are there.
    pub(super) fn follow(&self, watchers: &mut JoinSet<()>) {
        for tls in self.all().cloned() {
            watchers.spawn(tls.follow_files());
        }
    }

    /// What can't be used is logged, and what was there before stays.
    pub(super) fn reload(&self) {
        for tls in self.all() {
            match tls.reload() {
                Ok(()) => info!("the certificate was read again"),
                Err(error) => error!(error = %chain(&error), "the old certificate stays in use"),
            }
        }
    }
}

fn mqtts(settings: &Settings) -> anyhow::Result<Option<Tls>> {
    let mqtts = &settings.mqtts;
    if mqtts.listen.is_empty() {
        return Ok(None);
    }
    let client_ca = Some(&mqtts.client_ca).filter(|file| !is_unset(file));
    let tls = Tls::load(TlsSettings {
        cert: mqtts.cert.clone(),
        key: mqtts.key.clone(),
        client_ca: client_ca.cloned(),
        client_cert_required: mqtts.client_cert == ClientCert::Required,
        protocol: "mqtt",
    })?;
    Ok(Some(tls))
}

fn link(settings: &Settings) -> anyhow::Result<Option<Tls>> {
    let link = &settings.link;
    if is_unset(&link.cert) {
        return Ok(None);
    }
    let tls = Tls::load(TlsSettings {
        cert: link.cert.clone(),
        key: link.key.clone(),
        client_ca: None,
        client_cert_required: false,
        protocol: "mqtt",
    })?;
    Ok(Some(tls))
}

/// The same for HTTPS, whose certificate is that of MQTTS unless it has its own.
fn https(settings: &Settings) -> anyhow::Result<Option<Tls>> {
    let (https, mqtts) = (&settings.https, &settings.mqtts);
    if https.listen.is_empty() {
        return Ok(None);
    }
    let (cert, key) = if is_unset(&https.cert) {
        (&mqtts.cert, &mqtts.key)
    } else {
        (&https.cert, &https.key)
    };
    let tls = Tls::load(TlsSettings {
        cert: cert.clone(),
        key: key.clone(),
        client_ca: None,
        client_cert_required: false,
        protocol: "http/1.1",
    })?;
    Ok(Some(tls))
}
