//! Engines die; pods do not notice, and the next engine knows.

use cri::{Code, Engine};
use proto::cri::*;

use crate::bench::Bench;

fn kill(pid: u32) {
    assert!(
        std::process::Command::new("kill")
            .args(["-9", &pid.to_string()])
            .status()
            .unwrap()
            .success()
    );
}

pub(crate) async fn a_new_engine_adopts_what_runs() {
    let mut bench = Bench::new().await;
    let config = bench.pod("web");
    let pod = bench.run(&config).await.unwrap();
    let id = bench.launch(&pod, bench.container("c", "sleep 1000")).await;
    let ended = bench.finish(&pod, bench.container("d", "exit 5")).await;
    let (before, sandbox) = (
        bench.status(&id).await.unwrap(),
        bench.sandbox_status(&pod).await.unwrap(),
    );
    let keeper = bench.keeper(&pod);
    for _ in 0..2 {
        bench.crash();
        bench.start().await;
        assert_eq!(bench.status(&id).await.unwrap(), before);
        assert_eq!(bench.status(&ended.id).await.unwrap(), ended);
        assert_eq!(bench.sandbox_status(&pod).await.unwrap(), sandbox);
        assert_eq!(bench.keeper(&pod), keeper);
        assert_eq!(bench.run(&config).await.unwrap_or_default(), pod);
    }
    let mut events = bench.engine().events();
    bench.stop_container(&id, 0).await;
    assert_eq!(bench.ended(&mut events, &id).await.exit_code, 137);
    bench.remove(&pod).await;
    bench.assert_clean();
}

pub(crate) async fn an_exit_without_an_engine_is_known_to_the_next() {
    let mut bench = Bench::new().await;
    let pod = bench.run(&bench.pod("web")).await.unwrap();
    let fifo = bench.path("go");
    assert!(
        std::process::Command::new("mkfifo")
            .arg(&fifo)
            .status()
            .unwrap()
            .success()
    );
    let mut config = bench.container("c", "cat /go; exit 9");
    config.mounts = vec![Mount {
        container_path: "/go".into(),
        host_path: fifo.to_str().unwrap().into(),
        ..Mount::default()
    }];
    let id = bench.launch(&pod, config).await;
    let started_at = bench.status(&id).await.unwrap().started_at;
    bench.crash();
    tokio::task::spawn_blocking(move || drop(std::fs::File::create(fifo).unwrap()))
        .await
        .unwrap();
    bench.start().await;
    let mut events = bench.engine().events();
    let status = bench.ended(&mut events, &id).await;
    assert_eq!(
        (status.exit_code, status.reason.as_str(), status.started_at),
        (9, "Error", started_at)
    );
    bench.remove(&pod).await;
    bench.assert_clean();
}

pub(crate) async fn a_container_that_never_ran_is_taken_back() {
    let mut bench = Bench::new().await;
    let pod = bench.run(&bench.pod("web")).await.unwrap();
    let id = bench.create(&pod, bench.container("c", "true")).await.unwrap();
    bench.crash();
    bench.start().await;
    assert_eq!(bench.status(&id).await.unwrap_err().code(), Code::NotFound);
    let again = bench.finish(&pod, bench.container("c", "true")).await;
    assert_eq!(again.exit_code, 0);
    bench.remove(&pod).await;
    bench.assert_clean();
}

pub(crate) async fn a_killed_keeper_takes_its_pod_with_it() {
    let bench = Bench::new().await;
    let pod = bench.run(&bench.pod("web")).await.unwrap();
    let id = bench.launch(&pod, bench.container("c", "sleep 1000")).await;
    let done = bench.finish(&pod, bench.container("d", "exit 4")).await;
    let mut events = bench.engine().events();
    kill(bench.keeper(&pod));
    let status = bench.ended(&mut events, &id).await;
    assert_eq!(
        (status.exit_code, status.reason.as_str()),
        (137, "ContainerStatusUnknown")
    );
    assert!(status.started_at > 0);
    while bench.sandbox_status(&pod).await.unwrap().state() == PodSandboxState::SandboxReady {
        events.recv().await.unwrap();
    }
    assert_eq!(bench.status(&done.id).await.unwrap(), done);
    assert_eq!(
        bench
            .create(&pod, bench.container("e", "true"))
            .await
            .unwrap_err()
            .code(),
        Code::FailedPrecondition
    );
    bench.stop(&pod).await;
    bench.remove(&pod).await;
    bench.assert_clean();
}

