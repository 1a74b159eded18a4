//! The flags of a running node.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Arg, ArgMatches, Command};
use ipnet::IpNet;

use super::flags::{self, CONFIG_FLAGS, CURRENT, IGNORED, Kind};
use super::{switch, valued};
use crate::config::{Error, Override};

/// The flags as given, read but not yet resolved.
#[derive(Debug, Default)]
pub(crate) struct AgentArgs {
    pub(crate) config: Option<PathBuf>,
    pub(crate) config_dir: Option<PathBuf>,
    pub(crate) kubeconfig: Option<PathBuf>,
    pub(crate) bootstrap_kubeconfig: Option<PathBuf>,
    pub(crate) hostname_override: Option<String>,
    pub(crate) node_ips: Vec<IpAddr>,
    pub(crate) node_labels: BTreeMap<String, String>,
    pub(crate) cloud_provider: String,
    pub(crate) root_dir: Option<PathBuf>,
    pub(crate) run_dir: Option<PathBuf>,
    pub(crate) state_dir: Option<PathBuf>,
    pub(crate) cert_dir: Option<PathBuf>,
    pub(crate) lock_file: Option<PathBuf>,
    pub(crate) registries: Option<PathBuf>,
    pub(crate) oci_binary: Option<PathBuf>,
    pub(crate) allow_missing_controllers: BTreeSet<String>,
    pub(crate) cluster_cidrs: Vec<IpNet>,
    /// Values for the configuration.
    pub(crate) overrides: Vec<Override>,
    /// What the user should hear.
    pub(crate) warnings: Vec<String>,
}

const PATHS: [(&str, &str); 11] = [
    ("config", "Configuration file (KubeletConfiguration v1beta1)"),
    ("config-dir", "Directory of drop-ins *.conf for the configuration"),
    (
        "kubeconfig",
        "How to reach the API server; without it the node is standalone",
    ),
    (
        "bootstrap-kubeconfig",
        "Credentials to ask for a client certificate with",
    ),
    (
        "root-dir",
        "State in the kubelet's layout [default: /var/lib/kubelet]",
    ),
    (
        "run-dir",
        "State that ends with the boot [default: /run/longshore]",
    ),
    ("state-dir", "Images and containers [default: /var/lib/longshore]"),
    ("cert-dir", "Certificates [default: ROOT-DIR/pki]"),
    (
        "lock-file",
        "Lock that keeps a second agent off [default: RUN-DIR/agent.lock]",
    ),
    (
        "registries",
        "Registry hosts directory, DIR/HOST/hosts.toml [default: /etc/longshore/certs.d]",
    ),
    (
        "oci-binary",
        "The container runtime [default: longshore-oci beside this program]",
    ),
];

const TEXTS: [(&str, &str); 6] = [
    ("hostname-override", "Name of the node instead of the host name"),
    (
        "node-ip",
        "IP address of the node, or one of each family, comma-separated",
    ),
    ("node-labels", "Labels to register the node with: key=value,…"),
    ("cloud-provider", "\"\" or external"),
    (
        "allow-missing-controllers",
        "cgroup controllers that may be missing: their limits are then not enforced",
    ),
    (
        "cluster-cidr",
        "Pod ranges of the cluster, comma-separated; traffic between them is not masqueraded",
    ),
];

/// Adds all flags of a node to `command`.
pub(super) fn flags(mut command: Command) -> Command {
    for (name, help) in PATHS.into_iter().chain(TEXTS) {
        command = command.arg(valued(name).help(help));
    }
    for one in CONFIG_FLAGS {
        let arg = if one.kind == Kind::Bool {
            switch(one.name)
        } else {
            valued(one.name)
        };
        let arg = if one.name == "v" { arg.short('v') } else { arg };
        command = command.arg(arg.hide(true));
    }
    for (name, _) in IGNORED {
        if !CONFIG_FLAGS.iter().any(|one| one.name == name) {
            command = command.arg(valued(name).hide(true));
        }
    }
    let version = switch("version")
        .action(clap::ArgAction::Set)
        .help("Print the version and end");
    command.disable_version_flag(true).arg(version).arg(switch("exit-on-lock-contention").hide(true)).after_help(
        "All flags that KubeletConfiguration backs are taken too, and override the file: see the kubelet's reference.",
    )
}

