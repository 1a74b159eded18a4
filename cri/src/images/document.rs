//! Manifests and indexes: read strictly, exactly one kind each, digests and counts checked at the edge.

use oci_spec::image::ImageConfiguration;
use serde::{Deserialize, Serialize};

use super::digest::Digest;
use super::error::{Error, Result};

#[cfg(test)]
mod tests;

/// Bytes a manifest or an index may have.
pub(crate) const MAX_DOCUMENT: u64 = 4 << 20;
/// Bytes an image configuration may have.
pub(crate) const MAX_CONFIG: u64 = 8 << 20;
/// Overlay takes no more lower directories than this.
const MAX_LAYERS: usize = 500;
const MAX_MANIFESTS: usize = 4096;

const MANIFESTS: [&str; 2] = [
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];
const INDEXES: [&str; 2] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
];
const CONFIGS: [&str; 2] = [
    "application/vnd.oci.image.config.v1+json",
    "application/vnd.docker.container.image.v1+json",
];

/// The `Accept` header of a manifest request.
pub(crate) fn accepted() -> String {
    [MANIFESTS, INDEXES].concat().join(", ")
}

/// A pointer to content (OCI image specification, descriptor).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    pub(crate) media_type: String,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) platform: Option<Platform>,
    #[serde(default, skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    pub(crate) annotations: std::collections::BTreeMap<String, String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Platform {
    pub(crate) architecture: String,
    pub(crate) os: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) variant: Option<String>,
}

