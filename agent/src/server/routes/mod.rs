//! The one table of paths: what a request asks for, and what it must be allowed to do. Pure.
//!
//! Both answers come from the same decoded path, so there is no spelling of a path that is authorized as one thing and
//! served as another. Paths are not cleaned and never redirected.

#[cfg(test)]
mod tests;

use http::Method;

use super::query;

/// What a request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// All health checks.
    Health,
    /// One of them.
    HealthCheck(String),
    /// The desired pods.
    Pods,
    /// A container's log.
    ContainerLogs {
        namespace: String,
        pod: String,
        container: String,
    },
    /// A path of another method.
    MethodNotAllowed { allow: &'static str },
    /// A path that is served only with `enableDebuggingHandlers`.
    DebuggingDisabled,
    /// Everything else.
    NotFound,
}

/// What a request must be allowed to do on `nodes`, name = this node: any one of `subresources`, tried in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Access {
    pub(crate) verb: &'static str,
    pub(crate) subresources: &'static [&'static str],
}

/// A request's path, decoded once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Path(String);

impl Path {
    /// `None` for a path that cannot be decoded.
    pub(crate) fn new(path: &str) -> Option<Self> {
        query::decode(path).filter(|path| path.starts_with('/')).map(Self)
    }

    /// Whether this is `prefix` or below it, by whole segments.
    fn is_below(&self, prefix: &str) -> bool {
        self.0
            .strip_prefix(prefix)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

/// Prefixes with the subresources that allow them; the first that fits. Everything else is `proxy`.
const SUBRESOURCES: [(&str, &[&str]); 10] = [
    ("/pods", &["pods", "proxy"]),
    ("/healthz", &["healthz", "proxy"]),
    ("/configz", &["configz", "proxy"]),
    ("/runningpods", &["pods", "proxy"]),
    ("/stats", &["stats"]),
    ("/metrics", &["metrics"]),
    ("/logs", &["log"]),
    ("/checkpoint", &["checkpoint"]),
    ("/statusz", &["statusz"]),
    ("/flagz", &["configz"]),
];

/// What the request must be allowed to do, whether it is served or not.
pub(crate) fn access(method: &Method, path: &Path) -> Access {
    let verb = match *method {
        Method::GET => "get",
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "",
    };
    let found = SUBRESOURCES.iter().find(|(prefix, _)| path.is_below(prefix));
    Access {
        verb,
        subresources: found.map_or(&["proxy"], |(_, subresources)| subresources),
    }
}

/// Paths that `enableDebuggingHandlers: false` takes away.
const DEBUGGING: [&str; 8] = [
    "/run",
    "/exec",
    "/attach",
    "/portForward",
    "/containerLogs",
    "/runningpods",
    "/debug/pprof",
    "/logs",
];

/// What the request asks for.
pub(crate) fn route(method: &Method, path: &Path, debugging: bool) -> Route {
    if !debugging && DEBUGGING.iter().any(|prefix| path.is_below(prefix)) {
        return Route::DebuggingDisabled;
    }
    let route = match path.0[1..].split('/').collect::<Vec<_>>()[..] {
        ["healthz"] | ["healthz", ""] => Route::Health,
        ["healthz", check] => Route::HealthCheck(check.to_owned()),
        ["pods"] | ["pods", ""] => Route::Pods,
        ["containerLogs", namespace, pod, container] => Route::ContainerLogs {
            namespace: namespace.to_owned(),
            pod: pod.to_owned(),
            container: container.to_owned(),
        },
        _ => return Route::NotFound,
    };
    // Health checks answer any method upstream; only reading ones make sense.
    match *method {
        Method::GET => route,
        Method::HEAD if matches!(route, Route::Health | Route::HealthCheck(_)) => route,
        _ => Route::MethodNotAllowed { allow: "GET" },
    }
}
