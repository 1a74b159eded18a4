//! One container's life.

use cri::{Code, Error};
use proto::cri::*;

use crate::bench::Bench;

pub(crate) async fn a_container_runs_logs_and_ends_with_its_code() {
    let bench = Bench::new().await;
    let pod = bench.run(&bench.pod("web")).await.unwrap();
    let mut config = bench.container("c", "echo hello; echo oops >&2; printf partial; exit 3");
    config.labels = [("io.kubernetes.container.name".to_owned(), "c".to_owned())].into();
    let mut events = bench.engine().events();
    let id = bench.create(&pod, config).await.unwrap();
    assert_eq!(
        bench.status(&id).await.unwrap().state(),
        ContainerState::ContainerCreated
    );
    bench.start_container(&id).await.unwrap();
    let status = bench.ended(&mut events, &id).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (3, "Error"));
    assert!(status.created_at > 0 && status.started_at >= status.created_at);
    assert!(status.finished_at >= status.started_at);
    assert_eq!(status.image.unwrap().image, crate::image::NAME);
    assert!(status.image_id.starts_with("sha256:"));
    let mut log = bench.log("web", "c");
    log.sort();
    let line = |stream: &str, tag: &str, text: &str| (stream.to_owned(), tag.to_owned(), text.to_owned());
    let wanted = [
        line("stderr", "F", "oops"),
        line("stdout", "F", "hello"),
        line("stdout", "P", "partial"),
    ];
    assert_eq!(log, wanted);

    let fine = bench.finish(&pod, bench.container("d", "true")).await;
    assert_eq!((fine.exit_code, fine.reason.as_str()), (0, "Completed"));
    bench.remove(&pod).await;
    bench.assert_clean();
    assert_eq!(bench.status(&id).await.unwrap_err().code(), Code::NotFound);
}

pub(crate) async fn a_program_that_cannot_be_found_is_a_start_error() {
    let bench = Bench::new().await;
    let pod = bench.run(&bench.pod("web")).await.unwrap();
    let mut config = bench.container("c", "");
    config.command = vec!["nonsense".into()];
    let id = bench.create(&pod, config).await.unwrap();
    let error = bench.start_container(&id).await.unwrap_err();
    let wanted =
        format!("failed to start container \"{id}\": exec: \"nonsense\": executable file not found in $PATH");
    assert_eq!(error.to_string(), wanted);
    let status = bench.status(&id).await.unwrap();
    assert_eq!(status.state(), ContainerState::ContainerExited);
    assert_eq!((status.exit_code, status.reason.as_str()), (128, "StartError"));
    assert_eq!(status.message, wanted);
    assert_eq!(status.started_at, 0);
    assert!(matches!(
        bench.start_container(&id).await,
        Err(Error::FailedPrecondition { .. })
    ));
    bench.remove_container(&id).await;
    bench.remove(&pod).await;
    bench.assert_clean();
}

pub(crate) async fn a_user_that_cannot_be_found_is_a_start_error() {
    let bench = Bench::new().await;
    let pod = bench.run(&bench.pod("web")).await.unwrap();
    let as_user = |name: &str| {
        let mut config = bench.container(name, "id -u; id -g; id -G");
        config
            .linux
            .as_mut()
            .unwrap()
            .security_context
            .as_mut()
            .unwrap()
            .run_as_username = name.into();
        config
    };
    let id = bench.create(&pod, as_user("ghost")).await.unwrap();
    let error = bench.start_container(&id).await.unwrap_err().to_string();
    assert!(
        error.contains("unable to find user ghost: no matching entries in passwd file"),
        "{error}"
    );
    bench.finish(&pod, as_user("web")).await;
    assert_eq!(bench.output("web", "web"), "33\n34\n34 40\n");
    bench.remove(&pod).await;
    bench.assert_clean();
}

