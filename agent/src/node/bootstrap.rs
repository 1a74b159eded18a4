//! TLS bootstrap: from bootstrap credentials to a client certificate and the kubeconfig that uses it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::keys::{self, Validity};
use super::signing::{self, Ask, CLIENT_SIGNER};
use super::{Error, files};
use crate::api::{self, Api, Session};
use crate::config::Settings;

/// Pauses between tries while the API server is away.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LAST_PAUSE: Duration = Duration::from_secs(30);

/// Where a node's client certificates lie.
#[derive(Debug, Clone)]
pub(super) struct ClientStore {
    dir: PathBuf,
}

impl ClientStore {
    pub(super) fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    /// The link that always leads to the newest certificate with its key.
    pub(super) fn current(&self) -> PathBuf {
        self.dir.join("kubelet-client-current.pem")
    }

    fn pending_key(&self) -> PathBuf {
        self.dir.join("kubelet-client.key.tmp")
    }

    /// The key of a request that may be pending: kept over restarts, so that a signature that came meanwhile is of use.
    pub(super) fn key(&self) -> Result<String, Error> {
        if let Some(bytes) = files::read(&self.pending_key())?
            && let Ok(pem) = String::from_utf8(bytes)
            && keys::request_name("", &pem).is_ok()
        {
            return Ok(pem);
        }
        let pem = keys::generate()?;
        files::write(
            "node.write_pending_key",
            &self.pending_key(),
            pem.as_bytes(),
            0o600,
        )?;
        Ok(pem)
    }

    /// Takes a signed certificate into use.
    pub(super) fn store(&self, certificate: &[u8], key: &str, now: Timestamp) -> Result<(), Error> {
        keys::certified(certificate, key.as_bytes())?;
        let name = format!("kubelet-client-{}.pem", now.strftime("%Y-%m-%d-%H-%M-%S"));
        let path = self.dir.join(&name);
        let mut both = certificate.to_vec();
        if !both.ends_with(b"\n") {
            both.push(b'\n');
        }
        both.extend_from_slice(key.as_bytes());
        files::write("node.write_client_certificate", &path, &both, 0o600)?;
        files::link("node.link_client_certificate", &self.current(), Path::new(&path))?;
        files::remove("node.remove_pending_key", &self.pending_key())
    }
}

/// Why the kubeconfig does not serve, if it does not.
pub(super) async fn unusable(kubeconfig: &Path, now: Timestamp) -> Option<String> {
    if !kubeconfig.exists() {
        return Some("it does not exist".to_owned());
    }
    let config = match api::load(kubeconfig).await {
        Ok(config) => config,
        Err(error) => return Some(error.to_string()),
    };
    let auth = &config.auth_info;
    let pem = match (&auth.client_certificate_data, &auth.client_certificate) {
        (Some(data), _) => {
            use base64::Engine as _;
            base64::engine::general_purpose::STANDARD.decode(data).ok()
        }
        (None, Some(path)) => std::fs::read(path).ok(),
        // Tokens and exec plugins: nothing to look at.
        (None, None) if auth.token.is_some() || auth.token_file.is_some() || auth.exec.is_some() => {
            return None;
        }
        (None, None) => return Some("it has no credentials".to_owned()),
    };
    match pem.as_deref().map(Validity::of) {
        Some(Ok(validity)) if now >= validity.until => Some(format!(
            "its client certificate has expired on {}",
            validity.until
        )),
        Some(Ok(_)) => None,
        Some(Err(error)) => Some(error.to_string()),
        None => Some("its client certificate cannot be read".to_owned()),
    }
}

