//! Seeing that a container's image is there, by its pull policy.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use base64::Engine as _;
use k8s_openapi::api::core::v1::Secret;
use proto::cri;
use serde::Deserialize;

use super::super::plan::action::PullPolicy;
use super::super::runtime::{Error, Kind};
use super::apply::Step;
use super::news::{News, Problem};
use crate::api::EventKind;

/// Words that a runtime's error may begin with, and what the message then says.
const KNOWN: [(&str, &str); 2] = [
    ("RegistryUnavailable", "the registry is unavailable"),
    ("SignatureValidationFailed", "the signature validation failed"),
];

/// What went wrong, and whether it was in pulling.
struct Trouble {
    problem: Problem,
    pulling: bool,
}

impl Step {
    pub(super) async fn ensure_image(
        &self,
        container: &str,
        image: &str,
        policy: PullPolicy,
        attempt: u32,
    ) -> News {
        let found = self.find_or_pull(container, image, policy).await;
        let pulling = found.as_ref().is_err_and(|t| t.pulling);
        let outcome = found.map_err(|trouble| {
            let message = format!("Error: {}", trouble.problem.reason);
            self.context
                .event(&self.pod, Some(container), EventKind::Warning, "Failed", &message);
            trouble.problem
        });
        let (container, image) = (container.to_owned(), image.to_owned());
        News::Image {
            container,
            image,
            attempt,
            outcome,
            pulling,
        }
    }

    async fn find_or_pull(
        &self,
        container: &str,
        image: &str,
        policy: PullPolicy,
    ) -> Result<String, Trouble> {
        // Asked for in any case: a name that cannot be read is told of before anything is pulled.
        let found = self.find(container, image).await?;
        if let Some(id) = found.filter(|_| policy != PullPolicy::Always) {
            let message = format!(
                "Container image \"{image}\" already present on machine and can be accessed by the pod"
            );
            self.tell(Some(container), "Pulled", &message);
            return Ok(id);
        }
        if policy == PullPolicy::Never {
            let message = format!("Container image \"{image}\" is not present with pull policy of Never");
            return Err(self.trouble(container, "ErrImageNeverPull", "ErrImageNeverPull", message));
        }
        self.pull(container, image).await
    }

    /// Tells of trouble other than with pulling.
    fn trouble(&self, container: &str, event: &str, reason: &str, message: String) -> Trouble {
        self.context
            .event(&self.pod, Some(container), EventKind::Warning, event, &message);
        Trouble {
            problem: Problem::new(reason, message),
            pulling: false,
        }
    }

    fn invalid(&self, container: &str, image: &str, error: &Error) -> Trouble {
        let message = format!("Failed to apply default image tag \"{image}\": {error}");
        self.trouble(container, "InspectFailed", "InvalidImageName", message)
    }

    /// The reference of an image that is there.
    async fn find(&self, container: &str, image: &str) -> Result<Option<String>, Trouble> {
        let spec = cri::ImageSpec {
            image: image.to_owned(),
            ..Default::default()
        };
        let request = cri::ImageStatusRequest {
            image: Some(spec),
            verbose: false,
        };
        match self.context.runtime.image_status(request).await {
            Ok(response) => Ok(response.image.map(|found| found.id)),
            Err(error) if error.kind == Kind::InvalidArgument => Err(self.invalid(container, image, &error)),
            Err(error) => {
                let message = format!("Failed to inspect image \"{image}\": {error}");
                Err(self.trouble(container, "InspectFailed", "ImageInspectError", message))
            }
        }
    }

