//! Container Runtime Interface v1 as of Kubernetes 1.36, generated from `cri/runtime/v1/api.proto`.
//!
//! Messages are plain structs; enum fields are `i32` with typed accessors. Clients are in
//! `runtime_service_client` and `image_service_client`, servers in `runtime_service_server` and
//! `image_service_server`.

pub use generated::*;

#[allow(
    missing_docs,
    clippy::all,
    clippy::allow_attributes_without_reason,
    reason = "generated code"
)]
mod generated {
    tonic::include_proto!("runtime.v1");
}

impl std::fmt::Debug for AuthConfig {
    // Requests are logged; credentials must not be.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AuthConfig")
            .field("username", &self.username)
            .field("server_address", &self.server_address)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
