//! The rules of Kubernetes and containerd, as tables.

use std::path::Path;

use oci_spec::image::{Config as ImageConfig, ConfigBuilder};
use oci_spec::runtime::Mount;
use proptest::prelude::*;
use proto::cri::{
    Capability as CriCapability, Int64Value, KeyValue, LinuxContainerConfig, LinuxContainerResources,
    Mount as CriMount, MountPropagation, Signal,
};

use super::*;

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

fn sandbox() -> Sandbox {
    Sandbox {
        hostname: "web-0".into(),
        hostname_file: Some("/run/s/hostname".into()),
        resolv_conf: "/run/s/resolv.conf".into(),
        shm: "/run/s/shm".into(),
        cgroup_parent: "/kubepods/pod1".into(),
    }
}

fn host() -> Host {
    Host {
        capabilities: capabilities::ALL.into(),
    }
}

/// A container with a command and what `change` makes of its security context.
fn container(change: impl FnOnce(&mut LinuxContainerSecurityContext)) -> ContainerConfig {
    let mut security = LinuxContainerSecurityContext {
        namespace_options: Some(NamespaceOption {
            pid: NamespaceMode::Container.into(),
            ..Default::default()
        }),
        ..Default::default()
    };
    change(&mut security);
    ContainerConfig {
        command: words("run"),
        linux: Some(LinuxContainerConfig {
            resources: None,
            security_context: Some(security),
        }),
        ..Default::default()
    }
}

fn made(config: &ContainerConfig, image: Option<&ImageConfig>) -> Result<Generated, Error> {
    generate("c1", config, image, &sandbox(), &host(), &[], None)
}

fn image(build: impl FnOnce(ConfigBuilder) -> ConfigBuilder) -> ImageConfig {
    build(ConfigBuilder::default()).build().unwrap()
}

#[test]
fn command_and_arguments_follow_kubernetes_table() {
    // (image entrypoint, image cmd, command, args, what runs)
    let table = [
        ("ep", "cmd", "", "", "ep cmd"),
        ("ep", "cmd", "c", "", "c"),
        ("ep", "cmd", "", "a b", "ep a b"),
        ("ep", "cmd", "c", "a", "c a"),
        ("", "cmd", "", "", "cmd"),
        ("", "cmd", "", "a", "a"),
        ("ep", "", "", "", "ep"),
    ];
    for (entrypoint, cmd, command, args, wanted) in table {
        let image = image(|image| image.entrypoint(words(entrypoint)).cmd(words(cmd)));
        let config = ContainerConfig {
            command: words(command),
            args: words(args),
            ..Default::default()
        };
        assert_eq!(process::args(&config, Some(&image)).unwrap(), words(wanted));
    }
    let error = process::args(&ContainerConfig::default(), None).unwrap_err();
    assert!(error.to_string().contains("no command specified"));
}

#[test]
fn environment_has_defaults_that_image_and_pod_override_in_place() {
    let image = image(|image| image.env(words("PATH=/opt A=1 HOSTNAME=image")));
    let mut config = ContainerConfig {
        tty: true,
        ..Default::default()
    };
    config.envs = vec![
        KeyValue {
            key: "A".into(),
            value: b"2=3".to_vec(),
        },
        KeyValue {
            key: "B".into(),
            value: Vec::new(),
        },
    ];
    let env = process::environment(&config, Some(&image), "web-0").unwrap();
    assert_eq!(env, ["PATH=/opt", "HOSTNAME=image", "A=2=3", "TERM=xterm", "B="]);
    let env = process::environment(&ContainerConfig::default(), None, "web-0").unwrap();
    assert_eq!(
        env,
        [
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOSTNAME=web-0"
        ]
    );
    for (key, value) in [("", "x"), ("A=B", "x"), ("A", "\0")] {
        config.envs = vec![KeyValue {
            key: key.into(),
            value: value.into(),
        }];
        assert!(
            process::environment(&config, None, "").is_err(),
            "{key:?}={value:?}"
        );
    }
}

