//! `[snp]`: what is demanded of SEV-SNP guests and of the platforms that they run on.
//!
//! A file without the section, or without a key, has the strict value; keys that name what a domain must know itself
//! (chips, providers, mitigations) are empty, and a list of what is accepted that is there and empty is refused.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use touchstone_verifier::inventory::Platform;
use touchstone_verifier::snp::{self, GuestPolicy, Product, SnpPolicy, Tcb};

use crate::error::{PolicyCode, Problem};

/// Most chips, providers or keys of one list.
pub const MAX_LISTED: usize = 65_536;
/// Highest privilege level number.
const MAX_VMPL: u32 = 3;
/// Mitigation vectors have 64 bits.
const MITIGATIONS: u8 = 64;
/// Lengths of a chip id, in bytes: Turin's, and everyone else's.
const CHIP_IDS: [usize; 2] = [8, 64];
/// Length of a key's digest, in bytes: SHA-384.
const KEY_DIGESTS: [usize; 1] = [48];

/// What to do about the memory alias check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AliasCheck {
    /// The report must say that it was done.
    #[default]
    Required,
    /// A report that can say it must.
    WhenReported,
    /// Not looked at.
    Ignored,
}

/// Whether something is let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Allowed {
    /// Refused.
    #[default]
    Refuse,
    /// Let in; the result names it where it is a leniency.
    Allow,
}

/// A demand on the platform.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Demand {
    /// Either way.
    #[default]
    Any,
    /// Must be so.
    Required,
}

/// Least security versions of one product line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Floor {
    /// First mutable code: on Turin, and only there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fmc: Option<u8>,
    /// Boot loader.
    pub bl: u8,
    /// Security processor's operating system.
    pub tee: u8,
    /// SNP firmware.
    pub snp: u8,
    /// Microcode.
    pub ucode: u8,
}

/// `[snp]`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SnpSettings {
    /// The memory alias check.
    pub alias_check: AliasCheck,
    /// Highest privilege level number a report may come from.
    pub max_vmpl: u32,
    /// Guests whose host may debug them.
    pub debug: Allowed,
    /// Guests that a migration agent may move.
    pub migration_agent: Allowed,
    /// Platforms that hide their chip id.
    pub masked_chips: Allowed,
    /// Bits of the guest's launch policy that must be set, by name.
    pub guest_policy_required: Vec<String>,
    /// Bits of the guest's launch policy that must be clear, by name.
    pub guest_policy_refused: Vec<String>,
    /// Simultaneous multithreading off on the platform.
    pub smt_off: Demand,
    /// Memory with error-correcting codes.
    pub ecc: Demand,
    /// Running Average Power Limit off.
    pub rapl_off: Demand,
    /// Ciphertext hidden from the host.
    pub ciphertext_hiding: Demand,
    /// Numbers of the bits that the mitigation vectors must have, at launch and now.
    pub mitigations: Vec<u8>,
    /// Product lines that are accepted; left out, all that are known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub products: Option<Vec<String>>,
    /// Least security versions by product line.
    pub floors: BTreeMap<String, Floor>,
    /// Chips that are accepted; left out, all that the inventory lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allowed_chips: Option<Vec<String>>,
    /// Chips that are refused.
    pub denied_chips: Vec<String>,
    /// Cloud providers whose keys are accepted.
    pub providers: Vec<String>,
    /// Keys, one of which must have signed the guest's ID block (SHA-384, hexadecimal).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id_keys: Option<Vec<String>>,
    /// Keys, one of which must have signed the ID key (SHA-384, hexadecimal).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub author_keys: Option<Vec<String>>,
}

