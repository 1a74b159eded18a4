//! etcd, API server, controller manager and scheduler, with the settings that kubeadm gives them.

use crate::addresses::{POD_RANGES, SERVICE_RANGES, api_port};
use crate::fabric::netns_file;
use crate::kubeconfig;
use crate::kubectl::Kubectl;
use crate::paths::lab_dir;
use crate::pki::Pki;
use crate::process::{Detached, tail};
use crate::state::State;
use crate::{cgroups, registry};
use anyhow::{Context as _, Result, bail};
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

const ETCD: &str = "https://127.0.0.1:2379";

/// Starts what does not run yet and waits until the API server is ready.
pub(crate) fn ensure(state: &mut State, pki: &Pki, kubectl: &Kubectl) -> Result<()> {
    let server = state.addresses.api_server();
    for (file, client) in [
        ("kubeconfig", "admin"),
        ("controller-manager.conf", "controller-manager"),
        ("scheduler.conf", "scheduler"),
    ] {
        kubeconfig::write(
            &lab_dir().join(file),
            &kubeconfig::with_certificate(pki, &server, client)?,
        )?;
    }
    start(state, "etcd", etcd(pki))?;
    start(state, "docker-registry", registry::arguments(state)?)?;
    let arguments = api_server(state, pki);
    start(state, "kube-apiserver", arguments)?;
    wait_ready(state, kubectl)?;
    start(state, "kube-controller-manager", controller_manager(pki))?;
    start(state, "kube-scheduler", scheduler())
}

/// Log file of a process of the control plane.
pub(crate) fn log(name: &str) -> PathBuf {
    lab_dir().join("logs").join(format!("{name}.log"))
}

fn start(state: &mut State, name: &str, arguments: Vec<String>) -> Result<()> {
    if state
        .processes
        .iter()
        .any(|process| process.name == name && process.is_alive())
    {
        return Ok(());
    }
    state.processes.retain(|process| process.name != name);
    let cgroup = cgroups::ensure(&state.cgroup, "control-plane")?;
    fs::create_dir_all(lab_dir().join("logs"))?;
    let program = registry::program(name, &state.tools)?;
    let argv = std::iter::once(program.into_os_string())
        .chain(arguments.into_iter().map(Into::into))
        .collect();
    let process = Detached {
        name,
        argv,
        log: &log(name),
        cgroup: &cgroup,
        netns: &netns_file(),
    }
    .start()?;
    state.processes.push(process);
    state.save()
}