#[test]
fn users_are_numbers_or_names_and_never_both() {
    let number = Id::Number;
    let name = |text: &str| Id::Name(text.to_owned());
    let fine = [
        ("", number(0), None),
        ("0", number(0), None),
        ("1000", number(1000), None),
        ("00", number(0), None),
        ("1000:2000", number(1000), Some(number(2000))),
        ("web", name("web"), None),
        ("web:logs", name("web"), Some(name("logs"))),
        ("web:40", name("web"), Some(number(40))),
        ("0x0", name("0x0"), None),
    ];
    for (text, uid, gid) in fine {
        let user = process::user(None, Some(&image(|image| image.user(text)))).unwrap();
        assert_eq!((user.uid, user.gid), (uid, gid), "{text:?}");
    }
    for text in [
        "4294967295",
        "4294967296",
        "99999999999999999999",
        "-1",
        "+0",
        "a:b:c",
        ":1",
        "1:",
        "a b",
        "a\nb",
        "../x",
    ] {
        assert!(
            process::user(None, Some(&image(|image| image.user(text)))).is_err(),
            "{text:?}"
        );
    }
}

#[test]
fn the_pods_user_comes_before_the_images() {
    let image = image(|image| image.user("web:logs"));
    let run = |user: Option<i64>, name: &str, group: Option<i64>| {
        let config = container(|security| {
            security.run_as_user = user.map(|value| Int64Value { value });
            security.run_as_username = name.to_owned();
            security.run_as_group = group.map(|value| Int64Value { value });
            security.supplemental_groups = vec![7];
        });
        made(&config, Some(&image)).map(|generated| generated.user)
    };
    let user = run(Some(5), "", None).unwrap();
    assert_eq!(
        (user.uid, user.gid, user.additional_gids),
        (Id::Number(5), None, vec![7])
    );
    assert_eq!(run(None, "www", Some(6)).unwrap().gid, Some(Id::Number(6)));
    assert_eq!(run(None, "", None).unwrap().uid, Id::Name("web".into()));
    assert!(run(None, "", Some(6)).is_err());
    assert!(run(Some(-1), "", None).is_err());
    assert!(run(Some(1 << 32), "", None).is_err());
}

#[test]
fn capabilities_start_from_containerds_fourteen() {
    let sets = |add: &str, drop: &str, privileged: bool| {
        let config = container(|security| {
            security.privileged = privileged;
            security.capabilities = Some(CriCapability {
                add_capabilities: words(add),
                drop_capabilities: words(drop),
                ..Default::default()
            });
        });
        let generated = made(&config, None)?;
        Ok::<_, Error>(
            generated
                .spec
                .process()
                .as_ref()
                .unwrap()
                .capabilities()
                .clone()
                .unwrap(),
        )
    };
    let count = |add, drop, privileged| {
        sets(add, drop, privileged)
            .unwrap()
            .effective()
            .as_ref()
            .unwrap()
            .len()
    };
    assert_eq!(count("", "", false), 14);
    assert_eq!(count("NET_ADMIN", "KILL CAP_CHOWN", false), 13);
    assert_eq!(count("net_admin", "ALL", false), 1);
    assert_eq!(count("ALL", "", false), 41);
    assert_eq!(count("ALL", "SYS_ADMIN", false), 40);
    assert_eq!(count("", "ALL", false), 0);
    assert_eq!(count("", "ALL", true), 41);
    let made = sets("NET_ADMIN", "", false).unwrap();
    assert!(made.inheritable().as_ref().unwrap().is_empty() && made.ambient().as_ref().unwrap().is_empty());
    assert_eq!(made.bounding(), made.effective());
    assert!(sets("NO_SUCH", "", false).is_err());
}

#[test]
fn nothing_is_given_that_the_engine_lacks() {
    let few = Host {
        capabilities: [Capability::Chown, Capability::Kill].into(),
    };
    let config = container(|security| security.privileged = true);
    let generated = generate("c1", &config, None, &sandbox(), &few, &[], None).unwrap();
    let sets = generated
        .spec
        .process()
        .as_ref()
        .unwrap()
        .capabilities()
        .clone()
        .unwrap();
    assert_eq!(sets.bounding().clone().unwrap(), few.capabilities);
}

