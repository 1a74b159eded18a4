//! `longshore join` with what people get wrong: each a clear error that names what to do.

use std::process::Command;

use anyhow::ensure;

/// Runs join against the lab with files in a directory of the test's own; returns exit success and what it said.
fn join(token: &str, hash: &str, server: &str) -> anyhow::Result<(bool, String)> {
    let lab = longshore_e2e::lab()?;
    let dir = tempfile::tempdir()?;
    let output = Command::new(lab.programs().join("longshore"))
        .args([
            "join",
            "--token",
            token,
            "--discovery-token-ca-cert-hash",
            hash,
            server,
        ])
        .args(["--node-name", "never-joined"])
        .arg("--etc-dir")
        .arg(dir.path().join("etc"))
        .arg("--root-dir")
        .arg(dir.path().join("root"))
        .output()?;
    Ok((
        output.status.success(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    ))
}

#[test]
fn a_wrong_token_is_named() -> anyhow::Result<()> {
    let lab = longshore_e2e::lab()?;
    let (joined, said) = join(
        "abcdef.0123456789abcdef",
        &lab.ca_hash()?,
        &lab.addresses().api_server(),
    )?;
    ensure!(
        !joined && said.contains("token") && said.contains("abcdef"),
        "said: {said}"
    );
    ensure!(
        !said.contains("0123456789abcdef"),
        "the secret half of the token was printed: {said}"
    );
    Ok(())
}

#[test]
fn a_wrong_ca_hash_is_named() -> anyhow::Result<()> {
    let lab = longshore_e2e::lab()?;
    let hash = format!("sha256:{}", "0".repeat(64));
    let (joined, said) = join(lab.token(), &hash, &lab.addresses().api_server())?;
    ensure!(
        !joined && said.contains("hash") && said.contains(&lab.ca_hash()?),
        "said: {said}"
    );
    Ok(())
}

#[test]
fn a_malformed_token_is_a_usage_error() -> anyhow::Result<()> {
    let lab = longshore_e2e::lab()?;
    let (joined, said) = join("nonsense", &lab.ca_hash()?, &lab.addresses().api_server())?;
    ensure!(!joined && said.contains("token"), "said: {said}");
    Ok(())
}
