//! Trust on first use: a machine that nobody has listed enrols by what it shows, where signed settings say so, and for as
//! long as they say ([`touchstone_policies::settings::FirstUse`]).
//!
//! It chooses nothing: name, region and roles follow from the setting and its endorsement key. Beyond what a listed
//! machine must show, its endorsement certificate must lead to an anchor and be valid, and the credential that only this
//! key opens must have been opened. Which machine of how many it is comes from a counter that grows with its enrolment by
//! compare-and-swap. All of it is in the recorded inputs ([`FirstUse`]), so that the decision can be made again.

use touchstone_cose::cbor::{ShapeError, Value};
use touchstone_policies::PolicySet;
use touchstone_policies::settings;
use touchstone_store::{Guard, Key, Store, StoreError, Versioned, Write};
use touchstone_verifier::appraisal::{AkBinding, Appraisal, ClaimValue, claim};
use touchstone_verifier::ear::EarReason;
use touchstone_verifier::inventory::{EkId, Inventory, Lookup};

use crate::decision::DenialCode;
use crate::hardware::Hardware;
use crate::node::NodeRecord;
use crate::nodes::NodesError;
use crate::rows;

/// The key, in [`rows::META`], of how many machines have enrolled on first use.
const COUNT: &[u8] = b"first-use-count";
/// The value of [`claim::ENROLMENT`] of such a machine, for policies and results.
pub const FIRST_USE: &str = "first-use";
const CONTEXT: &str = "first use";

/// A machine that enrols, or has enrolled, on first use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FirstUse {
    /// Its endorsement key.
    pub ek: EkId,
    /// When it enrolled, Unix seconds.
    pub since: i64,
    /// Which of those that enrolled so it is, from 1.
    pub number: u64,
}

/// What a grant on first use takes up: the next number, where nobody has taken it meanwhile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seat {
    /// What is recorded.
    pub first_use: FirstUse,
    /// Guard and write of the counter; nothing where the machine has its number already.
    pub take: Option<(Guard, Write)>,
}

/// Why a machine that nobody has listed cannot even be asked for evidence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FirstUseError {
    /// No setting, or one that does not speak of this machine.
    #[error("the endorsement key {ek} is not in the inventory{why}")]
    Unknown {
        /// The endorsement key.
        ek: EkId,
        /// What keeps first use from it, as the end of the sentence.
        why: &'static str,
    },
    /// Not now, or not one more.
    #[error("{0}")]
    Over(String),
    /// The store.
    #[error(transparent)]
    Nodes(#[from] NodesError),
}

impl FirstUse {
    /// As it is recorded: [endorsement key, since, number].
    #[must_use]
    pub fn value(&self) -> Value {
        Value::array([
            Value::bytes(self.ek.0),
            Value::int(self.since),
            Value::Unsigned(self.number),
        ])
    }

    /// Reads what [`FirstUse::value`] wrote.
    ///
    /// # Errors
    /// [`ShapeError`]
    pub fn read(value: &Value) -> Result<Self, ShapeError> {
        let malformed = || ShapeError::whole(CONTEXT, "[32 bytes, time, number]", value);
        let Some([ek, since, number]) = value.as_array() else {
            return Err(malformed());
        };
        Ok(Self {
            ek: EkId(
                ek.as_bytes()
                    .and_then(|bytes| bytes.try_into().ok())
                    .ok_or_else(malformed)?,
            ),
            since: since.as_i64().ok_or_else(malformed)?,
            number: number.as_u64().ok_or_else(malformed)?,
        })
    }
}

/// How many machines have enrolled on first use.
///
/// # Errors
/// [`StoreError`]
pub fn count(store: &dyn Store) -> Result<u64, NodesError> {
    Ok(counter(store)?.1)
}

fn counter(store: &dyn Store) -> Result<(Guard, u64, Key), NodesError> {
    let key = rows::META.key(COUNT)?;
    Ok(match store.get(&key)? {
        None => (Guard::Absent(key.clone()), 0, key),
        Some(Versioned { value, revision }) => {
            // A counter that cannot be read has counted too many.
            let count = value.as_slice().try_into().map_or(u64::MAX, u64::from_be_bytes);
            (Guard::Unchanged(key.clone(), revision), count, key)
        }
    })
}

