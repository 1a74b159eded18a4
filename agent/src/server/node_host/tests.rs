use super::*;

#[test]
fn an_ending_is_told_once_to_all_who_wait() {
    let endings = Endings::default();
    let (first, second, other) = (endings.token("a"), endings.token("a"), endings.token("b"));
    endings.end("a");
    endings.end("unknown");
    assert!(first.is_cancelled() && second.is_cancelled() && !other.is_cancelled());
    assert_eq!(endings.waited_for(), ["b"]);
    // A container of that name that starts to be waited for later is another matter: its state is asked for.
    assert!(!endings.token("a").is_cancelled());
}

#[test]
fn only_created_and_running_containers_go_on() {
    let with = |state: cri::ContainerState| cri::ContainerStatus {
        state: state.into(),
        ..Default::default()
    };
    assert!(is_live(Some(&with(cri::ContainerState::ContainerRunning))));
    assert!(is_live(Some(&with(cri::ContainerState::ContainerCreated))));
    assert!(!is_live(Some(&with(cri::ContainerState::ContainerExited))));
    assert!(!is_live(Some(&with(cri::ContainerState::ContainerUnknown))));
    assert!(!is_live(None));
}
