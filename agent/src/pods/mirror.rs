//! Mirror pods: what the API server shows of static pods. One is made for each, made again when it is deleted or
//! outdated, and removed with its static pod.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use super::source::uid;
use super::status::Statuses;
use crate::api::{self, Api, Objects};

/// Annotation of a mirror: the hash of its static pod.
pub(crate) const MIRROR: &str = "kubernetes.io/config.mirror";
const HASH: &str = "kubernetes.io/config.hash";
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(60);

/// Whether the API object stands for a static pod.
pub(crate) fn is_mirror(pod: &Pod) -> bool {
    pod.metadata
        .annotations
        .as_ref()
        .is_some_and(|a| a.contains_key(MIRROR))
}

/// Namespace and name, which a static pod and its mirror share.
type Name = (String, String);

fn name_of(pod: &Pod) -> Name {
    let meta = &pod.metadata;
    (
        meta.namespace.clone().unwrap_or_default(),
        meta.name.clone().unwrap_or_default(),
    )
}

#[derive(Debug, Default)]
struct Pair {
    /// The static pod, while its file is there.
    pod: Option<Arc<Pod>>,
    mirror: Option<Arc<Pod>>,
    /// A task is at work on it.
    busy: bool,
}

/// What a pair needs next.
#[derive(Debug, PartialEq)]
enum Step {
    Rest,
    Create(Arc<Pod>),
    Delete(Arc<Pod>),
}

impl Pair {
    fn step(&self) -> Step {
        match (&self.pod, &self.mirror) {
            (None, None) => Step::Rest,
            (Some(pod), None) => Step::Create(Arc::clone(pod)),
            (None, Some(mirror)) => Step::Delete(Arc::clone(mirror)),
            (Some(pod), Some(mirror)) => {
                let value = |pod: &Pod, key: &str| pod.metadata.annotations.as_ref()?.get(key).cloned();
                let current = value(pod, HASH) == value(mirror, MIRROR);
                let stays = current && mirror.metadata.deletion_timestamp.is_none();
                if stays {
                    Step::Rest
                } else {
                    Step::Delete(Arc::clone(mirror))
                }
            }
        }
    }
}

/// All static pods with their mirrors. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Mirrors {
    api: Arc<Api>,
    objects: Arc<Objects>,
    statuses: Statuses,
    pairs: Arc<Mutex<BTreeMap<Name, Pair>>>,
    /// The API source has listed: what mirrors exist is known.
    synced: Arc<std::sync::atomic::AtomicBool>,
}

impl Mirrors {
    pub(crate) fn new(api: Arc<Api>, objects: Arc<Objects>, statuses: Statuses) -> Self {
        Self {
            api,
            objects,
            statuses,
            pairs: Arc::default(),
            synced: Arc::default(),
        }
    }

    fn pairs(&self) -> MutexGuard<'_, BTreeMap<Name, Pair>> {
        // Each change leaves the map whole.
        self.pairs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A static pod is there.
    pub(crate) fn pod_applied(&self, pod: &Arc<Pod>) {
        let name = name_of(pod);
        let mirror = {
            let mut pairs = self.pairs();
            let pair = pairs.entry(name.clone()).or_default();
            pair.pod = Some(Arc::clone(pod));
            pair.mirror.clone()
        };
        if let Some(mirror) = mirror {
            self.statuses.seen(uid(pod), &mirror);
        }
        self.work(&name);
    }

    /// A static pod is gone.
    pub(crate) fn pod_removed(&self, pod: &Pod) {
        let name = name_of(pod);
        if let Some(pair) = self.pairs().get_mut(&name)
            && pair.pod.as_ref().is_some_and(|p| uid(p) == uid(pod))
        {
            pair.pod = None;
        }
        self.work(&name);
    }

    /// The API server shows a mirror.
    pub(crate) fn mirror_applied(&self, mirror: &Arc<Pod>) {
        let name = name_of(mirror);
        let pod = {
            let mut pairs = self.pairs();
            let pair = pairs.entry(name.clone()).or_default();
            pair.mirror = Some(Arc::clone(mirror));
            pair.pod.clone()
        };
        if let Some(pod) = pod {
            self.statuses.seen(uid(&pod), mirror);
        }
        self.work(&name);
    }

    /// The API server has no such mirror any more.
    pub(crate) fn mirror_removed(&self, mirror: &Pod) {
        let name = name_of(mirror);
        let pod = self.pairs().get_mut(&name).and_then(|pair| {
            let is_it = pair.mirror.as_ref().is_some_and(|m| uid(m) == uid(mirror));
            if is_it {
                pair.mirror = None;
            }
            pair.pod.clone().filter(|_| is_it)
        });
        if let Some(pod) = pod {
            self.statuses.gone(uid(&pod));
        }
        self.work(&name);
    }

    /// All mirrors there are.
    pub(crate) fn mirrors_listed(&self, mirrors: &[Arc<Pod>]) {
        let known: Vec<Arc<Pod>> = self
            .pairs()
            .values()
            .filter_map(|pair| pair.mirror.clone())
            .collect();
        for mirror in known
            .iter()
            .filter(|m| !mirrors.iter().any(|other| uid(other) == uid(m)))
        {
            self.mirror_removed(mirror);
        }
        for mirror in mirrors {
            self.mirror_applied(mirror);
        }
        self.synced.store(true, std::sync::atomic::Ordering::Release);
        let names: Vec<Name> = self.pairs().keys().cloned().collect();
        for name in names {
            self.work(&name);
        }
    }

