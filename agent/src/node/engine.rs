//! The engine in this process, as a Node object tells of it.

use futures::FutureExt as _;
use futures::future::BoxFuture;
use proto::cri::{
    ListImagesRequest, NetworkConfig, RuntimeConfig, StatusRequest, StatusResponse,
    UpdateRuntimeConfigRequest,
};

use super::runtime::{Condition, Handler, Health, Image, Runtime};

impl Runtime for cri::Engine {
    fn health(&self) -> BoxFuture<'_, Result<Health, String>> {
        let request = StatusRequest::default();
        async move {
            Ok(health(
                self.status(request).await.map_err(|error| error.to_string())?,
            ))
        }
        .boxed()
    }

    fn images(&self) -> BoxFuture<'_, Result<Vec<Image>, String>> {
        let request = ListImagesRequest::default();
        async move {
            let found = self
                .list_images(request)
                .await
                .map_err(|error| error.to_string())?
                .images;
            let image = |image: proto::cri::Image| Image {
                digests: image.repo_digests,
                tags: image.repo_tags,
                size: i64::try_from(image.size).unwrap_or(i64::MAX),
            };
            Ok(found.into_iter().map(image).collect())
        }
        .boxed()
    }

    fn set_pod_cidrs(&self, cidrs: String) -> BoxFuture<'_, Result<(), String>> {
        let network_config = Some(NetworkConfig { pod_cidr: cidrs });
        let request = UpdateRuntimeConfigRequest {
            runtime_config: Some(RuntimeConfig { network_config }),
        };
        async move {
            self.update_runtime_config(request)
                .await
                .map_err(|error| error.to_string())?;
            Ok(())
        }
        .boxed()
    }
}

fn health(response: StatusResponse) -> Health {
    let conditions = response.status.unwrap_or_default().conditions;
    Health {
        conditions: conditions
            .into_iter()
            .map(|condition| Condition {
                kind: condition.r#type,
                holds: condition.status,
                reason: condition.reason,
                message: condition.message,
            })
            .collect(),
        handlers: response
            .runtime_handlers
            .into_iter()
            .map(|handler| {
                let features = handler.features.unwrap_or_default();
                Handler {
                    name: handler.name,
                    recursive_read_only_mounts: features.recursive_read_only_mounts,
                    user_namespaces: features.user_namespaces,
                }
            })
            .collect(),
        supplemental_groups_policy: response.features.unwrap_or_default().supplemental_groups_policy,
    }
}
