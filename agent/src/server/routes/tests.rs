use proptest::prelude::*;

use super::*;

fn path(text: &str) -> Path {
    Path::new(text).unwrap()
}

/// The authorization table of upstream, path by path.
#[test]
fn every_path_needs_what_upstream_needs() {
    for (paths, subresources) in [
        (
            &["/pods", "/pods/", "/pods/x", "/runningpods/", "/runningpods"][..],
            &["pods", "proxy"][..],
        ),
        (
            &["/healthz", "/healthz/ping", "/healthz/syncloop", "/%68ealthz"],
            &["healthz", "proxy"],
        ),
        (&["/configz"], &["configz", "proxy"]),
        (&["/stats/summary", "/stats"], &["stats"]),
        (
            &[
                "/metrics",
                "/metrics/cadvisor",
                "/metrics/resource",
                "/metrics/probes",
                "/metrics/slis",
            ],
            &["metrics"],
        ),
        (&["/logs/", "/logs/syslog"], &["log"]),
        (&["/checkpoint/ns/pod/c"], &["checkpoint"]),
        (&["/statusz"], &["statusz"]),
        (&["/flagz"], &["configz"]),
        (
            &[
                "/",
                "/containerLogs/ns/pod/c",
                "/exec/ns/pod/c",
                "/attach/ns/pod/c",
                "/portForward/ns/pod",
                "/run/ns/pod/c",
                "/debug/pprof/heap",
                "/debug/flags/v",
                "/podsx",
                "/Pods",
                "//pods",
                "/nothing",
            ],
            &["proxy"],
        ),
    ] {
        for text in paths {
            assert_eq!(
                access(&Method::GET, &path(text)).subresources,
                subresources,
                "{text}"
            );
        }
    }
    for (method, verb) in [
        (Method::GET, "get"),
        (Method::POST, "create"),
        (Method::PUT, "update"),
        (Method::PATCH, "patch"),
        (Method::DELETE, "delete"),
        (Method::HEAD, ""),
        (Method::OPTIONS, ""),
    ] {
        assert_eq!(access(&method, &path("/exec/ns/pod/c")).verb, verb);
    }
}

#[test]
fn what_is_served() {
    let logs = |namespace: &str, pod: &str, container: &str| Route::ContainerLogs {
        namespace: namespace.to_owned(),
        pod: pod.to_owned(),
        container: container.to_owned(),
    };
    let refused = Route::MethodNotAllowed { allow: "GET" };
    for (method, text, expected) in [
        (Method::GET, "/healthz", Route::Health),
        (Method::HEAD, "/healthz", Route::Health),
        (
            Method::GET,
            "/healthz/ping",
            Route::HealthCheck("ping".to_owned()),
        ),
        (Method::GET, "/pods", Route::Pods),
        (Method::GET, "/pods/", Route::Pods),
        (Method::POST, "/pods", refused.clone()),
        (Method::GET, "/containerLogs/ns/pod/c", logs("ns", "pod", "c")),
        (Method::GET, "/containerLogs/ns//c", logs("ns", "", "c")),
        (Method::POST, "/containerLogs/ns/pod/c", refused.clone()),
        (Method::DELETE, "/healthz", refused),
        (Method::GET, "/containerLogs/ns/pod", Route::NotFound),
        (Method::GET, "/containerLogs/ns/pod/c/more", Route::NotFound),
        (Method::GET, "/containerLogs/ns/..%2Fpod/c", Route::NotFound),
        (Method::GET, "/pods/../metrics", Route::NotFound),
        (Method::GET, "/", Route::NotFound),
    ] {
        assert_eq!(route(&method, &path(text), true), expected, "{method} {text}");
    }
    assert_eq!(Path::new("/%zz"), None);
    assert_eq!(Path::new("/%ff"), None);
    assert_eq!(Path::new("*"), None);
}

#[test]
fn debugging_paths_can_be_switched_off() {
    for text in [
        "/containerLogs/ns/pod/c",
        "/exec/a/b/c",
        "/logs/",
        "/runningpods/",
    ] {
        assert_eq!(route(&Method::GET, &path(text), false), Route::DebuggingDisabled);
    }
    assert_eq!(route(&Method::GET, &path("/pods"), false), Route::Pods);
}

proptest! {
    /// No spelling of a path reaches a handler with another handler's permission.
    #[test]
    fn what_is_served_needs_its_own_permission(text in "/(%2[ef]|[./]|pods|healthz|containerLogs|metrics|%70ods|a){0,8}") {
        if let Some(path) = Path::new(&text) {
            let needed = match route(&Method::GET, &path, true) {
                Route::Health | Route::HealthCheck(_) => &["healthz", "proxy"][..],
                Route::Pods => &["pods", "proxy"],
                Route::ContainerLogs { .. } => &["proxy"],
                _ => return Ok(()),
            };
            prop_assert_eq!(access(&Method::GET, &path).subresources, needed);
        }
    }
}
