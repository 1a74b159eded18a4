//! An image store made by hand: one image of static busybox, as a pull would leave it.

use std::os::unix::fs::symlink;
use std::path::Path;

use cri::Digest;
use serde_json::json;

/// Full name of the image.
pub(crate) const NAME: &str = "registry.test/busybox:1";

const APPLETS: [&str; 18] = [
    "sh", "true", "false", "cat", "id", "sleep", "ls", "hostname", "echo", "env", "ip", "ps", "touch",
    "test", "mkfifo", "kill", "readlink", "grep",
];

/// Makes the store in `state`.
pub(crate) fn make(state: &Path) {
    let blobs = state.join("blobs/sha256");
    std::fs::create_dir_all(&blobs).unwrap();
    let put = |bytes: &[u8], kind: &str| {
        let digest = Digest::of(bytes);
        std::fs::write(blobs.join(digest.hex()), bytes).unwrap();
        json!({"mediaType": kind, "digest": digest.to_string(), "size": bytes.len()})
    };
    // The archive is not read again: what counts is the tree under its chain id, which is its own digest here.
    let diff = Digest::of(b"the archive, unpacked");
    let layer = put(b"the archive", "application/vnd.oci.image.layer.v1.tar");
    tree(&state.join("layers").join(diff.hex()));
    let config = json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "os": "linux",
        "config": {"Env": ["PATH=/bin", "COLOUR=blue"], "Entrypoint": ["/bin/sh"], "Cmd": ["-c", "echo default"]},
        "rootfs": {"type": "layers", "diff_ids": [diff.to_string()]},
    });
    let config = put(
        config.to_string().as_bytes(),
        "application/vnd.oci.image.config.v1+json",
    );
    let manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config, "layers": [layer],
    });
    let mut manifest = put(
        manifest.to_string().as_bytes(),
        "application/vnd.oci.image.manifest.v1+json",
    );
    manifest["annotations"] = json!({"org.opencontainers.image.ref.name": NAME});
    let index = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [manifest],
    });
    std::fs::write(state.join("index.json"), index.to_string()).unwrap();
}

fn tree(root: &Path) {
    for directory in ["bin", "etc", "tmp"] {
        std::fs::create_dir_all(root.join(directory)).unwrap();
    }
    std::fs::copy("/bin/busybox", root.join("bin/busybox")).expect("Debian's busybox-static");
    for applet in APPLETS {
        symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    std::fs::write(
        root.join("etc/passwd"),
        "root:x:0:0::/root:/bin/sh\nweb:x:33:34::/srv:/bin/sh\n",
    )
    .unwrap();
    std::fs::write(root.join("etc/group"), "root:x:0:\nweb:x:34:\nlogs:x:40:web\n").unwrap();
}
