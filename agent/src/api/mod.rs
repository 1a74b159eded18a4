//! The API server as the agent sees it: one funnel for writes, a recorder of events, caches of what pods refer to.
//!
//! Retries are the callers' business: each call here is one request, with a time limit and a typed error.

mod client;
mod connection;
mod error;
mod events;
mod objects;
#[cfg(test)]
mod tests;
mod watching;

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::{DeleteParams, GetParams, Patch, PatchParams, PostParams, Preconditions};
use kube::core::Request;
use kube::{Client, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;

pub(crate) use client::{Session, load};
pub(crate) use error::{Error, chain};
pub(crate) use events::{EventKind, Events};
pub(crate) use objects::{Key, Objects};
pub(crate) use watching::{Patience, words};

use crate::fault;

/// Longest wait for one answer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// The funnel. Every write names its fault point, `api.` first.
pub(crate) struct Api {
    session: Option<Session>,
}

impl Api {
    /// Talks through `session`.
    pub(crate) fn new(session: Session) -> Arc<Self> {
        Arc::new(Self {
            session: Some(session),
        })
    }

    /// No API server: every call answers [`Error::Standalone`].
    pub(crate) fn standalone() -> Arc<Self> {
        Arc::new(Self { session: None })
    }

    /// Whether there is no API server.
    pub(crate) fn is_standalone(&self) -> bool {
        self.session.is_none()
    }

    /// The client, for lists, watches and reviews; `None` when standalone. Writes go through the methods here. It stays
    /// good when the certificate is renewed: its connections then end, and watches begin anew.
    pub(crate) fn client(&self) -> Option<Client> {
        self.session.as_ref().map(Session::client)
    }

    /// A client for the watch of one object, and what to hold as long as it lasts.
    fn watcher(&self) -> Option<(Client, Arc<()>)> {
        self.session.as_ref().map(Session::watcher)
    }

    /// Goes on under another client certificate.
    pub(crate) fn set_identity(&self, key: rustls::sign::CertifiedKey) {
        if let Some(session) = &self.session {
            session.set_identity(key);
        }
    }

    /// Reads one object; `None` when there is none of that name.
    ///
    /// # Errors
    /// Any [`Error`] but 404.
    pub(crate) async fn get<K>(&self, namespace: Option<&str>, name: &str) -> Result<Option<K>, Error>
    where
        K: Resource<DynamicType = ()> + DeserializeOwned,
    {
        let call = Call::of::<K>("get", namespace, name);
        match self
            .send(&call, call.request().get(name, &GetParams::default()))
            .await
        {
            Ok(object) => Ok(Some(object)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Creates `object`; answers it as the server keeps it.
    ///
    /// # Errors
    /// Any [`Error`].
    pub(crate) async fn create<K>(
        &self,
        point: &'static str,
        namespace: Option<&str>,
        object: &K,
    ) -> Result<K, Error>
    where
        K: Resource<DynamicType = ()> + Serialize + DeserializeOwned,
    {
        let name = object.meta().name.clone().unwrap_or_default();
        let call = Call::of::<K>("create", namespace, &name);
        let body = call.body(object)?;
        self.write(point, &call, call.request().create(&PostParams::default(), body))
            .await
    }

    /// Replaces the object of that name.
    ///
    /// # Errors
    /// Any [`Error`]; [`Error::is_conflict`] when its resourceVersion is old.
    pub(crate) async fn replace<K>(
        &self,
        point: &'static str,
        namespace: Option<&str>,
        object: &K,
    ) -> Result<K, Error>
    where
        K: Resource<DynamicType = ()> + Serialize + DeserializeOwned,
    {
        let name = object.meta().name.clone().unwrap_or_default();
        let call = Call::of::<K>("update", namespace, &name);
        let body = call.body(object)?;
        self.write(
            point,
            &call,
            call.request().replace(&name, &PostParams::default(), body),
        )
        .await
    }

    /// Patches the object of that name.
    ///
    /// # Errors
    /// Any [`Error`].
    pub(crate) async fn patch<K, P>(
        &self,
        point: &'static str,
        namespace: Option<&str>,
        name: &str,
        patch: &Patch<P>,
    ) -> Result<K, Error>
    where
        K: Resource<DynamicType = ()> + DeserializeOwned,
        P: Serialize + Debug,
    {
        let call = Call::of::<K>("patch", namespace, name);
        self.write(
            point,
            &call,
            call.request().patch(name, &PatchParams::default(), patch),
        )
        .await
    }

    /// Patches the status subresource of the object of that name.
    ///
    /// # Errors
    /// Any [`Error`].
    pub(crate) async fn patch_status<K, P>(
        &self,
        point: &'static str,
        namespace: Option<&str>,
        name: &str,
        patch: &Patch<P>,
    ) -> Result<K, Error>
    where
        K: Resource<DynamicType = ()> + DeserializeOwned,
        P: Serialize + Debug,
    {
        let call = Call::of::<K>("patch status of", namespace, name);
        let request = call
            .request()
            .patch_subresource("status", name, &PatchParams::default(), patch);
        self.write(point, &call, request).await
    }

    /// Deletes the object of that name and UID at once (no grace period); false when it was gone already.
    ///
    /// # Errors
    /// Any [`Error`] but 404; 409 when the object of that name is another one.
    pub(crate) async fn delete<K>(
        &self,
        point: &'static str,
        namespace: Option<&str>,
        name: &str,
        uid: &str,
    ) -> Result<bool, Error>
    where
        K: Resource<DynamicType = ()>,
    {
        let call = Call::of::<K>("delete", namespace, name);
        let params = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions {
                uid: Some(uid.to_owned()),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        // The answer is the object or a Status: neither is of use.
        match self
            .write::<serde_json::Value>(point, &call, call.request().delete(name, &params))
            .await
        {
            Ok(_) => Ok(true),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Asks for a token of a service account (TokenRequest).
    ///
    /// # Errors
    /// Any [`Error`].
    pub(crate) async fn token(
        &self,
        namespace: &str,
        service_account: &str,
        request: &TokenRequest,
    ) -> Result<TokenRequest, Error> {
        let call = Call::of::<ServiceAccount>("create token of", Some(namespace), service_account);
        let body = call.body(request)?;
        let request =
            call.request()
                .create_subresource("token", service_account, &PostParams::default(), body);
        self.write("api.create_token", &call, request).await
    }

    /// One write: fault point before it, and after it, where a lost answer matters.
    async fn write<T: DeserializeOwned>(
        &self,
        point: &'static str,
        call: &Call,
        request: Result<http::Request<Vec<u8>>, kube::core::request::Error>,
    ) -> Result<T, Error> {
        fault::point(point);
        let answer = self.send(call, request).await;
        fault::point("api.answered");
        answer
    }

    async fn send<T: DeserializeOwned>(
        &self,
        call: &Call,
        request: Result<http::Request<Vec<u8>>, kube::core::request::Error>,
    ) -> Result<T, Error> {
        let (operation, object) = (call.operation, || call.object.clone());
        let Some(client) = self.client() else {
            return Err(Error::Standalone {
                operation,
                object: object(),
            });
        };
        let request = request.map_err(|cause| Error::Malformed {
            operation,
            object: object(),
            cause: cause.to_string(),
        })?;
        match tokio::time::timeout(REQUEST_TIMEOUT, client.request::<T>(request)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(Error::from_kube(operation, &call.object, error)),
            Err(_) => Err(Error::Timeout {
                operation,
                object: object(),
                seconds: REQUEST_TIMEOUT.as_secs(),
            }),
        }
    }
}

/// What is asked of which object: for the URL and for the words of an error.
struct Call {
    operation: &'static str,
    url: String,
    object: String,
}

impl Call {
    fn of<K: Resource<DynamicType = ()>>(
        operation: &'static str,
        namespace: Option<&str>,
        name: &str,
    ) -> Self {
        let kind = K::kind(&());
        let object = match namespace {
            Some(namespace) => format!("{kind} {namespace}/{name}"),
            None => format!("{kind} {name}"),
        };
        Self {
            operation,
            url: K::url_path(&(), namespace),
            object,
        }
    }

    fn request(&self) -> Request {
        Request::new(self.url.clone())
    }

    fn body<T: Serialize>(&self, object: &T) -> Result<Vec<u8>, Error> {
        serde_json::to_vec(object).map_err(|cause| Error::Malformed {
            operation: self.operation,
            object: self.object.clone(),
            cause: cause.to_string(),
        })
    }
}
