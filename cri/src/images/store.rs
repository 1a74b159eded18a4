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

mod rebuild;
#[cfg(test)]
mod tests;
mod usage;

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
                    tracing::warn!(image = %entry.digest, %error, "image is not whole and counts as absent")
                }
            }
        }
        *store.lock() = contents;
        Ok(store)
    }

    fn load(&self) -> Result<Vec<Descriptor>> {
        let path = self.index_path();
        let Some(bytes) = state::read_record(&path, MAX_INDEX)? else {
            return Ok(Vec::new());
        };
        match serde_json::from_slice::<Index>(&bytes) {
            Ok(index) if index.schema_version == 2 => Ok(index.manifests),
            broken => {
                let reason = broken
                    .err()
                    .map_or_else(|| "unknown version".to_owned(), |error| error.to_string());
                let aside = self.root.join("index.json.damaged");
                tracing::warn!(path = %path.display(), aside = %aside.display(), reason, "image index is rebuilt");
                state::rename("cri.quarantine_image_index", &path, &aside)?;
                let entries = rebuild::entries(self)?;
                self.write_index(&entries)?;
                Ok(entries)
            }
        }
    }

    /// Follows an entry to its manifest and configuration; all blobs and layers must be here.
    fn resolve(&self, entry: &Descriptor) -> Result<Resolved> {
        let target = self.read_document(entry)?;
        let (manifest, content) = match target {
            Document::Manifest(content) => (entry.clone(), content),
            Document::Index(manifests) => {
                let chosen = document::choose(&entry.digest, &manifests)?;
                match self.read_document(&chosen)? {
                    Document::Manifest(content) => (chosen, content),
                    Document::Index(_) => {
                        return Err(Error::malformed(chosen.digest, "an index in an index"));
                    }
                }
            }
        };
        let bytes = self.read_small(&content.config, MAX_CONFIG)?;
        let (config, layers) = document::parse_config(&content.config.digest, &bytes, content.layers.len())?;
        for layer in &content.layers {
            if !self.has_blob(layer) {
                return Err(Error::malformed(layer.digest, "blob is missing"));
            }
        }
        if let Some(layer) = layers.iter().find(|layer| !self.has_layer(&layer.chain_id)) {
            return Err(Error::malformed(layer.chain_id, "unpacked layer is missing"));
        }
        let target = Descriptor {
            annotations: BTreeMap::new(),
            ..entry.clone()
        };
        Ok(Resolved {
            target,
            manifest,
            content,
            config: Arc::new(config),
            layers,
        })
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

    pub(crate) fn ingest(&self, descriptor: &Descriptor) -> Result<Ingest> {
        let path = self.blob_path(&descriptor.digest);
        Ok(Ingest {
            staged: state::Staged::create("cri.create_blob", &state::beside(&path))?,
            to: path,
            hasher: Sha256::new(),
            written: 0,
            expected: (descriptor.digest, descriptor.size),
        })
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

    /// The container `holder` stands on the layers of `image`: they stay while it does.
    pub(crate) fn hold(&self, holder: &str, layers: &[Layer]) {
        let chain_ids = layers.iter().map(|layer| layer.chain_id).collect();
        self.lock().held.insert(holder.to_owned(), chain_ids);
    }

    pub(crate) fn release(&self, holder: &str) {
        self.lock().held.remove(holder);
    }

    /// Keeps content from [`Store::collect`] until the guard goes.
    pub(crate) fn keep(self: &Arc<Self>, digests: impl IntoIterator<Item = Digest>) -> Kept {
        let digests: Vec<_> = digests.into_iter().collect();
        let mut contents = self.lock();
        for digest in &digests {
            *contents.pulling.entry(*digest).or_default() += 1;
        }
        Kept {
            store: Arc::clone(self),
            digests,
        }
    }

    /// Removes blobs and layers that no image, pull or container needs.
    pub(crate) fn collect(&self) -> Result<()> {
        self.collect_locked(&self.lock())
    }

    fn collect_locked(&self, contents: &Contents) -> Result<()> {
        let mut needed: BTreeSet<Digest> = contents.pulling.keys().copied().collect();
        needed.extend(contents.held.values().flatten().copied());
        for resolved in contents.resolved.values() {
            needed.extend(resolved.digests());
        }
        for (folder, is_tree) in [("blobs/sha256", false), ("layers", true)] {
            let folder = self.root.join(folder);
            let entries = std::fs::read_dir(&folder).map_err(state::Error::at("list", &folder))?;
            for entry in entries {
                let entry = entry.map_err(state::Error::at("list", &folder))?;
                let named = entry
                    .file_name()
                    .to_str()
                    .and_then(|name| Digest::from_hex(name).ok());
                // Names that are no digest are someone else's: temporary files of pulls, the empty layer.
                if named.is_none_or(|digest| needed.contains(&digest)) {
                    continue;
                }
                match is_tree {
                    true => self.remove_layer(&entry.path())?,
                    false => state::remove("cri.remove_blob", &entry.path())?,
                }
            }
        }
        Ok(())
    }

    /// A layer loses its name first: half a tree under the name would count as whole after a crash.
    fn remove_layer(&self, path: &Path) -> Result<()> {
        let doomed = state::beside(path);
        state::rename("cri.doom_layer", path, &doomed)?;
        Ok(state::remove_tree("cri.remove_layer", &doomed)?)
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

/// Content a pull under way needs; see [`Store::keep`].
#[derive(Debug)]
pub(crate) struct Kept {
    store: Arc<Store>,
    digests: Vec<Digest>,
}

impl Drop for Kept {
    fn drop(&mut self) {
        let mut contents = self.store.lock();
        for digest in &self.digests {
            if let Some(count) = contents.pulling.get_mut(digest) {
                *count -= 1;
                if *count == 0 {
                    contents.pulling.remove(digest);
                }
            }
        }
    }
}

fn name_of(entry: &Descriptor) -> Option<&String> {
    entry.annotations.get(REF_NAME)
}

fn is_pinned(entry: &Descriptor) -> bool {
    entry.annotations.get(PINNED).is_some_and(|value| value == "true")
}

/// The id of the image that `name` stands for.
fn id_of(contents: &Contents, name: &str) -> Option<Digest> {
    let digest = name.parse::<Digest>().or_else(|_| Digest::from_hex(name)).ok();
    let is_id = |digest: &Digest| {
        contents
            .resolved
            .values()
            .any(|found| found.content.config.digest == *digest)
    };
    if let Some(digest) = digest {
        return match is_id(&digest) {
            true => Some(digest),
            false => contents
                .resolved
                .get(&digest)
                .map(|found| found.content.config.digest),
        };
    }
    let full = name.parse::<Reference>().ok()?.to_string();
    let entry = contents
        .entries
        .iter()
        .find(|entry| name_of(entry) == Some(&full))?;
    contents
        .resolved
        .get(&entry.digest)
        .map(|found| found.content.config.digest)
}

fn view(contents: &Contents, id: &Digest) -> Option<Image> {
    let resolved = contents
        .resolved
        .values()
        .find(|resolved| resolved.content.config.digest == *id)?;
    let (mut tags, mut digests, mut pinned) = (BTreeSet::new(), BTreeSet::new(), false);
    for entry in &contents.entries {
        if !contents
            .resolved
            .get(&entry.digest)
            .is_some_and(|found| found.content.config.digest == *id)
        {
            continue;
        }
        pinned |= is_pinned(entry);
        let Some(reference) = name_of(entry).and_then(|name| name.parse::<Reference>().ok()) else {
            continue;
        };
        digests.insert(reference.at(entry.digest).to_string());
        if matches!(reference.version(), Version::Tag(_)) {
            tags.insert(reference.to_string());
        }
    }
    Some(Image {
        id: *id,
        repo_tags: tags.into_iter().collect(),
        repo_digests: digests.into_iter().collect(),
        size: resolved.size(),
        pinned,
        config: Arc::clone(&resolved.config),
        layers: resolved.layers.clone(),
    })
}

/// A blob being received: hashed as it comes, named only when it is what was announced. Dropped, it is gone.
#[derive(Debug)]
pub(crate) struct Ingest {
    staged: state::Staged,
    to: PathBuf,
    hasher: Sha256,
    written: u64,
    expected: (Digest, u64),
}

impl Ingest {
    pub(crate) fn written(&self) -> u64 {
        self.written
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.written += bytes.len() as u64;
        if self.written > self.expected.1 {
            return Err(self.wrong_size());
        }
        self.hasher.update(bytes);
        Ok(self.staged.write(bytes)?)
    }

    /// Forgets what came so far.
    pub(crate) fn restart(&mut self) -> Result<()> {
        self.hasher = Sha256::new();
        self.written = 0;
        Ok(self.staged.restart()?)
    }

    pub(crate) fn commit(self) -> Result<()> {
        let (expected, size) = self.expected;
        if self.written != size {
            return Err(self.wrong_size());
        }
        let actual = Digest::from_hasher(self.hasher);
        if actual != expected {
            return Err(Error::DigestMismatch {
                object: format!("blob {expected}"),
                expected,
                actual,
            });
        }
        Ok(self.staged.commit("cri.commit_blob", &self.to)?)
    }

    fn wrong_size(&self) -> Error {
        let (digest, expected) = self.expected;
        Error::SizeMismatch {
            object: format!("blob {digest}"),
            expected,
            actual: self.written,
        }
    }
}
