//! Authors' keys in a PKCS#11 token: against SoftHSM, which `setup/deps.sh` installs.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

use std::path::{Path, PathBuf};
use std::process::Command;

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::mechanism::{Mechanism, MechanismType};
use cryptoki::object::Attribute;
use cryptoki::session::{Session, UserType};
use cryptoki::types::AuthPin;
use touchstone_policies::ceremony::{RootChange, Scope, change_root, propose, sign};
use touchstone_policies::keys::{KeptAs, KeyDir, KeyRole};
use touchstone_policies::{
    InitOptions, LoadOptions, PolicyCode, PublishOptions, init_with, load_blocking, publish, publish_with,
};

const NOW: i64 = 1_760_000_000;
const PIN: &str = "476203";
/// Set in the second process: where the token lies.
const FOLDER: &str = "TOUCHSTONE_TOKEN_FOLDER";
const MODULES: [&str; 2] = [
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
];
/// OBJECT IDENTIFIER of P-256 (RFC 5480, 2.1.1.1) and the name of Ed25519 (PKCS#11 3.0, 2.3.10), as CKA_EC_PARAMS.
const P256: [u8; 10] = [0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const ED25519: &[u8] = b"\x13\x0cedwards25519";

fn module() -> Option<PathBuf> {
    MODULES.iter().map(PathBuf::from).find(|module| module.exists())
}

fn write_private(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

/// A token of SoftHSM; the module reads its configuration from the environment, once, so the test runs itself again.
fn with_token(test: &str) {
    if module().is_none() {
        touchstone_vectors::lacking("SoftHSM (Debian package softhsm2) is not installed");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("tokens")).unwrap();
    let configuration = folder.path().join("softhsm2.conf");
    let tokens = folder.path().join("tokens");
    std::fs::write(
        &configuration,
        format!("directories.tokendir = {}\nlog.level = ERROR\n", tokens.display()),
    )
    .unwrap();
    let made = Command::new("softhsm2-util")
        .env("SOFTHSM2_CONF", &configuration)
        .args([
            "--init-token",
            "--free",
            "--label",
            "authors",
            "--so-pin",
            "9999",
            "--pin",
            PIN,
        ])
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    let again = Command::new(std::env::current_exe().unwrap())
        .env("SOFTHSM2_CONF", &configuration)
        .env(FOLDER, folder.path())
        .args(["--exact", &format!("pkcs11::{test}"), "--nocapture"])
        .output()
        .unwrap();
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&again.stdout),
        String::from_utf8_lossy(&again.stderr)
    );
    assert!(again.status.success() && said.contains("1 passed"), "{said}");
    assert!(!said.contains(PIN), "{said}");
}

fn session() -> Session {
    let module = Pkcs11::new(module().unwrap()).unwrap();
    module
        .initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK))
        .unwrap();
    let slot = module.get_slots_with_initialized_token().unwrap()[0];
    let session = module.open_rw_session(slot).unwrap();
    session
        .login(UserType::User, Some(&AuthPin::from(PIN.to_owned())))
        .unwrap();
    session
}

fn generate(session: &Session, label: &str, curve: &[u8], loose: bool) -> cryptoki::error::Result<()> {
    let mechanism = if curve == ED25519 {
        Mechanism::EccEdwardsKeyPairGen
    } else {
        Mechanism::EccKeyPairGen
    };
    let label = Attribute::Label(label.as_bytes().to_vec());
    let public = [
        Attribute::Token(true),
        Attribute::Verify(true),
        Attribute::EcParams(curve.to_vec()),
        label.clone(),
    ];
    let private = [
        Attribute::Token(true),
        Attribute::Private(true),
        Attribute::Sensitive(!loose),
        Attribute::Extractable(loose),
        Attribute::Sign(true),
        label,
    ];
    session.generate_key_pair(&mechanism, &public, &private).map(drop)
}

/// A `.pkcs11` file for the key with this label.
fn point_to(folder: &Path, role: &str, label: &str) {
    let text = format!(
        "module = \"{}\"\ntoken = \"authors\"\nkey = \"{label}\"\npin_file = \"pin\"\n",
        module().unwrap().display()
    );
    write_private(&folder.join(format!("{role}.pkcs11")), &text);
    write_private(&folder.join("pin"), &format!("{PIN}\n"));
}

