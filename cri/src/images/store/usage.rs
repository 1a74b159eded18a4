//! What the store takes on disk. Layers never change, so each is walked once.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::PoisonError;

use super::Store;
use crate::images::FsInfo;
use crate::images::digest::Digest;
use crate::images::error::Result;
use crate::state;

/// Bytes and inodes.
pub(super) type Usage = (u64, u64);

impl Store {
    /// Disk blocks and inodes of blobs and layers.
    pub(crate) fn usage(&self) -> Result<FsInfo> {
        let (mut used_bytes, mut inodes_used) = walk(&self.root.join("blobs/sha256"))?;
        let layers = self.root.join("layers");
        let mut known = self.usages.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|chain_id, _| self.layer_path(chain_id).is_dir());
        for entry in std::fs::read_dir(&layers).map_err(state::Error::at("list", &layers))? {
            let entry = entry.map_err(state::Error::at("list", &layers))?;
            let Some(chain_id) = entry
                .file_name()
                .to_str()
                .and_then(|name| Digest::from_hex(name).ok())
            else {
                continue;
            };
            let (bytes, inodes) = match known.get(&chain_id) {
                Some(usage) => *usage,
                None => walk(&entry.path())?,
            };
            known.insert(chain_id, (bytes, inodes));
            used_bytes += bytes;
            inodes_used += inodes;
        }
        Ok(FsInfo {
            mountpoint: self.root.clone(),
            used_bytes,
            inodes_used,
        })
    }
}

fn walk(root: &Path) -> Result<Usage> {
    let (mut bytes, mut inodes) = (0, 0);
    let mut open = vec![root.to_owned()];
    while let Some(next) = open.pop() {
        let entries = match std::fs::read_dir(&next) {
            // Removed while we look.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            entries => entries.map_err(state::Error::at("list", &next))?,
        };
        for entry in entries {
            let entry = entry.map_err(state::Error::at("list", &next))?;
            let Ok(metadata) = entry.metadata() else {
                continue;
            };
            bytes += metadata.blocks() * 512;
            inodes += 1;
            if metadata.is_dir() {
                open.push(entry.path());
            }
        }
    }
    Ok((bytes, inodes))
}
