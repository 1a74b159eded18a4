//! The engine of this process as the pods' runtime.

use ::cri::{Code, Engine};
use async_trait::async_trait;
use proto::cri;
use tokio::sync::broadcast;

use super::runtime::{Cri, Error, Kind};

impl From<::cri::Error> for Error {
    fn from(error: ::cri::Error) -> Self {
        let kind = match error.code() {
            Code::NotFound => Kind::NotFound,
            Code::InvalidArgument => Kind::InvalidArgument,
            Code::Unavailable => Kind::Unavailable,
            _ => Kind::Other,
        };
        Self::new(kind, error.to_string())
    }
}

/// One method for each call: what the engine answers, its error translated.
macro_rules! forward {
    ($($call:ident($request:ident) -> $response:ident;)*) => {
        #[async_trait]
        impl Cri for Engine {
            $(async fn $call(&self, request: cri::$request) -> Result<cri::$response, Error> {
                Ok(Engine::$call(self, request).await?)
            })*

            fn events(&self) -> broadcast::Receiver<cri::ContainerEventResponse> {
                Engine::events(self)
            }
        }
    };
}

forward! {
    run_pod_sandbox(RunPodSandboxRequest) -> RunPodSandboxResponse;
    stop_pod_sandbox(StopPodSandboxRequest) -> StopPodSandboxResponse;
    remove_pod_sandbox(RemovePodSandboxRequest) -> RemovePodSandboxResponse;
    pod_sandbox_status(PodSandboxStatusRequest) -> PodSandboxStatusResponse;
    list_pod_sandbox(ListPodSandboxRequest) -> ListPodSandboxResponse;
    create_container(CreateContainerRequest) -> CreateContainerResponse;
    start_container(StartContainerRequest) -> StartContainerResponse;
    stop_container(StopContainerRequest) -> StopContainerResponse;
    remove_container(RemoveContainerRequest) -> RemoveContainerResponse;
    list_containers(ListContainersRequest) -> ListContainersResponse;
    container_status(ContainerStatusRequest) -> ContainerStatusResponse;
    pull_image(PullImageRequest) -> PullImageResponse;
    image_status(ImageStatusRequest) -> ImageStatusResponse;
}
