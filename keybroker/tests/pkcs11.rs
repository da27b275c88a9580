//! Keys in, and under, a PKCS#11 token: against SoftHSM, which `setup/deps.sh` installs.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

use crate::common;

use std::path::{Path, PathBuf};
use std::process::Command;

use common::{Domain, command};
use hyper::Method;
use touchstone_keybroker::key_files::write_new;
use touchstone_keybroker::release::MAX_VERSIONS;
use touchstone_keybroker::release::config::{KekConfig, KeysConfig, SourceKind, TokenConfig};
use touchstone_keybroker::release::keeper::{Keeper, read};
use touchstone_keybroker::release::kek::{KekError, KeyEncryption as _};
use touchstone_keybroker::release::source::KeySource as _;
use touchstone_keybroker::release::token::{Token, TokenSource};
use touchstone_store::RedbStore;

const PIN: &str = "476203";
/// Set in the second process: where the token lies.
const FOLDER: &str = "TOUCHSTONE_TOKEN_FOLDER";
const MODULES: [&str; 2] = [
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
];

/// A token of SoftHSM with an AES key `kek` that cannot leave it and one, `loose`, that can; nothing where the package
/// cannot be had.
fn token(folder: &Path) -> Option<TokenConfig> {
    let Some(module) = MODULES.iter().map(PathBuf::from).find(|module| module.exists()) else {
        touchstone_vectors::lacking("SoftHSM (Debian package softhsm2) is not installed");
        return None;
    };
    std::fs::create_dir(folder.join("tokens")).unwrap();
    let configuration = folder.join("softhsm2.conf");
    let text = format!(
        "directories.tokendir = {}\nlog.level = ERROR\n",
        folder.join("tokens").display()
    );
    std::fs::write(&configuration, text).unwrap();
    let made = Command::new("softhsm2-util")
        .env("SOFTHSM2_CONF", &configuration)
        .args([
            "--init-token",
            "--free",
            "--label",
            "broker",
            "--so-pin",
            "9999",
            "--pin",
            PIN,
        ])
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    let pin_file = folder.join("pin");
    write_new(&pin_file, format!("{PIN}\n").as_bytes()).unwrap();
    Some(TokenConfig {
        module,
        token: "broker".into(),
        pin_file,
    })
}

/// The module reads its configuration from the environment, once: the test runs itself again with that set.
fn again_with(folder: &Path, test: &str) {
    let again = Command::new(std::env::current_exe().unwrap())
        .env("SOFTHSM2_CONF", folder.join("softhsm2.conf"))
        .env(FOLDER, folder)
        .args(["--exact", &format!("pkcs11::{test}"), "--nocapture"])
        .output()
        .unwrap();
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&again.stdout),
        String::from_utf8_lossy(&again.stderr)
    );
    assert!(again.status.success() && said.contains("1 passed"), "{said}");
}

fn make_keys(config: &TokenConfig) {
    use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
    use cryptoki::mechanism::Mechanism;
    use cryptoki::object::Attribute;
    use cryptoki::session::UserType;
    use cryptoki::types::AuthPin;
    let module = Pkcs11::new(&config.module).unwrap();
    module
        .initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK))
        .unwrap();
    let slot = module.get_slots_with_initialized_token().unwrap()[0];
    let session = module.open_rw_session(slot).unwrap();
    session
        .login(UserType::User, Some(&AuthPin::from(PIN.to_owned())))
        .unwrap();
    for (label, loose) in [("kek", false), ("loose", true)] {
        let template = [
            Attribute::Token(true),
            Attribute::Private(true),
            Attribute::Sensitive(!loose),
            Attribute::Extractable(loose),
            Attribute::Encrypt(true),
            Attribute::Decrypt(true),
            Attribute::ValueLen(32.into()),
            Attribute::Label(label.as_bytes().to_vec()),
        ];
        session.generate_key(&Mechanism::AesKeyGen, &template).unwrap();
    }
}

