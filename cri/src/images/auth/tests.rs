use super::*;

fn challenge(values: &[&str]) -> Option<Challenge> {
    let mut headers = HeaderMap::new();
    for value in values {
        headers.append(WWW_AUTHENTICATE, value.parse().expect("header"));
    }
    Challenge::from_headers(&headers)
}

fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Option<Challenge> {
    Some(Challenge::Bearer {
        realm: realm.into(),
        service: service.map(str::to_owned),
        scope: scope.map(str::to_owned),
    })
}

#[test]
fn challenges_are_read() {
    let full = r#"Bearer realm="https://a.example/token",service="s, x",scope="repository:a/b:pull,push""#;
    assert_eq!(
        challenge(&[full]),
        bearer(
            "https://a.example/token",
            Some("s, x"),
            Some("repository:a/b:pull,push")
        )
    );
    assert_eq!(
        challenge(&["bearer realm=https://a.example , error=\"x\""]),
        bearer("https://a.example", None, None)
    );
    assert_eq!(challenge(&[r#"Bearer realm="a\"b""#]), bearer("a\"b", None, None));
    assert_eq!(challenge(&["Basic realm=\"r\""]), Some(Challenge::Basic));
    assert_eq!(
        challenge(&["Basic realm=\"r\"", "Bearer realm=\"https://x\""]),
        bearer("https://x", None, None)
    );
    for bad in [
        "Bearer service=\"s\"",
        "Bearer realm=\"open",
        "Negotiate",
        "",
        "Bearer",
        "Bearer nonsense",
    ] {
        assert_eq!(challenge(&[bad]), None, "{bad}");
    }
    assert_eq!(
        challenge(&[&format!("Bearer realm=\"{}\"", "x".repeat(MAX_CHALLENGE))]),
        None,
        "too long"
    );
}

#[test]
fn realms_and_redirects_stay_where_they_may() {
    for (base, target, allowed) in [
        ("https://r.example", "https://auth.example/token", true),
        ("https://r.example", "http://r.example/token", false),
        ("https://r.example", "https://127.0.0.1/token", false),
        ("https://r.example", "https://169.254.169.254/latest", false),
        ("https://r.example", "https://localhost/x", false),
        ("http://r.example", "http://auth.example/token", true),
        ("http://r.example", "http://[::1]/token", false),
        ("http://127.0.0.1:5000", "http://127.0.0.1:6000/token", true),
        ("http://r.example", "file:///etc/passwd", false),
        ("https://r.example", "https://user:pw@r.example/", false),
    ] {
        let result = check_target(&base.parse().expect("base"), &target.parse().expect("target"));
        assert_eq!(result.is_ok(), allowed, "{base} -> {target}: {result:?}");
    }
}

#[test]
fn credentials_are_bound_to_their_server() {
    let auth = |server: &str| AuthConfig {
        username: "u".into(),
        password: "p".into(),
        server_address: server.into(),
        ..Default::default()
    };
    for (server, registry, used) in [
        ("", "quay.io", true),
        ("quay.io", "quay.io", true),
        ("https://quay.io/v1/", "quay.io", true),
        ("https://index.docker.io/v1/", "docker.io", true),
        ("quay.io", "evil.example", false),
        ("quay.io.evil.example", "quay.io", false),
    ] {
        let found = Credentials::for_registry(&auth(server), registry).expect("well formed");
        assert_eq!(found.is_some(), used, "{server} for {registry}");
    }
}

#[test]
fn credentials_come_in_four_shapes() {
    let of = |auth: AuthConfig| Credentials::for_registry(&auth, "r").expect("well formed");
    assert!(of(AuthConfig::default()).is_none());
    let pair = AuthConfig {
        auth: STANDARD.encode("u:p:q\0\0"),
        ..Default::default()
    };
    let basic = of(pair).expect("basic");
    assert!(
        basic
            == Credentials::Basic {
                username: "u".into(),
                password: "p:q".into()
            }
    );
    assert_eq!(
        basic.basic().expect("header"),
        format!("Basic {}", STANDARD.encode("u:p:q")).as_str()
    );
    assert!(
        of(AuthConfig {
            identity_token: "i".into(),
            ..Default::default()
        }) == Some(Credentials::Identity("i".into()))
    );
    assert!(
        of(AuthConfig {
            registry_token: "t".into(),
            ..Default::default()
        }) == Some(Credentials::Token("t".into()))
    );
    for bad in ["%%%", "bm9jb2xvbg=="] {
        let auth = AuthConfig {
            auth: bad.into(),
            ..Default::default()
        };
        let error = Credentials::for_registry(&auth, "r").err().expect("malformed");
        assert!(!error.contains(bad), "an error shows no secret");
    }
}

#[test]
fn token_answers_have_two_spellings() {
    assert_eq!(bearer_from(br#"{"token":"a"}"#).expect("token"), "Bearer a");
    assert_eq!(
        bearer_from(br#"{"access_token":"b","token":""}"#).expect("token"),
        "Bearer b"
    );
    for bad in [&b"{}"[..], b"x", b"{\"token\":\"a\\nb\"}"] {
        assert!(bearer_from(bad).is_none());
    }
}
