use proptest::prelude::*;

use super::*;

const HEX: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

#[test]
fn normalises_as_docker_and_containerd() {
    let at = format!("@sha256:{HEX}");
    for (given, full) in [
        ("nginx", "docker.io/library/nginx:latest"),
        ("nginx:1.29", "docker.io/library/nginx:1.29"),
        ("user/app", "docker.io/user/app:latest"),
        ("docker.io/nginx", "docker.io/library/nginx:latest"),
        ("index.docker.io/nginx", "docker.io/library/nginx:latest"),
        ("index.docker.io/a/b", "docker.io/a/b:latest"),
        ("localhost/x", "localhost/x:latest"),
        ("localhost:5000/x", "localhost:5000/x:latest"),
        ("localhost:5000/x:v1", "localhost:5000/x:v1"),
        ("registry.k8s.io/pause:3.10", "registry.k8s.io/pause:3.10"),
        ("10.0.0.1:80/a/b/c", "10.0.0.1:80/a/b/c:latest"),
        ("[2001:db8::1]:5000/x", "[2001:db8::1]:5000/x:latest"),
        ("UPPER/x", "UPPER/x:latest"),
        ("a__b/c-d.e--f", "docker.io/a__b/c-d.e--f:latest"),
        ("nginx:5000", "docker.io/library/nginx:5000"),
    ] {
        let parsed: Reference = given.parse().unwrap_or_else(|e| panic!("{given}: {e}"));
        assert_eq!(parsed.to_string(), full, "{given}");
    }
    for given in [
        format!("nginx{at}"),
        format!("nginx:1.29{at}"),
        format!("docker.io/library/nginx{at}"),
    ] {
        let parsed: Reference = given.parse().expect("digest reference");
        assert_eq!(
            parsed.to_string(),
            format!("docker.io/library/nginx{at}"),
            "the tag goes, the digest stays"
        );
    }
}

#[test]
fn refuses_with_the_words_of_upstream() {
    let short = format!("x@sha256:{}", &HEX[..40]);
    let upper = format!("x@sha256:{}", HEX.to_uppercase());
    let other = format!("x@sha512:{HEX}{HEX}");
    let long = "a/".repeat(130) + "a";
    for (given, reason) in [
        ("", "invalid reference format"),
        (" nginx", "invalid reference format"),
        ("nginx:", "invalid reference format"),
        ("nginx:a b", "invalid reference format"),
        ("nginx@", "invalid reference format"),
        ("nginx@sha256", "invalid reference format"),
        ("a//b", "invalid reference format"),
        ("/a", "invalid reference format"),
        ("a/", "invalid reference format"),
        ("a..b", "invalid reference format"),
        ("a___b", "invalid reference format"),
        ("-a", "invalid reference format"),
        ("../../etc", "invalid reference format"),
        ("exa_mple.com/x", "invalid reference format"),
        ("localhost:99999/x", "invalid reference format"),
        ("[::zz]/x", "invalid reference format"),
        ("nginx:\n", "invalid reference format"),
        (
            "Nginx",
            "invalid reference format: repository name (Nginx) must be lowercase",
        ),
        (
            "docker.io/Foo/bar",
            "invalid reference format: repository name (Foo/bar) must be lowercase",
        ),
        (&short, "invalid checksum digest length"),
        (&upper, "invalid reference format"),
        (&other, "unsupported digest algorithm"),
        (&long, "repository name must not be more than 255 characters"),
    ] {
        let error = given.parse::<Reference>().expect_err(given);
        assert_eq!(
            error.to_string(),
            format!("couldn't parse image name \"{given}\": {reason}")
        );
    }
    let bare = HEX.parse::<Reference>().expect_err("a bare id");
    assert!(
        bare.to_string()
            .contains("cannot specify 64-byte hexadecimal strings"),
        "{bare}"
    );
    let tag = format!("x:{}", "t".repeat(129));
    assert!(tag.parse::<Reference>().is_err(), "tag of 129");
}

proptest! {
    #[test]
    fn any_text_parses_or_is_refused_and_what_parses_is_stable(text in "\\PC{0,80}") {
        if let Ok(reference) = text.parse::<Reference>() {
            let full = reference.to_string();
            prop_assert_eq!(&full.parse::<Reference>().expect("a full name parses"), &reference);
            prop_assert!(!full.contains("..") && !full.contains("//") && !full.contains(char::is_whitespace));
        }
    }

    #[test]
    fn well_formed_names_parse(
        domain in "([a-z0-9]{1,8}\\.){1,2}[a-z]{2,4}(:[1-9][0-9]{0,3})?",
        path in "[a-z0-9]{1,6}(([._]|__|-{1,3})[a-z0-9]{1,4}){0,2}(/[a-z0-9]{1,6}){0,3}",
        tag in "[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}",
    ) {
        let text = format!("{domain}/{path}:{tag}");
        let reference: Reference = text.parse().expect("well formed");
        let expected = if domain == "docker.io" && !path.contains('/') { format!("docker.io/library/{path}:{tag}") } else { text };
        prop_assert_eq!(reference.to_string(), expected);
    }
}
