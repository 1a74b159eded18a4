//! Questions to the API server: whose token is this, and may this user do that.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};

use crate::api::Api;

/// A caller.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) groups: Vec<String>,
    pub(crate) extra: BTreeMap<String, Vec<String>>,
}

/// Who answers. Errors are texts for the log: callers only learn that they are not let in.
pub(crate) trait Reviews: Send + Sync {
    /// The user behind a bearer token; `None` if there is none.
    fn token<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<Option<User>, String>>;

    /// Whether the user may do `verb` on a subresource of this node.
    fn access<'a>(
        &'a self,
        user: &'a User,
        verb: &'a str,
        subresource: &'a str,
    ) -> BoxFuture<'a, Result<bool, String>>;
}

/// The API server.
pub(crate) struct ApiReviews {
    api: Arc<Api>,
    node_name: String,
}

impl ApiReviews {
    pub(crate) fn new(api: Arc<Api>, node_name: String) -> Self {
        Self { api, node_name }
    }
}

impl Reviews for ApiReviews {
    fn token<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<Option<User>, String>> {
        let spec = TokenReviewSpec {
            token: token.to_owned(),
            ..Default::default()
        };
        let review = TokenReview {
            spec,
            ..Default::default()
        };
        async move {
            let review = self.api.create("api.create_token_review", None, &review).await;
            let status = review
                .map_err(|error| error.to_string())?
                .status
                .unwrap_or_default();
            let user = status.user.unwrap_or_default();
            Ok(status.authenticated.unwrap_or_default().then(|| User {
                name: user.username.unwrap_or_default(),
                uid: user.uid.unwrap_or_default(),
                groups: user.groups.unwrap_or_default(),
                extra: user.extra.unwrap_or_default(),
            }))
        }
        .boxed()
    }

    fn access<'a>(
        &'a self,
        user: &'a User,
        verb: &'a str,
        subresource: &'a str,
    ) -> BoxFuture<'a, Result<bool, String>> {
        let attributes = ResourceAttributes {
            verb: Some(verb.to_owned()),
            version: Some("v1".to_owned()),
            resource: Some("nodes".to_owned()),
            subresource: Some(subresource.to_owned()),
            name: Some(self.node_name.clone()),
            ..Default::default()
        };
        let spec = SubjectAccessReviewSpec {
            user: Some(user.name.clone()),
            uid: Some(user.uid.clone()).filter(|uid| !uid.is_empty()),
            groups: Some(user.groups.clone()),
            extra: Some(user.extra.clone()).filter(|extra| !extra.is_empty()),
            resource_attributes: Some(attributes),
            ..Default::default()
        };
        let review = SubjectAccessReview {
            spec,
            ..Default::default()
        };
        async move {
            let review = self
                .api
                .create("api.create_subject_access_review", None, &review)
                .await;
            let status = review
                .map_err(|error| error.to_string())?
                .status
                .unwrap_or_default();
            Ok(status.allowed && !status.denied.unwrap_or_default())
        }
        .boxed()
    }
}