/// The seat of a machine that no entry lists: the one it has, by its `record`, or the next.
///
/// # Errors
/// [`FirstUseError`]
pub fn seat(
    store: &dyn Store,
    policy: &PolicySet,
    ek: &EkId,
    record: impl FnOnce(&str) -> Result<Option<NodeRecord>, NodesError>,
    now: i64,
) -> Result<(String, Seat), FirstUseError> {
    let unknown = |why| FirstUseError::Unknown { ek: *ek, why };
    let setting = policy.settings.first_use.as_ref().ok_or_else(|| unknown(""))?;
    let name = setting.node(ek).name;
    if policy.inventory.by_ek(ek) != Lookup::Unknown || policy.inventory.by_name(&name) != Lookup::Unknown {
        return Err(unknown(", and an entry has the name it would get"));
    }
    if policy.anchors.deny_list().key(ek).is_some() {
        return Err(unknown(", and is denied"));
    }
    match record(&name)? {
        Some(record) => {
            let here = Hardware::Tpm {
                ek: *ek,
                ak_name: Vec::new(),
            }
            .is_machine_of(&record.enrolled);
            // Whoever was listed once and is not any more was taken out: that is not a first use.
            let first_use = record.first_use.filter(|_| here);
            let first_use = first_use.ok_or_else(|| unknown(" any more"))?;
            Ok((name, Seat { first_use, take: None }))
        }
        None => {
            if !setting.is_open(now) {
                let detail = "this domain let machines enrol on first use at another time than now";
                return Err(FirstUseError::Over(detail.into()));
            }
            let (guard, count, key) = counter(store)?;
            if count >= setting.most {
                let detail = format!(
                    "{count} machines have enrolled on first use, which may be {}",
                    setting.most
                );
                return Err(FirstUseError::Over(detail));
            }
            let number = count + 1;
            let first_use = FirstUse {
                ek: *ek,
                since: now,
                number,
            };
            let take = Some((guard, Write::Put(key, number.to_be_bytes().to_vec())));
            Ok((name, Seat { first_use, take }))
        }
    }
}

/// The inventory that a decision is made with: where the inputs say so, with the machine that signed settings admit.
#[must_use]
pub fn inventory(first_use: Option<&FirstUse>, policy: &PolicySet) -> Inventory {
    match (first_use, &policy.settings.first_use) {
        (Some(first_use), Some(setting)) => policy.inventory.with_unlisted(setting.node(&first_use.ek)),
        _ => policy.inventory.clone(),
    }
}

/// Whether the node `name` is one that only first use makes known.
#[must_use]
pub fn speaks_of(
    first_use: Option<&FirstUse>,
    policy: &PolicySet,
    name: &str,
) -> Option<(FirstUse, settings::FirstUse)> {
    let setting = policy.settings.first_use.as_ref()?;
    let first_use = first_use.filter(|first_use| setting.node(&first_use.ek).name == name)?;
    let listed = policy.inventory.by_name(name) != Lookup::Unknown;
    (!listed).then(|| (*first_use, setting.clone()))
}

/// What speaks against a machine that enrols, or has enrolled, so.
#[must_use]
pub fn reasons(first_use: &FirstUse, setting: &settings::FirstUse, appraisal: &Appraisal) -> Vec<EarReason> {
    let mut reasons = Vec::new();
    let mut against = |code: DenialCode, claim: &str, expected: String, found: String| {
        reasons.push(EarReason {
            code: code.as_str().into(),
            claim: claim.into(),
            expected,
            found,
        });
    };
    if !setting.is_open(first_use.since) {
        let expected = format!("{} to {}", setting.from, setting.until);
        against(
            DenialCode::FirstUseClosed,
            "time of enrolment",
            expected,
            first_use.since.to_string(),
        );
    }
    if first_use.number > setting.most {
        let expected = format!("at most {}", setting.most);
        against(
            DenialCode::FirstUseFull,
            "machines on first use",
            expected,
            first_use.number.to_string(),
        );
    }
    let certificate = match appraisal.claims.get(claim::EK_CERTIFICATE) {
        Some(ClaimValue::Text(text)) => text.as_str(),
        _ => "none",
    };
    if certificate != "valid" {
        let expected = "a valid one that leads to an anchor".to_owned();
        against(
            DenialCode::FirstUseCertificate,
            "endorsement certificate",
            expected,
            certificate.to_owned(),
        );
    }
    if !matches!(appraisal.ak_binding, AkBinding::Activated | AkBinding::Enrolled) {
        let expected = "an opened credential".to_owned();
        let found = appraisal.ak_binding.as_str().to_owned();
        against(DenialCode::FirstUseActivation, "attestation key", expected, found);
    }
    reasons
}

/// Errors of the store, so that `?` works where only rows are read.
impl From<StoreError> for FirstUseError {
    fn from(error: StoreError) -> Self {
        Self::Nodes(error.into())
    }
}
