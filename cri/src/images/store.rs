//! Images on disk: an OCI layout that other tools can read, and the unpacked layers beside it.
//!
//! `oci-layout`, `index.json` (one descriptor a reference, named by `org.opencontainers.image.ref.name`),
//! `blobs/sha256/HEX`, `layers/HEX` by chain id. `index.json` is written last when an image comes and first when it
//! goes, so a crash leaves only content that nothing names, which [`Store::collect`] removes. All calls block.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use oci_spec::image::ImageConfiguration;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::digest::Digest;
use super::document::{self, Descriptor, Document, Layer, MAX_CONFIG, MAX_DOCUMENT, Manifest};
use super::error::{Error, Result};
use super::reference::{Reference, Version};
use crate::state;

mod collect;
mod ingest;
mod load;
mod names;
mod rebuild;
#[cfg(test)]
mod tests;
mod usage;

pub(crate) use ingest::Ingest;

use names::{id_of, is_pinned, name_of, view};

const REF_NAME: &str = "org.opencontainers.image.ref.name";
const PINNED: &str = "dev.longshore.pinned";
const MAX_INDEX: u64 = 64 << 20;

/// An image that is here, whole, with all its names.
#[derive(Debug, Clone)]
pub(crate) struct Image {
    /// Digest of the configuration, as containerd's CRI has it.
    pub(crate) id: Digest,
    /// Full names with a tag.
    pub(crate) repo_tags: Vec<String>,
    /// Full names with the digest they were pulled at.
    pub(crate) repo_digests: Vec<String>,
    /// Bytes of all its blobs.
    pub(crate) size: u64,
    pub(crate) pinned: bool,
    pub(crate) config: Arc<ImageConfiguration>,
    /// Lowest first.
    pub(crate) layers: Vec<Layer>,
}

#[derive(Debug)]
pub(crate) struct Store {
    root: PathBuf,
    contents: Mutex<Contents>,
    /// Of layers that were measured.
    usages: Mutex<HashMap<Digest, usage::Usage>>,
}

#[derive(Debug, Default)]
struct Contents {
    entries: Vec<Descriptor>,
    /// By the digest an entry names.
    resolved: HashMap<Digest, Arc<Resolved>>,
    /// Content that pulls under way need, counted.
    pulling: HashMap<Digest, usize>,
    /// Layers that containers stand on, by container.
    held: HashMap<String, Vec<Digest>>,
}

/// What an entry of the index leads to.
#[derive(Debug)]
pub(crate) struct Resolved {
    /// What the reference stands for: a manifest, or an index it was chosen from.
    pub(crate) target: Descriptor,
    /// The manifest of this platform.
    pub(crate) manifest: Descriptor,
    pub(crate) content: Manifest,
    pub(crate) config: Arc<ImageConfiguration>,
    pub(crate) layers: Vec<Layer>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Index {
    schema_version: u32,
    #[serde(default = "index_type")]
    media_type: String,
    manifests: Vec<Descriptor>,
}

fn index_type() -> String {
    "application/vnd.oci.image.index.v1+json".to_owned()
}

impl Store {
    /// Opens or makes the store below `root`. A damaged `index.json` is put aside and made anew from the blobs.
    pub(crate) fn open(root: &Path) -> Result<Self> {
        for directory in ["blobs", "blobs/sha256", "layers"] {
            state::mkdir("cri.make_image_store", &root.join(directory), 0o700)?;
        }
        // Overlay needs a lower directory even for an image without layers.
        state::mkdir("cri.make_image_store", &root.join("layers/empty"), 0o755)?;
        for directory in ["", "blobs/sha256", "layers"] {
            state::sweep("cri.sweep_image_store", &root.join(directory))?;
        }
        let layout = root.join("oci-layout");
        if state::read_record(&layout, MAX_DOCUMENT)?.is_none() {
            state::write_record(
                "cri.write_oci_layout",
                &layout,
                br#"{"imageLayoutVersion":"1.0.0"}"#,
            )?;
        }
        let store = Self {
            root: root.to_owned(),
            contents: Mutex::default(),
            usages: Mutex::default(),
        };
        let entries = store.load()?;
        let mut contents = Contents::default();
        for entry in entries {
            match store.resolve(&entry) {
                Ok(resolved) => {
                    contents.resolved.insert(entry.digest, Arc::new(resolved));
                    contents.entries.push(entry);
                }
                Err(error) => {
                    tracing::warn!(image = %entry.digest, %error, "image is not whole and counts as absent");
                }
            }
        }
        *store.lock() = contents;
        Ok(store)
    }

