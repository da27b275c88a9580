//! Keys at rest: put, rotate and list over the admin socket; what the store file alone gives (nothing); what the log says.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

use crate::common;

use common::{Domain, command, ledger};
use hyper::{Method, StatusCode};
use touchstone_keybroker::key_files::write_new;
use touchstone_keybroker::release::keeper::{Keeper, read};
use touchstone_keybroker::release::key::KeyEntry;
use touchstone_keybroker::rows;
use touchstone_keybroker::service::{Broker, ServiceError};
use touchstone_ledger::statement::{Kind, Outcome};
use touchstone_store::{Batch, RedbStore, Store as _};

/// Printable, so that it would be found in a log as well as in a file.
const SECRET: &str = "the-launch-codes-0123456789abcdef";

fn domain() -> Domain {
    let domain = Domain::new(&[], &[]);
    let file = domain.path("passphrase");
    write_new(&file, b"correct horse battery staple\n").unwrap();
    domain.with_more(&format!("[keys]\nkek = {{ passphrase_file = {file:?} }}\n"))
}

async fn post(domain: &Domain, path: &str, body: &str) -> (StatusCode, serde_json::Value) {
    let (status, body) = command(domain, Method::POST, path, body).await;
    (status, serde_json::from_slice(&body).unwrap())
}

async fn list(domain: &Domain) -> serde_json::Value {
    let (status, body) = command(domain, Method::GET, "/keys", "").await;
    assert_eq!(status, StatusCode::OK);
    serde_json::from_slice(&body).unwrap()
}

#[tokio::test]
async fn put_rotate_list() {
    let domain = domain();
    let broker = domain.start().await;
    let (status, put) = post(&domain, "/keys?name=db/main&region=north&region=east&life=3600", SECRET).await;
    assert_eq!((status, put["version"].as_u64()), (StatusCode::OK, Some(1)), "{put}");
    let (status, rotated) = post(&domain, "/keys/rotate?name=db/main", "").await;
    assert_eq!(
        (status, rotated["version"].as_u64()),
        (StatusCode::OK, Some(2)),
        "{rotated}"
    );

    let listed = list(&domain).await;
    let key = &listed["keys"][0];
    assert_eq!(key["name"], "db/main");
    assert_eq!(key["regions"], serde_json::json!(["east", "north"]));
    assert_eq!(key["versions"].as_array().unwrap().len(), 2);
    assert!(!listed.to_string().contains(SECRET));

    // The version before still opens, and the new one is as long and another.
    let app = broker.app();
    let (entry, _) = read(&*app.store, "db/main").unwrap().unwrap();
    let keeper = app.keeper.as_ref().unwrap();
    let first = keeper.secret(&entry, &entry.versions[0]).unwrap();
    let second = keeper.secret(&entry, &entry.versions[1]).unwrap();
    assert_eq!(first.as_slice(), SECRET.as_bytes());
    assert_eq!(second.len(), SECRET.len());
    assert_ne!(first, second);

    let changes: Vec<_> = ledger(&broker)
        .await
        .into_iter()
        .filter(|s| s.kind == Kind::KeyChange)
        .collect();
    assert_eq!(changes.len(), 2);
    assert!(changes.iter().all(|change| change.outcome == Outcome::Recorded));
    broker.shutdown().await.unwrap();
}

#[tokio::test]
async fn what_an_operator_may_not_say() {
    let domain = domain();
    let broker = domain.start().await;
    post(&domain, "/keys?name=taken", SECRET).await;
    let long = "x".repeat(8 * 1024 + 1);
    for (path, body, code) in [
        ("/keys?name=taken", SECRET, "key-exists"),
        ("/keys?name=Capitals", SECRET, "key-not-accepted"),
        ("/keys?name=a&resource=*", SECRET, "key-not-accepted"),
        ("/keys?name=a&life=0", SECRET, "key-not-accepted"),
        ("/keys?name=a", "", "request-parameter-malformed"),
        ("/keys?name=a&generate=32", SECRET, "request-parameter-malformed"),
        ("/keys?name=a&generate=0", "", "key-not-accepted"),
        ("/keys?name=a&generate=99999", "", "key-not-accepted"),
        ("/keys?name=a&unknown=1", SECRET, "request-parameter-malformed"),
        ("/keys?name=a", long.as_str(), "request-body-too-large"),
        ("/keys/rotate?name=nobody", SECRET, "request-not-found"),
        ("/keys/rotate?name=taken&life=5", SECRET, "request-parameter-malformed"),
    ] {
        let (status, answer) = post(&domain, path, body).await;
        assert!(!status.is_success(), "{path}");
        assert_eq!(answer["code"], code, "{path}: {answer}");
    }
    assert_eq!(list(&domain).await["keys"].as_array().unwrap().len(), 1);
    broker.shutdown().await.unwrap();
}

