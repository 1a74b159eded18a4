//! One pod's life.

use cri::Code;
use proto::cri::*;

use crate::bench::Bench;

pub(crate) async fn a_pod_shares_network_name_and_memory() {
    let bench = Bench::new().await;
    let pod = bench.run(&bench.pod("web")).await.unwrap();
    let status = bench.sandbox_status(&pod).await.unwrap();
    assert_eq!(status.state(), PodSandboxState::SandboxReady);
    let network = status.network.unwrap();
    assert!(network.ip.starts_with("10.77.0."), "{network:?}");
    assert!(network.additional_ips[0].ip.starts_with("fd77:"), "{network:?}");
    let write = "echo shared > /dev/shm/note; hostname; cat /etc/hostname /etc/resolv.conf; readlink /proc/self/ns/net";
    bench.finish(&pod, bench.container("a", write)).await;
    bench
        .finish(
            &pod,
            bench.container("b", "cat /dev/shm/note; readlink /proc/self/ns/net; echo $$"),
        )
        .await;
    let (a, b) = (bench.output("web", "a"), bench.output("web", "b"));
    let own = std::fs::read_link("/proc/self/ns/net").unwrap();
    let lines: Vec<&str> = a.lines().collect();
    assert_eq!(lines[..2], ["web", "web"]);
    assert_eq!(
        lines[2..5],
        [
            "search default.svc.cluster.local",
            "nameserver 10.96.0.10",
            "options ndots:5"
        ]
    );
    assert_ne!(lines[5], own.to_str().unwrap());
    assert_eq!(b, format!("shared\n{}\n1\n", lines[5]));
    let listed = bench.engine().list_pod_sandbox(ListPodSandboxRequest {
        filter: Some(PodSandboxFilter {
            label_selector: [("app".to_owned(), "web".to_owned())].into(),
            ..PodSandboxFilter::default()
        }),
    });
    assert_eq!(listed.await.unwrap().items.len(), 1);
    bench.remove(&pod).await;
    bench.assert_clean();
}

pub(crate) async fn the_hosts_network_is_shared_on_request() {
    let bench = Bench::bare().await;
    let mut config = bench.pod("web");
    let security = config.linux.as_mut().unwrap().security_context.as_mut().unwrap();
    security.namespace_options = Some(NamespaceOption {
        network: NamespaceMode::Node.into(),
        ipc: NamespaceMode::Node.into(),
        pid: NamespaceMode::Node.into(),
        ..NamespaceOption::default()
    });
    let options = security.namespace_options.clone();
    let pod = bench.run(&config).await.unwrap();
    let mut container = bench.container(
        "a",
        "for n in net ipc uts pid; do readlink /proc/self/ns/$n; done",
    );
    container
        .linux
        .as_mut()
        .unwrap()
        .security_context
        .as_mut()
        .unwrap()
        .namespace_options = options;
    bench.finish(&pod, container).await;
    let own = ["net", "ipc", "uts", "pid"].map(|n| std::fs::read_link(format!("/proc/self/ns/{n}")).unwrap());
    let own: String = own.iter().map(|link| format!("{}\n", link.display())).collect();
    assert_eq!(bench.output("web", "a"), own);
    assert_eq!(bench.sandbox_status(&pod).await.unwrap().network.unwrap().ip, "");
    bench.remove(&pod).await;
    bench.assert_clean();
}

pub(crate) async fn stopping_and_removing_twice_and_the_unknown_is_success() {
    let bench = Bench::new().await;
    let pod = bench.run(&bench.pod("web")).await.unwrap();
    let id = bench.launch(&pod, bench.container("c", "sleep 1000")).await;
    let never = bench.create(&pod, bench.container("d", "true")).await.unwrap();
    for _ in 0..2 {
        bench.stop(&pod).await;
        assert_eq!(
            bench.sandbox_status(&pod).await.unwrap().state(),
            PodSandboxState::SandboxNotready
        );
        let status = bench.status(&id).await.unwrap();
        assert_eq!(
            (status.state(), status.exit_code),
            (ContainerState::ContainerExited, 137)
        );
    }
    assert_eq!(
        bench.start_container(&never).await.unwrap_err().code(),
        Code::FailedPrecondition
    );
    for _ in 0..2 {
        bench.remove(&pod).await;
    }
    bench.stop("unknown").await;
    bench.remove("unknown").await;
    bench.assert_clean();
}

pub(crate) async fn the_same_attempt_is_made_once() {
    let bench = Bench::new().await;
    let config = bench.pod("web");
    let pod = bench.run(&config).await.unwrap();
    assert_eq!(bench.run(&config).await.unwrap(), pod);
    let first = bench.create(&pod, bench.container("c", "true")).await.unwrap();
    let second = bench.create(&pod, bench.container("c", "true")).await.unwrap();
    assert_ne!(first, second);
    assert_eq!(bench.status(&first).await.unwrap_err().code(), Code::NotFound);
    bench.stop(&pod).await;
    let again = bench.run(&config).await.unwrap();
    assert_ne!(again, pod);
    assert_eq!(
        bench.sandbox_status(&pod).await.unwrap_err().code(),
        Code::NotFound
    );
    bench.remove(&again).await;
    bench.assert_clean();
}

pub(crate) async fn a_sandbox_that_cannot_be_made_leaves_nothing() {
    let bench = Bench::new().await;
    let mut config = bench.pod("web");
    config.linux.as_mut().unwrap().sysctls = [("net.ipv4.no_such_setting".to_owned(), "1".to_owned())].into();
    let error = bench.run(&config).await.unwrap_err().to_string();
    assert!(error.contains("no_such_setting"), "{error}");
    bench.assert_clean();
    config.linux.as_mut().unwrap().sysctls = [("kernel.panic".to_owned(), "1".to_owned())].into();
    assert_eq!(
        bench.run(&config).await.unwrap_err().code(),
        Code::InvalidArgument
    );
    bench.assert_clean();
}

pub(crate) async fn status_says_when_the_network_is_ready() {
    let bench = Bench::bare().await;
    let status = bench.engine().status(StatusRequest::default()).await.unwrap();
    let network = status
        .status
        .unwrap()
        .conditions
        .into_iter()
        .find(|c| c.r#type == "NetworkReady")
        .unwrap();
    assert!(!network.status);
    assert_eq!(network.reason, "NetworkPluginNotReady");
    assert_eq!(
        bench.run(&bench.pod("web")).await.unwrap_err().code(),
        Code::Unavailable
    );
    bench.assert_clean();
}