    fn read_document(&self, descriptor: &Descriptor) -> Result<Document> {
        let bytes = self.read_small(descriptor, MAX_DOCUMENT)?;
        Ok(Document::parse(&descriptor.digest, &bytes, Some(&descriptor.media_type))?.0)
    }

    /// Reads a blob that is held in memory whole, and checks that it is what its name says.
    pub(crate) fn read_small(&self, descriptor: &Descriptor, limit: u64) -> Result<Vec<u8>> {
        let path = self.blob_path(&descriptor.digest);
        let bytes = state::read_record(&path, limit)?;
        let bytes = bytes.ok_or_else(|| Error::malformed(descriptor.digest, "blob is missing"))?;
        let actual = Digest::of(&bytes);
        if actual != descriptor.digest {
            let object = path.display().to_string();
            return Err(Error::DigestMismatch {
                object,
                expected: descriptor.digest,
                actual,
            });
        }
        Ok(bytes)
    }

    /// Writes a small blob; its name is its digest.
    pub(crate) fn write_small(&self, bytes: &[u8]) -> Result<Digest> {
        let digest = Digest::of(bytes);
        let path = self.blob_path(&digest);
        if !path.exists() {
            state::write_record("cri.write_blob", &path, bytes)?;
        }
        Ok(digest)
    }

    pub(crate) fn has_blob(&self, descriptor: &Descriptor) -> bool {
        self.blob_path(&descriptor.digest)
            .metadata()
            .is_ok_and(|metadata| metadata.len() == descriptor.size)
    }

    pub(crate) fn has_layer(&self, chain_id: &Digest) -> bool {
        self.layer_path(chain_id).is_dir()
    }

    pub(crate) fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.root.join("blobs/sha256").join(digest.hex())
    }

    pub(crate) fn layer_path(&self, chain_id: &Digest) -> PathBuf {
        self.root.join("layers").join(chain_id.hex())
    }