pub(crate) async fn a_keeper_killed_without_an_engine_is_found_lost() {
    let mut bench = Bench::new().await;
    let pod = bench.run(&bench.pod("web")).await.unwrap();
    let id = bench.launch(&pod, bench.container("c", "sleep 1000")).await;
    let keeper = bench.keeper(&pod);
    bench.crash();
    kill(keeper);
    bench.start().await;
    for _ in 0..2 {
        let status = bench.status(&id).await.unwrap();
        assert_eq!(
            (status.exit_code, status.reason.as_str()),
            (137, "ContainerStatusUnknown")
        );
        assert_eq!(
            bench.sandbox_status(&pod).await.unwrap().state(),
            PodSandboxState::SandboxNotready
        );
        bench.crash();
        bench.start().await;
        assert_eq!(bench.status(&id).await.unwrap(), status);
    }
    bench.remove(&pod).await;
    bench.assert_clean();
}

pub(crate) async fn a_damaged_record_is_put_aside_and_its_pod_ended() {
    let mut bench = Bench::new().await;
    let pod = bench.run(&bench.pod("web")).await.unwrap();
    let id = bench.launch(&pod, bench.container("c", "sleep 1000")).await;
    bench.crash();
    let path = bench.path("run/sandboxes").join(&pod).join("record.json");
    let mut record = std::fs::read(&path).unwrap();
    let middle = record.len() / 2;
    record[middle] ^= 1;
    std::fs::write(&path, record).unwrap();
    bench.start().await;
    assert_eq!(
        bench.sandbox_status(&pod).await.unwrap_err().code(),
        Code::NotFound
    );
    assert_eq!(bench.status(&id).await.unwrap_err().code(), Code::NotFound);
    bench.assert_clean();
    assert_eq!(
        std::fs::read_dir(bench.path("run/quarantine")).unwrap().count(),
        1
    );
}

pub(crate) async fn an_unfinished_sandbox_is_undone() {
    let mut bench = Bench::new().await;
    let config = bench.pod("web");
    let pod = bench.run(&config).await.unwrap();
    bench.crash();
    // As it is on disk before the last step.
    let path = bench.path("run/sandboxes").join(&pod).join("record.json");
    let text = std::fs::read_to_string(&path).unwrap();
    let body = text
        .lines()
        .nth(1)
        .unwrap()
        .replace("\"phase\":\"ready\"", "\"phase\":\"creating\"");
    let digest = cri::Digest::of(body.as_bytes()).hex();
    let header = format!("{{\"format\":\"longshore.sandbox\",\"version\":1,\"sha256\":\"{digest}\"}}");
    std::fs::write(&path, format!("{header}\n{body}\n")).unwrap();
    bench.start().await;
    assert_eq!(
        bench.sandbox_status(&pod).await.unwrap_err().code(),
        Code::NotFound
    );
    bench.assert_clean();
}

pub(crate) async fn leftovers_without_a_record_go() {
    let mut bench = Bench::new().await;
    let pod = bench.run(&bench.pod("web")).await.unwrap();
    let id = bench.launch(&pod, bench.container("c", "sleep 1000")).await;
    bench.crash();
    let sandbox = bench.path("run/sandboxes").join(&pod);
    std::fs::remove_file(sandbox.join("record.json")).unwrap();
    std::fs::remove_file(sandbox.join("containers").join(format!("{id}.json"))).unwrap();
    std::fs::create_dir_all(bench.path("state/containers/abc/upper/x")).unwrap();
    std::fs::create_dir_all(bench.cgroup("longshore.slice/keepers/abc")).unwrap();
    std::fs::write(bench.path("run/netns/abc"), "").unwrap();
    let foreign = bench.path("run/sandboxes/Not-Ours");
    std::fs::create_dir(&foreign).unwrap();
    bench.start().await;
    assert!(foreign.exists());
    std::fs::remove_dir(foreign).unwrap();
    bench.assert_clean();
}

pub(crate) async fn two_engines_do_not_work_in_one_place() {
    let bench = Bench::bare().await;
    let second = Engine::start(bench.config()).await;
    let error = second.err().expect("refused");
    assert_eq!(error.code(), Code::Unavailable);
    assert!(error.to_string().contains("another engine works here"), "{error}");
}