fn wait_ready(state: &State, kubectl: &Kubectl) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(90);
    loop {
        let Err(error) = kubectl.run(&["get", "--raw", "/readyz", "--request-timeout=5s"]) else {
            return Ok(());
        };
        for process in &state.processes {
            if !process.is_alive() {
                bail!(
                    "{} ended; its last words:\n{}",
                    process.name,
                    tail(&log(&process.name), 15)
                );
            }
        }
        if Instant::now() > deadline {
            return Err(error).context("the API server was not ready after 90 s");
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn flag(name: &str, value: impl std::fmt::Display) -> String {
    format!("--{name}={value}")
}

fn files(pki: &Pki, pairs: &[(&str, &str)]) -> Vec<String> {
    pairs
        .iter()
        .map(|(name, file)| flag(name, pki.path(file).display()))
        .collect()
}

fn etcd(pki: &Pki) -> Vec<String> {
    let mut arguments = files(
        pki,
        &[
            ("trusted-ca-file", "etcd-ca.crt"),
            ("cert-file", "etcd.crt"),
            ("key-file", "etcd.key"),
            ("peer-trusted-ca-file", "etcd-ca.crt"),
            ("peer-cert-file", "etcd.crt"),
            ("peer-key-file", "etcd.key"),
        ],
    );
    let peer = "https://127.0.0.1:2380";
    arguments.extend([
        flag("name", "lab"),
        flag("data-dir", lab_dir().join("etcd").display()),
        flag("listen-client-urls", ETCD),
        flag("advertise-client-urls", ETCD),
        flag("listen-peer-urls", peer),
        flag("initial-advertise-peer-urls", peer),
        flag("initial-cluster", format!("lab={peer}")),
        flag("client-cert-auth", true),
        flag("peer-client-cert-auth", true),
        // A lab need not survive a power cut.
        "--unsafe-no-fsync".to_owned(),
    ]);
    arguments
}

fn api_server(state: &State, pki: &Pki) -> Vec<String> {
    let mut arguments = files(
        pki,
        &[
            ("tls-cert-file", "apiserver.crt"),
            ("tls-private-key-file", "apiserver.key"),
            ("client-ca-file", "ca.crt"),
            ("etcd-cafile", "etcd-ca.crt"),
            ("etcd-certfile", "apiserver-etcd-client.crt"),
            ("etcd-keyfile", "apiserver-etcd-client.key"),
            ("kubelet-client-certificate", "apiserver-kubelet-client.crt"),
            ("kubelet-client-key", "apiserver-kubelet-client.key"),
            ("service-account-key-file", "service-account.pub"),
            ("service-account-signing-key-file", "service-account.key"),
            ("requestheader-client-ca-file", "front-proxy-ca.crt"),
            ("proxy-client-cert-file", "front-proxy-client.crt"),
            ("proxy-client-key-file", "front-proxy-client.key"),
        ],
    );
    arguments.extend([
        flag("etcd-servers", ETCD),
        flag("bind-address", "::"),
        flag("secure-port", api_port()),
        flag("advertise-address", state.addresses.control_plane()[0]),
        flag("service-cluster-ip-range", SERVICE_RANGES),
        flag(
            "service-account-issuer",
            "https://kubernetes.default.svc.cluster.local",
        ),
        flag("authorization-mode", "Node,RBAC"),
        flag("enable-admission-plugins", "NodeRestriction"),
        flag("enable-bootstrap-token-auth", true),
        flag("allow-privileged", true),
        flag("kubelet-preferred-address-types", "InternalIP,Hostname"),
        flag("requestheader-allowed-names", "front-proxy-client"),
        flag("requestheader-extra-headers-prefix", "X-Remote-Extra-"),
        flag("requestheader-group-headers", "X-Remote-Group"),
        flag("requestheader-username-headers", "X-Remote-User"),
        flag("enable-aggregator-routing", true),
    ]);
    arguments
}

fn with_own_kubeconfig(name: &str) -> Vec<String> {
    let file = lab_dir().join(format!("{name}.conf"));
    [
        "kubeconfig",
        "authentication-kubeconfig",
        "authorization-kubeconfig",
    ]
    .iter()
    .map(|option| flag(option, file.display()))
    .chain([flag("bind-address", "127.0.0.1"), flag("leader-elect", false)])
    .collect()
}

fn controller_manager(pki: &Pki) -> Vec<String> {
    let mut arguments = with_own_kubeconfig("controller-manager");
    arguments.extend(files(
        pki,
        &[
            ("client-ca-file", "ca.crt"),
            ("requestheader-client-ca-file", "front-proxy-ca.crt"),
            ("root-ca-file", "ca.crt"),
            ("cluster-signing-cert-file", "ca.crt"),
            ("cluster-signing-key-file", "ca.key"),
            ("service-account-private-key-file", "service-account.key"),
        ],
    ));
    arguments.extend([
        flag("allocate-node-cidrs", true),
        flag("cluster-cidr", POD_RANGES),
        flag("node-cidr-mask-size-ipv4", 21),
        flag("node-cidr-mask-size-ipv6", 64),
        flag("service-cluster-ip-range", SERVICE_RANGES),
        flag("use-service-account-credentials", true),
        flag("controllers", "*,bootstrapsigner,tokencleaner"),
    ]);
    arguments
}

fn scheduler() -> Vec<String> {
    with_own_kubeconfig("scheduler")
}
