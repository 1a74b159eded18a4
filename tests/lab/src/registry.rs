//! The registry: Debian's docker-registry, plain HTTP on the fabric, open for push.

use crate::addresses::registry_port;
use crate::images::Image;
use crate::paths::lab_dir;
use crate::setup::debian_packages;
use crate::state::State;
use anyhow::{Context as _, Result, bail};
use serde_json::json;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The program of a process of the control plane: the registry is Debian's, the rest are the testbed's.
pub(crate) fn program(name: &str, tools: &Path) -> Result<PathBuf> {
    if name == "docker-registry" {
        debian_packages::registry_program()
    } else {
        Ok(tools.join(name))
    }
}

/// Writes the registry's configuration and returns its arguments.
pub(crate) fn arguments(state: &State) -> Result<Vec<String>> {
    let data = lab_dir().join("registry-data");
    fs::create_dir_all(&data).with_context(|| format!("make {}", data.display()))?;
    let configuration = json!({
        "version": 0.1,
        "log": {"level": "warn"},
        "storage": {"filesystem": {"rootdirectory": data}, "delete": {"enabled": true}},
        "http": {"addr": format!(":{}", registry_port())},
    });
    let path = lab_dir().join("registry.json");
    fs::write(&path, serde_json::to_vec_pretty(&configuration)?)
        .with_context(|| format!("write {}", path.display()))?;
    fs::write(lab_dir().join("registry"), state.addresses.registry()).context("write target/lab/registry")?;
    Ok(vec!["serve".to_owned(), path.display().to_string()])
}

/// A client that pushes.
pub(crate) struct Client {
    agent: ureq::Agent,
    base: String,
}

impl Client {
    /// A client of the registry at `host:port`, which must answer within 20 s.
    pub(crate) fn connect(address: &str) -> Result<Self> {
        let settings = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .proxy(None);
        let settings = settings.timeout_global(Some(Duration::from_secs(120))).build();
        let client = Self {
            agent: settings.into(),
            base: format!("http://{address}/v2/"),
        };
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            match client.agent.get(&client.base).call() {
                Ok(response) if response.status() == 200 => return Ok(client),
                Ok(response) => bail!("{}: {}", client.base, response.status()),
                Err(error) if Instant::now() > deadline => {
                    return Err(error).with_context(|| format!("the registry at {address} does not answer"));
                }
                Err(_) => std::thread::sleep(Duration::from_millis(50)),
            }
        }
    }

    /// Pushes an image under all its names.
    pub(crate) fn push(&self, image: &Image) -> Result<()> {
        for (repository, tag) in &image.names {
            self.push_as(image, repository, tag)
                .with_context(|| format!("push {repository}:{tag}"))?;
        }
        Ok(())
    }

    fn push_as(&self, image: &Image, repository: &str, tag: &str) -> Result<()> {
        for layer in &image.layers {
            let file = File::open(&layer.blob).with_context(|| format!("open {}", layer.blob.display()))?;
            self.push_blob(repository, &layer.digest, layer.size, file)?;
        }
        let (config, manifest) = (image.config(), image.manifest());
        self.push_blob(
            repository,
            &crate::images::digest(&config),
            config.len() as u64,
            config.as_slice(),
        )?;
        let url = format!("{}{repository}/manifests/{tag}", self.base);
        let request = self
            .agent
            .put(&url)
            .header("Content-Type", crate::images::MANIFEST_TYPE);
        expect_created("PUT", &url, request.send(&manifest)?)
    }

    fn push_blob(
        &self,
        repository: &str,
        digest: &str,
        size: u64,
        mut content: impl std::io::Read,
    ) -> Result<()> {
        let url = format!("{}{repository}/blobs/{digest}", self.base);
        if self.agent.head(&url).call()?.status() == 200 {
            return Ok(());
        }
        let url = format!("{}{repository}/blobs/uploads/", self.base);
        let response = self.agent.post(&url).send_empty()?;
        let location = response
            .headers()
            .get("Location")
            .and_then(|value| value.to_str().ok());
        let location =
            location.with_context(|| format!("POST {url}: {} without a location", response.status()))?;
        let separator = if location.contains('?') { '&' } else { '?' };
        let url = format!("{location}{separator}digest={digest}");
        let request = self
            .agent
            .put(&url)
            .header("Content-Type", "application/octet-stream");
        let request = request.header("Content-Length", size.to_string());
        expect_created(
            "PUT",
            &url,
            request.send(ureq::SendBody::from_reader(&mut content))?,
        )
    }
}

fn expect_created(method: &str, url: &str, mut response: ureq::http::Response<ureq::Body>) -> Result<()> {
    if response.status() == 201 {
        return Ok(());
    }
    let text = response.body_mut().read_to_string().unwrap_or_default();
    bail!("{method} {url}: {} {text}", response.status())
}