fn mounts(config: &ContainerConfig) -> Vec<Mount> {
    made(config, None).unwrap().spec.mounts().clone().unwrap()
}

fn at<'a>(mounts: &'a [Mount], path: &str) -> &'a Mount {
    let mut found = mounts
        .iter()
        .filter(|mount| mount.destination() == Path::new(path));
    let mount = found.next().unwrap_or_else(|| panic!("nothing at {path}"));
    assert!(found.next().is_none(), "two mounts at {path}");
    mount
}

fn has(mount: &Mount, option: &str) -> bool {
    mount
        .options()
        .as_ref()
        .unwrap()
        .iter()
        .any(|known| known == option)
}

#[test]
fn mounts_are_the_usual_ones_then_the_pods_outer_first() {
    let bind = |inside: &str, outside: &str| CriMount {
        container_path: inside.into(),
        host_path: outside.into(),
        readonly: true,
        ..Default::default()
    };
    let mut config = container(|_| ());
    config.mounts = vec![
        bind("/a/b/c", "/h/1"),
        bind("/a/", "/h/2"),
        bind("/etc/hosts", "/h/3"),
    ];
    let all = mounts(&config);
    let order: Vec<&str> = all
        .iter()
        .map(|mount| mount.destination().to_str().unwrap())
        .collect();
    let usual = [
        "/proc",
        "/dev",
        "/dev/pts",
        "/dev/mqueue",
        "/sys",
        "/sys/fs/cgroup",
    ];
    assert_eq!(order[..6], usual);
    assert_eq!(
        order[6..],
        [
            "/a",
            "/etc/hostname",
            "/etc/resolv.conf",
            "/dev/shm",
            "/etc/hosts",
            "/a/b/c"
        ]
    );
    assert!(has(at(&all, "/sys"), "ro") && has(at(&all, "/sys/fs/cgroup"), "ro"));
    assert!(has(at(&all, "/a"), "ro") && has(at(&all, "/a"), "rprivate") && has(at(&all, "/a"), "rbind"));
    assert_eq!(
        at(&all, "/dev/shm").source().as_deref(),
        Some(Path::new("/run/s/shm"))
    );
    let all = mounts(&container(|security| security.privileged = true));
    assert!(has(at(&all, "/sys"), "rw") && has(at(&all, "/sys/fs/cgroup"), "rw"));
    let all = mounts(&container(|security| security.readonly_rootfs = true));
    assert!(has(at(&all, "/etc/resolv.conf"), "ro") && has(at(&all, "/dev/shm"), "rw"));
}

#[test]
fn a_mount_of_the_pod_takes_the_place_of_a_usual_one() {
    let mut config = container(|_| ());
    for path in ["/dev/shm", "/etc/resolv.conf", "/sys"] {
        config.mounts.push(CriMount {
            container_path: path.into(),
            host_path: "/h".into(),
            ..Default::default()
        });
    }
    let all = mounts(&config);
    for path in ["/dev/shm", "/etc/resolv.conf", "/sys"] {
        assert_eq!(at(&all, path).source().as_deref(), Some(Path::new("/h")));
    }
    config.mounts = vec![CriMount {
        container_path: "/dev".into(),
        host_path: "/dev".into(),
        ..Default::default()
    }];
    let all = mounts(&config);
    assert!(
        all.iter()
            .all(|mount| mount.destination() != Path::new("/dev/pts"))
    );
}