impl AgentArgs {
    /// Reads what clap found.
    ///
    /// # Errors
    /// A usage error that names the flag.
    pub(super) fn read(matches: &ArgMatches) -> Result<Self, clap::Error> {
        Self::try_read(matches)
            .map_err(|error| clap::Error::raw(clap::error::ErrorKind::ValueValidation, format!("{error}\n")))
    }

    fn try_read(matches: &ArgMatches) -> Result<Self, Error> {
        let text = |name: &str| last(matches, name);
        let path = |name: &str| text(name).filter(|text| !text.is_empty()).map(PathBuf::from);
        let mut args = Self {
            config: path("config"),
            config_dir: path("config-dir"),
            kubeconfig: path("kubeconfig"),
            bootstrap_kubeconfig: path("bootstrap-kubeconfig"),
            hostname_override: text("hostname-override").filter(|text| !text.is_empty()),
            node_ips: parsed(matches, "node-ip")?,
            node_labels: labels(matches)?,
            cloud_provider: text("cloud-provider").unwrap_or_default(),
            root_dir: path("root-dir"),
            run_dir: path("run-dir"),
            state_dir: path("state-dir"),
            cert_dir: path("cert-dir"),
            lock_file: path("lock-file"),
            registries: path("registries"),
            oci_binary: path("oci-binary"),
            allow_missing_controllers: parsed(matches, "allow-missing-controllers")?
                .into_iter()
                .collect(),
            cluster_cidrs: parsed(matches, "cluster-cidr")?,
            ..Self::default()
        };
        args.read_overrides(matches)?;
        Ok(args)
    }

    fn read_overrides(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        for one in CONFIG_FLAGS {
            let Some(texts) = matches.get_many::<String>(one.name) else {
                continue;
            };
            let texts: Vec<String> = texts.cloned().collect();
            let value = flags::value(one.kind, &texts).map_err(|cause| Error::Flag {
                flag: one.name.to_owned(),
                cause,
            })?;
            self.overrides.push(Override {
                flag: one.name.to_owned(),
                key: one.key,
                value,
            });
            if !CURRENT.contains(&one.name) && !IGNORED.iter().any(|(name, _)| *name == one.name) {
                self.warnings.push(format!(
                    "--{} has been deprecated: set {} in the file that --config names",
                    one.name, one.key
                ));
            }
        }
        for (name, reason) in IGNORED {
            if matches.get_many::<String>(name).is_some() {
                self.warnings.push(format!("--{name} has no effect: {reason}"));
            }
        }
        Ok(())
    }
}

fn last(matches: &ArgMatches, name: &str) -> Option<String> {
    matches.get_many::<String>(name)?.next_back().cloned()
}

/// The comma-separated values of the flag's last occurrence.
fn parsed<T: std::str::FromStr<Err: std::fmt::Display>>(
    matches: &ArgMatches,
    name: &str,
) -> Result<Vec<T>, Error> {
    let text = last(matches, name).unwrap_or_default();
    text.split(',')
        .map(str::trim)
        .filter(|word| !word.is_empty())
        .map(|word| {
            word.parse().map_err(|cause| Error::Flag {
                flag: name.to_owned(),
                cause: format!("{word:?}: {cause}"),
            })
        })
        .collect()
}

fn labels(matches: &ArgMatches) -> Result<BTreeMap<String, String>, Error> {
    let texts: Vec<String> = matches
        .get_many::<String>("node-labels")
        .into_iter()
        .flatten()
        .cloned()
        .collect();
    let value = flags::value(Kind::Map, &texts).map_err(|cause| Error::Flag {
        flag: "node-labels".to_owned(),
        cause,
    })?;
    Ok(serde_json::from_value(value).expect("a map of texts"))
}

/// Kept for `join`, which takes a few of the same names.
pub(super) fn path_arg(name: &'static str, help: &'static str) -> Arg {
    valued(name).help(help)
}

/// The last value of `name` as a path.
pub(super) fn path_of(matches: &ArgMatches, name: &str) -> Option<PathBuf> {
    last(matches, name)
        .filter(|text| !text.is_empty())
        .map(PathBuf::from)
}
