use std::path::{Path, PathBuf};

use tokio::net::TcpListener;
use touchstone_policies as policies;
use touchstone_policies::author::federation::{Accepted, Trust};

use super::*;

const NOW: i64 = 1_760_000_000;
/// Looks of ten milliseconds: together below the shortest time after which a fetch is given up.
const AT_ONCE: u32 = 300;

/// The published domain of the guard.
struct Made {
    folder: tempfile::TempDir,
    version: u64,
}

impl Made {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for domain in ["a", "b", "c"] {
            let (repo, keys) = (folder.path().join(domain), folder.path().join(format!("{domain}-keys")));
            policies::init(&repo, &format!("{domain}.example"), &keys, NOW).unwrap();
        }
        Self { folder, version: 0 }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn root(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name).join("metadata/1.root.json")).unwrap()
    }

    fn trusts(&self, name: &str, scopes: &[&str]) {
        let prefix = format!("partners/{name}");
        let trust = Trust {
            domain: format!("{name}.example"),
            root: Some(self.root(name)),
            accept: Some(Accepted {
                scopes: scopes.iter().map(|scope| format!("execute:{prefix}/{scope}")).collect(),
                resources: prefix,
                ..Accepted::default()
            }),
            ..Trust::default()
        };
        policies::federation_trust(&self.path("a"), &trust).unwrap();
    }

    /// What the guard believes after a publication with this TLS key.
    async fn published(&mut self, tls: &[u8]) -> Arc<DomainTrust> {
        self.version += 1;
        let keyset = format!(
            r#"{{"version":{},"keys":[{{"job":"tls","key":"{}","not_before":0,"not_after":9999999999,"replica":"a"}}]}}"#,
            self.version,
            hex::encode(tls),
        );
        let (repo, root) = (self.path("a"), self.path("a").join("metadata/1.root.json"));
        std::fs::write(repo.join("staged/keyset.json"), keyset).unwrap();
        policies::publish(&repo, &self.path("a-keys"), NOW).unwrap();
        let trust = DomainTrust::load(Path::new(&repo), &root, "a.example", NOW).await;
        Arc::new(trust.unwrap())
    }
}

fn reach(listener: &TcpListener) -> Reach {
    Reach {
        brokers: vec![Endpoint::parse(&listener.local_addr().unwrap().to_string()).unwrap()],
        id: "guard-a".into(),
        floors: None,
    }
}

fn known(trust: &DomainTrust, reach: &Reach, name: &str) -> Arc<Neighbour> {
    let entry = trust.policy.federation.get(name).unwrap().clone();
    let Some(TrustBegins::Root(root)) = &entry.trust else {
        panic!("{name} is trusted directly")
    };
    let views: Views = Arc::new(watch::channel(None).0);
    let source = trust.source(reach.brokers.clone(), reach.id.clone());
    let known = Known {
        policy: ForeignPolicy {
            domain: name.into(),
            root_digest: sha256(root),
            versions: trust.policy.versions.clone(),
            root: root.clone(),
            window_ms: 10_000,
            keyset: trust.policy.keyset.clone(),
            roots: BTreeMap::new(),
            expires: i64::MAX,
        },
        authorization_keys: trust.authorization_keys.clone(),
        copy_digest: [0; 32],
        floor: None,
        follower: Follower::start_into(source, Arc::clone(&views)),
        views,
        waker: tokio::spawn(async {}),
    };
    let known = Arc::new(known);
    Arc::new(Neighbour { entry, known })
}

fn tls_key() -> rcgen::CertifiedKey<rcgen::KeyPair> {
    rcgen::generate_simple_self_signed(vec!["broker".into()]).unwrap()
}

fn spki(key: &rcgen::CertifiedKey<rcgen::KeyPair>) -> Vec<u8> {
    use rcgen::PublicKeyData as _;
    key.signing_key.subject_public_key_info()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_dropped_or_narrowed_is_so_at_once_while_no_broker_answers() {
    let mut a = Made::new();
    let key = spki(&tls_key());
    a.trusts("b", &["render", "other"]);
    a.trusts("c", &["render"]);
    let before = a.published(&key).await;
    a.trusts("b", &["render"]);
    policies::federation_drop(&a.path("a"), "c.example").unwrap();
    let after = a.published(&key).await;
    // It takes connections and never says a word.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let reach = reach(&silent);
    let neighbours = Arc::new(Neighbours::default());
    let held = ["b.example", "c.example"].map(|name| (name.to_owned(), known(&before, &reach, name)));
    neighbours.put(held.into());
    let (publish, trusts) = watch::channel(before);
    let keeping = tokio::spawn({
        let neighbours = Arc::clone(&neighbours);
        async move { keep(&neighbours, &reach, Arc::new(BrokerClock::default()), trusts).await }
    });
    // In the middle of a look under the policy before: it has connected, and waits for an answer.
    let _asked = silent.accept().await.unwrap();
    assert_eq!(neighbours.seen().held.len(), 2);
    publish.send_replace(Arc::clone(&after));
    // So many looks, and not so long: while this process stood still it could not be so at once.
    let narrowed = async {
        for _ in 0..AT_ONCE {
            let held = neighbours.seen().held;
            let rule = held.get("b.example").map(|b| &b.entry);
            if held.len() == 1 && rule == after.policy.federation.get("b.example") {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        false
    };
    let done = narrowed.await;
    keeping.abort();
    assert!(done, "{:?}", neighbours.seen().held.keys());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tls_key_that_is_new_in_the_keyset_is_believed() {
    let mut a = Made::new();
    let (old, new) = (tls_key(), tls_key());
    a.trusts("b", &["render"]);
    let (before, after) = (a.published(&spki(&old)).await, a.published(&spki(&new)).await);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let reach = reach(&listener);
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![new.cert.der().clone()],
            rustls::pki_types::PrivateKeyDer::try_from(new.signing_key.serialize_der()).unwrap(),
        )
        .unwrap();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let (met, mut meetings) = tokio::sync::mpsc::unbounded_channel();
    let serving = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            use tokio::io::AsyncReadExt as _;
            // A client that does not believe the key ends the connection before it asks for anything.
            if let Ok(mut stream) = acceptor.accept(stream).await
                && stream.read_u8().await.is_ok()
            {
                let _ = met.send(());
            }
        }
    });
    let (publish, trusts) = watch::channel(before);
    let keeping = tokio::spawn(async move {
        let neighbours = Neighbours::default();
        keep(&neighbours, &reach, Arc::new(BrokerClock::default()), trusts).await;
    });
    let early = tokio::time::timeout(Duration::from_millis(500), meetings.recv()).await;
    assert!(early.is_err(), "a key that the keyset does not have");
    publish.send_replace(after);
    let late = tokio::time::timeout(Duration::from_secs(120), meetings.recv()).await;
    keeping.abort();
    serving.abort();
    assert_eq!(late, Ok(Some(())));
}
