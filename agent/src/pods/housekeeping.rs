//! Once a minute: directories, cgroups and logs of pods that nobody knows any more.
//!
//! What there is is listed before what may stay: a pod that comes meanwhile is never taken for a leftover.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use super::dispatch::Live;
use super::effects::entries;
use super::worker::Context;
use crate::api::chain;

const PERIOD: Duration = Duration::from_secs(60);

/// Runs for ever: at once when all sources are known (the time when a crash's leftovers show), then once a minute.
pub(crate) async fn keep_house(context: Arc<Context>, live: Live, mut count: watch::Receiver<Option<usize>>) {
    if count.wait_for(Option::is_some).await.is_err() {
        return;
    }
    let mut ticks = tokio::time::interval(PERIOD);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        remove_directories(&context, &live).await;
        remove_cgroups(&context, &live).await;
        remove_logs(&context, &live).await;
        remove_records(&context, &live).await;
        let pods = context
            .store
            .snapshot()
            .values()
            .map(|view| Arc::clone(&view.pod))
            .collect();
        if let Err(error) = context.cgroups.update_tiers(pods).await {
            tracing::warn!(error = chain(&error), "QoS tiers not updated");
        }
    }
}

/// Those of `found` that nobody knows now.
fn leftovers(live: &Live, found: BTreeSet<String>) -> BTreeSet<String> {
    match &*live.lock().unwrap_or_else(PoisonError::into_inner) {
        Some(live) => found.difference(live).cloned().collect(),
        None => BTreeSet::new(),
    }
}

async fn remove_directories(context: &Context, live: &Live) {
    let found = match context.volumes.orphans(&BTreeSet::new()).await {
        Ok(found) => found,
        Err(error) => return tracing::warn!(error = chain(&error), "cannot list the pods' directories"),
    };
    for uid in leftovers(live, found) {
        if let Err(error) = context.volumes.remove(&uid).await {
            tracing::warn!(uid, error = chain(&error), "leftover directory not removed");
        }
    }
}

async fn remove_cgroups(context: &Context, live: &Live) {
    let found = match context.cgroups.orphans(&BTreeSet::new()).await {
        Ok(found) => found,
        Err(error) => return tracing::warn!(error = chain(&error), "cannot list the pods' cgroups"),
    };
    for uid in leftovers(live, found) {
        if let Err(error) = context.cgroups.remove(&uid).await {
            tracing::warn!(uid, error = chain(&error), "leftover cgroup not removed");
        }
    }
}

async fn remove_logs(context: &Context, live: &Live) {
    let directories = match entries(&context.files.pod_logs) {
        Ok(directories) => directories,
        Err(error) => return tracing::warn!(error = chain(&error), "cannot list the pods' logs"),
    };
    let found = directories.iter().filter_map(|d| uid_of(d)).collect();
    let leftovers = leftovers(live, found);
    let files = context.files.clone();
    let removed = tokio::task::spawn_blocking(move || {
        for directory in directories
            .iter()
            .filter(|d| uid_of(d).is_some_and(|uid| leftovers.contains(&uid)))
        {
            files.remove_logs(directory)?;
        }
        files.remove_dead_links()
    });
    if let Ok(Err(error)) = removed.await {
        tracing::warn!(error = chain(&error), "leftover logs not removed");
    }
}

async fn remove_records(context: &Context, live: &Live) {
    let records = match entries(&context.files.records) {
        Ok(records) => records,
        Err(error) => return tracing::warn!(error = chain(&error), "cannot list the records of endings"),
    };
    let found = records
        .iter()
        .filter_map(|r| Some(r.file_stem()?.to_str()?.to_owned()))
        .collect();
    for uid in leftovers(live, found) {
        let files = context.files.clone();
        let removed = tokio::task::spawn_blocking(move || files.remove_ending(&uid));
        if let Ok(Err(error)) = removed.await {
            tracing::warn!(error = chain(&error), "leftover record not removed");
        }
    }
}

/// The UID in `NAMESPACE_NAME_UID`.
fn uid_of(directory: &Path) -> Option<String> {
    let mut parts = directory.file_name()?.to_str()?.split('_');
    let (_, _, uid) = (parts.next()?, parts.next()?, parts.next()?);
    (!uid.is_empty() && parts.next().is_none()).then(|| uid.to_owned())
}