/// What a registry serves under a tag or digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Document {
    Manifest(Manifest),
    Index(Vec<Descriptor>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Manifest {
    pub(crate) config: Descriptor,
    /// Lowest first.
    pub(crate) layers: Vec<Descriptor>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    schema_version: u32,
    media_type: Option<String>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
    fs_layers: Option<serde::de::IgnoredAny>,
}

impl Document {
    /// Reads `bytes`. `said` is what the descriptor or the `Content-Type` claims; it must be true. Gives the document
    /// with its media type.
    pub(crate) fn parse(object: &Digest, bytes: &[u8], said: Option<&str>) -> Result<(Self, String)> {
        let raw: Raw = serde_json::from_slice(bytes).map_err(|error| Error::malformed(object, error))?;
        if raw.schema_version != 2 || raw.fs_layers.is_some() {
            return Err(Error::malformed(
                object,
                format!("schema version {} is not 2", raw.schema_version),
            ));
        }
        let (document, types) = match (raw.config, raw.layers, raw.manifests) {
            (Some(config), Some(layers), None) => (Self::manifest(object, config, layers)?, MANIFESTS),
            (None, None, Some(manifests)) if manifests.len() <= MAX_MANIFESTS => {
                (Self::Index(manifests), INDEXES)
            }
            (None, None, Some(_)) => {
                return Err(Error::Bounds {
                    object: object.to_string(),
                    limit: format!("{MAX_MANIFESTS} manifests"),
                });
            }
            _ => {
                return Err(Error::malformed(
                    object,
                    "neither a manifest nor an index, or both",
                ));
            }
        };
        // Types that say nothing about the kind (a web server's default) are no claim.
        let said = said.filter(|said| [MANIFESTS, INDEXES].concat().contains(said));
        for claim in [said, raw.media_type.as_deref()].into_iter().flatten() {
            if !types.contains(&claim) {
                return Err(Error::malformed(
                    object,
                    format!("content is not {claim:?}, which it claims to be"),
                ));
            }
        }
        if let (Some(said), Some(body)) = (said, &raw.media_type)
            && said != body
        {
            return Err(Error::malformed(
                object,
                format!("served as {said:?} but says {body:?}"),
            ));
        }
        let media_type = raw.media_type.as_deref().or(said).unwrap_or(types[0]).to_owned();
        Ok((document, media_type))
    }

    fn manifest(object: &Digest, config: Descriptor, layers: Vec<Descriptor>) -> Result<Self> {
        if !CONFIGS.contains(&config.media_type.as_str()) {
            let reason = format!(
                "not a container image: its configuration is {:?}",
                config.media_type
            );
            return Err(Error::malformed(object, reason));
        }
        if config.size > MAX_CONFIG {
            return Err(Error::Bounds {
                object: config.digest.to_string(),
                limit: format!("{MAX_CONFIG} bytes"),
            });
        }
        if layers.len() > MAX_LAYERS {
            return Err(Error::Bounds {
                object: object.to_string(),
                limit: format!("{MAX_LAYERS} layers"),
            });
        }
        if let Some(layer) = layers.iter().find(|layer| !is_layer(&layer.media_type)) {
            return Err(Error::malformed(
                layer.digest,
                format!("layers of type {:?} are not taken", layer.media_type),
            ));
        }
        Ok(Self::Manifest(Manifest { config, layers }))
    }
}

/// Layers that the registry itself serves. Foreign and non-distributable ones would be fetched from elsewhere.
fn is_layer(media_type: &str) -> bool {
    let base = media_type.split_once('+').map_or(media_type, |(base, _)| base);
    match base {
        "application/vnd.oci.image.layer.v1.tar" => {
            matches!(media_type.strip_prefix(base), Some("" | "+gzip" | "+zstd"))
        }
        "application/vnd.docker.image.rootfs.diff.tar"
        | "application/vnd.docker.image.rootfs.diff.tar.gzip"
        | "application/vnd.docker.image.rootfs.diff.tar.zstd" => base == media_type,
        _ => false,
    }
}

/// The platform of this node in OCI's words.
pub(crate) fn own_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// The first manifest of an index that this node can run.
pub(crate) fn choose(index: &Digest, manifests: &[Descriptor]) -> Result<Descriptor> {
    let architecture = own_architecture();
    let baseline = match architecture {
        "arm64" => "v8",
        _ => "v1",
    };
    manifests
        .iter()
        .find(|descriptor| {
            MANIFESTS.contains(&descriptor.media_type.as_str())
                && descriptor.platform.as_ref().is_some_and(|platform| {
                    platform.os == "linux"
                        && platform.architecture == architecture
                        && platform
                            .variant
                            .as_deref()
                            .is_none_or(|variant| variant.is_empty() || variant == baseline)
                })
        })
        .cloned()
        .ok_or_else(|| Error::NoPlatform {
            platform: format!("linux/{architecture}"),
            digest: *index,
        })
}

/// Reads an image configuration; its `diff_ids` must be as many as the manifest's layers. Gives it with the chain ids,
/// lowest layer first.
pub(crate) fn parse_config(
    object: &Digest,
    bytes: &[u8],
    layers: usize,
) -> Result<(ImageConfiguration, Vec<Layer>)> {
    let config: ImageConfiguration =
        serde_json::from_slice(bytes).map_err(|error| Error::malformed(object, error))?;
    let diffs: Vec<Digest> = config
        .rootfs()
        .diff_ids()
        .iter()
        .map(|text| text.parse().map_err(|error| Error::malformed(object, error)))
        .collect::<Result<_>>()?;
    if diffs.len() != layers {
        let reason = format!("{} diff_ids for {layers} layers", diffs.len());
        return Err(Error::malformed(object, reason));
    }
    Ok((config, chain(&diffs)))
}

/// One unpacked layer: what it must contain and the name it has on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Layer {
    /// Digest of the uncompressed archive.
    pub(crate) diff_id: Digest,
    /// Digest of this layer on top of those below (OCI image specification, ChainID).
    pub(crate) chain_id: Digest,
}

fn chain(diffs: &[Digest]) -> Vec<Layer> {
    let mut below: Option<Digest> = None;
    diffs
        .iter()
        .map(|&diff_id| {
            let chain_id = below.map_or(diff_id, |below| {
                Digest::of(format!("{below} {diff_id}").as_bytes())
            });
            below = Some(chain_id);
            Layer { diff_id, chain_id }
        })
        .collect()
}
