use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use proptest::prelude::*;

use super::*;

/// Signs as the bootstrap signer does.
fn sign(id: &str, secret: &str, content: &str) -> String {
    let header = URL_SAFE_NO_PAD.encode(format!(r#"{{"alg":"HS256","kid":"{id}"}}"#));
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret.as_bytes());
    let signed = format!("{header}.{}", URL_SAFE_NO_PAD.encode(content));
    format!(
        "{header}..{}",
        URL_SAFE_NO_PAD.encode(ring::hmac::sign(&key, signed.as_bytes()))
    )
}

#[test]
fn tokens_have_two_parts() {
    assert_eq!(Token::parse("abcdef.0123456789abcdef").unwrap().id, "abcdef");
    for bad in [
        "",
        "abcdef",
        "abcdef.",
        "ABCDEF.0123456789abcdef",
        "abcdef.0123456789abcde",
        "abcde.0123456789abcdef0",
    ] {
        let error = Token::parse(bad).unwrap_err();
        assert!(!error.contains("0123"), "{error}");
    }
    let debug = format!("{:?}", Token::parse("abcdef.0123456789abcdef").unwrap());
    assert!(!debug.contains("0123"), "{debug}");
}

#[test]
fn the_signature_of_cluster_info_is_checked() {
    let token = Token::parse("abcdef.0123456789abcdef").unwrap();
    let good = sign("abcdef", "0123456789abcdef", "content");
    assert_eq!(token.verify(&good, "content"), Ok(()));
    assert!(
        token
            .verify(&good, "other")
            .unwrap_err()
            .contains("secret is wrong")
    );
    let other = sign("abcdef", "fedcba9876543210", "content");
    assert!(
        token
            .verify(&other, "content")
            .unwrap_err()
            .contains("secret is wrong")
    );
    let foreign = sign("uvwxyz", "0123456789abcdef", "content");
    assert!(
        token
            .verify(&foreign, "content")
            .unwrap_err()
            .contains("not made by this token")
    );
    // "none" has no place here.
    let none = format!("{}..", URL_SAFE_NO_PAD.encode(r#"{"alg":"none","kid":"abcdef"}"#));
    assert!(token.verify(&none, "content").is_err());
}

/// The vector of the cluster-bootstrap library's own test.
#[test]
fn a_signature_of_upstream_fits() {
    let token = Token {
        id: "joshua".into(),
        secret: "my voice is my passcode".into(),
    };
    let signature = "eyJhbGciOiJIUzI1NiIsImtpZCI6Impvc2h1YSJ9..VShe2taLd-YTrmWuRkcL_8QTNDHYxQIEBsAYYiIj1_8";
    let content = "Hello from the other side. I must have called a thousand times.";
    assert_eq!(token.verify(signature, content), Ok(()));
}

#[test]
fn pins_are_hashes_of_public_keys() {
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::default().self_signed(&key).unwrap();
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate.der()).unwrap();
    let hex: String = Sha256::digest(parsed.public_key().raw)
        .iter()
        .map(|b| format!("{b:02X}"))
        .collect();
    let pins = Pins::parse(&[format!("SHA256:{hex}")]).unwrap();
    assert_eq!(pins.check(certificate.pem().as_bytes()), Ok(()));
    let wrong = Pins::parse(&[format!("sha256:{}", "00".repeat(32))]).unwrap();
    let error = wrong.check(certificate.pem().as_bytes()).unwrap_err();
    assert!(
        error.contains(&hex.to_lowercase()) && error.contains("another cluster"),
        "{error}"
    );
    assert!(pins.check(b"").is_err());
    for bad in [
        "",
        "abc",
        "sha256:",
        "sha256:00",
        "md5:00",
        &format!("sha256:{}", "zz".repeat(32)),
        &format!("sha256:{}", "é".repeat(32)),
    ] {
        assert!(Pins::parse(&[bad.to_owned()]).is_err(), "{bad}");
    }
}

proptest! {
    #[test]
    fn no_text_panics(token in "\\PC*", signature in "\\PC*", pin in "\\PC*", pem in "\\PC*") {
        let _ = Token::parse(&token);
        let _ = Token { id: token, secret: "x".into() }.verify(&signature, "content");
        if let Ok(pins) = Pins::parse(&[pin]) {
            let _ = pins.check(pem.as_bytes());
        }
    }
}