#[test]
fn propagation_and_read_only_go_as_the_interface_says() {
    let one = |readonly, recursive_read_only, propagation: MountPropagation| {
        let mut config = container(|_| ());
        config.mounts = vec![CriMount {
            container_path: "/v".into(),
            host_path: "/h".into(),
            readonly,
            recursive_read_only,
            propagation: propagation.into(),
            ..Default::default()
        }];
        made(&config, None).map(|generated| at(generated.spec.mounts().as_ref().unwrap(), "/v").clone())
    };
    use MountPropagation::{PropagationBidirectional, PropagationHostToContainer, PropagationPrivate};
    assert!(has(
        &one(false, false, PropagationHostToContainer).unwrap(),
        "rslave"
    ));
    assert!(has(
        &one(false, false, PropagationBidirectional).unwrap(),
        "rshared"
    ));
    assert!(has(&one(true, true, PropagationPrivate).unwrap(), "rro"));
    assert!(one(false, true, PropagationPrivate).is_err());
    assert!(one(true, true, PropagationHostToContainer).is_err());
    for (inside, outside) in [
        ("v", "/h"),
        ("/", "/h"),
        ("/v/../w", "/h"),
        ("/v", "h"),
        ("/v", "/h/../x"),
        ("/v\0", "/h"),
    ] {
        let mut config = container(|_| ());
        config.mounts = vec![CriMount {
            container_path: inside.into(),
            host_path: outside.into(),
            ..Default::default()
        }];
        assert!(made(&config, None).is_err(), "{inside:?} {outside:?}");
    }
}

#[test]
fn masked_paths_are_the_pods_and_none_if_privileged() {
    let hide = |privileged| {
        let config = container(|security| {
            security.privileged = privileged;
            security.masked_paths = words("/proc/kcore");
            security.readonly_paths = words("/proc/sys");
        });
        let linux = made(&config, None).unwrap().spec.linux().clone().unwrap();
        (
            linux.masked_paths().clone().unwrap(),
            linux.readonly_paths().clone().unwrap(),
        )
    };
    assert_eq!(hide(false), (words("/proc/kcore"), words("/proc/sys")));
    assert_eq!(hide(true), (Vec::new(), Vec::new()));
}

#[test]
fn resources_and_cgroup_are_as_asked() {
    let mut config = container(|_| ());
    config.linux.as_mut().unwrap().resources = Some(LinuxContainerResources {
        cpu_shares: 512,
        cpu_quota: 50_000,
        cpu_period: 100_000,
        memory_limit_in_bytes: 64 << 20,
        oom_score_adj: 937,
        unified: [("memory.oom.group".to_owned(), "1".to_owned())].into(),
        ..Default::default()
    });
    let generated = made(&config, None).unwrap();
    let linux = generated.spec.linux().clone().unwrap();
    assert_eq!(
        linux.cgroups_path().as_deref(),
        Some(Path::new("/kubepods/pod1/c1"))
    );
    let resources = linux.resources().clone().unwrap();
    let cpu = resources.cpu().clone().unwrap();
    assert_eq!(
        (cpu.shares(), cpu.quota(), cpu.period()),
        (Some(512), Some(50_000), Some(100_000))
    );
    assert_eq!(resources.memory().unwrap().limit(), Some(64 << 20));
    assert_eq!(resources.unified().as_ref().unwrap()["memory.oom.group"], "1");
    assert_eq!(
        generated.spec.process().as_ref().unwrap().oom_score_adj(),
        Some(937)
    );
    config
        .linux
        .as_mut()
        .unwrap()
        .resources
        .as_mut()
        .unwrap()
        .oom_score_adj = 1001;
    assert!(made(&config, None).is_err());
}

#[test]
fn pid_namespaces_by_mode() {
    let pid = |mode: NamespaceMode, target| {
        let config = container(|security| security.namespace_options.as_mut().unwrap().pid = mode.into());
        let generated = generate("c1", &config, None, &sandbox(), &host(), &[], target)?;
        let namespaces = generated
            .spec
            .linux()
            .as_ref()
            .unwrap()
            .namespaces()
            .clone()
            .unwrap();
        let pid = namespaces
            .into_iter()
            .find(|namespace| namespace.typ() == LinuxNamespaceType::Pid);
        Ok::<_, Error>(pid.map(|namespace| namespace.path().clone()))
    };
    assert_eq!(pid(NamespaceMode::Container, None).unwrap(), Some(None));
    assert_eq!(pid(NamespaceMode::Node, None).unwrap(), None);
    assert_eq!(
        pid(NamespaceMode::Target, Some(7)).unwrap(),
        Some(Some("/proc/7/ns/pid".into()))
    );
    assert!(pid(NamespaceMode::Target, None).is_err());
    assert!(pid(NamespaceMode::Pod, None).is_err());
}