#[test]
fn keys_in_a_token_sign_root_targets_and_references() {
    let Some(folder) = std::env::var_os(FOLDER).map(PathBuf::from) else {
        with_token("keys_in_a_token_sign_root_targets_and_references");
        return;
    };
    let session = session();
    for label in ["root-key", "targets-key", "rotated", "twice", "twice"] {
        generate(&session, label, &P256, false).unwrap();
    }
    generate(&session, "loose", &P256, true).unwrap();
    let module = Pkcs11::new(module().unwrap()).unwrap();
    let slot = module.get_slots_with_initialized_token().unwrap()[0];
    let edwards = module.get_mechanism_list(slot).unwrap().contains(&MechanismType::EDDSA);
    if edwards {
        generate(&session, "edwards", ED25519, false).unwrap();
    }

    // Root and one of two targets keys are in the token, the rest in files.
    let (repo, keys) = (folder.join("repo"), folder.join("keys"));
    std::fs::create_dir(&keys).unwrap();
    point_to(&keys, "root-1", "root-key");
    point_to(&keys, "targets-1", "targets-key");
    let options = InitOptions {
        threshold: 2,
        signers: 2,
        ..InitOptions::new("token.example")
    };
    let dir = KeyDir::new(&keys);
    init_with(&repo, &dir, &options, NOW).unwrap();
    assert_eq!(
        dir.kept(&KeyRole::Targets).unwrap(),
        [
            ("targets-1".to_owned(), KeptAs::Token),
            ("targets-2".to_owned(), KeptAs::Plain)
        ]
    );
    publish(&repo, &keys, NOW).unwrap();
    let root = std::fs::read(repo.join("metadata/1.root.json")).unwrap();
    let load = || {
        let options = LoadOptions {
            root: Some(root.clone()),
            ..LoadOptions::default()
        };
        load_blocking(repo.as_path(), options, NOW)
    };
    assert_eq!(load().unwrap().version, 1, "everyone verifies what the token signed");

    // By a proposal: the token on one machine, a file on another.
    let proposal = folder.join("p");
    propose(&repo, None, &Scope::All, &proposal, NOW).unwrap();
    let machine = |name: &str| {
        let machine = folder.join(name);
        std::fs::create_dir(&machine).unwrap();
        machine
    };
    let (token, file) = (machine("token-signer"), machine("file-signer"));
    point_to(&token, "targets-1", "targets-key");
    std::fs::copy(keys.join("targets-2.pem"), file.join("targets-2.pem")).unwrap();
    let signatures: Vec<PathBuf> = [&token, &file]
        .map(|machine| {
            let out = machine.join("signature");
            sign(&proposal, &root, &KeyDir::new(machine), None, &out, NOW).unwrap();
            out
        })
        .into();
    let online = machine("online");
    for key in ["snapshot-1.pem", "timestamp-1.pem"] {
        std::fs::copy(keys.join(key), online.join(key)).unwrap();
    }
    let options = PublishOptions {
        proposal: Some(proposal),
        signatures,
        scope: Scope::All,
    };
    publish_with(&repo, &KeyDir::new(&online), &options, NOW).unwrap();
    assert_eq!(load().unwrap().version, 2);

    // Another key of the token takes the place of the file's, of the kind that the token has.
    point_to(&keys, "targets-3", if edwards { "edwards" } else { "rotated" });
    let publics = dir.public_keys(&KeyRole::Targets).unwrap();
    let id = |n: usize| hex::encode(touchstone_policies::keys::public::key_id(&publics[n].1).unwrap());
    let changes = [
        RootChange::Add(KeyRole::Targets, publics[2].1.clone()),
        RootChange::Remove(KeyRole::Targets, id(1)),
    ];
    change_root(&repo, &changes).unwrap();
    publish(&repo, &keys, NOW).unwrap();
    let policy = load().unwrap();
    assert_eq!((policy.versions.root, policy.versions.targets), (2, 3));

    // What is not signed with, each with its reason and never with the PIN.
    for (label, why) in [("loose", "taken out"), ("absent", "0 objects"), ("twice", "2 objects")] {
        let odd = machine(label);
        point_to(&odd, "targets-1", label);
        let refused = KeyDir::new(&odd).keys(&KeyRole::Targets).unwrap_err();
        assert_eq!(refused.code(), PolicyCode::KeyToken, "{label}");
        assert!(
            refused.to_string().contains(why) && !refused.to_string().contains(PIN),
            "{refused}"
        );
    }
    let odd = machine("exposed pin");
    point_to(&odd, "targets-1", "targets-key");
    std::fs::set_permissions(odd.join("pin"), std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let refused = KeyDir::new(&odd).keys(&KeyRole::Targets).unwrap_err();
    assert_eq!(refused.code(), PolicyCode::KeyFileExposed);
    let odd = machine("no module");
    point_to(&odd, "targets-1", "targets-key");
    let text = std::fs::read_to_string(odd.join("targets-1.pkcs11")).unwrap();
    write_private(&odd.join("targets-1.pkcs11"), &text.replace("libsofthsm2", "libnone"));
    let refused = KeyDir::new(&odd).keys(&KeyRole::Targets).unwrap_err();
    assert_eq!(refused.code(), PolicyCode::KeyToken);
}
