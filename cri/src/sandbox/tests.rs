//! Plans of sandboxes.

use proto::cri::{
    DnsConfig, LinuxPodSandboxConfig, LinuxSandboxSecurityContext, NamespaceMode, NamespaceOption,
    PodSandboxConfig, PodSandboxMetadata,
};

use super::plan::{facts, plan};
use crate::paths::Paths;

fn paths() -> Paths {
    Paths::at(
        "/run/longshore",
        "/var/lib/longshore",
        "/sys/fs/cgroup",
        "longshore.slice/keepers",
    )
}

fn config(change: impl FnOnce(&mut PodSandboxConfig, &mut NamespaceOption)) -> PodSandboxConfig {
    let mut options = NamespaceOption {
        pid: NamespaceMode::Container.into(),
        ..Default::default()
    };
    let mut config = PodSandboxConfig {
        metadata: Some(PodSandboxMetadata {
            name: "web".into(),
            uid: "u1".into(),
            namespace: "default".into(),
            attempt: 0,
        }),
        hostname: "web".into(),
        linux: Some(LinuxPodSandboxConfig {
            cgroup_parent: "/kubepods/podu1".into(),
            ..Default::default()
        }),
        ..Default::default()
    };
    change(&mut config, &mut options);
    config.linux.as_mut().unwrap().security_context = Some(LinuxSandboxSecurityContext {
        namespace_options: Some(options),
        ..Default::default()
    });
    config
}

fn with_sysctls(sysctls: &[(&str, &str)], host: bool) -> PodSandboxConfig {
    config(|config, options| {
        if host {
            options.network = NamespaceMode::Node.into();
            options.ipc = NamespaceMode::Node.into();
        }
        let sysctls = sysctls
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_string()));
        config.linux.as_mut().unwrap().sysctls = sysctls.collect();
    })
}

#[test]
fn a_pod_of_its_own_has_network_name_and_memory() {
    let config = config(|config, _| {
        config.dns_config = Some(DnsConfig {
            servers: vec!["10.96.0.10".into(), "fd00::a".into()],
            searches: vec!["svc.cluster.local".into(), "cluster.local".into()],
            options: vec!["ndots:5".into()],
        });
    });
    let setup = plan("s1", &config, &paths()).unwrap();
    assert!(setup.own_network && setup.own_shm && setup.keeper.own_network && setup.keeper.own_ipc);
    assert_eq!(setup.hostname.as_deref(), Some("web\n"));
    let wanted = "search svc.cluster.local cluster.local\nnameserver 10.96.0.10\nnameserver fd00::a\noptions ndots:5\n";
    assert_eq!(setup.resolv_conf.as_deref(), Some(wanted));
    assert_eq!(setup.keeper.directory, "/run/longshore/sandboxes/s1");
    assert_eq!(
        setup.keeper.keeper_cgroup,
        "/sys/fs/cgroup/longshore.slice/keepers/s1"
    );
    let facts = facts("s1", &config, &paths(), "node");
    assert_eq!(
        (facts.hostname.as_str(), facts.cgroup_parent.as_str()),
        ("web", "/kubepods/podu1")
    );
    assert_eq!(facts.shm.to_str(), Some("/run/longshore/sandboxes/s1/shm"));
}

#[test]
fn a_pod_on_the_hosts_network_has_the_hosts_name() {
    let config = config(|config, options| {
        options.network = NamespaceMode::Node.into();
        options.ipc = NamespaceMode::Node.into();
        config.linux.as_mut().unwrap().cgroup_parent = String::new();
    });
    let setup = plan("s1", &config, &paths()).unwrap();
    assert!(!setup.own_network && !setup.own_shm);
    assert_eq!(
        (&setup.hostname, &setup.keeper.hostname, &setup.resolv_conf),
        (&None, &None, &None)
    );
    let facts = facts("s1", &config, &paths(), "node");
    assert_eq!((facts.hostname.as_str(), facts.hostname_file), ("node", None));
    assert_eq!(facts.shm.to_str(), Some("/dev/shm"));
    assert_eq!(facts.cgroup_parent, "/longshore.slice/containers");
}

#[test]
fn sysctls_are_of_the_pods_own_namespaces_only() {
    let fine = with_sysctls(
        &[
            ("net.ipv4.ip_forward", "1"),
            ("kernel.shmmax", "65536"),
            ("net/core/somaxconn", "1"),
        ],
        false,
    );
    let sysctls = plan("s1", &fine, &paths()).unwrap().keeper.sysctls;
    let names: Vec<&str> = sysctls.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(
        names,
        ["kernel.shmmax", "net.core.somaxconn", "net.ipv4.ip_forward"]
    );
    let bad = [
        ("kernel.core_pattern", "x"),
        ("vm.swappiness", "1"),
        ("net.ipv4.a+kernel.core_pattern", "x"),
        ("net..x", "1"),
        ("net.../../kernel.core_pattern", "x"),
        ("net.ipv4.x=1", "x"),
        ("net.ipv4.x", "1\nkernel.core_pattern=x"),
        ("", "x"),
    ];
    for sysctl in bad {
        assert!(
            plan("s1", &with_sysctls(&[sysctl], false), &paths()).is_err(),
            "{sysctl:?}"
        );
    }
    for sysctl in [("net.ipv4.ip_forward", "1"), ("kernel.shmmax", "1")] {
        assert!(
            plan("s1", &with_sysctls(&[sysctl], true), &paths()).is_err(),
            "{sysctl:?} of the host"
        );
    }
}

#[test]
fn what_cannot_be_is_refused() {
    let bad: Vec<PodSandboxConfig> = vec![
        config(|config, _| config.metadata = None),
        config(|config, _| config.metadata.as_mut().unwrap().uid = String::new()),
        config(|_, options| options.pid = NamespaceMode::Pod.into()),
        config(|config, _| config.hostname = "a".repeat(65)),
        config(|config, _| config.hostname = "a\nb".into()),
        config(|config, _| config.linux.as_mut().unwrap().cgroup_parent = "/a/../../b".into()),
        config(|config, _| {
            config.dns_config = Some(DnsConfig {
                servers: vec!["1.1.1.1\nnameserver 2.2.2.2".into()],
                ..Default::default()
            });
        }),
    ];
    for (number, config) in bad.iter().enumerate() {
        assert!(plan("s1", config, &paths()).is_err(), "case {number}");
    }
}