/// How many secrets of ours lie in the token. The process is logged in by the broker.
fn secrets_in_token(config: &TokenConfig) -> usize {
    use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
    use cryptoki::object::{Attribute, ObjectClass};
    let module = Pkcs11::new(&config.module).unwrap();
    // Whoever was first has done it.
    let _ = module.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK));
    let slot = module.get_slots_with_initialized_token().unwrap()[0];
    let session = module.open_ro_session(slot).unwrap();
    session
        .find_objects(&[Attribute::Class(ObjectClass::DATA), Attribute::Private(true)])
        .unwrap()
        .len()
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_left_in_the_token_that_no_row_names() {
    const TEST: &str = "nothing_is_left_in_the_token_that_no_row_names";
    let Some(folder) = std::env::var_os(FOLDER).map(PathBuf::from) else {
        let folder = tempfile::tempdir().unwrap();
        if token(folder.path()).is_some() {
            again_with(folder.path(), TEST);
        }
        return;
    };
    let config = TokenConfig {
        module: MODULES
            .iter()
            .map(PathBuf::from)
            .find(|module| module.exists())
            .unwrap(),
        token: "broker".into(),
        pin_file: folder.join("pin"),
    };
    let TokenConfig {
        module,
        token,
        pin_file,
    } = &config;
    let in_token = format!(
        "[keys]\nsource = \"pkcs11\"\n\
         [keys.pkcs11]\nmodule = {module:?}\ntoken = {token:?}\npin_file = {pin_file:?}\n"
    );
    let domain = Domain::new(&[], &[]);
    let passphrase = domain.path("passphrase");
    write_new(&passphrase, b"correct horse battery staple\n").unwrap();
    let domain = domain.with_more(&format!("[keys]\nkek = {{ passphrase_file = {passphrase:?} }}\n"));
    let broker = domain.start().await;
    let post = async |path: &str| command(&domain, Method::POST, path, "").await.0.is_success();
    assert!(post("/keys?name=elsewhere&generate=32").await);
    broker.shutdown().await.unwrap();

    let domain = domain.with_only(&in_token);
    let broker = domain.start().await;
    let post = async |path: &str| command(&domain, Method::POST, path, "").await.0.is_success();
    assert!(
        !post("/keys/rotate?name=elsewhere").await,
        "it is kept by another source"
    );
    assert_eq!(secrets_in_token(&config), 0, "a source mismatch");

    // More versions than are kept: the oldest leave the token too.
    assert!(post("/keys?name=db/main&generate=32").await);
    for _ in 0..MAX_VERSIONS + 3 {
        assert!(post("/keys/rotate?name=db/main").await);
    }
    assert_eq!(secrets_in_token(&config), MAX_VERSIONS, "versions that were dropped");

    // Of those who put one name, or rotate one key, at once, some lose.
    let mut won = 0;
    for n in 0..8 {
        let path = format!("/keys?name=raced-{n}&generate=32");
        let both = tokio::join!(post(&path), post(&path), post(&path));
        assert_eq!([both.0, both.1, both.2].iter().filter(|won| **won).count(), 1);
        let path = format!("/keys/rotate?name=raced-{n}");
        let both = tokio::join!(post(&path), post(&path), post(&path));
        won += [both.0, both.1, both.2].iter().filter(|won| **won).count();
    }
    assert_eq!(
        secrets_in_token(&config),
        MAX_VERSIONS + 8 + won,
        "races that were lost"
    );

    // All that is left opens.
    let app = broker.app();
    let keeper = app.keeper.as_ref().unwrap();
    for name in ["db/main", "raced-0", "raced-7"] {
        let (entry, _) = read(&*app.store, name).unwrap().unwrap();
        for version in &entry.versions {
            assert!(keeper.secret(&entry, version).is_ok(), "{name} {}", version.number);
        }
    }
    broker.shutdown().await.unwrap();
}

#[test]
fn a_token_keeps_secrets_and_wraps_keys() {
    let Some(folder) = std::env::var_os(FOLDER).map(PathBuf::from) else {
        let folder = tempfile::tempdir().unwrap();
        if token(folder.path()).is_some() {
            again_with(folder.path(), "a_token_keeps_secrets_and_wraps_keys");
        }
        return;
    };
    let config = TokenConfig {
        module: MODULES
            .iter()
            .map(PathBuf::from)
            .find(|module| module.exists())
            .unwrap(),
        token: "broker".into(),
        pin_file: folder.join("pin"),
    };
    make_keys(&config);
    let token = Token::open(&config).unwrap();

    // As key-encryption key: wraps, opens in its own row only, never leaves.
    let kek = token.key_encryption("kek").unwrap();
    let wrapped = kek.wrap(&[7; 32], b"row 1").unwrap();
    assert_eq!(*kek.unwrap(&wrapped, b"row 1").unwrap(), [7; 32]);
    assert!(kek.unwrap(&wrapped, b"row 2").is_err());
    let mut other = wrapped.clone();
    other[20] ^= 1;
    assert!(kek.unwrap(&other, b"row 1").is_err());
    assert_eq!(
        *kek.unwrap(&wrapped, b"row 1").unwrap(),
        [7; 32],
        "an error does not end the session for good"
    );
    let loose = token.key_encryption("loose").err();
    assert!(
        matches!(&loose, Some(KekError::Device(words)) if words.contains("taken out")),
        "{loose:?}"
    );
    assert!(token.key_encryption("nobody").is_err());

    // As source: the row holds no more than a label.
    let source = TokenSource::new(std::sync::Arc::clone(&token));
    let secret = b"the-launch-codes-0123456789abcdef";
    let kept = source.keep(b"row 1", secret).unwrap();
    assert_eq!(kept.len(), 32);
    assert_eq!(source.open(b"row 1", &kept).unwrap().as_slice(), secret);
    assert!(source.open(b"row 2", &kept).is_err(), "moved to another row");
    assert!(source.open(b"row 1", b"00000000000000000000000000000000").is_err());
    source.forget(&kept);
    assert!(source.open(b"row 1", &kept).is_err(), "forgotten");

    // Whole keepers, as a broker opens them.
    let store = RedbStore::open(&folder.join("store.redb")).unwrap();
    let keys = |source, kek| KeysConfig {
        source,
        kek,
        pkcs11: Some(config.clone()),
    };
    let sealed = keys(SourceKind::Store, Some(KekConfig::Pkcs11Key("kek".into())));
    Keeper::open(&sealed, &store, None).unwrap();
    Keeper::open(&sealed, &store, None).unwrap();
    Keeper::open(&keys(SourceKind::Pkcs11, None), &store, None).unwrap();

    // A wrong PIN is told, and not shown.
    std::fs::remove_file(&config.pin_file).unwrap();
    write_new(&config.pin_file, b"000000").unwrap();
    let refused = Token::open(&config).err().map(|e| e.to_string());
    // The module counts logins by process: while the first session lives a second one needs no PIN.
    drop((source, kek));
    drop(token);
    let later = Token::open(&config).err().map(|e| e.to_string());
    let words = format!("{refused:?} {later:?}");
    assert!(later.is_some(), "{words}");
    assert!(!words.contains("000000") && !words.contains(PIN), "{words}");
}
