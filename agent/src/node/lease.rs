//! The node's heartbeat: a Lease renewed every quarter of its length.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference};

use crate::api::{Api, Error, Objects};
use crate::config::Settings;

const NAMESPACE: &str = "kube-node-lease";
/// Immediate tries of one renewal.
const TRIES: usize = 5;
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LAST_PAUSE: Duration = Duration::from_secs(7);

/// Keeps the Lease alive for ever.
pub(super) async fn keep(api: &Api, settings: &Settings, objects: &Objects) {
    let seconds = settings.kubelet.node_lease_duration_seconds;
    let length = Duration::from_secs(u64::try_from(seconds).unwrap_or(40));
    let mut lease: Option<Lease> = None;
    loop {
        let current = match lease.take() {
            Some(current) => current,
            None => ensure(api, settings, objects).await,
        };
        lease = renew(api, settings, objects, current, length).await;
        // A little jitter keeps nodes that began together apart.
        tokio::time::sleep(length.mul_f64(0.25 * (1.0 + 0.04 * rand::random::<f64>()))).await;
    }
}

/// Finds or makes the Lease; tries until there is one.
async fn ensure(api: &Api, settings: &Settings, objects: &Objects) -> Lease {
    let mut pause = FIRST_PAUSE;
    loop {
        match try_ensure(api, settings, objects).await {
            Ok(lease) => return lease,
            Err(error) => tracing::error!(%error, "the node has no lease, trying again"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LAST_PAUSE);
    }
}

async fn try_ensure(api: &Api, settings: &Settings, objects: &Objects) -> Result<Lease, Error> {
    if let Some(lease) = api.get::<Lease>(Some(NAMESPACE), &settings.node_name).await? {
        return Ok(lease);
    }
    api.create(
        "api.create_lease",
        Some(NAMESPACE),
        &wanted(None, settings, objects, Timestamp::now()),
    )
    .await
}

/// Renews with a few tries at once; `None`: it is to be looked for anew.
async fn renew(
    api: &Api,
    settings: &Settings,
    objects: &Objects,
    mut lease: Lease,
    length: Duration,
) -> Option<Lease> {
    for _ in 0..TRIES {
        let next = wanted(Some(&lease), settings, objects, Timestamp::now());
        let sent = api.replace("api.renew_lease", Some(NAMESPACE), &next);
        let error = match tokio::time::timeout(length.min(Duration::from_secs(10)), sent).await {
            Ok(Ok(renewed)) => return Some(renewed),
            Ok(Err(error)) => error,
            Err(_) => {
                tracing::error!("the lease was not renewed in time");
                continue;
            }
        };
        if error.is_not_found() {
            return None;
        }
        tracing::error!(%error, "the lease was not renewed");
        if error.is_conflict() {
            lease = api
                .get(Some(NAMESPACE), &settings.node_name)
                .await
                .ok()
                .flatten()?;
        }
    }
    Some(lease)
}

/// The Lease as it should be now.
pub(super) fn wanted(base: Option<&Lease>, settings: &Settings, objects: &Objects, now: Timestamp) -> Lease {
    let node = objects.node();
    let uid = node.as_ref().and_then(|node| node.metadata.uid.clone());
    lease(base, settings, uid, now)
}

/// The pure part of it: `uid` is the Node's, if known.
pub(super) fn lease(base: Option<&Lease>, settings: &Settings, uid: Option<String>, now: Timestamp) -> Lease {
    let mut lease = base.cloned().unwrap_or_else(|| Lease {
        metadata: ObjectMeta {
            name: Some(settings.node_name.clone()),
            namespace: Some(NAMESPACE.to_owned()),
            ..ObjectMeta::default()
        },
        spec: None,
    });
    // The lease goes with the node.
    if let (Some(uid), true) = (
        uid,
        lease.metadata.owner_references.as_ref().is_none_or(Vec::is_empty),
    ) {
        lease.metadata.owner_references = Some(vec![OwnerReference {
            api_version: "v1".into(),
            kind: "Node".into(),
            name: settings.node_name.clone(),
            uid,
            ..OwnerReference::default()
        }]);
    }
    lease.spec = Some(LeaseSpec {
        holder_identity: Some(settings.node_name.clone()),
        lease_duration_seconds: Some(settings.kubelet.node_lease_duration_seconds),
        renew_time: Some(MicroTime(now)),
        ..lease.spec.unwrap_or_default()
    });
    lease
}
