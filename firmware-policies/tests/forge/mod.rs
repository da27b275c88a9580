//! Repositories signed by hand, with every role's keys at hand: what an honest publisher makes, and everything else.
//!
//! Knows TUF's formats and nothing of this crate, so that it signs also what this crate would never sign.

#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "test support; each test uses its part"
)]

use std::collections::{BTreeMap, HashMap};
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};
use touchstone_cose::key::{Signer, SigningKey, VerifyingKey};
use tough::TargetName;
use tough::schema::key::{Ed25519Key, Ed25519Scheme, Key};
use tough::schema::{
    DelegatedRole, Delegations, Hashes, Metafile, PathPattern, PathSet, Role, RoleKeys, RoleType, Root, Signature,
    Signed, Snapshot, Target, Targets, Timestamp,
};

const SPEC: &str = "1.0.0";
const YEAR: i64 = 365 * 86_400;
const SETTINGS: &str = "settings.toml";

/// A private key: shared, because it cannot be copied.
pub type ForgeKey = Arc<SigningKey>;

/// The key of a seed.
pub fn key(seed: [u8; 32]) -> ForgeKey {
    Arc::new(SigningKey::from_seed(seed))
}

/// The four roles of the whole.
pub const ROLES: [RoleType; 4] = [
    RoleType::Root,
    RoleType::Targets,
    RoleType::Snapshot,
    RoleType::Timestamp,
];

/// A repository and all its keys. Change what is public, then [`Forge::publish`].
pub struct Forge {
    pub repo: PathBuf,
    pub root: Root,
    pub targets: Targets,
    pub regions: BTreeMap<String, ForgedRegion>,
    pub keys: BTreeMap<&'static str, Vec<ForgeKey>>,
    pub versions: (u64, u64),
    /// How long snapshot and timestamp live, seconds: at first as the settings say.
    pub lives: (i64, i64),
}

/// A region's role and its keys.
pub struct ForgedRegion {
    pub keys: Vec<ForgeKey>,
    pub list: Targets,
}

impl Forge {
    /// A new repository with these targets, nothing published; `threshold` of `signers` keys for every role.
    pub fn found(repo: &Path, files: &[(&str, &[u8])], signers: u8, threshold: u64, now: i64) -> Self {
        let mut forge = Self {
            repo: repo.to_owned(),
            root: Root {
                spec_version: SPEC.into(),
                consistent_snapshot: true,
                version: NonZeroU64::MIN,
                expires: at(now + YEAR),
                keys: HashMap::new(),
                roles: HashMap::new(),
                _extra: HashMap::new(),
            },
            targets: Targets::new(SPEC.into(), NonZeroU64::MIN, at(now + YEAR)),
            regions: BTreeMap::new(),
            keys: BTreeMap::new(),
            versions: (0, 0),
            lives: lives(files.iter().find(|(name, _)| *name == SETTINGS).unwrap().1),
        };
        for (n, role) in ROLES.into_iter().enumerate() {
            let seed = |i: u8| [u8::try_from(n).unwrap() * 16 + i + 1; 32];
            let keys = (0..signers).map(|i| key(seed(i))).collect();
            forge.give_keys(role, keys, threshold);
        }
        for (name, bytes) in files {
            forge.put(name, bytes);
        }
        forge.write("1.root.json", &sign(&forge.root, &forge.keys["root"]));
        forge
    }

    /// A published repository whose keys are in a folder, `<role>-<n>.pem`.
    pub fn open(repo: &Path, keys: &Path) -> Self {
        let metadata = |file: String| repo.join("metadata").join(file);
        let newest = (1..).take_while(|n| metadata(format!("{n}.root.json")).exists()).last();
        let root: Signed<Root> = read(&metadata(format!("{}.root.json", newest.unwrap())));
        let timestamp: Signed<Timestamp> = read(&metadata("timestamp.json".into()));
        let version = timestamp.signed.meta["snapshot.json"].version;
        let snapshot: Signed<Snapshot> = read(&metadata(format!("{version}.snapshot.json")));
        let version = snapshot.signed.meta["targets.json"].version;
        let targets: Signed<Targets> = read(&metadata(format!("{version}.targets.json")));
        let of = |role: RoleType| {
            let file = |n: &u8| keys.join(format!("{role}-{n}.pem"));
            let read =
                |n: u8| Arc::new(SigningKey::from_pkcs8_pem(&std::fs::read_to_string(file(&n)).unwrap()).unwrap());
            (1..).take_while(|n| file(n).exists()).map(read).collect()
        };
        let settings = &targets.signed.targets[&TargetName::new(SETTINGS).unwrap()]
            .hashes
            .sha256;
        let settings = format!("{}.{SETTINGS}", hex::encode(settings.as_ref()));
        let settings = std::fs::read(repo.join("targets").join(settings)).unwrap();
        Self {
            repo: repo.to_owned(),
            lives: lives(&settings),
            root: root.signed,
            targets: targets.signed,
            regions: BTreeMap::new(),
            keys: ROLES.map(|role| (name(role), of(role))).into(),
            versions: (snapshot.signed.version.get(), timestamp.signed.version.get()),
        }
    }

