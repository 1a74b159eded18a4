//! Objects of one kind, each watched by its name.

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::NamespaceResourceScope;
use kube::Resource;
use kube::runtime::watcher;
use serde::de::DeserializeOwned;
use tokio::sync::{broadcast, watch};
use tokio::task::AbortHandle;

use super::super::{Api, Error, Patience, words};
use super::Key;

/// Longest wait of a read for the first answer.
const FIRST_ANSWER: Duration = Duration::from_secs(10);

type Names = (String, String);

/// What is known of one object.
enum State<K> {
    /// Nothing yet; the trouble, if there was some.
    Unknown(Option<String>),
    /// As last seen; `None` = there is none.
    Known(Option<Arc<K>>),
}

struct Entry<K> {
    state: watch::Receiver<State<K>>,
    task: AbortHandle,
}

impl<K> Drop for Entry<K> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub(super) struct Watched<K> {
    api: Arc<Api>,
    entries: Mutex<HashMap<Names, Entry<K>>>,
    changes: broadcast::Sender<Key>,
    key: fn(String, String) -> Key,
}

impl<K> Watched<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + Debug
        + DeserializeOwned
        + Send
        + Sync
        + 'static,
{
    pub(super) fn new(
        api: Arc<Api>,
        changes: broadcast::Sender<Key>,
        key: fn(String, String) -> Key,
    ) -> Self {
        Self {
            api,
            entries: Mutex::default(),
            changes,
            key,
        }
    }

    /// Watches the object from now on.
    pub(super) fn watch(&self, namespace: &str, name: &str) {
        let Some((client, hold)) = self.api.watcher() else {
            return;
        };
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries
            .entry((namespace.to_owned(), name.to_owned()))
            .or_insert_with(|| {
                let (sender, state) = watch::channel(State::Unknown(None));
                let api = kube::Api::<K>::namespaced(client, namespace);
                let key = (self.key)(namespace.to_owned(), name.to_owned());
                let following = follow(api, name.to_owned(), sender, self.changes.clone(), key);
                let task = tokio::spawn(async move {
                    following.await;
                    drop(hold);
                });
                Entry {
                    state,
                    task: task.abort_handle(),
                }
            });
    }

    /// Ends the watch of the object.
    pub(super) fn forget(&self, namespace: &str, name: &str) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.remove(&(namespace.to_owned(), name.to_owned()));
    }

    /// The object; read directly when no pod has said that it uses it.
    pub(super) async fn get(&self, namespace: &str, name: &str) -> Result<Option<Arc<K>>, Error> {
        let state = {
            let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
            entries
                .get(&(namespace.to_owned(), name.to_owned()))
                .map(|entry| entry.state.clone())
        };
        let Some(mut state) = state else {
            return Ok(self.api.get::<K>(Some(namespace), name).await?.map(Arc::new));
        };
        let answered = state.wait_for(|state| matches!(state, State::Known(_)));
        // The outcome does not matter: the state is looked at below.
        let _ = tokio::time::timeout(FIRST_ANSWER, answered).await.is_ok();
        let trouble = match &*state.borrow() {
            State::Known(object) => return Ok(object.clone()),
            State::Unknown(Some(trouble)) => trouble.clone(),
            State::Unknown(None) => format!("no answer within {} s", FIRST_ANSWER.as_secs()),
        };
        let object = format!("{} {namespace}/{name}", K::kind(&()));
        Err(Error::Unreachable {
            operation: "watch",
            object,
            cause: trouble,
        })
    }
}

/// Keeps `state` equal to the object, for as long as somebody looks.
async fn follow<K>(
    api: kube::Api<K>,
    name: String,
    state: watch::Sender<State<K>>,
    changes: broadcast::Sender<Key>,
    key: Key,
) where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let mut stream = std::pin::pin!(watcher::watch_object(api, &name));
    let mut patience = Patience::new();
    let mut first = true;
    while let Some(event) = stream.next().await {
        match event {
            Ok(object) => {
                patience.reset();
                state.send_replace(State::Known(object.map(Arc::new)));
                if !std::mem::take(&mut first) {
                    // Nobody listening is fine: a reader that comes later reads the state.
                    let _ = changes.send(key.clone());
                }
            }
            Err(error) => {
                let trouble = words(&error);
                if patience.is_long() {
                    tracing::warn!(?key, trouble, "watch broke, it is tried again");
                }
                state.send_modify(|state| {
                    if let State::Unknown(last) = state {
                        *last = Some(trouble);
                    }
                });
                patience.wait().await;
            }
        }
    }
}
