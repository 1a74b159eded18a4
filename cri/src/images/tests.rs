//! Things the tests of this folder are made of: archives with any header one likes, images, temporary places.

use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;

use serde_json::json;
use tar::{EntryType, Header};

use super::digest::Digest;
use super::store::Store;

pub(super) mod server;

/// A temporary directory where special files are cheap and trusted attributes allowed.
pub(super) fn scratch() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    match memory.is_dir() {
        true => tempfile::tempdir_in(memory),
        false => tempfile::tempdir(),
    }
    .expect("temporary directory")
}

/// An archive built header by header.
#[derive(Clone, Default)]
pub(super) struct Archive(pub(super) Vec<u8>);

impl Archive {
    pub(super) fn add(self, kind: EntryType, name: &str, link: &str, content: &[u8]) -> Self {
        self.with(kind, name, content, |header| {
            header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        })
    }

    /// A member whose header `edit` may change before its checksum is set.
    pub(super) fn with(
        mut self,
        kind: EntryType,
        name: &str,
        content: &[u8],
        edit: impl FnOnce(&mut Header),
    ) -> Self {
        let mut header = Header::new_ustar();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(kind);
        header.set_size(content.len() as u64);
        header.set_mode(if kind == EntryType::Directory {
            0o755
        } else {
            0o644
        });
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_000_000_000);
        edit(&mut header);
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub(super) fn file(self, name: &str, content: &[u8]) -> Self {
        self.add(EntryType::Regular, name, "", content)
    }

    pub(super) fn directory(self, name: &str) -> Self {
        self.add(EntryType::Directory, name, "", b"")
    }

    pub(super) fn symlink(self, name: &str, target: &str) -> Self {
        self.add(EntryType::Symlink, name, target, b"")
    }

    pub(super) fn hardlink(self, name: &str, target: &str) -> Self {
        self.add(EntryType::Link, name, target, b"")
    }

    /// An extended header for the next member.
    pub(super) fn pax(self, records: &[(&str, &str)]) -> Self {
        self.extended(EntryType::XHeader, records)
    }

    pub(super) fn extended(self, kind: EntryType, records: &[(&str, &str)]) -> Self {
        let mut body = String::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let mut length = rest + 1;
            while length != rest + length.to_string().len() {
                length += 1;
            }
            body.push_str(&format!("{length} {key}={value}\n"));
        }
        self.add(kind, "pax", "", body.as_bytes())
    }

    pub(super) fn finish(mut self) -> Vec<u8> {
        self.0.extend_from_slice(&[0; 1024]);
        self.0
    }
}

pub(super) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).expect("to memory");
    encoder.finish().expect("to memory")
}

/// An image as a registry holds it.
#[derive(Clone)]
pub(super) struct Sample {
    pub(super) manifest: Vec<u8>,
    pub(super) config: Vec<u8>,
    /// Compressed.
    pub(super) layers: Vec<Vec<u8>>,
}

impl Sample {
    /// One layer an archive; `mark` makes the configuration, and so the id, different.
    pub(super) fn new(mark: &str, archives: &[Vec<u8>]) -> Self {
        let diff_ids: Vec<_> = archives.iter().map(|archive| Digest::of(archive)).collect();
        let config = json!({
            "architecture": super::document::own_architecture(),
            "os": "linux",
            "config": {"Labels": {"mark": mark}, "Cmd": ["/run"]},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        let config = config.to_string().into_bytes();
        let layers: Vec<_> = archives.iter().map(|archive| gzip(archive)).collect();
        let descriptor = |kind: &str, bytes: &[u8]| json!({"mediaType": kind, "digest": Digest::of(bytes), "size": bytes.len()});
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
            "layers": layers.iter().map(|layer| descriptor("application/vnd.oci.image.layer.v1.tar+gzip", layer)).collect::<Vec<_>>(),
        });
        Self {
            manifest: manifest.to_string().into_bytes(),
            config,
            layers,
        }
    }

    pub(super) fn simple(mark: &str) -> Self {
        let lower = Archive::default()
            .directory("bin")
            .file("bin/run", mark.as_bytes())
            .finish();
        let upper = Archive::default()
            .directory("bin")
            .file("bin/.wh.gone", b"")
            .finish();
        Self::new(mark, &[lower, upper])
    }

    pub(super) fn id(&self) -> Digest {
        Digest::of(&self.config)
    }

    pub(super) fn digest(&self) -> Digest {
        Digest::of(&self.manifest)
    }

    /// All blobs with their digests.
    pub(super) fn blobs(&self) -> impl Iterator<Item = (Digest, &[u8])> {
        std::iter::once(&self.config)
            .chain(&self.layers)
            .map(|bytes| (Digest::of(bytes), bytes.as_slice()))
    }

    /// Puts the image into a store, as a pull of `name` would.
    pub(super) fn install(&self, store: &Arc<Store>, name: &str) -> super::store::Image {
        use super::document::{Descriptor, Document, parse_config};
        store.write_small(&self.manifest).expect("manifest");
        for (_, bytes) in self.blobs() {
            store.write_small(bytes).expect("blob");
        }
        let (document, media_type) = Document::parse(&self.digest(), &self.manifest, None).expect("manifest");
        let Document::Manifest(content) = document else {
            panic!("a manifest")
        };
        let (config, layers) = parse_config(&self.id(), &self.config, content.layers.len()).expect("config");
        for (blob, layer) in content.layers.iter().zip(&layers) {
            let to = store.layer_path(&layer.chain_id);
            if !to.exists() {
                super::unpack::unpack(
                    &store.blob_path(&blob.digest),
                    &layer.diff_id,
                    &to,
                    Default::default(),
                )
                .expect("unpack");
            }
        }
        let target = Descriptor {
            media_type,
            digest: self.digest(),
            size: self.manifest.len() as u64,
            platform: None,
            annotations: Default::default(),
        };
        let resolved = super::store::Resolved {
            manifest: target.clone(),
            target,
            content,
            config: Arc::new(config),
            layers,
        };
        store
            .commit(&name.parse().expect("reference"), resolved)
            .expect("commit")
    }
}