pub(crate) async fn stop_asks_first_and_kills_after_the_grace_period() {
    let bench = Bench::new().await;
    let pod = bench.run(&bench.pod("web")).await.unwrap();
    // The fifo says when the trap is set; nothing sleeps to find out.
    let ready = |name: &str| bench.path(name).to_str().unwrap().to_owned();
    let script = |rest: &str| format!("{rest}; echo ready > /ready; while :; do sleep 1000 & wait $!; done");
    let waiting = async |name: &str, rest: &str| {
        let fifo = bench.path(name);
        assert!(
            std::process::Command::new("mkfifo")
                .arg(&fifo)
                .status()
                .unwrap()
                .success()
        );
        let mut config = bench.container(name, &script(rest));
        config.mounts = vec![Mount {
            container_path: "/ready".into(),
            host_path: ready(name),
            ..Mount::default()
        }];
        let id = bench.launch(&pod, config).await;
        tokio::task::spawn_blocking(move || std::fs::read(fifo).unwrap())
            .await
            .unwrap();
        id
    };
    let polite = waiting("polite", "trap 'exit 7' TERM").await;
    bench.stop_container(&polite, 100).await;
    let status = bench.status(&polite).await.unwrap();
    assert_eq!((status.exit_code, status.reason.as_str()), (7, "Error"));
    bench.stop_container(&polite, 100).await;

    let deaf = waiting("deaf", "trap '' TERM").await;
    bench.stop_container(&deaf, 1).await;
    assert_eq!(bench.status(&deaf).await.unwrap().exit_code, 137);

    let quick = waiting("quick", "trap 'exit 7' TERM").await;
    bench.stop_container(&quick, 0).await;
    assert_eq!(bench.status(&quick).await.unwrap().exit_code, 137);
    bench.stop_container("unknown", 0).await;
    bench.remove(&pod).await;
    bench.assert_clean();
}

pub(crate) async fn environment_secrets_are_in_no_record() {
    let bench = Bench::new().await;
    let pod = bench.run(&bench.pod("web")).await.unwrap();
    let mut config = bench.container("c", "echo $COLOUR $PASSWORD $HOSTNAME");
    config.envs = vec![KeyValue {
        key: "PASSWORD".into(),
        value: b"correct horse".to_vec(),
    }];
    let id = bench.finish(&pod, config).await.id;
    let path = bench
        .path("run/sandboxes")
        .join(&pod)
        .join("containers")
        .join(format!("{id}.json"));
    let record = std::fs::read_to_string(path).unwrap();
    assert!(record.contains("longshore.container"));
    let encoded = record.split('"').max_by_key(|part| part.len()).unwrap();
    use base64::Engine as _;
    let message = base64::engine::general_purpose::STANDARD.decode(encoded).unwrap();
    assert!(!String::from_utf8_lossy(&message).contains("correct horse"));
    bench.remove(&pod).await;
    assert_eq!(bench.output("web", "c"), "blue correct horse web\n");
    bench.assert_clean();
}

pub(crate) async fn removing_a_running_container_ends_it() {
    let bench = Bench::new().await;
    let pod = bench.run(&bench.pod("web")).await.unwrap();
    let id = bench
        .launch(&pod, bench.container("c", "sleep 1000 & sleep 1000"))
        .await;
    let cgroup = bench.cgroup("pods/web").join(&id);
    assert!(cgroup.exists());
    bench.remove_container(&id).await;
    assert!(!cgroup.exists());
    bench.remove_container(&id).await;
    bench.remove(&pod).await;
    bench.assert_clean();
}

pub(crate) async fn a_log_is_reopened_after_rotation() {
    let bench = Bench::new().await;
    let pod = bench.run(&bench.pod("web")).await.unwrap();
    let fifo = bench.path("go");
    assert!(
        std::process::Command::new("mkfifo")
            .arg(&fifo)
            .status()
            .unwrap()
            .success()
    );
    let mut config = bench.container("c", "echo one; cat /go; echo two");
    config.mounts = vec![Mount {
        container_path: "/go".into(),
        host_path: fifo.to_str().unwrap().into(),
        ..Mount::default()
    }];
    let mut events = bench.engine().events();
    let id = bench.launch(&pod, config).await;
    // Opening the fifo waits until `cat` has it open, which is after "one".
    let writer = fifo.clone();
    let writer = tokio::task::spawn_blocking(move || std::fs::File::create(writer).unwrap())
        .await
        .unwrap();
    let log = bench.path("logs/web/c/0.log");
    std::fs::rename(&log, log.with_extension("old")).unwrap();
    let request = ReopenContainerLogRequest {
        container_id: id.clone(),
    };
    bench
        .engine()
        .reopen_container_log(request.clone())
        .await
        .unwrap();
    drop(writer);
    bench.ended(&mut events, &id).await;
    assert_eq!(bench.output("web", "c"), "two\n");
    assert_eq!(
        bench
            .engine()
            .reopen_container_log(request)
            .await
            .unwrap_err()
            .code(),
        Code::FailedPrecondition
    );
    bench.remove(&pod).await;
    bench.assert_clean();
}

