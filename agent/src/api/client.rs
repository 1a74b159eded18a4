//! From a kubeconfig file to a client.

use std::path::Path;
use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

use super::Error;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Above the 290 s that a watch stays open at most with nothing to say (bookmarks come each minute).
const READ_TIMEOUT: Duration = Duration::from_secs(300);

/// Reads the kubeconfig at `path` into a client configuration.
///
/// # Errors
/// [`Error::Kubeconfig`] naming the file.
pub(crate) async fn load(path: &Path) -> Result<Config, Error> {
    let refused = |cause: &dyn std::error::Error| Error::Kubeconfig {
        path: path.display().to_string(),
        cause: super::chain(cause),
    };
    let file = Kubeconfig::read_from(path).map_err(|e| refused(&e))?;
    let mut config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
        .await
        .map_err(|e| refused(&e))?;
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    config.read_timeout = Some(READ_TIMEOUT);
    config.write_timeout = Some(READ_TIMEOUT);
    Ok(config)
}

/// A client of the kubeconfig at `path`.
///
/// # Errors
/// [`Error::Kubeconfig`] naming the file.
pub(crate) async fn connect(path: &Path) -> Result<Client, Error> {
    let config = load(path).await?;
    Client::try_from(config).map_err(|cause| Error::Kubeconfig {
        path: path.display().to_string(),
        cause: super::chain(&cause),
    })
}
