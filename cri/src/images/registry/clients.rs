//! HTTP clients, one for each way to prove who is who.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use reqwest::Client;

use super::answer::chain;
use crate::images::hosts::Tls;
use crate::state;

const MAX_PEM: u64 = 1 << 20;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// No byte for so long ends a transfer; it is then taken up again.
const READ_TIMEOUT: Duration = Duration::from_secs(60);

/// The HTTP side of all registries; connections are shared between pulls.
#[derive(Debug)]
pub(crate) struct Registries {
    pub(super) directory: Option<PathBuf>,
    /// By the TLS settings of a host; none is for plain HTTP, which needs no authorities to be installed.
    clients: Mutex<HashMap<Option<Tls>, Client>>,
}

impl Registries {
    pub(crate) fn new(directory: Option<PathBuf>) -> Self {
        // reqwest asks for the process's provider; the agent installs the same one, earlier.
        if rustls::crypto::CryptoProvider::get_default().is_none() {
            // Losing the race means another thread has just installed it.
            let _ = rustls::crypto::ring::default_provider().install_default();
        }
        Self {
            directory,
            clients: Mutex::default(),
        }
    }

    /// The client for these TLS settings; none is for plain HTTP only.
    pub(super) fn client(&self, tls: Option<&Tls>) -> std::result::Result<Client, String> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(&tls.cloned()) {
            return Ok(client.clone());
        }
        let client = build(tls)?;
        clients.insert(tls.cloned(), client.clone());
        Ok(client)
    }
}

fn build(tls: Option<&Tls>) -> std::result::Result<Client, String> {
    let mut builder = Client::builder()
        .user_agent(concat!("longshore/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(CONNECT_TIMEOUT)
        .read_timeout(READ_TIMEOUT);
    match tls {
        // Never used for https: the choice of client is by scheme.
        None => builder = builder.tls_danger_accept_invalid_certs(true),
        Some(tls) => {
            builder = builder.tls_danger_accept_invalid_certs(tls.skip_verify);
            for path in &tls.ca {
                let certificates = reqwest::Certificate::from_pem_bundle(&pem(std::slice::from_ref(path))?);
                builder = builder.tls_certs_merge(certificates.map_err(|error| chain(&error))?);
            }
            if !tls.client.is_empty() {
                let identity =
                    reqwest::Identity::from_pem(&pem(&tls.client)?).map_err(|error| chain(&error))?;
                builder = builder.identity(identity);
            }
        }
    }
    builder.build().map_err(|error| chain(&error))
}

fn pem(paths: &[PathBuf]) -> std::result::Result<Vec<u8>, String> {
    let mut all = Vec::new();
    for path in paths {
        let bytes = state::read_record(path, MAX_PEM).map_err(|error| error.to_string())?;
        all.extend(bytes.ok_or_else(|| format!("{}: no such file", path.display()))?);
        all.push(b'\n');
    }
    Ok(all)
}
