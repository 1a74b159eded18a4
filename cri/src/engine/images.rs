//! The image service of the interface, over [`crate::images`].

use proto::cri::{
    FilesystemIdentifier, FilesystemUsage, Image as CriImage, ImageFsInfoRequest, ImageFsInfoResponse,
    ImageSpec, ImageStatusRequest, ImageStatusResponse, Int64Value, ListImagesRequest, ListImagesResponse,
    PullImageRequest, PullImageResponse, RemoveImageRequest, RemoveImageResponse, UInt64Value,
};

use super::{Engine, now};
use crate::images::{self, Image, Kind};
use crate::{Code, Error};

impl Engine {
    /// `PullImage`: on disk and unpacked on success; the reply names it as a container's `image_ref` does.
    ///
    /// # Errors
    /// [`Error::Image`]: a bad reference, `RegistryUnavailable: …`, denied, not found, damaged content, no space.
    pub async fn pull_image(&self, request: PullImageRequest) -> Result<PullImageResponse, Error> {
        let name = request.image.unwrap_or_default().image;
        let auth = request.auth;
        let pulled = self.detached("pull image", move |core| async move {
            core.images.pull(&name, auth).await.map_err(error)
        });
        Ok(PullImageResponse {
            image_ref: pulled.await?.id.to_string(),
        })
    }

    /// `ImageStatus`: no image in the reply is the answer for one that is not here.
    ///
    /// # Errors
    /// None today.
    pub async fn image_status(&self, request: ImageStatusRequest) -> Result<ImageStatusResponse, Error> {
        let image = self.core.images.get(&request.image.unwrap_or_default().image);
        Ok(ImageStatusResponse {
            image: image.map(|image| describe(&image)),
            info: Default::default(),
        })
    }

    /// `ListImages`.
    ///
    /// # Errors
    /// None today.
    pub async fn list_images(&self, request: ListImagesRequest) -> Result<ListImagesResponse, Error> {
        let wanted = request
            .filter
            .and_then(|filter| filter.image)
            .unwrap_or_default()
            .image;
        let images = if wanted.is_empty() {
            self.core.images.list()
        } else {
            self.core.images.get(&wanted).into_iter().collect()
        };
        Ok(ListImagesResponse {
            images: images.iter().map(describe).collect(),
        })
    }

    /// `RemoveImage`, with all its names; layers that containers stand on go with the last of these.
    ///
    /// # Errors
    /// The disk refuses.
    pub async fn remove_image(&self, request: RemoveImageRequest) -> Result<RemoveImageResponse, Error> {
        let name = request.image.unwrap_or_default().image;
        self.detached("remove image", |core| async move {
            core.images.remove(&name).await.map_err(error)
        })
        .await?;
        Ok(RemoveImageResponse {})
    }

    /// `ImageFsInfo`: what images take on disk; writable layers are on the same file system.
    ///
    /// # Errors
    /// The disk refuses.
    pub async fn image_fs_info(&self, _request: ImageFsInfoRequest) -> Result<ImageFsInfoResponse, Error> {
        let info = self.core.images.fs_info().await.map_err(error)?;
        let usage = FilesystemUsage {
            timestamp: now(),
            fs_id: Some(FilesystemIdentifier {
                mountpoint: info.mountpoint.to_string_lossy().into_owned(),
            }),
            used_bytes: Some(UInt64Value {
                value: info.used_bytes,
            }),
            inodes_used: Some(UInt64Value {
                value: info.inodes_used,
            }),
        };
        Ok(ImageFsInfoResponse {
            image_filesystems: vec![usage.clone()],
            container_filesystems: vec![usage],
        })
    }
}

fn describe(image: &Image) -> CriImage {
    let user = image
        .config
        .config()
        .as_ref()
        .and_then(|config| config.user().clone())
        .unwrap_or_default();
    let user = user.split(':').next().unwrap_or_default();
    let uid = if user.is_empty() {
        Some(0)
    } else {
        user.parse::<u32>().ok().map(i64::from)
    };
    CriImage {
        id: image.id.to_string(),
        repo_tags: image.repo_tags.clone(),
        repo_digests: image.repo_digests.clone(),
        size: image.size,
        uid: uid.map(|value| Int64Value { value }),
        username: if uid.is_none() {
            user.to_owned()
        } else {
            String::new()
        },
        spec: Some(ImageSpec {
            image: image.id.to_string(),
            ..ImageSpec::default()
        }),
        pinned: image.pinned,
    }
}

/// The image service's error as the engine's. The kubelet knows the word `RegistryUnavailable` in front.
pub(crate) fn error(error: images::Error) -> Error {
    let code = match error.kind() {
        Kind::InvalidReference => Code::InvalidArgument,
        Kind::NotFound => Code::NotFound,
        Kind::RegistryUnavailable => {
            let source = format!("RegistryUnavailable: {error}").into();
            return Error::Image {
                code: Code::Unavailable,
                source,
            };
        }
        Kind::Denied | Kind::Content | Kind::Node => Code::Unknown,
    };
    Error::Image {
        code,
        source: Box::new(error),
    }
}
