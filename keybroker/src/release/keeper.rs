//! What the operator does with keys, and the broker's hold on them: put, rotate, list.
//!
//! Each change is a statement in the ledger (kind `key-change`), durable with the row it changes. It names the key and
//! its settings, never anything of a secret, not even a digest: a secret may be guessable.

use std::sync::Arc;

use serde_json::json;
use touchstone_cose::cbor::Value;
use touchstone_ledger::statement::{Kind, Outcome};
use touchstone_store::{Guard, Revision, Store, Write};
use zeroize::Zeroizing;

use super::config::{KeysConfig, SourceKind};
use super::kek::{Devices, KekError, KekRecord, Vault, obtain};
use super::key::{KeyEntry, KeyError, KeySettings, KeyVersion};
use super::source::{KeySource, SourceError, StoreSource};
use super::token::{Token, TokenSource};
use super::{MAX_SECRET_BYTES, Secret};
use crate::app::App;
use crate::clock::seconds;
use crate::entry::{Entry, EntryError};
use crate::problem::{Refusal, RefusalCode};
use crate::rows;

/// The key, in [`rows::META`], of what the key-encryption key is had from.
const KEK: &[u8] = b"key-encryption-key";

/// Most keys in one list.
pub const MAX_LISTED: usize = 1_000;

/// The broker's hold on its keys.
pub struct Keeper {
    source: Box<dyn KeySource>,
}

/// Why the broker has no hold on its keys.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeeperError {
    /// The key-encryption key.
    #[error("keys.kek: {0}")]
    Kek(#[from] KekError),
    /// The store.
    #[error("keys: {0}")]
    Store(String),
    /// The configuration.
    #[error("keys: {0}")]
    Config(&'static str),
}

impl Keeper {
    /// Takes hold of the keys, before anybody else writes to the store: the key-encryption key is made where there is
    /// none yet, and must be the same one otherwise.
    ///
    /// # Errors
    /// [`KeeperError`]
    pub fn open(config: &KeysConfig, store: &dyn Store, vault: Option<&dyn Vault>) -> Result<Self, KeeperError> {
        let token = config.pkcs11.as_ref().map(Token::open).transpose()?;
        if config.source == SourceKind::Pkcs11 {
            let token = token.ok_or(KeeperError::Config("no token is configured"))?;
            return Ok(Self {
                source: Box::new(TokenSource::new(token)),
            });
        }
        let kek = config.kek.as_ref().ok_or(KeeperError::Config("no kek is configured"))?;
        let failed = |e: &dyn std::fmt::Display| KeeperError::Store(e.to_string());
        let key = rows::META.key(KEK).map_err(|e| failed(&e))?;
        let recorded = store.get(&key).map_err(|e| failed(&e))?;
        let recorded = recorded.map(|row| KekRecord::decode(&row.value)).transpose()?;
        let devices = Devices {
            token: token.as_ref(),
            vault,
        };
        let (kek, made) = obtain(kek, recorded.as_ref(), devices)?;
        if let Some(made) = made {
            let mut batch = touchstone_store::Batch::new();
            batch.guard(Guard::Absent(key.clone()));
            batch.put(key, made.encode());
            store.commit(batch).map_err(|e| failed(&e))?;
        }
        Ok(Self {
            source: Box::new(StoreSource::new(Arc::from(kek))),
        })
    }

    /// The secret of one version.
    ///
    /// # Errors
    /// [`SourceError`], also where it is spent, or is kept by another source than the one configured.
    pub fn secret(&self, entry: &KeyEntry, version: &KeyVersion) -> Result<Secret, SourceError> {
        let kept = version.kept.as_deref().ok_or(SourceError::Open)?;
        if entry.source != self.source.name() {
            return Err(SourceError::Token(format!("this key is kept by {}", entry.source)));
        }
        let context = KeyEntry::context(&entry.settings, version.number, version.created);
        self.source.open(&context, kept)
    }

    /// Forgets what no row holds any more.
    pub fn forget(&self, kept: &[u8]) {
        self.source.forget(kept);
    }

    /// Where new versions are kept.
    fn source_name(&self) -> &'static str {
        self.source.name()
    }

    fn keep(&self, settings: &KeySettings, number: u64, created: i64, secret: &[u8]) -> Result<KeyVersion, Refusal> {
        let context = KeyEntry::context(settings, number, created);
        let kept = self.source.keep(&context, secret).map_err(|error| match error {
            SourceError::Length { .. } => Refusal::new(RefusalCode::KeyNotAccepted, error.to_string()),
            error => failed(&error),
        })?;
        Ok(KeyVersion {
            number,
            created,
            kept: Some(kept),
        })
    }
}