pub(crate) async fn devices_and_privileges_come_on_request() {
    let bench = Bench::new().await;
    let pod = bench.run(&bench.pod("web")).await.unwrap();
    let script = "echo x > /dev/nothing && echo fine; grep CapEff /proc/self/status; grep ' /sys sysfs' /proc/self/mounts";
    let mut plain = bench.container("plain", script);
    plain.devices = vec![Device {
        container_path: "/dev/nothing".into(),
        host_path: "/dev/null".into(),
        permissions: "rwm".into(),
    }];
    let mut privileged = bench.container(
        "privileged",
        &script.replace("/dev/nothing", "/dev/full || echo full"),
    );
    privileged
        .linux
        .as_mut()
        .unwrap()
        .security_context
        .as_mut()
        .unwrap()
        .privileged = true;
    bench.finish(&pod, plain).await;
    bench.finish(&pod, privileged).await;
    let held = std::fs::read_to_string("/proc/self/status").unwrap();
    let held = held
        .lines()
        .find_map(|line| line.strip_prefix("CapPrm:"))
        .unwrap()
        .trim()
        .to_owned();
    let plain = bench.output("web", "plain");
    assert!(plain.starts_with("fine\nCapEff:\t00000000a80425fb\n"), "{plain}");
    assert!(plain.contains("sysfs ro,"), "{plain}");
    let privileged = bench.output("web", "privileged");
    assert!(privileged.contains(&format!("CapEff:\t{held}\n")), "{privileged}");
    assert!(privileged.contains("sysfs rw,"), "{privileged}");

    let mut missing = bench.container("missing", "true");
    missing.devices = vec![Device {
        host_path: "/dev/no-such".into(),
        ..Device::default()
    }];
    let error = bench.create(&pod, missing).await.unwrap_err().to_string();
    assert!(error.contains("/dev/no-such"), "{error}");
    bench.remove(&pod).await;
    bench.assert_clean();
}

pub(crate) async fn a_container_may_join_anothers_process_ids() {
    let bench = Bench::new().await;
    let pod = bench.run(&bench.pod("web")).await.unwrap();
    let target = bench
        .launch(&pod, bench.container("target", "exec sleep 1000"))
        .await;
    let joining = |target: &str| {
        let mut config = bench.container("joins", "cat /proc/1/cmdline");
        let security = config.linux.as_mut().unwrap().security_context.as_mut().unwrap();
        security.namespace_options = Some(NamespaceOption {
            pid: NamespaceMode::Target.into(),
            target_id: target.into(),
            ..NamespaceOption::default()
        });
        config
    };
    bench.finish(&pod, joining(&target)).await;
    assert_eq!(bench.output("web", "joins"), "sleep\u{0}1000\u{0}\n");
    let error = bench.create(&pod, joining("unknown")).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    bench.remove(&pod).await;
    bench.assert_clean();
}

/// The cgroup of these tests has no controllers.
pub(crate) async fn a_limit_that_cannot_be_kept_is_an_error() {
    let bench = Bench::new().await;
    let pod = bench.run(&bench.pod("web")).await.unwrap();
    let mut config = bench.container("c", "true");
    config.linux.as_mut().unwrap().resources = Some(LinuxContainerResources {
        memory_limit_in_bytes: 64 << 20,
        ..LinuxContainerResources::default()
    });
    let id = bench.create(&pod, config).await.unwrap();
    let error = bench.start_container(&id).await.unwrap_err().to_string();
    assert!(error.contains("memory.max"), "{error}");
    assert_eq!(bench.status(&id).await.unwrap().reason, "StartError");
    bench.remove(&pod).await;
    bench.assert_clean();
}