    async fn pull(&self, container: &str, image: &str) -> Result<String, Trouble> {
        let begun = Instant::now();
        let accounts = self.accounts(image).await;
        self.tell(Some(container), "Pulling", &format!("Pulling image \"{image}\""));
        let mut last = None;
        // Without credentials of the pod once, else with each that fits until one is taken.
        let tries = if accounts.is_empty() {
            vec![None]
        } else {
            accounts.into_iter().map(Some).collect()
        };
        for auth in tries {
            let spec = cri::ImageSpec {
                image: image.to_owned(),
                user_specified_image: image.to_owned(),
                ..Default::default()
            };
            let request = cri::PullImageRequest {
                image: Some(spec),
                auth,
                sandbox_config: None,
            };
            match self.context.runtime.pull_image(request).await {
                Ok(response) => {
                    self.tell_pulled(container, image, &response.image_ref, begun.elapsed())
                        .await;
                    return Ok(response.image_ref);
                }
                Err(error) if error.kind == Kind::InvalidArgument => {
                    return Err(self.invalid(container, image, &error));
                }
                Err(error) => last = Some(error),
            }
        }
        let text = last.map(|e| e.to_string()).unwrap_or_default();
        let message = format!("Failed to pull image \"{image}\": {text}");
        self.context
            .event(&self.pod, Some(container), EventKind::Warning, "Failed", &message);
        Err(Trouble {
            problem: pull_problem(image, &text),
            pulling: true,
        })
    }

    async fn tell_pulled(&self, container: &str, image: &str, image_ref: &str, took: Duration) {
        let spec = cri::ImageSpec {
            image: image_ref.to_owned(),
            ..Default::default()
        };
        let request = cri::ImageStatusRequest {
            image: Some(spec),
            verbose: false,
        };
        let found = self
            .context
            .runtime
            .image_status(request)
            .await
            .ok()
            .and_then(|r| r.image);
        let size = found.map_or(0, |i| i.size);
        let took = go_duration(took);
        let message = format!(
            "Successfully pulled image \"{image}\" in {took} ({took} including waiting). Image size: {size} bytes."
        );
        self.tell(Some(container), "Pulled", &message);
    }

    /// Credentials of the pod's pull secrets for the image's registry.
    async fn accounts(&self, image: &str) -> Vec<cri::AuthConfig> {
        let namespace = self.pod.metadata.namespace.as_deref().unwrap_or_default();
        let spec = self.pod.spec.as_ref();
        let references = spec
            .and_then(|s| s.image_pull_secrets.as_deref())
            .unwrap_or_default();
        let (mut accounts, mut missing) = (Vec::new(), Vec::new());
        for name in references
            .iter()
            .map(|r| r.name.as_str())
            .filter(|n| !n.is_empty())
        {
            match self.context.objects.secret(namespace, name).await {
                Ok(Some(secret)) => accounts.extend(accounts_in(&secret, image)),
                _ => missing.push(name),
            }
        }
        if !missing.is_empty() {
            let message = format!(
                "Unable to retrieve some image pull secrets ({}); attempting to pull the image may not succeed.",
                missing.join(", ")
            );
            let reason = "FailedToRetrieveImagePullSecret";
            self.context
                .event(&self.pod, None, EventKind::Warning, reason, &message);
        }
        accounts
    }
}

/// The waiting reason for a failed pull.
fn pull_problem(image: &str, text: &str) -> Problem {
    for (word, meaning) in KNOWN {
        if let Some(rest) = text.strip_prefix(word) {
            return Problem::new(
                word,
                format!("image pull failed for {image} because {meaning}{rest}"),
            );
        }
    }
    Problem::new("ErrImagePull", text)
}

/// `.dockerconfigjson`, and one account of it or of `.dockercfg`.
#[derive(Deserialize)]
struct DockerConfig {
    auths: BTreeMap<String, Account>,
}

#[derive(Deserialize)]
struct Account {
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
    #[serde(default)]
    auth: String,
    #[serde(default, rename = "identitytoken")]
    identity_token: String,
}

/// Accounts in a secret whose registry the image is of; the longest match first.
fn accounts_in(secret: &Secret, image: &str) -> Vec<cri::AuthConfig> {
    let data = |key: &str| {
        secret
            .data
            .as_ref()
            .and_then(|d| d.get(key))
            .map(|bytes| bytes.0.as_slice())
    };
    let modern = data(".dockerconfigjson").and_then(|d| serde_json::from_slice::<DockerConfig>(d).ok());
    let legacy = || data(".dockercfg").and_then(|d| serde_json::from_slice(d).ok());
    let accounts: BTreeMap<String, Account> = modern.map(|c| c.auths).or_else(legacy).unwrap_or_default();
    let mut fitting: Vec<_> = accounts
        .into_iter()
        .filter(|(registry, _)| fits(registry, image))
        .collect();
    fitting.sort_by_key(|(registry, _)| std::cmp::Reverse(registry.len()));
    fitting
        .into_iter()
        .map(|(registry, account)| auth(registry, account))
        .collect()
}

