//! What stays and what goes: content is needed by images, by pulls under way, and by containers.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use super::{Contents, Store};
use crate::images::digest::Digest;
use crate::images::document::Layer;
use crate::images::error::Result;
use crate::state;

impl Store {
    /// The container `holder` stands on the layers of `image`: they stay while it does.
    pub(crate) fn hold(&self, holder: &str, layers: &[Layer]) {
        self.hold_layers(holder, layers.iter().map(|layer| layer.chain_id).collect());
    }

    pub(crate) fn hold_layers(&self, holder: &str, chain_ids: Vec<Digest>) {
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

    pub(super) fn collect_locked(&self, contents: &Contents) -> Result<()> {
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
