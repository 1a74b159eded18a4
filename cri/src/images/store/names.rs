//! What names stand for: the annotations of the index, ids, digests.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Contents, Image, PINNED, REF_NAME};
use crate::images::digest::Digest;
use crate::images::document::Descriptor;
use crate::images::reference::{Reference, Version};

pub(super) fn name_of(entry: &Descriptor) -> Option<&String> {
    entry.annotations.get(REF_NAME)
}

pub(super) fn is_pinned(entry: &Descriptor) -> bool {
    entry.annotations.get(PINNED).is_some_and(|value| value == "true")
}

/// The id of the image that `name` stands for.
pub(super) fn id_of(contents: &Contents, name: &str) -> Option<Digest> {
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

pub(super) fn view(contents: &Contents, id: &Digest) -> Option<Image> {
    let resolved = contents
        .resolved
        .values()
        .find(|resolved| resolved.content.config.digest == *id)?;
    let (mut tags, mut digests, mut pinned) = (BTreeSet::new(), BTreeSet::new(), false);
    for entry in &contents.entries {
        if contents
            .resolved
            .get(&entry.digest)
            .is_none_or(|found| found.content.config.digest != *id)
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