fn auth(registry: String, account: Account) -> cri::AuthConfig {
    let decoded = base64::engine::general_purpose::STANDARD
        .decode(&account.auth)
        .unwrap_or_default();
    let text = String::from_utf8(decoded).unwrap_or_default();
    let (user, password) = text.split_once(':').unwrap_or_default();
    let or = |given: String, other: &str| if given.is_empty() { other.to_owned() } else { given };
    cri::AuthConfig {
        username: or(account.username, user),
        password: or(account.password, password),
        identity_token: account.identity_token,
        server_address: registry,
        ..Default::default()
    }
}

/// Whether a registry of a docker configuration (`HOST[:PORT][/PATH]`, perhaps with scheme and API version) is the
/// image's.
fn fits(registry: &str, image: &str) -> bool {
    let registry = registry
        .trim_start_matches("https://")
        .trim_start_matches("http://")
        .trim_end_matches('/');
    let registry = registry.trim_end_matches("/v1").trim_end_matches("/v2");
    let registry = if registry == "index.docker.io" {
        "docker.io"
    } else {
        registry
    };
    let first = image.split('/').next().unwrap_or_default();
    let has_host = image.contains('/') && (first.contains(['.', ':']) || first == "localhost");
    let full = if has_host {
        image.to_owned()
    } else {
        format!("docker.io/{image}")
    };
    full.strip_prefix(registry)
        .is_some_and(|rest| rest.starts_with(['/', ':', '@']) || rest.is_empty())
}

/// As Go prints it, to the millisecond: `1.234s`, `1m2.5s`, `850ms`.
fn go_duration(d: Duration) -> String {
    let millis = d.as_millis();
    if millis < 1000 {
        return format!("{millis}ms");
    }
    let seconds = format!("{}.{:03}", (millis / 1000) % 60, millis % 1000);
    let seconds = seconds.trim_end_matches('0').trim_end_matches('.');
    match millis / 60_000 {
        0 => format!("{seconds}s"),
        minutes => format!("{minutes}m{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registries_fit_their_images() {
        let rows = [
            ("registry.example.com", "registry.example.com/a/b:1", true),
            ("registry.example.com:5000", "registry.example.com:5000/a", true),
            ("registry.example.com", "registry.example.com.evil.org/a", false),
            ("registry.example.com/team", "registry.example.com/team/a", true),
            ("registry.example.com/team", "registry.example.com/teams/a", false),
            ("https://index.docker.io/v1/", "nginx", true),
            ("https://index.docker.io/v1/", "quay.io/nginx", false),
        ];
        for (registry, image, expected) in rows {
            assert_eq!(fits(registry, image), expected, "{registry} for {image}");
        }
    }

    #[test]
    fn accounts_are_read_from_both_kinds_of_secrets() {
        let auth = base64::engine::general_purpose::STANDARD.encode("u:p:w");
        let body =
            format!(r#"{{"auths": {{"r.io": {{"auth": "{auth}"}}, "other.io": {{"username": "x"}}}}}}"#);
        let encoded = base64::engine::general_purpose::STANDARD.encode(body);
        let secret: Secret =
            serde_json::from_value(serde_json::json!({"data": {".dockerconfigjson": encoded}})).unwrap();
        let found = accounts_in(&secret, "r.io/a");
        assert_eq!(found.len(), 1);
        assert_eq!(
            (found[0].username.as_str(), found[0].password.as_str()),
            ("u", "p:w")
        );
    }

    #[test]
    fn durations_and_reasons() {
        let rows = [(850, "850ms"), (1234, "1.234s"), (2000, "2s"), (62_500, "1m2.5s")];
        for (millis, text) in rows {
            assert_eq!(go_duration(Duration::from_millis(millis)), text);
        }
        let problem = pull_problem("r.io/a", "RegistryUnavailable: no route");
        assert_eq!(problem.reason, "RegistryUnavailable");
        assert_eq!(
            problem.message,
            "image pull failed for r.io/a because the registry is unavailable: no route"
        );
        assert_eq!(pull_problem("a", "boom").reason, "ErrImagePull");
    }
}