    /// Makes these the keys of a role, in the root that is to be signed next.
    pub fn give_keys(&mut self, role: RoleType, keys: Vec<ForgeKey>, threshold: u64) {
        let keyids = keys.iter().map(|key| {
            let key = tuf_key(key);
            let id = key.key_id().unwrap();
            self.root.keys.insert(id.clone(), key);
            id
        });
        let keyids = keyids.collect();
        let threshold = NonZeroU64::new(threshold).unwrap();
        self.root.roles.insert(
            role,
            RoleKeys {
                keyids,
                threshold,
                _extra: HashMap::new(),
            },
        );
        self.keys.insert(name(role), keys);
    }

    /// The next root, signed by its own keys and by those given: the ones before it.
    pub fn rotate_root(&mut self, before: &[ForgeKey]) {
        self.root.version = next(self.root.version);
        let mut signed: Signed<Root> = serde_json::from_slice(&sign(&self.root, &self.keys["root"])).unwrap();
        let old: Signed<Root> = serde_json::from_slice(&sign(&self.root, before)).unwrap();
        let known: Vec<_> = signed.signatures.iter().map(|s| s.keyid.clone()).collect();
        signed
            .signatures
            .extend(old.signatures.into_iter().filter(|s| !known.contains(&s.keyid)));
        self.write(
            &format!("{}.root.json", self.root.version),
            &serde_json::to_vec(&signed).unwrap(),
        );
    }

    /// A target of the whole.
    pub fn put(&mut self, name: &str, bytes: &[u8]) {
        self.write_target(name, bytes);
        self.targets
            .targets
            .insert(TargetName::new(name).unwrap(), target(bytes));
    }

    /// Delegates `regions/<region>/` to `threshold` of `signers` keys of its own.
    pub fn delegate(&mut self, region: &str, signers: u8, threshold: u64, now: i64) -> &mut ForgedRegion {
        // The whole name makes the seed: no two regions have a key in common, nor one with a role of the whole.
        let seed = |i| Sha256::digest([region.as_bytes(), &[0, i]].concat()).into();
        let keys: Vec<_> = (0..signers).map(|i| key(seed(i))).collect();
        let delegations = self.targets.delegations.get_or_insert_with(|| Delegations {
            keys: HashMap::new(),
            roles: Vec::new(),
        });
        let keyids = keys.iter().map(|key| {
            let key = tuf_key(key);
            let id = key.key_id().unwrap();
            delegations.keys.insert(id.clone(), key);
            id
        });
        let paths = ["*", "*/*"].map(|tail| PathPattern::new(format!("regions/{region}/{tail}")).unwrap());
        let role = DelegatedRole {
            name: format!("region-{region}"),
            keyids: keyids.collect(),
            threshold: NonZeroU64::new(threshold).unwrap(),
            paths: PathSet::Paths(paths.into()),
            terminating: true,
            targets: None,
        };
        delegations.roles.push(role);
        let list = Targets::new(SPEC.into(), NonZeroU64::MIN, at(now + YEAR));
        self.regions.insert(region.to_owned(), ForgedRegion { keys, list });
        self.regions.get_mut(region).unwrap()
    }

    /// A target that a region signs, by its whole name.
    pub fn put_in(&mut self, region: &str, name: &str, bytes: &[u8]) {
        self.write_target(name, bytes);
        let list = &mut self.regions.get_mut(region).unwrap().list;
        list.targets.insert(TargetName::new(name).unwrap(), target(bytes));
    }

    /// A target of the whole moves into the list of its region.
    pub fn hand_over(&mut self, region: &str, name: &str) {
        let name = TargetName::new(name).unwrap();
        let target = self.targets.targets.remove(&name).unwrap();
        self.regions.get_mut(region).unwrap().list.targets.insert(name, target);
    }

    /// Signs and writes everything as the next version.
    pub fn publish(&mut self, now: i64) {
        self.publish_with(now, |_| ());
    }

    /// The same with the snapshot changed before it is signed.
    pub fn publish_with(&mut self, now: i64, change: impl FnOnce(&mut Snapshot)) {
        let again = self
            .repo
            .join(format!("metadata/{}.targets.json", self.targets.version));
        if again.exists() {
            self.targets.version = next(self.targets.version);
        }
        for (region, role) in &mut self.regions {
            let file = |v: NonZeroU64| self.repo.join(format!("metadata/{v}.region-{region}.json"));
            if file(role.list.version).exists() {
                role.list.version = next(role.list.version);
            }
        }
        let version = NonZeroU64::new(self.versions.0 + 1).unwrap();
        let mut snapshot = Snapshot::new(SPEC.into(), version, at(now + self.lives.0));
        let bytes = sign(&self.targets, &self.keys["targets"]);
        self.write(&format!("{}.targets.json", self.targets.version), &bytes);
        snapshot
            .meta
            .insert("targets.json".into(), metafile(&bytes, self.targets.version));
        for (region, role) in &self.regions {
            let bytes = sign(&role.list, &role.keys);
            self.write(&format!("{}.region-{region}.json", role.list.version), &bytes);
            snapshot
                .meta
                .insert(format!("region-{region}.json"), metafile(&bytes, role.list.version));
        }
        change(&mut snapshot);
        self.write_snapshot(&snapshot, now);
    }

