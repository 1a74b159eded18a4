//! `longshore join`: discovery, the files kubeadm would write, TLS bootstrap.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Node};
use serde_json::json;

use super::discovery::{Pins, Token, discover};
use super::{Error, bootstrap, files};
use crate::api::{Api, Session};
use crate::cli::JoinArgs;
use crate::config::Settings;

/// Where joining left things.
#[derive(Debug)]
pub(crate) struct Joined {
    pub(crate) node_name: String,
    pub(crate) kubeconfig: PathBuf,
    pub(crate) config: PathBuf,
    /// What the user should hear.
    pub(crate) notes: Vec<String>,
}

impl Joined {
    /// The command that runs the node.
    pub(crate) fn agent_command(&self, args: &JoinArgs) -> Vec<String> {
        let mut command = vec![
            "longshore".to_owned(),
            "agent".to_owned(),
            format!("--config={}", self.config.display()),
            format!("--kubeconfig={}", self.kubeconfig.display()),
            format!("--root-dir={}", args.root_dir.display()),
        ];
        if let Some(name) = &args.node_name {
            command.push(format!("--hostname-override={name}"));
        }
        command.extend(args.agent_flags.iter().cloned());
        command
    }
}

/// Joins the cluster.
///
/// # Errors
/// [`Error`] with operation, object, cause and cure.
pub(crate) async fn join(args: &JoinArgs, node_name: String) -> Result<Joined, Error> {
    let token = Token::parse(&args.token).map_err(|cause| Error::Argument {
        argument: "--token",
        cause,
    })?;
    let pins = Pins::parse(&args.ca_hashes).map_err(|cause| Error::Argument {
        argument: "--discovery-token-ca-cert-hash",
        cause,
    })?;
    let kubeconfig = args.etc_dir.join("kubelet.conf");
    if bootstrap::unusable(&kubeconfig, Timestamp::now()).await.is_none() {
        return Err(Error::Content {
            path: kubeconfig,
            cause: "this machine has joined a cluster already; remove the file to join another".to_owned(),
        });
    }
    let cluster = discover(&args.endpoint, &token, &pins).await?;
    let ca = args.etc_dir.join("pki/ca.crt");
    files::write("node.write_ca", &ca, &cluster.ca_pem, 0o644)?;
    let bootstrap_conf = args.etc_dir.join("bootstrap-kubelet.conf");
    let text = bootstrap_text(&cluster.config, &cluster.ca_pem, &token);
    files::write(
        "node.write_bootstrap_kubeconfig",
        &bootstrap_conf,
        text.as_bytes(),
        0o600,
    )?;

    let session = Session::open(&bootstrap_conf)
        .await
        .map_err(Error::api("read the bootstrap kubeconfig"))?;
    let api = Api::new(session);
    refuse_twin(&api, &node_name).await?;
    let mut notes = Vec::new();
    let config = args.root_dir.join("config.yaml");
    write_config(&api, &config, &ca, &mut notes).await?;

    let settings = Settings {
        node_name: node_name.clone(),
        cert_dir: args.root_dir.join("pki"),
        kubeconfig: Some(kubeconfig.clone()),
        bootstrap_kubeconfig: Some(bootstrap_conf.clone()),
        ..Settings::default()
    };
    bootstrap::once(&settings, &kubeconfig, &bootstrap_conf).await?;
    // The token has done its work: it must not lie about.
    files::remove("node.remove_bootstrap_kubeconfig", &bootstrap_conf)?;
    Ok(Joined {
        node_name,
        kubeconfig,
        config,
        notes,
    })
}

fn bootstrap_text(config: &kube::Config, ca_pem: &[u8], token: &Token) -> String {
    use base64::Engine as _;
    let ca = base64::engine::general_purpose::STANDARD.encode(ca_pem);
    let server = config.cluster_url.to_string();
    let file = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "kubernetes", "cluster": {
            "server": server.trim_end_matches('/'),
            "certificate-authority-data": ca,
        }}],
        "users": [{"name": "tls-bootstrap-token-user", "user": {"token": token.bearer()}}],
        "contexts": [{"name": "tls-bootstrap-token-user@kubernetes", "context": {
            "cluster": "kubernetes",
            "user": "tls-bootstrap-token-user",
        }}],
        "current-context": "tls-bootstrap-token-user@kubernetes",
    });
    serde_saphyr::to_string(&file).expect("plain data is YAML")
}

/// A Ready node of our name is somebody else.
async fn refuse_twin(api: &Api, node_name: &str) -> Result<(), Error> {
    let node = match api.get::<Node>(None, node_name).await {
        Ok(node) => node,
        Err(error) if error.is_unauthorized() => {
            return Err(Error::Unauthorized {
                place: "--token".to_owned(),
            });
        }
        // Not every cluster lets a token look.
        Err(error) if error.is_forbidden() => return Ok(()),
        Err(error) => return Err(Error::api("look for a node of this name")(error)),
    };
    let conditions = node
        .and_then(|node| node.status)
        .and_then(|status| status.conditions)
        .unwrap_or_default();
    if conditions
        .iter()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True")
    {
        return Err(Error::Argument {
            argument: "--node-name",
            cause: format!(
                "a Node with name {node_name:?} and status \"Ready\" already exists in the cluster: delete the existing \
                 Node or change the name of this new joining Node"
            ),
        });
    }
    Ok(())
}

/// The cluster's kubelet configuration, or one that works where it gives none.
async fn write_config(api: &Api, path: &Path, ca: &Path, notes: &mut Vec<String>) -> Result<(), Error> {
    let text = match api.get::<ConfigMap>(Some("kube-system"), "kubelet-config").await {
        Ok(map) => map
            .and_then(|map| map.data)
            .and_then(|mut data| data.remove("kubelet")),
        Err(error) if error.is_forbidden() => None,
        Err(error) => return Err(Error::api("read the cluster's kubelet configuration")(error)),
    };
    let text = match text {
        Some(text) => text,
        None => {
            notes.push(format!(
                "The cluster has no ConfigMap kube-system/kubelet-config (or keeps it from tokens): {} holds defaults. \
                 Set clusterDNS and clusterDomain there before pods need names of Services.",
                path.display()
            ));
            default_config(ca)
        }
    };
    files::write("node.write_config", path, text.as_bytes(), 0o644)
}

fn default_config(ca: &Path) -> String {
    let file = json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": false},
            "webhook": {"enabled": true},
            "x509": {"clientCAFile": ca},
        },
        "authorization": {"mode": "Webhook"},
        "clusterDomain": "cluster.local",
        "rotateCertificates": true,
        "staticPodPath": "/etc/kubernetes/manifests",
    });
    serde_saphyr::to_string(&file).expect("plain data is YAML")
}
