//! Test images, made here from Debian's static busybox and the testbed's Go programs.

use crate::pki::hex;
use crate::setup::{debian_packages, give_back_tree, make_dir};
use anyhow::{Context as _, Result};
use flate2::{Compression, write::GzEncoder};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

pub(crate) const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG_TYPE: &str = "application/vnd.oci.image.config.v1+json";
const LAYER_TYPE: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// One image, ready to push.
pub(crate) struct Image {
    /// Repository and tag, without a registry.
    pub(crate) names: Vec<(&'static str, &'static str)>,
    pub(crate) layers: Vec<Layer>,
    settings: Value,
}

/// A compressed layer in the cache.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Layer {
    pub(crate) blob: PathBuf,
    pub(crate) digest: String,
    pub(crate) size: u64,
    diff_id: String,
}

impl Image {
    pub(crate) fn config(&self) -> Vec<u8> {
        let diff_ids: Vec<&str> = self.layers.iter().map(|layer| layer.diff_id.as_str()).collect();
        let config = json!({"architecture": "amd64", "os": "linux", "created": "2026-01-01T00:00:00Z",
            "config": self.settings, "rootfs": {"type": "layers", "diff_ids": diff_ids}});
        config.to_string().into_bytes()
    }

    pub(crate) fn manifest(&self) -> Vec<u8> {
        let config = self.config();
        let layers: Vec<Value> = self
            .layers
            .iter()
            .map(|layer| json!({"mediaType": LAYER_TYPE, "digest": layer.digest, "size": layer.size}))
            .collect();
        let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST_TYPE,
            "config": {"mediaType": CONFIG_TYPE, "digest": digest(&config), "size": config.len()}, "layers": layers});
        manifest.to_string().into_bytes()
    }
}

/// `sha256:…` of some bytes.
pub(crate) fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(&Sha256::digest(bytes)))
}

/// Makes all test images; layers are kept in `tools/layers`, since the big ones take seconds to compress.
pub(crate) fn make(tools: &Path) -> Result<Vec<Image>> {
    let cache = tools.join("layers");
    make_dir(&cache)?;
    let busybox = busybox_layer(&cache)?;
    let agnhost = program_layer(&cache, &tools.join("agnhost"), "agnhost")?;
    let kubectl = program_layer(&cache, &tools.join("kubectl"), "bin/kubectl")?;
    let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    Ok(vec![
        Image {
            names: vec![
                ("library/busybox", "latest"),
                ("e2e-test-images/busybox", "1.37.0-1"),
            ],
            layers: vec![busybox.clone()],
            settings: json!({"Env": [path], "Cmd": ["sh"]}),
        },
        Image {
            names: vec![
                ("e2e-test-images/agnhost", "2.63.0"),
                ("e2e-test-images/agnhost", "latest"),
            ],
            layers: vec![busybox.clone(), agnhost],
            settings: json!({"Env": [path], "Entrypoint": ["/agnhost"], "Cmd": ["pause"],
                "ExposedPorts": {"80/tcp": {}, "8080/tcp": {}, "8081/tcp": {}, "9376/tcp": {}, "5000/tcp": {}}}),
        },
        Image {
            names: vec![("kubectl", "v1.36.3"), ("library/kubectl", "v1.36.3")],
            layers: vec![busybox.clone(), kubectl],
            settings: json!({"Env": [path], "Entrypoint": ["/bin/kubectl"]}),
        },
        // The upstream node wants a sandbox image; this one is as light as the real one, so that upstream's figures
        // are its own.
        Image {
            names: vec![("pause", "3.10.2"), ("pause", "3.10.1")],
            layers: vec![busybox],
            settings: json!({"Env": [path], "Entrypoint": ["/bin/busybox", "sleep", "2147483647"]}),
        },
    ])
}