    /// Signs and writes a snapshot, and a timestamp that names it.
    pub fn write_snapshot(&mut self, snapshot: &Snapshot, now: i64) {
        let bytes = sign(snapshot, &self.keys["snapshot"]);
        self.write(&format!("{}.snapshot.json", snapshot.version), &bytes);
        self.versions = (self.versions.0.max(snapshot.version.get()), self.versions.1 + 1);
        let version = NonZeroU64::new(self.versions.1).unwrap();
        let mut timestamp = Timestamp::new(SPEC.into(), version, at(now + self.lives.1));
        let meta = metafile(&bytes, snapshot.version);
        timestamp.meta.insert("snapshot.json".into(), meta);
        self.write("timestamp.json", &sign(&timestamp, &self.keys["timestamp"]));
    }

    pub fn metadata(&self, file: &str) -> PathBuf {
        self.repo.join("metadata").join(file)
    }

    pub fn write(&self, file: &str, bytes: &[u8]) {
        let path = self.metadata(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }

    /// Where a target lies.
    pub fn target_path(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let digest = hex::encode(Sha256::digest(bytes));
        let file = match name.rsplit_once('/') {
            Some((folder, file)) => format!("{folder}/{digest}.{file}"),
            None => format!("{digest}.{name}"),
        };
        self.repo.join("targets").join(file)
    }

    fn write_target(&self, name: &str, bytes: &[u8]) {
        let path = self.target_path(name, bytes);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
}

/// A metadata file, its signatures not looked at.
pub fn read<T: DeserializeOwned>(path: &Path) -> Signed<T> {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// A role's file, signed by every key given.
pub fn sign<R: Role + Clone>(role: &R, keys: &[ForgeKey]) -> Vec<u8> {
    let message = role.canonical_form().unwrap();
    let signature = |key: &ForgeKey| Signature {
        keyid: tuf_key(key).key_id().unwrap(),
        sig: key.sign(&message).unwrap().into(),
    };
    let signatures = keys.iter().map(signature).collect();
    let signed = role.clone();
    serde_json::to_vec(&Signed { signed, signatures }).unwrap()
}

pub fn tuf_key(key: &SigningKey) -> Key {
    let VerifyingKey::Ed25519(public) = key.verifying_key() else {
        panic!("an Ed25519 key")
    };
    Key::Ed25519 {
        keyval: Ed25519Key {
            public: public.to_vec().into(),
            _extra: HashMap::new(),
        },
        scheme: Ed25519Scheme::Ed25519,
        _extra: HashMap::new(),
    }
}

pub fn target(bytes: &[u8]) -> Target {
    Target {
        length: bytes.len() as u64,
        hashes: hashes(bytes),
        custom: HashMap::new(),
        _extra: HashMap::new(),
    }
}

pub fn metafile(bytes: &[u8], version: NonZeroU64) -> Metafile {
    Metafile {
        length: Some(bytes.len() as u64),
        hashes: Some(hashes(bytes)),
        version,
        _extra: HashMap::new(),
    }
}

pub fn next(version: NonZeroU64) -> NonZeroU64 {
    version.checked_add(1).unwrap()
}

fn hashes(bytes: &[u8]) -> Hashes {
    Hashes {
        sha256: Sha256::digest(bytes).to_vec().into(),
        _extra: HashMap::new(),
    }
}

/// The lives of snapshot and timestamp, seconds.
fn lives(settings: &[u8]) -> (i64, i64) {
    let text = std::str::from_utf8(settings).unwrap();
    let of = |name: &str| {
        let mut rows = text.lines().filter_map(|line| line.split_once('='));
        let (_, value) = rows.find(|(key, _)| key.trim() == name).unwrap();
        let ms: i64 = value.split('#').next().unwrap().trim().parse().unwrap();
        ms / 1_000
    };
    (of("snapshot_life_ms"), of("timestamp_life_ms"))
}

fn at(seconds: i64) -> jiff::Timestamp {
    jiff::Timestamp::from_second(seconds).unwrap()
}

fn name(role: RoleType) -> &'static str {
    match role {
        RoleType::Root => "root",
        RoleType::Targets => "targets",
        RoleType::Snapshot => "snapshot",
        RoleType::Timestamp => "timestamp",
        RoleType::DelegatedTargets => panic!("a role of the whole"),
    }
}