    /// The directories a container of the image stands on, topmost first; never none.
    pub(crate) fn rootfs(&self, image: &Image) -> Vec<PathBuf> {
        if image.layers.is_empty() {
            return vec![self.root.join("layers/empty")];
        }
        image
            .layers
            .iter()
            .rev()
            .map(|layer| self.layer_path(&layer.chain_id))
            .collect()
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Names a pulled image by `reference` and, for a tag, by its digest too.
    pub(crate) fn commit(&self, reference: &Reference, resolved: Resolved) -> Result<Image> {
        let id = resolved.content.config.digest;
        let target = resolved.target.clone();
        let by_digest = reference.at(target.digest).to_string();
        let mut contents = self.lock();
        let mut entries = contents.entries.clone();
        for name in BTreeSet::from([reference.to_string(), by_digest]) {
            let pinned = entries
                .iter()
                .any(|entry| name_of(entry) == Some(&name) && is_pinned(entry));
            entries.retain(|entry| name_of(entry) != Some(&name));
            let mut annotations = BTreeMap::from([(REF_NAME.to_owned(), name)]);
            if pinned {
                annotations.insert(PINNED.to_owned(), "true".to_owned());
            }
            entries.push(Descriptor {
                annotations,
                ..target.clone()
            });
        }
        // A rebuilt entry has no name; now it has.
        entries.retain(|entry| entry.digest != target.digest || name_of(entry).is_some());
        self.write_index(&entries)?;
        contents.entries = entries;
        contents.resolved.insert(target.digest, Arc::new(resolved));
        view(&contents, &id).ok_or_else(|| Error::malformed(id, "image vanished while it was stored"))
    }

    /// An image by reference, id (`sha256:HEX` or `HEX`) or digest.
    pub(crate) fn get(&self, name: &str) -> Option<Image> {
        let contents = self.lock();
        let id = id_of(&contents, name)?;
        view(&contents, &id)
    }

    pub(crate) fn list(&self) -> Vec<Image> {
        let contents = self.lock();
        let ids: BTreeSet<Digest> = contents
            .resolved
            .values()
            .map(|resolved| resolved.content.config.digest)
            .collect();
        ids.iter().filter_map(|id| view(&contents, id)).collect()
    }

    /// Removes all names of an image, then what nothing needs any more. An unknown image is success.
    pub(crate) fn remove(&self, name: &str) -> Result<()> {
        let mut contents = self.lock();
        let Some(id) = id_of(&contents, name) else {
            return Ok(());
        };
        let gone: BTreeSet<Digest> = contents
            .resolved
            .iter()
            .filter(|(_, resolved)| resolved.content.config.digest == id)
            .map(|(target, _)| *target)
            .collect();
        let entries: Vec<_> = contents
            .entries
            .iter()
            .filter(|entry| !gone.contains(&entry.digest))
            .cloned()
            .collect();
        self.write_index(&entries)?;
        contents.entries = entries;
        contents.resolved.retain(|target, _| !gone.contains(target));
        self.collect_locked(&contents)
    }

    /// Marks an image as kept by garbage collection, or not.
    pub(crate) fn pin(&self, name: &str, pinned: bool) -> Result<()> {
        let mut contents = self.lock();
        let id = id_of(&contents, name).ok_or_else(|| Error::NotFound {
            reference: name.to_owned(),
        })?;
        let mut entries = contents.entries.clone();
        for entry in &mut entries {
            let of_image = contents
                .resolved
                .get(&entry.digest)
                .is_some_and(|found| found.content.config.digest == id);
            match (of_image, pinned) {
                (true, true) => drop(entry.annotations.insert(PINNED.to_owned(), "true".to_owned())),
                (true, false) => drop(entry.annotations.remove(PINNED)),
                (false, _) => {}
            }
        }
        self.write_index(&entries)?;
        contents.entries = entries;
        Ok(())
    }

    fn write_index(&self, entries: &[Descriptor]) -> Result<()> {
        let index = Index {
            schema_version: 2,
            media_type: index_type(),
            manifests: entries.to_vec(),
        };
        let bytes = serde_json::to_vec(&index).expect("plain strings and numbers serialise");
        Ok(state::write_record(
            "cri.write_image_index",
            &self.index_path(),
            &bytes,
        )?)
    }

    fn index_path(&self) -> PathBuf {
        self.root.join("index.json")
    }

    fn lock(&self) -> MutexGuard<'_, Contents> {
        // Contents change only after the disk did, in one step each: a panic elsewhere leaves them whole.
        self.contents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Resolved {
    /// All content the image is made of, blobs and layers.
    pub(crate) fn digests(&self) -> impl Iterator<Item = Digest> + '_ {
        let documents = [
            self.target.digest,
            self.manifest.digest,
            self.content.config.digest,
        ];
        let blobs = self.content.layers.iter().map(|layer| layer.digest);
        documents
            .into_iter()
            .chain(blobs)
            .chain(self.layers.iter().map(|layer| layer.chain_id))
    }

    fn size(&self) -> u64 {
        self.manifest.size
            + self.content.config.size
            + self.content.layers.iter().map(|layer| layer.size).sum::<u64>()
    }
}
