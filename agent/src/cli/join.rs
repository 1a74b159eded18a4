//! The flags of `longshore join`: kubeadm's, so that a printed join command works with the name changed.

use std::path::PathBuf;

use clap::{Arg, ArgMatches, Command};

use super::agent::{path_arg, path_of};
use super::{switch, valued};

/// What `longshore join` was told.
#[derive(Debug)]
pub(crate) struct JoinArgs {
    /// `HOST:PORT` of the API server.
    pub(crate) endpoint: String,
    /// Bootstrap token `abcdef.0123456789abcdef`.
    pub(crate) token: String,
    /// Pins `sha256:HEX` of CA public keys.
    pub(crate) ca_hashes: Vec<String>,
    /// Trust whatever CA the token vouches for.
    pub(crate) skip_ca_verification: bool,
    pub(crate) node_name: Option<String>,
    /// Run the agent afterwards.
    pub(crate) start: bool,
    /// `/etc/kubernetes`
    pub(crate) etc_dir: PathBuf,
    /// `/var/lib/kubelet`
    pub(crate) root_dir: PathBuf,
    /// What follows `--`: flags for the agent that `--start` runs.
    pub(crate) agent_flags: Vec<String>,
}

pub(super) fn flags(command: Command) -> Command {
    let endpoint = Arg::new("HOST:PORT").required(true).help("The API server");
    let rest = Arg::new("agent-flags")
        .last(true)
        .num_args(0..)
        .help("Flags for the agent, with --start");
    command
        .arg(endpoint)
        .arg(
            valued("token")
                .required(true)
                .help("Bootstrap token, like abcdef.0123456789abcdef"),
        )
        .arg(
            valued("discovery-token-ca-cert-hash")
                .help("Hash of the cluster's CA key, sha256:…; may be repeated"),
        )
        .arg(switch("discovery-token-unsafe-skip-ca-verification").help("Join without knowing the CA's hash"))
        .arg(valued("node-name").help("Name of the node [default: the host name]"))
        .arg(switch("start").help("Run the agent when joined"))
        .arg(path_arg(
            "etc-dir",
            "Where cluster files go [default: /etc/kubernetes]",
        ))
        .arg(path_arg(
            "root-dir",
            "Where the node's state goes [default: /var/lib/kubelet]",
        ))
        .arg(rest)
}

impl JoinArgs {
    /// Reads what clap found.
    ///
    /// # Errors
    /// A usage error.
    pub(super) fn read(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let many = |name: &str| {
            matches
                .get_many::<String>(name)
                .into_iter()
                .flatten()
                .cloned()
                .collect::<Vec<_>>()
        };
        let on = |name: &str| many(name).last().is_some_and(|text| text == "true");
        let args = Self {
            endpoint: matches
                .get_one::<String>("HOST:PORT")
                .cloned()
                .expect("clap requires it"),
            token: many("token").pop().expect("clap requires it"),
            ca_hashes: many("discovery-token-ca-cert-hash"),
            skip_ca_verification: on("discovery-token-unsafe-skip-ca-verification"),
            node_name: many("node-name").pop(),
            start: on("start"),
            etc_dir: path_of(matches, "etc-dir").unwrap_or_else(|| "/etc/kubernetes".into()),
            root_dir: path_of(matches, "root-dir").unwrap_or_else(|| "/var/lib/kubelet".into()),
            agent_flags: many("agent-flags"),
        };
        if args.ca_hashes.is_empty() && !args.skip_ca_verification {
            let message = "--discovery-token-ca-cert-hash sha256:HASH is needed to know the right cluster (kubeadm token \
                           create --print-join-command prints it); --discovery-token-unsafe-skip-ca-verification goes without\n";
            return Err(clap::Error::raw(
                clap::error::ErrorKind::MissingRequiredArgument,
                message,
            ));
        }
        Ok(args)
    }
}
