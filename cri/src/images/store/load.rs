//! Reading the index at start: an image counts only if all of it is here.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Index, MAX_INDEX, Resolved, Store, rebuild};
use crate::images::document::{self, Descriptor, Document, MAX_CONFIG};
use crate::images::error::{Error, Result};
use crate::state;

impl Store {
    /// The entries of the index. A damaged one is put aside and made anew from the blobs.
    pub(super) fn load(&self) -> Result<Vec<Descriptor>> {
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
    pub(super) fn resolve(&self, entry: &Descriptor) -> Result<Resolved> {
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
}