#[tokio::test]
async fn two_operators_put_one_name_and_one_wins() {
    let domain = domain();
    let broker = domain.start().await;
    let both = tokio::join!(
        post(&domain, "/keys?name=raced&generate=32", ""),
        post(&domain, "/keys?name=raced&generate=32", "")
    );
    let won = [both.0.0, both.1.0].iter().filter(|status| status.is_success()).count();
    assert_eq!(won, 1, "{both:?}");
    broker.shutdown().await.unwrap();
}

#[tokio::test]
async fn without_a_section_no_key_is_kept() {
    let domain = Domain::new(&[], &[]);
    let broker = domain.start().await;
    let (status, answer) = post(&domain, "/keys?name=a", SECRET).await;
    assert_eq!(
        (status.as_u16(), answer["code"].as_str()),
        (503, Some("keys-not-configured"))
    );
    broker.shutdown().await.unwrap();
}

#[tokio::test]
async fn the_store_file_alone_gives_nothing() {
    let domain = domain();
    let broker = domain.start().await;
    post(&domain, "/keys?name=plain", SECRET).await;
    post(&domain, "/keys?name=north-only&region=north", SECRET).await;
    broker.shutdown().await.unwrap();

    let file = std::fs::read(domain.path("data/store.redb")).unwrap();
    let found = |what: &[u8]| file.windows(what.len()).any(|window| window == what);
    assert!(found(b"north-only"), "what is not secret is there in clear");
    assert!(!found(SECRET.as_bytes()) && !found(b"launch-codes") && !found(b"correct horse"));

    // Who can write to the file moves rows, and edits settings around a secret: neither opens.
    let config = domain.config();
    let store = RedbStore::open(&domain.path("data/store.redb")).unwrap();
    let keeper = Keeper::open(config.keys.as_ref().unwrap(), &store, None).unwrap();
    let entry = |name: &str| read(&store, name).unwrap().unwrap().0;
    let (plain, north) = (entry("plain"), entry("north-only"));
    let first = |entry: &KeyEntry| keeper.secret(entry, &entry.versions[0]).map(|secret| secret.to_vec());
    assert_eq!(first(&plain).unwrap(), SECRET.as_bytes());
    assert_eq!(first(&north).unwrap(), SECRET.as_bytes());
    type Edit = fn(&mut KeyEntry, &KeyEntry);
    let edits: [(&str, Edit); 7] = [
        ("another key's secret", |key, other| {
            key.versions[0].kept = other.versions[0].kept.clone()
        }),
        ("no region any more", |key, _| key.settings.regions.clear()),
        ("one more region", |key, _| key.settings.regions.push("south".into())),
        ("made later, so that it lives longer", |key, _| {
            key.versions[0].created += 1
        }),
        ("another version", |key, _| key.versions[0].number = 2),
        ("another resource", |key, _| key.settings.resource = "public".into()),
        ("one-time", |key, _| key.settings.one_time = true),
    ];
    for (name, edit) in edits {
        let mut edited = north.clone();
        edit(&mut edited, &plain);
        assert!(first(&edited).is_err(), "{name}");
    }
    // A whole row under another's name is not even read.
    let mut batch = Batch::new();
    batch.put(rows::KEY.key(b"plain").unwrap(), north.encode());
    store.commit(batch).unwrap();
    assert!(read(&store, "plain").is_err());
}

#[tokio::test]
async fn another_passphrase_is_told_at_the_start() {
    let domain = domain();
    let broker = domain.start().await;
    post(&domain, "/keys?name=a", SECRET).await;
    broker.shutdown().await.unwrap();

    let file = domain.path("passphrase");
    std::fs::remove_file(&file).unwrap();
    write_new(&file, b"correct horse battery stable\n").unwrap();
    let refused = Broker::start(domain.config()).await.err();
    assert!(matches!(refused, Some(ServiceError::Keeper(_))), "{refused:?}");

    std::fs::remove_file(&file).unwrap();
    write_new(&file, b"correct horse battery staple").unwrap();
    let broker = domain.start().await;
    assert_eq!(list(&domain).await["keys"][0]["name"], "a");
    broker.shutdown().await.unwrap();
}
