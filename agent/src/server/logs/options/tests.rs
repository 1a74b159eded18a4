use super::*;

fn now() -> Timestamp {
    "2026-01-02T03:04:05Z".parse().unwrap()
}

#[test]
fn queries_that_are_understood() {
    let none = Options::default();
    for (query, expected) in [
        ("", none.clone()),
        (
            "follow=true&previous=1&timestamps",
            Options {
                follow: true,
                previous: true,
                timestamps: true,
                ..none
            },
        ),
        (
            "follow=false&previous=0&timestamps=FALSE&unknown=1&stream=All",
            none.clone(),
        ),
        (
            "tailLines=0",
            Options {
                tail_lines: Some(0),
                ..none
            },
        ),
        (
            "tailLines=5&tailLines=x&tail=7",
            Options {
                tail_lines: Some(7),
                ..none
            },
        ),
        ("tailLines=5&tail=all", none.clone()),
        (
            "limitBytes=1",
            Options {
                limit_bytes: Some(1),
                ..none
            },
        ),
        (
            "sinceSeconds=5",
            Options {
                since: Some("2026-01-02T03:04:00Z".parse().unwrap()),
                ..none
            },
        ),
        (
            "sinceSeconds=9223372036854775807",
            Options {
                since: Some(Timestamp::MIN),
                ..none
            },
        ),
        (
            "sinceTime=2026-01-01T00%3A00%3A00%2B01:00",
            Options {
                since: Some("2025-12-31T23:00:00Z".parse().unwrap()),
                ..none
            },
        ),
        ("sinceTime=", none),
    ] {
        assert_eq!(Options::parse(query, now()), Ok(expected), "{query}");
    }
}

#[test]
fn queries_that_are_refused() {
    for (query, expected) in [
        ("tailLines=", QueryError::Undecodable),
        ("tailLines=x", QueryError::Undecodable),
        ("limitBytes=1.5", QueryError::Undecodable),
        ("sinceTime=yesterday", QueryError::Undecodable),
        ("tailLines=-1", QueryError::Invalid),
        ("tail=-1", QueryError::Invalid),
        ("limitBytes=0", QueryError::Invalid),
        ("sinceSeconds=0", QueryError::Invalid),
        (
            "sinceSeconds=5&sinceTime=2026-01-01T00:00:00Z",
            QueryError::Invalid,
        ),
        (
            "stream=Stdout",
            QueryError::Stream {
                stream: "Stdout".to_owned(),
            },
        ),
    ] {
        assert_eq!(Options::parse(query, now()), Err(expected), "{query}");
    }
}