    /// Starts the task of a pair, unless it is at work or has nothing to do.
    fn work(&self, name: &Name) {
        if self.api.is_standalone() || !self.synced.load(std::sync::atomic::Ordering::Acquire) {
            return;
        }
        let mut pairs = self.pairs();
        let Some(pair) = pairs.get_mut(name) else { return };
        if pair.pod.is_none() && pair.mirror.is_none() && !pair.busy {
            pairs.remove(name);
            return;
        }
        if pair.busy || pair.step() == Step::Rest {
            return;
        }
        pair.busy = true;
        let (this, name) = (self.clone(), name.clone());
        tokio::spawn(async move { this.settle(&name).await });
    }

    /// Works until the pair rests.
    async fn settle(&self, name: &Name) {
        let mut retry = FIRST_RETRY;
        loop {
            let step = {
                let mut pairs = self.pairs();
                let Some(pair) = pairs.get_mut(name) else { return };
                let step = pair.step();
                pair.busy = step != Step::Rest;
                if pair.pod.is_none() && pair.mirror.is_none() {
                    pairs.remove(name);
                }
                step
            };
            let done = match step {
                Step::Rest => return,
                Step::Create(pod) => self.create(&pod).await,
                Step::Delete(mirror) => self.delete(&mirror).await,
            };
            if let Err(error) = done {
                let pod = format!("{}/{}", name.0, name.1);
                tracing::warn!(
                    pod,
                    error = &error as &dyn std::error::Error,
                    "mirror pod, will retry"
                );
                tokio::time::sleep(retry.mul_f64(1.0 + rand::random::<f64>() / 2.0)).await;
                retry = (retry * 2).min(LAST_RETRY);
            } else {
                retry = FIRST_RETRY;
            }
        }
    }

    async fn create(&self, pod: &Arc<Pod>) -> Result<(), api::Error> {
        let namespace = pod.metadata.namespace.clone().unwrap_or_default();
        let mut nodes = self.objects.node_changes();
        // The mirror is owned by the Node, so that must be known first.
        let owner = loop {
            if let Some(node) = self.objects.node() {
                break node;
            }
            if nodes.changed().await.is_err() {
                return Ok(());
            }
        };
        let mirror = mirror_of(pod, &owner.metadata);
        match self
            .api
            .create("api.create_mirror_pod", Some(&namespace), &mirror)
            .await
        {
            Ok(made) => {
                self.mirror_applied(&Arc::new(made));
                Ok(())
            }
            // Another one is there: look at it.
            Err(error) if error.is_already_exists() => {
                let name = mirror.metadata.name.unwrap_or_default();
                if let Some(found) = self.api.get::<Pod>(Some(&namespace), &name).await? {
                    self.mirror_applied(&Arc::new(found));
                }
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    async fn delete(&self, mirror: &Arc<Pod>) -> Result<(), api::Error> {
        let (namespace, name) = name_of(mirror);
        match self
            .api
            .delete::<Pod>("api.delete_mirror_pod", Some(&namespace), &name, uid(mirror))
            .await
        {
            Err(error) if !error.is_conflict() => return Err(error),
            _ => {}
        }
        self.mirror_removed(mirror);
        Ok(())
    }
}

/// The object that stands for a static pod: its copy, marked and owned by the node.
fn mirror_of(pod: &Pod, node: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta) -> Pod {
    let mut mirror = pod.clone();
    let annotations = mirror.metadata.annotations.get_or_insert_default();
    let hash = annotations.get(HASH).cloned().unwrap_or_default();
    annotations.insert(MIRROR.to_owned(), hash);
    mirror.metadata.uid = None;
    mirror.metadata.owner_references = Some(vec![OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Node".to_owned(),
        name: node.name.clone().unwrap_or_default(),
        uid: node.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: None,
    }]);
    mirror.status = None;
    mirror
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(annotation: &str, hash: &str) -> Arc<Pod> {
        let pod = serde_json::json!({"metadata": {"name": "p", "annotations": {annotation: hash}}});
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    #[test]
    fn steps() {
        let (current, mirror, old) = (pod(HASH, "1"), pod(MIRROR, "1"), pod(MIRROR, "0"));
        let mut deleted = Pod::clone(&mirror);
        deleted.metadata.deletion_timestamp = Some(jiff::Timestamp::UNIX_EPOCH.into());
        let deleted = Arc::new(deleted);
        let step = |pod: Option<&Arc<Pod>>, mirror: Option<&Arc<Pod>>| {
            Pair {
                pod: pod.cloned(),
                mirror: mirror.cloned(),
                busy: false,
            }
            .step()
        };
        assert_eq!(step(None, None), Step::Rest);
        assert_eq!(step(Some(&current), Some(&mirror)), Step::Rest);
        assert_eq!(step(Some(&current), None), Step::Create(Arc::clone(&current)));
        assert_eq!(step(Some(&current), Some(&old)), Step::Delete(Arc::clone(&old)));
        assert_eq!(
            step(Some(&current), Some(&deleted)),
            Step::Delete(Arc::clone(&deleted))
        );
        assert_eq!(step(None, Some(&mirror)), Step::Delete(Arc::clone(&mirror)));
    }

    #[test]
    fn a_mirror_is_owned_by_its_node_and_has_no_uid_of_the_file() {
        let mut source = Pod::clone(&pod(HASH, "h"));
        source.metadata.uid = Some("file".to_owned());
        let node = serde_json::from_value(serde_json::json!({"name": "n", "uid": "nu"})).unwrap();
        let mirror = mirror_of(&source, &node);
        assert_eq!(mirror.metadata.annotations.unwrap()[MIRROR], "h");
        assert_eq!(mirror.metadata.uid, None);
        let owner = &mirror.metadata.owner_references.unwrap()[0];
        assert_eq!(
            (owner.kind.as_str(), owner.uid.as_str(), owner.controller),
            ("Node", "nu", Some(true))
        );
    }
}
