//! Keys and certificates of the cluster, as kubeadm would make them.

use crate::addresses::{Addresses, FIRST_SERVICES};
use anyhow::{Context as _, Result};
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertifiedIssuer, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, PublicKeyData as _, date_time_ymd,
};
use sha2::{Digest as _, Sha256};
use std::fs;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

type Authority = CertifiedIssuer<'static, KeyPair>;

/// The directory with the cluster's keys.
#[derive(Clone, Debug)]
pub(crate) struct Pki {
    dir: PathBuf,
}

/// Who a client certificate is for: file name, user, groups.
const CLIENTS: [(&str, &str, Option<&str>); 4] = [
    ("admin", "kubernetes-admin", Some("system:masters")),
    ("controller-manager", "system:kube-controller-manager", None),
    ("scheduler", "system:kube-scheduler", None),
    (
        "apiserver-kubelet-client",
        "kube-apiserver-kubelet-client",
        Some("system:masters"),
    ),
];

impl Pki {
    /// Makes the keys in `dir`, or keeps those of an earlier `up`.
    pub(crate) fn ensure(dir: &Path, addresses: &Addresses) -> Result<Self> {
        let pki = Self {
            dir: dir.to_path_buf(),
        };
        if pki.path("complete").exists() {
            return Ok(pki);
        }
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .with_context(|| format!("make {}", dir.display()))?;
        pki.make(addresses).context("make the cluster's certificates")?;
        fs::write(pki.path("complete"), "")?;
        Ok(pki)
    }

    fn make(&self, addresses: &Addresses) -> Result<()> {
        let authority = self.authority("ca", "kubernetes")?;
        for (file, user, group) in CLIENTS {
            self.issue(file, &authority, client(user, group))?;
        }
        self.issue(
            "apiserver",
            &authority,
            server("kube-apiserver", api_server_names(addresses))?,
        )?;
        let local = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
        let mut etcd = server("etcd", local)?;
        etcd.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth);
        let etcd_authority = self.authority("etcd-ca", "etcd-ca")?;
        self.issue("etcd", &etcd_authority, etcd)?;
        self.issue(
            "apiserver-etcd-client",
            &etcd_authority,
            client("kube-apiserver-etcd-client", None),
        )?;
        let front_proxy = self.authority("front-proxy-ca", "front-proxy-ca")?;
        self.issue(
            "front-proxy-client",
            &front_proxy,
            client("front-proxy-client", None),
        )?;
        let service_account = KeyPair::generate()?;
        self.write("service-account.pub", &service_account.public_key_pem())?;
        self.write("service-account.key", &service_account.serialize_pem())
    }

    /// Path of a file of the PKI, such as `ca.crt`.
    pub(crate) fn path(&self, file: &str) -> PathBuf {
        self.dir.join(file)
    }

    /// Content of a file of the PKI.
    pub(crate) fn read(&self, file: &str) -> Result<String> {
        let path = self.path(file);
        fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
    }

    /// What `--discovery-token-ca-cert-hash` takes: SHA-256 of the CA's public key info.
    pub(crate) fn ca_hash(&self) -> Result<String> {
        let key = KeyPair::from_pem(&self.read("ca.key")?).context("parse ca.key")?;
        let digest = Sha256::digest(key.subject_public_key_info());
        Ok(format!("sha256:{}", hex(&digest)))
    }

    fn authority(&self, file: &str, name: &str) -> Result<Authority> {
        let mut params = params(name, None);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::CrlSign,
        ];
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        self.write_pair(file, authority.as_ref(), authority.key())?;
        Ok(authority)
    }

    fn issue(&self, file: &str, authority: &Authority, params: CertificateParams) -> Result<()> {
        let key = KeyPair::generate()?;
        let certificate = params
            .signed_by(&key, authority)
            .with_context(|| format!("sign {file}"))?;
        self.write_pair(file, &certificate, &key)
    }

    fn write_pair(&self, file: &str, certificate: &Certificate, key: &KeyPair) -> Result<()> {
        self.write(&format!("{file}.crt"), &certificate.pem())?;
        self.write(&format!("{file}.key"), &key.serialize_pem())
    }

    fn write(&self, file: &str, text: &str) -> Result<()> {
        use std::io::Write as _;
        let path = self.path(file);
        let opened = fs::File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&path);
        opened
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .with_context(|| format!("write {}", path.display()))
    }
}

/// Lower-case hexadecimal of `bytes`.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn api_server_names(addresses: &Addresses) -> Vec<String> {
    let services = FIRST_SERVICES.map(str::to_owned);
    let fabric = addresses.control_plane().map(|address| address.to_string());
    let names = [
        "localhost",
        "127.0.0.1",
        "::1",
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
    ];
    let full = ["kubernetes.default.svc.cluster.local"];
    names
        .into_iter()
        .chain(full)
        .map(str::to_owned)
        .chain(fabric)
        .chain(services)
        .collect()
}

fn params(name: &str, group: Option<&str>) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    if let Some(group) = group {
        params.distinguished_name.push(DnType::OrganizationName, group);
    }
    params.not_before = date_time_ymd(2024, 1, 1);
    params.not_after = date_time_ymd(2054, 1, 1);
    params
}

fn client(name: &str, group: Option<&str>) -> CertificateParams {
    let mut params = params(name, group);
    params.key_usages = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyEncipherment,
    ];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    params
}

fn server(name: &str, names: Vec<String>) -> Result<CertificateParams> {
    let mut params = client(name, None);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.subject_alt_names = CertificateParams::new(names)?.subject_alt_names;
    Ok(params)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_up_keeps_the_keys_and_the_hash_is_kubeadms() {
        let dir = tempfile::tempdir().unwrap();
        let addresses: Addresses =
            serde_json::from_value(serde_json::json!({"fabric_v4": "10.123.0.0"})).unwrap();
        let first = Pki::ensure(dir.path(), &addresses).unwrap().ca_hash().unwrap();
        assert_eq!(
            Pki::ensure(dir.path(), &addresses).unwrap().ca_hash().unwrap(),
            first
        );
        let command =
            "openssl x509 -pubkey -in ca.crt | openssl pkey -pubin -outform der | openssl dgst -sha256 -r";
        let output = std::process::Command::new("sh")
            .args(["-c", command])
            .current_dir(dir.path())
            .output()
            .unwrap();
        let expected = String::from_utf8(output.stdout).unwrap();
        assert_eq!(first, format!("sha256:{}", expected.split(' ').next().unwrap()));
    }
}
