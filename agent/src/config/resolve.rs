//! From arguments to settings.

use super::{Error, Settings, labels, load, validate};
use crate::cli::AgentArgs;

impl Settings {
    /// Resolves arguments and files; also what the user should hear.
    ///
    /// # Errors
    /// [`Error`] naming file, flag or key, cause and cure.
    pub(crate) fn resolve(args: &AgentArgs) -> Result<(Self, Vec<String>), Error> {
        let loaded = load(
            args.config.as_deref(),
            args.config_dir.as_deref(),
            &args.overrides,
        )?;
        let faults = validate::faults(&loaded.config);
        if !faults.is_empty() {
            return Err(Error::Invalid(faults));
        }
        labels::check(&args.node_labels)?;
        check_node_ips(args)?;
        let mut warnings = args.warnings.clone();
        warnings.extend(loaded.warnings);
        let standard = Self::default();
        let root_dir = args.root_dir.clone().unwrap_or(standard.root_dir);
        let run_dir = args.run_dir.clone().unwrap_or(standard.run_dir);
        let settings = Self {
            node_name: node_name(args)?,
            node_ips: args.node_ips.clone(),
            node_labels: args.node_labels.clone(),
            cloud_provider: cloud_provider(args)?,
            cert_dir: args.cert_dir.clone().unwrap_or_else(|| root_dir.join("pki")),
            lock_file: args
                .lock_file
                .clone()
                .unwrap_or_else(|| run_dir.join("agent.lock")),
            root_dir,
            run_dir,
            state_dir: args.state_dir.clone().unwrap_or(standard.state_dir),
            kubeconfig: args.kubeconfig.clone(),
            bootstrap_kubeconfig: args.bootstrap_kubeconfig.clone(),
            registries: args.registries.clone().unwrap_or(standard.registries),
            oci_binary: oci_binary(args)?,
            allow_missing_controllers: args.allow_missing_controllers.clone(),
            cluster_cidrs: args.cluster_cidrs.clone(),
            kubelet: loaded.config,
        };
        Ok((settings, warnings))
    }
}

fn node_name(args: &AgentArgs) -> Result<String, Error> {
    let name = match &args.hostname_override {
        Some(name) => name.clone(),
        None => rustix::system::uname().nodename().to_string_lossy().into_owned(),
    };
    let name = name.trim().to_lowercase();
    if labels::is_domain(&name) {
        return Ok(name);
    }
    let cause = format!(
        "{name:?} cannot be a node's name: it must be a DNS name of lower-case letters, digits, '-' and '.'; \
         give one with --hostname-override"
    );
    Err(Error::Machine {
        operation: "take the host name",
        cause,
    })
}

fn check_node_ips(args: &AgentArgs) -> Result<(), Error> {
    let refused = |cause: String| {
        Err(Error::Flag {
            flag: "node-ip".to_owned(),
            cause,
        })
    };
    match args.node_ips.as_slice() {
        [] => Ok(()),
        [a, b] if a.is_ipv4() == b.is_ipv4() => refused(format!(
            "dual-stack needs one address of each family, {a} and {b} are of one"
        )),
        [a, b] if a.is_unspecified() || b.is_unspecified() => {
            refused("dual-stack addresses cannot be unspecified".to_owned())
        }
        [_] | [_, _] => Ok(()),
        more => refused(format!(
            "at most two addresses, one of each family, not {}",
            more.len()
        )),
    }
}

fn cloud_provider(args: &AgentArgs) -> Result<String, Error> {
    match args.cloud_provider.as_str() {
        "" | "external" => Ok(args.cloud_provider.clone()),
        other => Err(Error::Flag {
            flag: "cloud-provider".to_owned(),
            cause: format!("{other:?} must be \"\" or \"external\""),
        }),
    }
}

fn oci_binary(args: &AgentArgs) -> Result<std::path::PathBuf, Error> {
    if let Some(path) = &args.oci_binary {
        return Ok(path.clone());
    }
    let own = std::env::current_exe().map_err(|cause| Error::Machine {
        operation: "find the own executable",
        cause: format!("{cause}; give --oci-binary"),
    })?;
    Ok(own.with_file_name("longshore-oci"))
}
