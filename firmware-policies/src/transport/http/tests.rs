use super::*;
use crate::testing::web::{Manner, Web};

/// For whoever is honest, on a machine however slow.
const LONG: HttpLimits = HttpLimits {
    connect: Duration::from_secs(60),
    file_grace: Duration::from_secs(60),
    total_grace: Duration::from_secs(120),
    min_rate: 64 * 1024,
};
/// For whoever is to be found too slow, having sent something.
const SHORT: HttpLimits = HttpLimits {
    file_grace: Duration::from_secs(6),
    ..LONG
};

fn files(web: &Web, limits: HttpLimits) -> HttpFiles {
    HttpFiles::new(&Url::parse(&format!("{}/", web.url)).unwrap(), None, limits).unwrap()
}

fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("metadata")).unwrap();
    std::fs::write(dir.path().join("metadata/timestamp.json"), vec![b'a'; 4_000]).unwrap();
    dir
}

#[tokio::test]
async fn what_a_server_may_do() {
    let dir = folder();
    type Row = (&'static str, Manner, u64, fn(&Result<Vec<u8>, HttpError>) -> bool);
    let rows: &[Row] = &[
        ("the file", Manner::Honest, 4_000, |r| {
            r.as_deref() == Ok(&[b'a'; 4_000][..])
        }),
        ("the file and an end", Manner::Close, 4_000, Result::is_ok),
        ("one byte too many", Manner::Honest, 3_999, |r| {
            *r == Err(HttpError::TooLarge { limit: 3_999 })
        }),
        ("endless data", Manner::Endless, 1 << 20, |r| {
            *r == Err(HttpError::TooLarge { limit: 1 << 20 })
        }),
        (
            "slow retrieval",
            Manner::Slow(20),
            4_000,
            |r| matches!(r, Err(HttpError::TooSlow { received }) if *received > 0),
        ),
        ("no answer", Manner::Silent, 4_000, |r| {
            *r == Err(HttpError::TooSlow { received: 0 })
        }),
        ("absent", Manner::Status(404), 4_000, |r| *r == Err(HttpError::Missing)),
        ("gone", Manner::Status(410), 4_000, |r| *r == Err(HttpError::Missing)),
        ("an object store's absent", Manner::Status(403), 4_000, |r| {
            *r == Err(HttpError::Missing)
        }),
        ("broken", Manner::Status(500), 4_000, unreachable),
        ("part of it", Manner::Status(206), 4_000, unreachable),
        ("a redirect", Manner::Redirect, 4_000, unreachable),
        ("cut off", Manner::Cut, 4_000, unreachable),
        ("encoded", Manner::Encoded, 4_000, unreachable),
    ];
    for (name, manner, limit, expected) in rows {
        let manner = *manner;
        let web = Web::new(dir.path(), move |_| manner);
        let slow = matches!(manner, Manner::Slow(_) | Manner::Silent);
        let limits = if slow { SHORT } else { LONG };
        let outcome = files(&web, limits).get("metadata/timestamp.json", *limit).await;
        assert!(expected(&outcome), "{name}: {outcome:?}");
    }
}

fn unreachable(outcome: &Result<Vec<u8>, HttpError>) -> bool {
    matches!(outcome, Err(HttpError::Unreachable { .. }))
}

#[tokio::test]
async fn many_files_that_are_each_in_time_do_not_take_for_ever() {
    let dir = folder();
    let web = Web::new(dir.path(), |_| Manner::Slow(0));
    let limits = HttpLimits {
        total_grace: Duration::from_millis(300),
        min_rate: u32::MAX,
        ..LONG
    };
    let files = files(&web, limits);
    let begun = Instant::now();
    let mut read = 0;
    let end = loop {
        match files.get("metadata/timestamp.json", 4_000).await {
            Ok(_) => read += 1,
            Err(error) => break error,
        }
        assert!(begun.elapsed() < LONG.total_grace, "{read} files");
    };
    assert!(matches!(end, HttpError::TooSlow { .. }), "{end:?}");
}

#[tokio::test]
async fn one_connection_serves_a_load_and_a_closed_one_is_opened_again() {
    let dir = folder();
    let web = Web::new(dir.path(), |_| Manner::Close);
    let files = files(&web, LONG);
    for _ in 0..3 {
        assert_eq!(files.get("metadata/timestamp.json", 4_000).await.unwrap().len(), 4_000);
    }
    drop(web);
}

#[tokio::test]
async fn nobody_there_and_https_without_authorities() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let url = Url::parse(&format!("http://{nobody}/")).unwrap();
    let files = HttpFiles::new(&url, None, LONG).unwrap();
    assert!(unreachable(&files.get("metadata/timestamp.json", 1).await));
    let url = Url::parse("https://a.example/").unwrap();
    assert_eq!(
        HttpFiles::new(&url, None, SHORT).unwrap_err().code(),
        PolicyCode::SourceInvalid
    );
}