/// Makes sure that the kubeconfig can be used, by bootstrap credentials where it cannot. Waits for the API server as long
/// as that takes and says so.
///
/// # Errors
/// [`Error`] when waiting is of no use.
pub(crate) async fn ensure(settings: &Settings) -> Result<(), Error> {
    let Some(kubeconfig) = &settings.kubeconfig else {
        return Ok(());
    };
    let Some(reason) = unusable(kubeconfig, Timestamp::now()).await else {
        return Ok(());
    };
    let Some(bootstrap) = &settings.bootstrap_kubeconfig else {
        return Err(Error::Content {
            path: kubeconfig.clone(),
            cause: format!(
                "{reason}; give --bootstrap-kubeconfig, or join the cluster with \"longshore join\""
            ),
        });
    };
    tracing::info!(kubeconfig = %kubeconfig.display(), reason, "asking for a client certificate");
    let mut pause = FIRST_PAUSE;
    loop {
        match once(settings, kubeconfig, bootstrap).await {
            Ok(()) => return Ok(()),
            Err(error) if !may_pass(&error) => return Err(error),
            Err(error) => {
                let error = explain(&error);
                tracing::error!(
                    error,
                    seconds = pause.as_secs(),
                    "no client certificate yet, trying again"
                );
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LAST_PAUSE);
    }
}

/// One pass: request, wait, store.
///
/// # Errors
/// [`Error`].
pub(super) async fn once(settings: &Settings, kubeconfig: &Path, bootstrap: &Path) -> Result<(), Error> {
    let session = Session::open(bootstrap)
        .await
        .map_err(Error::api("read the bootstrap kubeconfig"))?;
    let config = api::load(bootstrap)
        .await
        .map_err(Error::api("read the bootstrap kubeconfig"))?;
    let api = Api::new(session);
    let store = ClientStore::new(&settings.cert_dir);
    let key = store.key()?;
    let request_pem = keys::client_request(&settings.node_name, &key)?;
    let ask = Ask {
        name: Some(keys::request_name(&settings.node_name, &key)?),
        signer: CLIENT_SIGNER,
        usage: "client auth",
        request_pem: &request_pem,
        point: "api.create_client_csr",
    };
    let name = signing::post(&api, &ask)
        .await
        .map_err(|error| unauthorized(error, bootstrap))?;
    tracing::info!(name, "waiting for the client certificate to be signed");
    let certificate = match signing::wait(&api, &name).await {
        // The verdict was about this key: the next try takes another.
        Err(error @ Error::NotSigned { .. }) => {
            files::remove("node.remove_pending_key", &store.pending_key())?;
            return Err(error);
        }
        other => other.map_err(|error| unauthorized(error, bootstrap))?,
    };
    store.store(&certificate, &key, Timestamp::now())?;
    let text = kubeconfig_text(&config, &store.current());
    files::write("node.write_kubeconfig", kubeconfig, text.as_bytes(), 0o600)
}

/// A 401 gets the words that help.
fn unauthorized(error: Error, bootstrap: &Path) -> Error {
    match &error {
        Error::Api { source, .. } if source.is_unauthorized() => Error::Unauthorized {
            place: bootstrap.display().to_string(),
        },
        _ => error,
    }
}

/// Whether the trouble may pass by itself: the kubelet, too, keeps asking while its credentials are refused, as tokens
/// may be made after it.
fn may_pass(error: &Error) -> bool {
    match error {
        Error::Api { .. } | Error::Unauthorized { .. } | Error::NotSigned { .. } | Error::Unsigned { .. } => {
            true
        }
        Error::File { .. }
        | Error::Content { .. }
        | Error::Crypto { .. }
        | Error::Discovery { .. }
        | Error::Argument { .. }
        | Error::Machine(_) => false,
    }
}

/// An error's words, with both clocks when a certificate's time is the trouble.
pub(crate) fn explain(error: &Error) -> String {
    with_clocks(&error.to_string(), Timestamp::now())
}

/// Adds both clocks to a complaint of TLS about a certificate's time, which comes in seconds of the epoch.
pub(super) fn with_clocks(words: &str, now: Timestamp) -> String {
    let number_after = |mark: &str| -> Option<Timestamp> {
        let rest = words.split_once(mark)?.1;
        let digits = rest.split(|c: char| !c.is_ascii_digit()).next()?;
        Timestamp::from_second(digits.parse().ok()?).ok()
    };
    let detail = if let Some(from) = number_after("certificate is not valid before ") {
        format!("the API server's certificate is valid only from {from}")
    } else if let Some(until) = number_after("certificate is not valid after ") {
        format!("the API server's certificate was valid until {until}")
    } else {
        return words.to_owned();
    };
    format!(
        "{words}: {detail}, and this machine's clock says {now}: set the wrong one of the two clocks right \
         (\"timedatectl\" shows this one), or renew the certificate"
    )
}

/// The kubeconfig that uses the certificate at `current`, for the cluster of `bootstrap`.
pub(super) fn kubeconfig_text(bootstrap: &kube::Config, current: &Path) -> String {
    use base64::Engine as _;
    let mut cluster = json!({"server": bootstrap.cluster_url.to_string().trim_end_matches('/')});
    if let Some(roots) = &bootstrap.root_cert {
        let pem: String = roots.iter().map(|der| pem_block("CERTIFICATE", der)).collect();
        let data = base64::engine::general_purpose::STANDARD.encode(pem);
        cluster["certificate-authority-data"] = Value::String(data);
    }
    if let Some(name) = &bootstrap.tls_server_name {
        cluster["tls-server-name"] = Value::String(name.clone());
    }
    let file = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "default-cluster", "cluster": cluster}],
        "users": [{"name": "default-auth", "user": {"client-certificate": current, "client-key": current}}],
        "contexts": [{
            "name": "default-context",
            "context": {"cluster": "default-cluster", "user": "default-auth", "namespace": "default"},
        }],
        "current-context": "default-context",
    });
    serde_saphyr::to_string(&file).expect("plain data is YAML")
}

/// DER as PEM.
pub(super) fn pem_block(label: &str, der: &[u8]) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let mut block = format!("-----BEGIN {label}-----\n");
    for line in text.as_bytes().chunks(64) {
        block.push_str(std::str::from_utf8(line).expect("base64 is ASCII"));
        block.push('\n');
    }
    block.push_str(&format!("-----END {label}-----\n"));
    block
}