fn busybox_layer(cache: &Path) -> Result<Layer> {
    let program = debian_packages::static_busybox()?;
    let list = Command::new(&program)
        .arg("--list")
        .output()
        .with_context(|| format!("run {}", program.display()))?;
    let applets = String::from_utf8(list.stdout).context("busybox lists its applets in UTF-8")?;
    cached_layer(cache, "busybox", &program, |tar| {
        for directory in [
            "bin", "dev", "etc", "home", "proc", "root", "run", "sys", "tmp", "usr", "usr/bin", "var",
        ] {
            entry(
                tar,
                tar::EntryType::Directory,
                directory,
                if directory == "tmp" { 0o1777 } else { 0o755 },
                &[],
            )?;
        }
        add_program(tar, &program, "bin/busybox")?;
        for applet in applets.lines().filter(|&applet| applet != "busybox") {
            let mut header = header(tar::EntryType::Symlink, 0o777, 0);
            tar.append_link(&mut header, format!("bin/{applet}"), "/bin/busybox")?;
        }
        let passwd = "root:x:0:0:root:/root:/bin/sh\nbin:x:1:1:bin:/bin:/bin/false\ndaemon:x:2:2:daemon:/:/bin/false\n\
                      www-data:x:33:33:www-data:/home:/bin/sh\nnobody:x:65534:65534:nobody:/home:/bin/false\n";
        let group =
            "root:x:0:\nbin:x:1:\ndaemon:x:2:\naudio:x:29:www-data\nwww-data:x:33:\nnobody:x:65534:\n";
        entry(
            tar,
            tar::EntryType::Regular,
            "etc/passwd",
            0o644,
            passwd.as_bytes(),
        )?;
        entry(tar, tar::EntryType::Regular, "etc/group", 0o644, group.as_bytes())
    })
}

fn program_layer(cache: &Path, program: &Path, path: &str) -> Result<Layer> {
    let name = path.rsplit('/').next().unwrap_or(path);
    cached_layer(cache, name, program, |tar| add_program(tar, program, path))
}

type Tar<'a> = tar::Builder<&'a mut dyn Write>;

/// Makes a layer unless the cache has one of the same name and program.
fn cached_layer(
    cache: &Path,
    name: &str,
    program: &Path,
    fill: impl FnOnce(&mut Tar<'_>) -> Result<()>,
) -> Result<Layer> {
    let key = fs::metadata(program)
        .with_context(|| format!("look at {}", program.display()))?
        .len();
    let record = cache.join(format!("{name}-{key}.json"));
    if let Some(layer) = fs::read(&record)
        .ok()
        .and_then(|text| serde_json::from_slice::<Layer>(&text).ok())
        && layer.blob.exists()
    {
        return Ok(layer);
    }
    let blob = cache.join(format!("{name}-{key}.tar.gz"));
    let temporary = blob.with_extension("new");
    let file = File::create(&temporary).with_context(|| format!("make {}", temporary.display()))?;
    let compressed = Hashing::new(BufWriter::new(file));
    let mut plain = Hashing::new(GzEncoder::new(compressed, Compression::fast()));
    let mut tar: Tar<'_> = tar::Builder::new(&mut plain);
    fill(&mut tar)
        .and_then(|()| tar.finish().map_err(Into::into))
        .with_context(|| format!("pack {name}"))?;
    drop(tar);
    let (diff_id, _, encoder) = plain.finish();
    let (digest, size, mut file) = encoder.finish()?.finish();
    file.flush()?;
    fs::rename(&temporary, &blob)?;
    let layer = Layer {
        blob,
        digest,
        size,
        diff_id,
    };
    fs::write(&record, serde_json::to_vec(&layer)?)?;
    give_back_tree(cache)?;
    Ok(layer)
}

fn header(kind: tar::EntryType, mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_mtime(1_767_225_600);
    header.set_uid(0);
    header.set_gid(0);
    header
}

fn entry(tar: &mut Tar<'_>, kind: tar::EntryType, path: &str, mode: u32, content: &[u8]) -> Result<()> {
    tar.append_data(&mut header(kind, mode, content.len() as u64), path, content)?;
    Ok(())
}

fn add_program(tar: &mut Tar<'_>, program: &Path, path: &str) -> Result<()> {
    let file = File::open(program).with_context(|| format!("open {}", program.display()))?;
    let size = file.metadata()?.len();
    tar.append_data(
        &mut header(tar::EntryType::Regular, 0o755, size),
        path,
        file.take(size),
    )?;
    Ok(())
}

/// Counts and hashes what passes through.
struct Hashing<W> {
    inner: W,
    hash: Sha256,
    size: u64,
}

impl<W> Hashing<W> {
    fn new(inner: W) -> Self {
        Self {
            inner,
            hash: Sha256::new(),
            size: 0,
        }
    }

    fn finish(self) -> (String, u64, W) {
        (
            format!("sha256:{}", hex(&self.hash.finalize())),
            self.size,
            self.inner,
        )
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hash.update(&bytes[..written]);
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
