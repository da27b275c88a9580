//! A region only narrows: for every kind of setting, whatever the whole and the region say, what is accepted in the region
//! the whole accepts too. What "accepts" means is written down here once more, from the words of the settings, one rule a
//! line, so that neither the narrowing nor the appraisal says it of itself.

use std::collections::{BTreeMap, BTreeSet};

use proptest::collection::{btree_set, vec};
use proptest::option::of;
use proptest::prelude::*;
use proptest::sample::select;
use touchstone_authorization::KeyKind;
use touchstone_verifier::gpu::{self, GpuPolicy, Version};
use touchstone_verifier::ima::{ImaMode, ImaPolicy, ImaRules, PathRule, Violations};
use touchstone_verifier::policy::{AppraisalPolicy, EkCertificateRule, EventLogRule, ReportFreshness, RequiredRoots};
use touchstone_verifier::snp::{AliasCheck, GuestPolicy, Product, SnpPolicy, Tcb};
use touchstone_verifier::tdx::{TcbStatus, TdxPolicy};
use touchstone_verifier::tpm::{HashAlg, PcrSelection};
use touchstone_verifier::x509::{CrlRule, Expiry};

use super::authority::RegionDelegation;
use super::gpu::RegionGpu;
use super::rules::Rules;
use super::settings::{RegionGrants, RegionIma, RegionRoots, RegionSettings, RegionTimers, RegionTpm};
use super::snp::RegionSnp;
use super::tdx::RegionTdx;
use crate::error::{PolicyCode, Problem};
use crate::settings::timers::Timers;
use crate::settings::{self as file, Containment, Delegation, Reach, ReachRule, Settings, SoftwareKeys};
use crate::targets::scope::Scope;

mod delegation;
mod gpus;
mod snp;
mod tdx;
mod timers;
mod tpm;
mod wider;

/// A rule of a policy, and whether something keeps it.
type Kept = Vec<(&'static str, bool)>;

/// Every rule that is kept in the region is kept under the whole's policy.
fn only_narrows(whole: Kept, region: Kept) -> Result<(), TestCaseError> {
    prop_assert_eq!(whole.len(), region.len());
    for ((rule, whole), (_, region)) in whole.into_iter().zip(region) {
        prop_assert!(whole || !region, "{rule}: accepted in the region and not by the whole");
    }
    Ok(())
}

fn default_settings() -> Settings {
    Settings::parse(Settings::default_file("eu-1.example").as_bytes()).unwrap()
}

fn few<T: Clone + std::fmt::Debug + 'static>(all: &'static [T]) -> impl Strategy<Value = Vec<T>> {
    proptest::sample::subsequence(all, 0..=all.len())
}

fn some<T: Clone + std::fmt::Debug + Ord + 'static>(all: &'static [T]) -> impl Strategy<Value = BTreeSet<T>> {
    few(all).prop_map(|some| some.into_iter().collect())
}

fn key() -> impl Strategy<Value = u8> {
    1..4u8
}

fn tcb() -> impl Strategy<Value = Tcb> {
    (0..3u8, 0..3u8, 0..3u8, 0..3u8, of(0..3u8)).prop_map(|(boot_loader, tee, snp, microcode, fmc)| Tcb {
        fmc,
        boot_loader,
        tee,
        snp,
        microcode,
    })
}

/// As the product lays it out: Turin, and only that, has a version of its first mutable code.
fn of_product(product: Product, tcb: Tcb) -> Tcb {
    Tcb {
        fmc: (product == Product::Turin).then_some(tcb.fmc.unwrap_or(0)),
        ..tcb
    }
}

fn keys(length: usize) -> impl Strategy<Value = BTreeSet<Vec<u8>>> {
    btree_set(key(), 1..3).prop_map(move |keys| keys.into_iter().map(|key| vec![key; length]).collect())
}

fn hex_keys(length: usize) -> impl Strategy<Value = Vec<String>> {
    keys(length).prop_map(|keys| keys.into_iter().map(hex::encode).collect())
}

fn words(all: &'static [&'static str]) -> impl Strategy<Value = Vec<String>> {
    few(all).prop_map(|words| words.into_iter().map(str::to_owned).collect())
}

fn chip(name: &str) -> gpu::Product {
    gpu::Product::parse(name).unwrap()
}