/// The secret of a new version: brought by the operator, or drawn here, so that it is nowhere else.
pub enum NewSecret {
    /// These bytes.
    Given(Secret),
    /// So many random bytes.
    Generate(usize),
}

impl NewSecret {
    fn bytes(self) -> Result<Secret, Refusal> {
        match self {
            Self::Given(secret) => Ok(secret),
            Self::Generate(length) if (1..=MAX_SECRET_BYTES).contains(&length) => {
                let mut secret = Zeroizing::new(vec![0; length]);
                getrandom::fill(&mut secret).map_err(crate::hello::internal)?;
                Ok(secret)
            }
            Self::Generate(length) => {
                let detail = format!("1 to {MAX_SECRET_BYTES} random bytes can be drawn, {length} were asked for");
                Err(Refusal::new(RefusalCode::KeyNotAccepted, detail))
            }
        }
    }
}

/// What an operator's command did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    /// The key.
    pub name: String,
    /// The version made.
    pub version: u64,
    /// The ledger entry.
    pub recorded: u64,
}

/// Reads a key.
///
/// # Errors
/// A [`Refusal`]: the store, or a row that is none.
pub fn read(store: &dyn Store, name: &str) -> Result<Option<(KeyEntry, Revision)>, Refusal> {
    let key = rows::KEY.key(name.as_bytes()).map_err(crate::hello::internal)?;
    match store.get(&key).map_err(crate::hello::internal)? {
        None => Ok(None),
        Some(row) => match KeyEntry::decode(&row.value) {
            Ok(mut entry) if entry.settings.name == name => {
                entry.withheld = entry.withheld.max(withheld(store, name)?.0);
                Ok(Some((entry, row.revision)))
            }
            Ok(_) => Err(failed(&"a key's row is another key's")),
            Err(error) => Err(failed(&error)),
        },
    }
}

/// Up to which version a key is released no more, and the revision of the row that says so.
///
/// # Errors
/// A [`Refusal`]: the store, or a row that is none.
pub fn withheld(store: &dyn Store, name: &str) -> Result<(u64, Option<Revision>), Refusal> {
    let key = rows::WITHHELD.key(name.as_bytes()).map_err(crate::hello::internal)?;
    match store.get(&key).map_err(crate::hello::internal)? {
        None => Ok((0, None)),
        Some(row) => match row.value.as_slice().try_into() {
            Ok(bytes) => Ok((u64::from_be_bytes(bytes), Some(row.revision))),
            Err(_) => Err(failed(&"what is withheld of a key cannot be read")),
        },
    }
}

/// Puts a new key. A name that is taken stays as it is.
///
/// # Errors
/// A [`Refusal`]
pub async fn put(app: &Arc<App>, settings: KeySettings, secret: NewSecret) -> Result<Changed, Refusal> {
    let settings = settings.checked().map_err(not_accepted)?;
    let keeper = keeper(app)?;
    if read(&*app.store, &settings.name)?.is_some() {
        return Err(exists(&settings.name));
    }
    crate::tenants::may_put(&*app.store, &app.policy(), &settings.name)?;
    let created = seconds(app.clock.now_ms());
    let secret = secret.bytes()?;
    let name = settings.name.clone();
    let key = rows::KEY.key(name.as_bytes()).map_err(crate::hello::internal)?;
    let (kept, keeping) = (settings.clone(), Arc::clone(&keeper));
    let version = work(move || keeping.keep(&kept, 1, created, &secret)).await?;
    let entry = KeyEntry {
        settings,
        source: keeper.source_name().to_owned(),
        versions: vec![version],
        withheld: 0,
    };
    match record(app, &entry, "put", Guard::Absent(key)).await {
        Ok(changed) => Ok(changed),
        Err(unrecorded) => Err(unrecorded.forgetting(keeper, entry.versions, || exists(&name)).await),
    }
}