impl SnpSettings {
    /// What an appraisal is told. Adds everything that is wrong to `problems`.
    pub(crate) fn policy(&self, problems: &mut Vec<Problem>) -> SnpPolicy {
        let mut wrong = |key: &str, code: PolicyCode, expected: String, found: String| {
            problems.push(Problem::new(code, format!("settings.toml: snp.{key}"), expected, found));
        };
        if self.max_vmpl > MAX_VMPL {
            wrong(
                "max_vmpl",
                PolicyCode::SettingValue,
                "0 to 3".into(),
                self.max_vmpl.to_string(),
            );
        }
        let mut bits = |key: &str, names: &[String]| {
            names.iter().fold(0, |mask, name| match GuestPolicy::mask(name) {
                Some(bit) => mask | bit,
                None => {
                    let known = GuestPolicy::names(u64::MAX);
                    wrong(key, PolicyCode::SettingValue, format!("one of {known}"), name.clone());
                    mask
                }
            })
        };
        let required = bits("guest_policy_required", &self.guest_policy_required);
        let refused = bits("guest_policy_refused", &self.guest_policy_refused);
        if required & refused != 0 {
            let (expected, found) = (
                "bits that are not required as well".into(),
                GuestPolicy::names(required & refused),
            );
            wrong("guest_policy_refused", PolicyCode::SettingValue, expected, found);
        }
        let mut mitigations = 0;
        for bit in &self.mitigations {
            match 1u64.checked_shl(u32::from(*bit)).filter(|_| *bit < MITIGATIONS) {
                Some(mask) => mitigations |= mask,
                None => wrong(
                    "mitigations",
                    PolicyCode::SettingValue,
                    "0 to 63".into(),
                    bit.to_string(),
                ),
            }
        }
        let mut product = |key: &str, name: &str| {
            let product = Product::parse(name);
            if product.is_none() {
                let expected = "milan, genoa or turin".to_owned();
                wrong(key, PolicyCode::SettingValue, expected, name.to_owned());
            }
            product
        };
        let mut floors = BTreeMap::new();
        for (name, floor) in &self.floors {
            let Some(product) = product("floors", name) else {
                continue;
            };
            floors.insert(
                product,
                Tcb {
                    fmc: floor.fmc,
                    boot_loader: floor.bl,
                    tee: floor.tee,
                    snp: floor.snp,
                    microcode: floor.ucode,
                },
            );
        }
        let products: BTreeSet<Product> = match &self.products {
            Some(names) => names.iter().filter_map(|name| product("products", name)).collect(),
            None => Product::ALL.into_iter().collect(),
        };
        for (product, floor) in &floors {
            if floor.fmc.is_some() != (*product == Product::Turin) {
                let expected = "fmc for turin, and only there".to_owned();
                wrong("floors", PolicyCode::SettingValue, expected, product.to_string());
            }
        }
        if self.products.as_ref().is_some_and(Vec::is_empty) {
            wrong(
                "products",
                PolicyCode::SettingsEmptyList,
                "at least one".into(),
                "none".into(),
            );
        }
        if self.providers.len() > MAX_LISTED {
            let expected = format!("at most {MAX_LISTED}");
            wrong(
                "providers",
                PolicyCode::SettingValue,
                expected,
                self.providers.len().to_string(),
            );
        }
        for name in self.providers.iter().filter(|name| !is_provider(name)) {
            let expected = "a provider's name as AMD certifies it".to_owned();
            wrong("providers", PolicyCode::SettingValue, expected, name.clone());
        }
        let mut digests = |key: &str, texts: &[String], lengths: &[usize]| {
            let read: BTreeSet<Vec<u8>> = texts
                .iter()
                .take(MAX_LISTED)
                .filter_map(|text| hex::decode(text).ok().filter(|id| lengths.contains(&id.len())))
                .collect();
            // Also where one is listed twice: then the author meant another.
            if read.len() != texts.len() {
                let expected = format!("at most {MAX_LISTED}, each once, of {lengths:?} bytes in hexadecimal");
                wrong(
                    key,
                    PolicyCode::SettingValue,
                    expected,
                    format!("{} of {}", read.len(), texts.len()),
                );
            }
            read
        };
        let denied_chips = digests("denied_chips", &self.denied_chips, &CHIP_IDS);
        let mut accepted = |key: &str, texts: &Option<Vec<String>>, lengths: &[usize]| {
            texts.as_ref().map(|texts| digests(key, texts, lengths))
        };
        let allowed_chips = accepted("allowed_chips", &self.allowed_chips, &CHIP_IDS);
        let id_keys = accepted("id_keys", &self.id_keys, &KEY_DIGESTS);
        let author_keys = accepted("author_keys", &self.author_keys, &KEY_DIGESTS);
        for (key, list) in [
            ("allowed_chips", &allowed_chips),
            ("id_keys", &id_keys),
            ("author_keys", &author_keys),
        ] {
            if list.as_ref().is_some_and(BTreeSet::is_empty) {
                wrong(key, PolicyCode::SettingsEmptyList, "at least one".into(), "none".into());
            }
        }
        SnpPolicy {
            products,
            max_vmpl: self.max_vmpl,
            allow_debug: self.debug == Allowed::Allow,
            allow_migration_agent: self.migration_agent == Allowed::Allow,
            allow_smt: self.smt_off == Demand::Any,
            require_ecc: self.ecc == Demand::Required,
            require_rapl_disabled: self.rapl_off == Demand::Required,
            require_ciphertext_hiding: self.ciphertext_hiding == Demand::Required,
            alias_check: match self.alias_check {
                AliasCheck::Required => snp::AliasCheck::Required,
                AliasCheck::WhenReported => snp::AliasCheck::WhenReported,
                AliasCheck::Ignored => snp::AliasCheck::Ignored,
            },
            guest_policy_required: required,
            guest_policy_refused: refused,
            floors,
            mitigations,
            denied_chips,
            allowed_chips,
            allow_masked_chips: self.masked_chips == Allowed::Allow,
            providers: self.providers.iter().cloned().collect(),
            id_keys,
            author_keys,
        }
    }
}

