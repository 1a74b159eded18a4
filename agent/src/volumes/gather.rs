//! From the plan to what is written: fetches what volumes of files hold.

use std::collections::BTreeMap;
use std::future::Future;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, ProjectedVolumeSource, Secret, VolumeProjection};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::error::Cause;
use super::payload::{self, DEFAULT_MODE, Payload, ProjectedFile, Rules};
use super::plan::{Ownership, Source};
use super::tokens::{TokenKey, Tokens};
use crate::api::{self, Objects};

/// Files by path as a source gives them, not yet checked.
type Files = Vec<(String, ProjectedFile)>;

/// Fetches for one pod.
pub(super) struct Gatherer<'a> {
    pub(super) pod: &'a Pod,
    pub(super) objects: &'a Objects,
    pub(super) tokens: &'a Tokens,
    pub(super) allocatable: &'a BTreeMap<String, Quantity>,
    pub(super) ownership: Ownership,
    pub(super) now: Timestamp,
}

/// What a volume holds, and when that must be looked at again.
pub(super) struct Gathered {
    pub(super) payload: Payload,
    pub(super) refresh: Option<Timestamp>,
}

impl Gatherer<'_> {
    pub(super) async fn gather(&self, source: &Source) -> Result<Gathered, Cause> {
        let mut refresh = None;
        let files = match source {
            Source::ConfigMap(own) => {
                let rules = rules(own.default_mode, own.optional);
                let map = self.config_map(&own.name, rules.optional).await?;
                payload::of_config_map(&map, own.items.as_deref(), rules)?
            }
            Source::Secret(own) => {
                let rules = rules(own.default_mode, own.optional);
                let name = own.secret_name.as_deref().unwrap_or_default();
                let secret = self.secret(name, rules.optional).await?;
                payload::of_secret(&secret, own.items.as_deref(), rules)?
            }
            Source::DownwardApi(own) => {
                let mode = own.default_mode.unwrap_or(DEFAULT_MODE);
                let items = own.items.as_deref().unwrap_or_default();
                payload::of_downward(items, self.pod, self.allocatable, mode)?
            }
            Source::Projected(own) => {
                let files;
                (files, refresh) = self.projected(own).await?;
                files
            }
        };
        Ok(Gathered {
            payload: payload::checked(files)?,
            refresh,
        })
    }

    /// All sources are fetched at once and all are tried, so that an error names all that is missing.
    async fn projected(&self, own: &ProjectedVolumeSource) -> Result<(Files, Option<Timestamp>), Cause> {
        let mode = own.default_mode.unwrap_or(DEFAULT_MODE);
        let sources = own
            .sources
            .iter()
            .flatten()
            .map(|source| self.projection(source, mode));
        let (mut files, mut refresh, mut causes) = (Files::new(), None, Vec::new());
        for fetched in futures::future::join_all(sources).await {
            match fetched {
                Ok((more, next)) => {
                    files.extend(more);
                    refresh = [refresh, next].into_iter().flatten().min();
                }
                Err(cause) => causes.push(cause),
            }
        }
        match causes.len() {
            0 => Ok((files, refresh)),
            1 => Err(causes.remove(0)),
            _ => Err(Cause::Several(causes)),
        }
    }

    async fn projection(
        &self,
        source: &VolumeProjection,
        mode: i32,
    ) -> Result<(Files, Option<Timestamp>), Cause> {
        if let Some(own) = &source.service_account_token {
            let key = TokenKey::of(self.pod, own);
            let (token, refresh) = self.tokens.get(self.objects, &key, self.now).await?;
            let Ownership { user, group } = self.ownership;
            let file = payload::of_token(token, mode, user, group.is_some());
            return Ok((vec![(own.path.clone(), file)], Some(refresh)));
        }
        let files = if let Some(own) = &source.config_map {
            let rules = rules(Some(mode), own.optional);
            let map = self.config_map(&own.name, rules.optional).await?;
            payload::of_config_map(&map, own.items.as_deref(), rules)?
        } else if let Some(own) = &source.secret {
            let rules = rules(Some(mode), own.optional);
            let secret = self.secret(&own.name, rules.optional).await?;
            payload::of_secret(&secret, own.items.as_deref(), rules)?
        } else if let Some(own) = &source.downward_api {
            let items = own.items.as_deref().unwrap_or_default();
            payload::of_downward(items, self.pod, self.allocatable, mode)?
        } else if source.cluster_trust_bundle.is_some() {
            return Err(Cause::Unsupported {
                kind: "clusterTrustBundle",
            });
        } else {
            return Err(Cause::Unsupported {
                kind: "podCertificate",
            });
        };
        Ok((files, None))
    }

    async fn config_map(&self, name: &str, optional: bool) -> Result<ConfigMap, Cause> {
        let namespace = self.pod.metadata.namespace.as_deref().unwrap_or_default();
        fetched(
            "configmap",
            name,
            optional,
            self.objects.config_map(namespace, name),
        )
        .await
    }

    async fn secret(&self, name: &str, optional: bool) -> Result<Secret, Cause> {
        let namespace = self.pod.metadata.namespace.as_deref().unwrap_or_default();
        fetched("secret", name, optional, self.objects.secret(namespace, name)).await
    }
}

fn rules(default_mode: Option<i32>, optional: Option<bool>) -> Rules {
    Rules {
        default_mode: default_mode.unwrap_or(DEFAULT_MODE),
        optional: optional.unwrap_or(false),
    }
}

/// The object, an empty one where it may be absent.
async fn fetched<K: Clone + Default>(
    kind: &'static str,
    name: &str,
    optional: bool,
    fetch: impl Future<Output = Result<Option<std::sync::Arc<K>>, api::Error>>,
) -> Result<K, Cause> {
    match fetch.await {
        Ok(Some(object)) => Ok(K::clone(&object)),
        Ok(None) if optional => Ok(K::default()),
        Ok(None) => Err(Cause::NotFound {
            kind,
            name: name.to_owned(),
        }),
        Err(error) => Err(Cause::Api(error)),
    }
}