/// Adds a version to a key; the versions before stay, so that what they encrypted can be read.
///
/// # Errors
/// A [`Refusal`]
pub async fn rotate(app: &Arc<App>, name: &str, secret: Option<NewSecret>) -> Result<Changed, Refusal> {
    let keeper = keeper(app)?;
    let found = read(&*app.store, name)?;
    let (mut entry, revision) =
        found.ok_or_else(|| Refusal::new(RefusalCode::NotFound, "there is no key of this name: put it first"))?;
    if entry.source != keeper.source_name() {
        let (by, configured) = (&entry.source, keeper.source_name());
        let detail = format!("this key is kept by {by}, the broker is configured for {configured}");
        return Err(Refusal::new(RefusalCode::KeyNotAccepted, detail));
    }
    let key = rows::KEY.key(name.as_bytes()).map_err(crate::hello::internal)?;
    let number = entry.current().map_or(1, |version| version.number.saturating_add(1));
    let created = seconds(app.clock.now_ms());
    let (kept, keeping) = (entry.clone(), Arc::clone(&keeper));
    let version = work(move || {
        let secret = match secret {
            Some(secret) => secret,
            // As long as the one before.
            None => {
                let current = kept.current().filter(|version| version.kept.is_some());
                let current = current.ok_or_else(|| {
                    let detail = "the newest version is spent: say with what to rotate";
                    Refusal::new(RefusalCode::KeyNotAccepted, detail)
                })?;
                NewSecret::Generate(keeping.secret(&kept, current).map_err(|e| failed(&e))?.len())
            }
        };
        keeping.keep(&kept.settings, number, created, &secret.bytes()?)
    })
    .await?;
    let dropped = entry.push(version.clone());
    match record(app, &entry, "rotate", Guard::Unchanged(key, revision)).await {
        Ok(changed) => {
            forget(keeper, dropped).await;
            Ok(changed)
        }
        Err(unrecorded) => {
            let meanwhile = || Refusal::new(RefusalCode::PolicyChanged, "the key was changed meanwhile: try again");
            Err(unrecorded.forgetting(keeper, vec![version], meanwhile).await)
        }
    }
}

/// Every key, as the operator sees it: settings and versions, no secrets.
///
/// # Errors
/// A [`Refusal`]
pub fn list(store: &dyn Store) -> Result<serde_json::Value, Refusal> {
    let (mut keys, mut after) = (Vec::new(), None);
    while keys.len() < MAX_LISTED {
        let rows = store
            .range(&rows::KEY.prefix(), after.as_ref(), 100)
            .map_err(crate::hello::internal)?;
        let Some((last, _)) = rows.last() else { break };
        after = Some(last.clone());
        for (_, row) in rows {
            let entry = row
                .map_err(|e| e.to_string())
                .and_then(|row| KeyEntry::decode(&row.value).map_err(|e| e.to_string()));
            keys.push(entry.map_or_else(|e| json!({ "unreadable": e }), |entry| shown(&entry)));
        }
    }
    Ok(json!({ "keys": keys }))
}

fn shown(entry: &KeyEntry) -> serde_json::Value {
    let KeySettings {
        name,
        resource,
        regions,
        life,
        one_time,
    } = &entry.settings;
    let versions: Vec<_> = entry
        .versions
        .iter()
        .map(|version| {
            json!({
                "version": version.number,
                "created": version.created,
                "ends": entry.ends(version),
                "spent": version.kept.is_none(),
            })
        })
        .collect();
    json!({
        "name": name,
        "resource": resource,
        "regions": regions,
        "life": life,
        "one_time": one_time,
        "source": entry.source,
        "versions": versions,
    })
}

/// Why a change is not on record.
enum Unrecorded {
    /// What it rests on has changed meanwhile.
    Conflict,
    /// It never came to a commit.
    Refused(Refusal),
    /// Nobody knows whether it is: what it kept may be named by a row.
    Unknown(Refusal),
}

