//! Images: names, registries, the store, unpacked layers. [`Images`] is the door for the engine.
//!
//! `reference` and `digest` are the names; `hosts`, `auth` and `registry` speak to registries; `document` reads
//! manifests; `store` keeps the OCI layout; `archive` and `unpack` make layers; `pull` puts it together.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use proto::cri::AuthConfig;

mod archive;
mod auth;
mod digest;
mod document;
mod error;
mod hosts;
mod pull;
mod reference;
mod registry;
mod store;
#[cfg(test)]
mod tests;
mod unpack;

pub use digest::{Digest, DigestError};
pub(crate) use error::{Error, Kind, Result};
pub use reference::{Reason, Reference, ReferenceError, Version};
pub(crate) use store::Image;

use pull::{Puller, blocking};
use registry::Registries;
use store::Store;

/// All images of the node. Cheap to share behind an [`Arc`].
#[derive(Debug)]
pub(crate) struct Images {
    store: Arc<Store>,
    puller: Puller,
}

/// What the image file system holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FsInfo {
    /// Directory of the images.
    pub(crate) mountpoint: PathBuf,
    pub(crate) used_bytes: u64,
    pub(crate) inodes_used: u64,
}

impl Images {
    /// Opens the store below `state_dir`, making it if absent. `registries` is the directory of registry settings
    /// (containerd's `certs.d`). Blocks.
    pub(crate) fn open(state_dir: &Path, registries: Option<PathBuf>) -> Result<Self> {
        let store = Arc::new(Store::open(state_dir)?);
        let puller = Puller::new(Arc::clone(&store), Registries::new(registries));
        Ok(Self { store, puller })
    }

    /// Pulls `reference`, which is normalised. Always asks the registry; content that is here is not fetched again.
    pub(crate) async fn pull(&self, reference: &str, auth: Option<AuthConfig>) -> Result<Image> {
        self.puller.pull(reference, auth.as_ref()).await
    }

    /// An image by reference, id (`sha256:HEX` or `HEX`) or digest.
    pub(crate) fn get(&self, name: &str) -> Option<Image> {
        self.store.get(name)
    }

    /// All images, by id.
    pub(crate) fn list(&self) -> Vec<Image> {
        self.store.list()
    }

    /// Removes the image with all its names; layers that a container holds stay. An unknown image is success.
    pub(crate) async fn remove(&self, name: &str) -> Result<()> {
        let (store, name) = (Arc::clone(&self.store), name.to_owned());
        blocking("remove image", move || store.remove(&name)).await
    }

    /// Marks the image as kept by the kubelet's garbage collection, or not.
    pub(crate) async fn pin(&self, name: &str, pinned: bool) -> Result<()> {
        let (store, name) = (Arc::clone(&self.store), name.to_owned());
        blocking("pin image", move || store.pin(&name, pinned)).await
    }

    /// The lower directories of a container's overlay, topmost first; at least one.
    pub(crate) fn rootfs(&self, image: &Image) -> Vec<PathBuf> {
        self.store.rootfs(image)
    }

    /// The image's configuration.
    pub(crate) fn config(&self, image: &Image) -> Arc<oci_spec::image::ImageConfiguration> {
        Arc::clone(&image.config)
    }

    /// The container `holder` stands on `image`: its layers outlive the image's removal until [`Images::release`].
    /// Not kept over a restart: adopted containers are held again.
    pub(crate) fn hold(&self, holder: &str, image: &Image) {
        self.store.hold(holder, &image.layers);
    }

    /// As [`Images::hold`], for a container that lived before this process did: the layers it was recorded with.
    pub(crate) fn hold_layers(&self, holder: &str, chain_ids: Vec<Digest>) {
        self.store.hold_layers(holder, chain_ids);
    }

    /// The container `holder` is gone.
    pub(crate) fn release(&self, holder: &str) {
        self.store.release(holder);
    }

    /// Removes content that nothing names: leftovers of a crash. To be called once all live containers hold theirs.
    pub(crate) async fn collect(&self) -> Result<()> {
        let store = Arc::clone(&self.store);
        blocking("collect images", move || store.collect()).await
    }

    /// What images and layers take on disk.
    pub(crate) async fn fs_info(&self) -> Result<FsInfo> {
        let store = Arc::clone(&self.store);
        blocking("measure images", move || store.usage()).await
    }
}