#[test]
fn stop_signals_by_every_spelling() {
    let of_image = |text: &str| {
        signal::stop_signal(
            &ContainerConfig::default(),
            Some(&image(|image| image.stop_signal(text))),
        )
    };
    for (text, number) in [
        ("SIGQUIT", 3),
        ("quit", 3),
        ("9", 9),
        ("SIGRTMIN+3", 37),
        ("RTMAX-1", 63),
        ("SIGRTMIN", 34),
        ("", 15),
    ] {
        assert_eq!(of_image(text).unwrap(), number, "{text:?}");
    }
    for text in ["SIGNOPE", "0", "65", "-9", "RTMIN+16", "RTMIN-1", "RTMAX+1"] {
        assert!(of_image(text).is_err(), "{text:?}");
    }
    let config = ContainerConfig {
        stop_signal: Signal::Sigrtminplus3.into(),
        ..Default::default()
    };
    assert_eq!(
        signal::stop_signal(&config, Some(&image(|image| image.stop_signal("QUIT")))).unwrap(),
        37
    );
    for number in 1..=64 {
        let named = signal::to_cri(number);
        if named != Signal::RuntimeDefault {
            let config = ContainerConfig {
                stop_signal: named.into(),
                ..Default::default()
            };
            assert_eq!(signal::stop_signal(&config, None).unwrap(), number, "{named:?}");
        }
    }
}

#[test]
fn a_profile_that_would_not_be_in_force_is_refused() {
    let with = |profile_type: ProfileType, privileged| {
        let config = container(|security| {
            security.privileged = privileged;
            security.seccomp = Some(SecurityProfile {
                profile_type: profile_type.into(),
                localhost_ref: "p.json".into(),
            });
        });
        made(&config, None)
    };
    assert!(with(ProfileType::RuntimeDefault, false).is_ok());
    assert!(with(ProfileType::Unconfined, false).is_ok());
    assert!(with(ProfileType::Localhost, false).is_err());
    assert!(with(ProfileType::Localhost, true).is_ok());
}

proptest! {
    /// Whatever a user string says, all digits never become a name, and no name looks like a number.
    #[test]
    fn user_strings_never_confuse_numbers_and_names(text in "[0-9a-zA-Z:+._ -]{0,14}") {
        if let Ok(user) = process::user(None, Some(&image(|image| image.user(text.clone())))) {
            for id in std::iter::once(&user.uid).chain(&user.gid) {
                match id {
                    Id::Name(name) => prop_assert!(!name.bytes().all(|byte| byte.is_ascii_digit())),
                    Id::Number(number) => prop_assert!(*number != u32::MAX),
                }
            }
        }
    }

    /// Every name is there once, the pod's value wins, and order is that of first mention.
    #[test]
    fn environments_have_each_name_once(
        of_image in proptest::collection::vec("[A-D]=[a-z]{0,3}", 0..8),
        of_pod in proptest::collection::vec(("[A-D]", "[a-z]{0,3}"), 0..8),
    ) {
        let image = image(|image| image.env(of_image));
        let envs = of_pod.iter().map(|(key, value)| KeyValue { key: key.clone(), value: value.clone().into() }).collect();
        let env = process::environment(&ContainerConfig { envs, ..Default::default() }, Some(&image), "h").unwrap();
        let names: HashSet<&str> = env.iter().map(|entry| entry.split_once('=').unwrap().0).collect();
        prop_assert_eq!(names.len(), env.len());
        for (key, _) in &of_pod {
            let (_, last) = of_pod.iter().rev().find(|(other, _)| other == key).unwrap();
            let entry = format!("{key}={last}");
            prop_assert!(env.contains(&entry));
        }
    }
}