impl Unrecorded {
    /// The refusal; `conflict` where it was one. What no row can name is forgotten.
    async fn forgetting(
        self,
        keeper: Arc<Keeper>,
        kept: Vec<KeyVersion>,
        conflict: impl FnOnce() -> Refusal,
    ) -> Refusal {
        let refusal = match self {
            Self::Unknown(refusal) => return refusal,
            Self::Refused(refusal) => refusal,
            Self::Conflict => conflict(),
        };
        forget(keeper, kept).await;
        refusal
    }
}

/// Has the source forget versions that no row names. What cannot be forgotten is said in the log, and opens nothing.
async fn forget(keeper: Arc<Keeper>, versions: Vec<KeyVersion>) {
    let forgetting = work(move || {
        for kept in versions.iter().filter_map(|version| version.kept.as_deref()) {
            keeper.forget(kept);
        }
        Ok(())
    });
    drop(forgetting.await);
}

/// Records a change with the row.
async fn record(app: &App, entry: &KeyEntry, what: &str, guard: Guard) -> Result<Changed, Unrecorded> {
    let KeySettings {
        name,
        resource,
        regions,
        life,
        one_time,
    } = &entry.settings;
    let version = entry.current().map_or(0, |version| version.number);
    // Body: 0 command, 1 key, 2 version, 3 resource, 4 regions, 5 life in seconds or null, 6 one-time, 7 source.
    let body = Value::map([
        (0, Value::text(what)),
        (1, Value::text(name.as_str())),
        (2, Value::Unsigned(version)),
        (3, Value::text(resource.as_str())),
        (
            4,
            Value::array(regions.iter().map(|region| Value::text(region.as_str()))),
        ),
        (5, life.map_or(Value::Null, Value::Unsigned)),
        (6, Value::Bool(*one_time)),
        (7, Value::text(entry.source.as_str())),
    ]);
    let statement = app
        .circumstances(app.clock.now_ms())
        .statement(Kind::KeyChange, Outcome::Recorded, body);
    let base = crate::service::entry(app, &statement).map_err(|e| Unrecorded::Refused(crate::hello::internal(e)))?;
    let write = Write::Put(guard.key().clone(), entry.encode());
    let handed_in = Entry {
        guards: vec![guard],
        writes: vec![write],
        ..base
    };
    match app.sequencer.record(handed_in).await {
        Ok(recorded) => Ok(Changed {
            name: name.clone(),
            version,
            recorded: recorded.index,
        }),
        Err(EntryError::Conflict { .. }) => Err(Unrecorded::Conflict),
        Err(EntryError::Busy { .. }) => Err(Unrecorded::Refused(Refusal::new(
            RefusalCode::BrokerBusy,
            "too many statements are waiting",
        ))),
        Err(error) => Err(Unrecorded::Unknown(Refusal::new(
            RefusalCode::BrokerStopping,
            error.to_string(),
        ))),
    }
}

/// The hold on keys, where there is one.
///
/// # Errors
/// [`RefusalCode::KeysNotConfigured`]
pub fn keeper(app: &App) -> Result<Arc<Keeper>, Refusal> {
    let none = || Refusal::new(RefusalCode::KeysNotConfigured, "broker.toml has no [keys] section");
    app.keeper.clone().ok_or_else(none)
}

/// Stretching, sealing and tokens take their time: not on the threads that answer requests.
async fn work<T: Send + 'static>(work: impl FnOnce() -> Result<T, Refusal> + Send + 'static) -> Result<T, Refusal> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(crate::hello::internal)?
}

fn exists(name: &str) -> Refusal {
    Refusal::new(
        RefusalCode::KeyExists,
        format!("there is a key {name}: rotate it, or choose another name"),
    )
}

fn not_accepted(error: KeyError) -> Refusal {
    Refusal::new(RefusalCode::KeyNotAccepted, error.to_string())
}

fn failed(error: &dyn std::fmt::Display) -> Refusal {
    tracing::error!(%error, "a key cannot be read or kept");
    Refusal::new(RefusalCode::KeySourceFailed, "the broker's log says more")
}