/// Whether an inventory could name a provider so.
pub(super) fn is_provider(name: &str) -> bool {
    format!("snp-provider:{name}").parse::<Platform>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (SnpPolicy, Vec<Problem>) {
        let mut problems = Vec::new();
        let settings: SnpSettings = toml::from_str(text).unwrap();
        (settings.policy(&mut problems), problems)
    }

    #[test]
    fn nothing_said_is_strict() {
        let (policy, problems) = read("");
        assert!(problems.is_empty());
        assert_eq!(policy, SnpPolicy::default());
    }

    #[test]
    fn every_key_has_its_effect() {
        let chip = "c1".repeat(64);
        let text = format!(
            "alias_check = \"when-reported\"\nmax_vmpl = 1\ndebug = \"allow\"\nmigration_agent = \"allow\"\n\
             masked_chips = \"allow\"\nguest_policy_required = [\"ciphertext-hiding\"]\n\
             guest_policy_refused = [\"smt\", \"cxl\"]\nsmt_off = \"required\"\necc = \"required\"\n\
             rapl_off = \"required\"\nciphertext_hiding = \"required\"\nmitigations = [0, 63]\nproducts = [\"turin\"]\n\
             floors = {{ turin = {{ fmc = 1, bl = 2, tee = 3, snp = 4, ucode = 5 }} }}\nallowed_chips = [\"{chip}\"]\n\
             denied_chips = [\"{chip}\"]\nproviders = [\"CN=cc-eu-west-1.amazonaws.com\"]\nid_keys = [\"{0}\"]\nauthor_keys = [\"{0}\"]\n",
            "ab".repeat(48)
        );
        let (policy, problems) = read(&text);
        assert!(problems.is_empty(), "{problems:?}");
        let (chips, keys) = (BTreeSet::from([vec![0xC1; 64]]), BTreeSet::from([vec![0xAB; 48]]));
        let floor = Tcb {
            fmc: Some(1),
            boot_loader: 2,
            tee: 3,
            snp: 4,
            microcode: 5,
        };
        let expected = SnpPolicy {
            products: [Product::Turin].into(),
            max_vmpl: 1,
            allow_debug: true,
            allow_migration_agent: true,
            allow_smt: false,
            require_ecc: true,
            require_rapl_disabled: true,
            require_ciphertext_hiding: true,
            alias_check: snp::AliasCheck::WhenReported,
            guest_policy_required: 1 << 24,
            guest_policy_refused: 1 << 16 | 1 << 21,
            floors: [(Product::Turin, floor)].into(),
            mitigations: 1 | 1 << 63,
            denied_chips: chips.clone(),
            allowed_chips: Some(chips),
            allow_masked_chips: true,
            providers: ["CN=cc-eu-west-1.amazonaws.com".to_owned()].into(),
            id_keys: Some(keys.clone()),
            author_keys: Some(keys),
        };
        assert_eq!(policy, expected);
    }

    #[test]
    fn what_is_wrong_is_refused() {
        for text in [
            "max_vmpl = 4",
            "guest_policy_required = [\"fast\"]",
            "guest_policy_required = [\"smt\"]\nguest_policy_refused = [\"smt\"]",
            "mitigations = [64]",
            "products = [\"rome\"]",
            "products = []",
            "floors = { rome = { bl = 0, tee = 0, snp = 0, ucode = 0 } }",
            "floors = { milan = { fmc = 0, bl = 0, tee = 0, snp = 0, ucode = 0 } }",
            "floors = { turin = { bl = 0, tee = 0, snp = 0, ucode = 0 } }",
            "allowed_chips = []",
            "allowed_chips = [\"00\"]",
            "denied_chips = [\"zz\"]",
            "id_keys = []",
            "author_keys = []",
            "providers = [\"a/b\"]",
            "providers = [\"a \"]",
        ] {
            assert!(!read(text).1.is_empty(), "{text}");
        }
        for text in ["alias_check = \"off\"", "alias = 1", "floors = { milan = { bl = 0 } }"] {
            assert!(toml::from_str::<SnpSettings>(text).is_err(), "{text}");
        }
    }
}
