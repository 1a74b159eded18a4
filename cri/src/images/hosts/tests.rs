use super::*;

fn directory(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("tempdir");
    for (name, text) in files {
        std::fs::create_dir_all(dir.path().join(name)).expect("mkdir");
        std::fs::write(dir.path().join(name).join("hosts.toml"), text).expect("write");
    }
    dir
}

fn bases(dir: Option<&Path>, registry: &str) -> Vec<String> {
    hosts_for(dir, registry)
        .expect("hosts")
        .into_iter()
        .map(|host| host.base.to_string())
        .collect()
}

#[test]
fn a_registry_without_settings_is_asked_itself() {
    for (registry, base) in [
        ("docker.io", "https://registry-1.docker.io/v2/"),
        ("quay.io", "https://quay.io/v2/"),
        ("quay.io:8443", "https://quay.io:8443/v2/"),
        ("localhost:5000", "http://localhost:5000/v2/"),
        ("localhost", "http://localhost/v2/"),
        ("localhost:443", "https://localhost/v2/"),
        ("127.0.0.1:80", "http://127.0.0.1/v2/"),
        ("10.0.0.1:5000", "https://10.0.0.1:5000/v2/"),
        ("[::1]:5000", "http://[::1]:5000/v2/"),
    ] {
        assert_eq!(bases(None, registry), [base], "{registry}");
    }
}

#[test]
fn hosts_come_in_the_order_of_the_file_and_the_server_last() {
    let dir = directory(&[(
        "docker.io",
        r#"
        server = "https://upstream.example"
        [host."http://zzz.example:5000"]
          capabilities = ["pull"]
        [host."https://aaa.example/proxy/hub"]
          skip_verify = true
          ca = "/etc/ca.pem"
          client = [["a.pem", "b.pem"]]
          [host."https://aaa.example/proxy/hub".header]
            x-one = "1"
            x-two = ["2", "3"]
        [host."https://bbb.example/own"]
          override_path = true
        "#,
    )]);
    let hosts = hosts_for(Some(dir.path()), "docker.io").expect("hosts");
    let found: Vec<_> = hosts.iter().map(|host| host.base.as_str()).collect();
    assert_eq!(
        found,
        [
            "http://zzz.example:5000/v2/",
            "https://aaa.example/proxy/hub/v2/",
            "https://bbb.example/own/",
            "https://upstream.example/v2/",
        ]
    );
    assert!(hosts[0].pull && !hosts[0].resolve && hosts[0].mirror);
    assert!(hosts[1].pull && hosts[1].resolve && hosts[1].tls.skip_verify);
    assert_eq!(hosts[1].tls.ca, [Path::new("/etc/ca.pem")]);
    let folder = dir.path().join("docker.io");
    assert_eq!(hosts[1].tls.client, [folder.join("a.pem"), folder.join("b.pem")]);
    assert_eq!(hosts[1].headers.len(), 3);
    assert!(
        hosts[3].mirror,
        "another server than the registry's own learns the name by ns"
    );
}

#[test]
fn settings_of_the_host_win_over_the_default() {
    let default = "[host.\"http://mirror.example\"]\n";
    let dir = directory(&[
        ("_default", default),
        ("quay.io", ""),
        ("reg.example_5000_", "server = \"http://x.example\""),
    ]);
    let dir = Some(dir.path());
    assert_eq!(
        bases(dir, "docker.io"),
        ["http://mirror.example/v2/", "https://registry-1.docker.io/v2/"]
    );
    assert_eq!(bases(dir, "quay.io"), ["https://quay.io/v2/"]);
    assert_eq!(bases(dir, "reg.example:5000"), ["http://x.example/v2/"]);
    let hosts = hosts_for(dir, "docker.io").expect("hosts");
    assert!(hosts[0].mirror && !hosts[1].mirror);
}

#[test]
fn wrong_settings_name_their_file() {
    for text in [
        "server = 1",
        "[host]\nx = 1",
        "host = 2",
        "[host.\"ftp://x\"]",
        "[host.\"http://x\"]\nca = 1",
        "][",
    ] {
        let dir = directory(&[("_default", text)]);
        let error = hosts_for(Some(dir.path()), "docker.io")
            .expect_err(text)
            .to_string();
        assert!(error.contains("_default/hosts.toml"), "{text}: {error}");
    }
}

#[test]
fn local_addresses_are_known_in_all_their_spellings() {
    for (url, local) in [
        ("http://127.0.0.1", true),
        ("http://127.9.9.9", true),
        ("http://2130706433", true),
        ("http://0x7f.1", true),
        ("http://0.0.0.0", true),
        ("http://[::1]", true),
        ("http://[::ffff:127.0.0.1]", true),
        ("http://[fe80::1]", true),
        ("http://169.254.169.254", true),
        ("http://LOCALHOST.", true),
        ("http://a.localhost", true),
        ("http://10.0.0.1", false),
        ("http://localhost.example", false),
    ] {
        assert_eq!(is_local(&url.parse().expect("url")), local, "{url}");
    }
}
