//! A new `index.json` from the blobs alone. Names are lost with the old one; ids and content are not.

use super::{Descriptor, Store};
use crate::images::digest::Digest;
use crate::images::document::{Document, MAX_DOCUMENT};
use crate::images::error::Result;
use crate::state;

/// An entry without a name for each manifest whose blobs and layers are all here.
pub(super) fn entries(store: &Store) -> Result<Vec<Descriptor>> {
    let folder = store.root.join("blobs/sha256");
    let mut entries = Vec::new();
    for file in std::fs::read_dir(&folder).map_err(state::Error::at("list", &folder))? {
        let file = file.map_err(state::Error::at("list", &folder))?;
        let Some(digest) = file
            .file_name()
            .to_str()
            .and_then(|name| Digest::from_hex(name).ok())
        else {
            continue;
        };
        let size = file.metadata().map_err(state::Error::at("stat", &folder))?.len();
        if size > MAX_DOCUMENT {
            continue;
        }
        if let Some(entry) = manifest(store, digest, size) {
            entries.push(entry);
        }
    }
    entries.sort_by_key(|entry| entry.digest);
    Ok(entries)
}

fn manifest(store: &Store, digest: Digest, size: u64) -> Option<Descriptor> {
    let bytes = state::read_record(&store.blob_path(&digest), MAX_DOCUMENT).ok()??;
    let (document, media_type) = Document::parse(&digest, &bytes, None).ok()?;
    let Document::Manifest(_) = document else {
        return None;
    };
    let entry = Descriptor {
        media_type,
        digest,
        size,
        platform: None,
        annotations: Default::default(),
    };
    store.resolve(&entry).ok().map(|_| entry)
}
