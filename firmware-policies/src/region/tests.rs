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
use crate::scope::Scope;
use crate::settings::{self as file, Containment, Delegation, Reach, ReachRule, Settings, SoftwareKeys};
use crate::timers::Timers;

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

// SEV-SNP ------------------------------------------------------------------------------------------------------------

/// What a guest and its platform are.
#[derive(Debug, Clone)]
struct Guest {
    product: Product,
    vmpl: u32,
    debug: bool,
    migration_agent: bool,
    smt: bool,
    ecc: bool,
    rapl_off: bool,
    ciphertext_hiding: bool,
    alias_check: Option<bool>,
    bits: u64,
    mitigations: u64,
    tcb: Tcb,
    chip: Vec<u8>,
    masked: bool,
    provider: Option<String>,
    id_key: Option<Vec<u8>>,
    author_key: Option<Vec<u8>>,
}

const PRODUCTS: &[Product] = &[Product::Milan, Product::Genoa, Product::Turin];
const PRODUCT_NAMES: &[&str] = &["milan", "genoa", "turin"];
const PROVIDERS: &[&str] = &["cloud-a", "cloud-b"];
const BIT_NAMES: &[&str] = &["smt", "cxl", "ciphertext-hiding"];

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

fn guests() -> impl Strategy<Value = Guest> {
    let flags = (any::<[bool; 6]>(), of(any::<bool>()), any::<bool>());
    let numbers = (0..4u32, any::<u64>(), 0..8u64, tcb());
    let keys = (key(), of(select(PROVIDERS)), of(key()), of(key()));
    (select(PRODUCTS), flags, numbers, keys).prop_map(|(product, flags, (vmpl, bits, mitigations, tcb), keys)| {
        let ([debug, migration_agent, smt, ecc, rapl_off, ciphertext_hiding], alias_check, masked) = flags;
        let (chip, provider, id_key, author_key) = keys;
        Guest {
            product,
            vmpl,
            debug,
            migration_agent,
            smt,
            ecc,
            rapl_off,
            ciphertext_hiding,
            alias_check,
            bits,
            mitigations,
            tcb: of_product(product, tcb),
            chip: vec![chip; 64],
            masked,
            provider: provider.map(Into::into),
            id_key: id_key.map(|key| vec![key; 48]),
            author_key: author_key.map(|key| vec![key; 48]),
        }
    })
}

fn snp_kept(policy: &SnpPolicy, guest: &Guest) -> Kept {
    let listed = |list: &Option<BTreeSet<Vec<u8>>>, key: Option<&Vec<u8>>| {
        list.as_ref()
            .is_none_or(|list| key.is_some_and(|key| list.contains(key)))
    };
    let floor = policy.floors.get(&guest.product);
    vec![
        ("products", policy.products.contains(&guest.product)),
        ("max_vmpl", guest.vmpl <= policy.max_vmpl),
        ("debug", policy.allow_debug || !guest.debug),
        (
            "migration_agent",
            policy.allow_migration_agent || !guest.migration_agent,
        ),
        ("smt_off", policy.allow_smt || !guest.smt),
        ("ecc", !policy.require_ecc || guest.ecc),
        ("rapl_off", !policy.require_rapl_disabled || guest.rapl_off),
        (
            "ciphertext_hiding",
            !policy.require_ciphertext_hiding || guest.ciphertext_hiding,
        ),
        (
            "alias_check",
            match policy.alias_check {
                AliasCheck::Required => guest.alias_check == Some(true),
                AliasCheck::WhenReported => guest.alias_check != Some(false),
                AliasCheck::Ignored => true,
            },
        ),
        (
            "guest_policy_required",
            guest.bits & policy.guest_policy_required == policy.guest_policy_required,
        ),
        ("guest_policy_refused", guest.bits & policy.guest_policy_refused == 0),
        (
            "mitigations",
            guest.mitigations & policy.mitigations == policy.mitigations,
        ),
        (
            "floors",
            floor.is_none_or(|floor| guest.tcb.below(floor).next().is_none()),
        ),
        ("denied_chips", !policy.denied_chips.contains(&guest.chip)),
        ("allowed_chips", listed(&policy.allowed_chips, Some(&guest.chip))),
        ("masked_chips", policy.allow_masked_chips || !guest.masked),
        (
            "providers",
            guest
                .provider
                .as_ref()
                .is_none_or(|name| policy.providers.contains(name)),
        ),
        ("id_keys", listed(&policy.id_keys, guest.id_key.as_ref())),
        ("author_keys", listed(&policy.author_keys, guest.author_key.as_ref())),
    ]
}

fn keys(length: usize) -> impl Strategy<Value = BTreeSet<Vec<u8>>> {
    btree_set(key(), 1..3).prop_map(move |keys| keys.into_iter().map(|key| vec![key; length]).collect())
}

fn snp_policies() -> impl Strategy<Value = SnpPolicy> {
    let flags = any::<[bool; 7]>();
    let checks = select(&[AliasCheck::Required, AliasCheck::WhenReported, AliasCheck::Ignored][..]);
    let numbers = (0..4u32, 0..8u64, few(BIT_NAMES), few(BIT_NAMES));
    let floors = proptest::collection::btree_map(select(PRODUCTS), tcb(), 0..3).prop_map(|floors| {
        let sound = |(product, tcb): (Product, Tcb)| (product, of_product(product, tcb));
        floors.into_iter().map(sound).collect()
    });
    let lists = (
        some(PRODUCTS),
        keys(64),
        of(keys(64)),
        some(PROVIDERS),
        of(keys(48)),
        of(keys(48)),
    );
    (flags, checks, numbers, floors, lists).prop_map(|(flags, alias_check, numbers, floors, lists)| {
        let bits = |names: Vec<&str>| {
            names
                .iter()
                .filter_map(|name| GuestPolicy::mask(name))
                .fold(0, |a, b| a | b)
        };
        let (products, denied_chips, allowed_chips, providers, id_keys, author_keys) = lists;
        SnpPolicy {
            products,
            max_vmpl: numbers.0,
            allow_debug: flags[0],
            allow_migration_agent: flags[1],
            allow_smt: flags[2],
            require_ecc: flags[3],
            require_rapl_disabled: flags[4],
            require_ciphertext_hiding: flags[5],
            alias_check,
            guest_policy_required: bits(numbers.2),
            guest_policy_refused: bits(numbers.3),
            floors,
            mitigations: numbers.1,
            denied_chips,
            allowed_chips,
            allow_masked_chips: flags[6],
            providers: providers.into_iter().map(str::to_owned).collect(),
            id_keys,
            author_keys,
        }
    })
}

fn hex_keys(length: usize) -> impl Strategy<Value = Vec<String>> {
    keys(length).prop_map(|keys| keys.into_iter().map(hex::encode).collect())
}

fn words(all: &'static [&'static str]) -> impl Strategy<Value = Vec<String>> {
    few(all).prop_map(|words| words.into_iter().map(str::to_owned).collect())
}

fn snp_said() -> impl Strategy<Value = RegionSnp> {
    use file::{Allowed, Demand, Floor};
    let allowed = || of(select(&[Allowed::Refuse, Allowed::Allow][..]));
    let demand = || of(select(&[Demand::Any, Demand::Required][..]));
    let check = of(select(
        &[
            file::AliasCheck::Required,
            file::AliasCheck::WhenReported,
            file::AliasCheck::Ignored,
        ][..],
    ));
    let flags = (
        check,
        allowed(),
        allowed(),
        allowed(),
        demand(),
        demand(),
        demand(),
        demand(),
    );
    let floor = tcb().prop_map(|tcb| Floor {
        fmc: tcb.fmc,
        bl: tcb.boot_loader,
        tee: tcb.tee,
        snp: tcb.snp,
        ucode: tcb.microcode,
    });
    let floors = proptest::collection::btree_map(select(PRODUCT_NAMES).prop_map(str::to_owned), floor, 0..3);
    let numbers = (
        of(0..5u32),
        btree_set(0..3u8, 0..3),
        words(BIT_NAMES),
        words(BIT_NAMES),
        floors,
    );
    let lists = (
        of(words(PRODUCT_NAMES)),
        hex_keys(64),
        of(hex_keys(64)),
        of(words(PROVIDERS)),
        of(hex_keys(48)),
        of(hex_keys(48)),
    );
    (flags, numbers, lists).prop_map(|(flags, numbers, lists)| RegionSnp {
        alias_check: flags.0,
        debug: flags.1,
        migration_agent: flags.2,
        masked_chips: flags.3,
        smt_off: flags.4,
        ecc: flags.5,
        rapl_off: flags.6,
        ciphertext_hiding: flags.7,
        max_vmpl: numbers.0,
        mitigations: numbers.1.into_iter().collect(),
        guest_policy_required: numbers.2,
        guest_policy_refused: numbers.3,
        floors: numbers.4,
        products: lists.0,
        denied_chips: lists.1,
        allowed_chips: lists.2,
        providers: lists.3,
        id_keys: lists.4,
        author_keys: lists.5,
    })
}

// TDX and GPUs -------------------------------------------------------------------------------------------------------

const STATUSES: &[TcbStatus] = &[TcbStatus::UpToDate, TcbStatus::SwHardeningNeeded, TcbStatus::OutOfDate];
const STATUS_WORDS: &[&str] = &["UpToDate", "SWHardeningNeeded", "OutOfDate", "Revoked"];
const RTMRS: &[u8] = &[0, 1, 2, 3];

/// Status, evaluation number, registers that match a reference, platform.
type Td = (TcbStatus, u32, BTreeSet<u8>, Vec<u8>);

fn tds() -> impl Strategy<Value = Td> {
    let platform = key().prop_map(|id| vec![id; 16]);
    (select(STATUSES), 0..4u32, some(RTMRS), platform)
}

fn tdx_kept(policy: &TdxPolicy, (status, number, matching, platform): &Td) -> Kept {
    vec![
        ("tcb_status", policy.tcb_status.contains(status)),
        ("min_tcb_evaluation_number", *number >= policy.min_tcb_evaluation_number),
        ("registers", policy.registers.is_subset(matching)),
        ("denied_platforms", !policy.denied_platforms.contains(platform)),
    ]
}

fn tdx_policies() -> impl Strategy<Value = TdxPolicy> {
    (some(STATUSES), 0..4u32, some(RTMRS), keys(16)).prop_map(|(tcb_status, number, registers, denied_platforms)| {
        TdxPolicy {
            tcb_status,
            min_tcb_evaluation_number: number,
            registers,
            denied_platforms,
        }
    })
}

fn tdx_said() -> impl Strategy<Value = RegionTdx> {
    (
        of(words(STATUS_WORDS)),
        of(0..4u32),
        few(&[0u8, 1, 2, 3, 4]),
        hex_keys(16),
    )
        .prop_map(
            |(tcb_status, min_tcb_evaluation_number, registers, denied_platforms)| RegionTdx {
                tcb_status,
                min_tcb_evaluation_number,
                registers,
                denied_platforms,
            },
        )
}

const CHIPS: &[&str] = &["GH100", "LS_10"];
const DRIVERS: &[&str] = &["550.9", "550.90.07", "550.90", "7"];
const VBIOSES: &[&str] = &["96.00.9F", "96.00.A0.01", "9.FF"];

/// Whether there is GPU evidence, whether the inventory lists it, chip, driver, VBIOS, serial.
type Device = (bool, bool, &'static str, &'static str, &'static str, &'static str);
const SERIALS: &[&str] = &["41", "42"];

fn devices() -> impl Strategy<Value = Device> {
    let flags = (any::<bool>(), any::<bool>());
    (flags, select(CHIPS), select(DRIVERS), select(VBIOSES), select(SERIALS))
        .prop_map(|((there, listed), chip, driver, vbios, serial)| (there, listed, chip, driver, vbios, serial))
}

fn chip(name: &str) -> gpu::Product {
    gpu::Product::parse(name).unwrap()
}

fn gpu_kept(policy: &GpuPolicy, (there, listed, name, driver, vbios, serial): &Device) -> Kept {
    let (driver, vbios) = (Version::driver(driver).unwrap(), Version::vbios(vbios).unwrap());
    let floor = policy.min_vbios.get(&chip(name));
    vec![
        ("required", *there || !policy.required),
        ("locality", *listed || !policy.inventory_required),
        (
            "products",
            policy.products.as_ref().is_none_or(|list| list.contains(&chip(name))),
        ),
        (
            "min_driver",
            policy.min_driver.as_ref().is_none_or(|least| !driver.is_below(least)),
        ),
        ("min_vbios", floor.is_none_or(|least| !vbios.is_below(least))),
        ("denied", !policy.denied.contains(*serial)),
    ]
}

fn gpu_policies() -> impl Strategy<Value = GpuPolicy> {
    let vbios = proptest::collection::btree_map(select(CHIPS), select(VBIOSES), 0..3);
    let lists = (of(some(CHIPS)), some(SERIALS));
    (any::<[bool; 2]>(), of(select(DRIVERS)), vbios, lists).prop_map(|(flags, driver, vbios, (chips, denied))| {
        GpuPolicy {
            required: flags[0],
            inventory_required: flags[1],
            products: chips.map(|chips| chips.into_iter().map(chip).collect()),
            min_driver: driver.and_then(Version::driver),
            min_vbios: vbios
                .into_iter()
                .map(|(c, v)| (chip(c), Version::vbios(v).unwrap()))
                .collect(),
            denied: denied.into_iter().map(str::to_owned).collect(),
        }
    })
}

fn gpu_said() -> impl Strategy<Value = RegionGpu> {
    let locality = of(select(&[file::Locality::Guest, file::Locality::Inventory][..]));
    let vbios = proptest::collection::btree_map(select(CHIPS), select(VBIOSES), 0..3);
    let lists = (of(words(CHIPS)), words(SERIALS));
    (of(any::<bool>()), locality, of(select(DRIVERS)), vbios, lists).prop_map(
        |(required, locality, driver, vbios, (products, denied))| RegionGpu {
            required,
            locality,
            products,
            min_driver: driver.map(Into::into),
            min_vbios: vbios.into_iter().map(|(c, v)| (c.to_owned(), v.to_owned())).collect(),
            denied,
        },
    )
}

// TPM, IMA, roots, Azure ---------------------------------------------------------------------------------------------

const REGISTERS: &[u8] = &[0, 4, 7, 11];
const PATHS: &[&str] = &["/var/lib/**", "/opt/app/*", "/run/**"];

/// What is against a machine with a TPM, or missing.
#[derive(Debug, Clone)]
struct Machine {
    matching: BTreeSet<(HashAlg, u8)>,
    certificate_expired: bool,
    certificate: bool,
    /// Whether its issuer has a revocation list.
    crl: bool,
    event_log: bool,
    /// IMA's list: none, and the path of a file that no reference knows.
    list: Option<Option<&'static str>>,
    violation: bool,
    matched_reference_has_files: bool,
    tpm: bool,
    tee: bool,
    /// Whether its inventory entry lists a TPM, and a confidential VM.
    lists: (bool, bool),
    fresh_report: bool,
}

fn machines() -> impl Strategy<Value = Machine> {
    let files = &["/var/lib/x", "/opt/app/x", "/run/x", "/usr/bin/x"][..];
    let list = of(of(select(files)));
    (few(REGISTERS), few(REGISTERS), list, any::<[bool; 12]>()).prop_map(|(sha256, sha384, list, f)| {
        let bank = |bank, registers: Vec<u8>| registers.into_iter().map(move |register| (bank, register));
        Machine {
            matching: bank(HashAlg::Sha256, sha256)
                .chain(bank(HashAlg::Sha384, sha384))
                .collect(),
            certificate_expired: f[0],
            certificate: f[1],
            crl: f[2],
            event_log: f[3],
            list,
            violation: f[4],
            matched_reference_has_files: f[5],
            tpm: f[6],
            tee: f[7],
            lists: (f[8], f[9]),
            fresh_report: f[10],
        }
    })
}

fn tpm_kept(policy: &AppraisalPolicy, machine: &Machine) -> Kept {
    let any = machine.tpm || machine.tee;
    let listed = any && (machine.tpm || !machine.lists.0) && (machine.tee || !machine.lists.1);
    let roots = match policy.roots.required {
        RequiredRoots::Any => any,
        RequiredRoots::Listed => listed,
        RequiredRoots::Tpm => listed && machine.tpm,
        RequiredRoots::Tee => listed && machine.tee,
        RequiredRoots::TpmAndTee => listed && machine.tpm && machine.tee,
    };
    let judged = match policy.ima.mode {
        ImaMode::Off => None,
        ImaMode::ByReference if !machine.matched_reference_has_files => None,
        ImaMode::ByReference | ImaMode::Required => Some(machine.list),
    };
    let excluded = |path: &str| {
        policy
            .ima
            .rules
            .exclude
            .iter()
            .any(|rule| rule.matches(path.as_bytes()))
    };
    let unknown = judged.flatten().flatten().filter(|path| !excluded(path));
    vec![
        (
            "required_registers",
            policy
                .required_registers
                .iter()
                .all(|register| machine.matching.contains(&register)),
        ),
        (
            "ek_expiry",
            policy.ek_expiry == Expiry::IgnoreWithClaim || !machine.certificate_expired,
        ),
        ("crl", policy.crl != CrlRule::Required || machine.crl),
        (
            "ek_certificate",
            policy.ek_certificate != EkCertificateRule::Required || machine.certificate,
        ),
        (
            "event_log",
            policy.event_log != EventLogRule::Required || machine.event_log,
        ),
        ("ima list", judged.is_none_or(|list| list.is_some())),
        ("ima files", unknown.is_none()),
        (
            "ima violations",
            judged.is_none() || policy.ima.rules.violations == Violations::Allow || !machine.violation,
        ),
        ("roots", roots),
        (
            "report_freshness",
            policy.azure.report_freshness == ReportFreshness::Boot || machine.fresh_report,
        ),
    ]
}

fn tpm_policies() -> impl Strategy<Value = AppraisalPolicy> {
    use RequiredRoots::{Any, Listed, Tee, Tpm, TpmAndTee};
    let modes = (
        select(&[ImaMode::Off, ImaMode::ByReference, ImaMode::Required][..]),
        select(&[Any, Listed, Tpm, Tee, TpmAndTee][..]),
    );
    (vec(few(REGISTERS), 2), few(PATHS), modes, any::<[bool; 6]>()).prop_map(|(banks, paths, (mode, required), f)| {
        let banks = [HashAlg::Sha256, HashAlg::Sha384].into_iter().zip(banks);
        let mut policy = default_settings().appraisal;
        policy.required_registers = PcrSelection::new(banks.filter(|(_, registers)| !registers.is_empty())).unwrap();
        policy.ek_expiry = if f[0] { Expiry::Deny } else { Expiry::IgnoreWithClaim };
        policy.crl = if f[1] { CrlRule::Required } else { CrlRule::WhenPresent };
        policy.ek_certificate = match f[2] {
            true => EkCertificateRule::Required,
            false => EkCertificateRule::WhenPresent,
        };
        policy.event_log = if f[3] {
            EventLogRule::Required
        } else {
            EventLogRule::RegistersSuffice
        };
        policy.azure.report_freshness = if f[4] {
            ReportFreshness::Session
        } else {
            ReportFreshness::Boot
        };
        policy.roots.required = required;
        let rules = ImaRules {
            exclude: paths.iter().map(|path| PathRule::parse(path).unwrap()).collect(),
            violations: if f[5] { Violations::Refuse } else { Violations::Allow },
            signed_by: Vec::new(),
        };
        policy.ima = ImaPolicy {
            mode,
            rules: std::sync::Arc::new(rules),
        };
        policy
    })
}

fn tpm_said() -> impl Strategy<Value = RegionSettings> {
    use file::{CrlRule, EkCertificateName, EkExpiryName, EventLogName};
    use file::{ImaMode, ImaViolations, ReportFreshnessName, RequiredRoots};
    let registers = proptest::collection::btree_map(
        select(&["sha256", "sha384", "sha512", "sha1"][..]).prop_map(str::to_owned),
        few(&[0u8, 4, 7, 10, 11, 23]),
        0..3,
    );
    let tpm = (
        registers,
        of(select(&[EkExpiryName::Deny, EkExpiryName::IgnoreWithClaim][..])),
        of(select(&[EventLogName::Required, EventLogName::RegistersSuffice][..])),
        of(select(&[CrlRule::Required, CrlRule::WhenPresent][..])),
        of(select(
            &[EkCertificateName::Required, EkCertificateName::WhenPresent][..],
        )),
    );
    let ima = (
        of(select(&[ImaMode::Off, ImaMode::ByReference, ImaMode::Required][..])),
        of(words(PATHS)),
        of(select(&[ImaViolations::Refuse, ImaViolations::Allow][..])),
    );
    let roots = &[
        RequiredRoots::Any,
        RequiredRoots::Listed,
        RequiredRoots::Tpm,
        RequiredRoots::Tee,
        RequiredRoots::TpmAndTee,
    ][..];
    let fresh = of(select(&[ReportFreshnessName::Session, ReportFreshnessName::Boot][..]));
    (tpm, ima, of(select(roots)), fresh).prop_map(|(tpm, ima, required, report_freshness)| RegionSettings {
        tpm: RegionTpm {
            required_registers: tpm.0,
            ek_expiry: tpm.1,
            event_log: tpm.2,
            crl: tpm.3,
            ek_certificate: tpm.4,
        },
        ima: RegionIma {
            mode: ima.0,
            exclude: ima.1,
            violations: ima.2,
        },
        roots: RegionRoots { required },
        azure: super::settings::RegionAzure { report_freshness },
        ..RegionSettings::default()
    })
}

fn timers_said() -> impl Strategy<Value = RegionTimers> {
    let time = || {
        of(prop_oneof![
            1..200_000u64,
            Just(0),
            Just(u64::MAX),
            Just(30_000),
            Just(60_000)
        ])
    };
    (time(), time(), time(), time()).prop_map(|(interval, deadline, grace, life)| RegionTimers {
        attestation_interval_ms: interval,
        attestation_deadline_ms: deadline,
        attestation_grace_ms: grace,
        authorization_life_ms: life,
    })
}

const SCOPES: &[&str] = &["execute:a", "execute:b", "release:a", "administer:a"];

const ROLES: &[&str] = &["a", "b", "c"];

fn rules() -> impl Strategy<Value = ReachRule> {
    (select(&[Reach::Subject, Reach::Zone, Reach::Cluster][..]), some(ROLES)).prop_map(|(reach, roles)| ReachRule {
        reach,
        roles: roles.into_iter().map(Into::into).collect(),
    })
}

fn delegations() -> impl Strategy<Value = Delegation> {
    let software = select(&[SoftwareKeys::Refused, SoftwareKeys::ShortLived][..]);
    (0..9u8, 0..9u32, 0..9u64, any::<bool>(), 0..9u8, 0..9u64, software).prop_map(
        |(max_depth, max_children, workload_life_ms, offline, offline_depth, offline_life_ms, software_keys)| {
            Delegation {
                max_depth,
                max_children,
                workload_life_ms,
                offline,
                offline_depth,
                offline_life_ms,
                software_keys,
            }
        },
    )
}

fn delegation_said() -> impl Strategy<Value = RegionDelegation> {
    (delegations(), any::<[bool; 7]>()).prop_map(|(all, said)| {
        let [depth, children, life, offline, offline_depth, offline_life, software] = said;
        RegionDelegation {
            max_depth: depth.then_some(all.max_depth),
            max_children: children.then_some(all.max_children),
            workload_life_ms: life.then_some(all.workload_life_ms),
            offline: offline.then_some(all.offline),
            offline_depth: offline_depth.then_some(all.offline_depth),
            offline_life_ms: offline_life.then_some(all.offline_life_ms),
            software_keys: software.then_some(all.software_keys),
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn delegation_only_shrinks(whole in delegations(), said in delegation_said()) {
        let mut problems = Vec::new();
        let region = said.narrow(&whole, &mut Rules::new("f", &mut problems));
        prop_assert!(region.max_depth <= whole.max_depth);
        prop_assert!(region.max_children <= whole.max_children);
        prop_assert!(region.workload_life_ms <= whole.workload_life_ms);
        prop_assert!(!region.offline || whole.offline);
        prop_assert!(region.offline_depth <= whole.offline_depth);
        prop_assert!(region.offline_life_ms <= whole.offline_life_ms);
        for kind in [KeyKind::Tpm, KeyKind::Tee, KeyKind::Software] {
            prop_assert!(region.life_ms(kind) <= whole.life_ms(kind));
        }
        let wider = said.max_depth.is_some_and(|n| n > whole.max_depth)
            || said.offline.is_some_and(|offline| offline && !whole.offline);
        prop_assert!(!wider || !problems.is_empty(), "wider, and not refused");
    }

    /// Where nothing is refused a region's rule reaches at least as far as the whole's, for every role.
    #[test]
    fn a_regions_rule_reaches_as_far(whole in rules(), said in rules(), roles in few(ROLES)) {
        let of = |rule: &ReachRule| Containment { default: rule.clone(), zones: BTreeMap::new() };
        let roles: Vec<String> = roles.into_iter().map(Into::into).collect();
        if said.is_as_strict_as(&whole) {
            prop_assert!(of(&said).reach(None, &roles) >= of(&whole).reach(None, &roles));
        }
    }

    #[test]
    fn sev_snp_only_narrows(whole in snp_policies(), said in snp_said(), guests in vec(guests(), 8)) {
        let mut problems = Vec::new();
        let region = said.narrow(&whole, &mut Rules::new("f", &mut problems));
        for guest in &guests {
            only_narrows(snp_kept(&whole, guest), snp_kept(&region, guest))?;
        }
    }

    #[test]
    fn tdx_only_narrows(whole in tdx_policies(), said in tdx_said(), tds in vec(tds(), 8)) {
        let mut problems = Vec::new();
        let region = said.narrow(&whole, &mut Rules::new("f", &mut problems));
        for td in &tds {
            only_narrows(tdx_kept(&whole, td), tdx_kept(&region, td))?;
        }
    }

    #[test]
    fn gpus_only_narrow(whole in gpu_policies(), said in gpu_said(), devices in vec(devices(), 8)) {
        let mut problems = Vec::new();
        let region = said.narrow(&whole, &mut Rules::new("f", &mut problems));
        for device in &devices {
            only_narrows(gpu_kept(&whole, device), gpu_kept(&region, device))?;
        }
    }

    #[test]
    fn tpm_ima_roots_and_azure_only_narrow(
        whole in tpm_policies(), said in tpm_said(), machines in vec(machines(), 8)
    ) {
        let mut problems = Vec::new();
        let region = said.appraisal(&whole, &mut Rules::new("f", &mut problems));
        for machine in &machines {
            only_narrows(tpm_kept(&whole, machine), tpm_kept(&region, machine))?;
        }
        prop_assert_eq!(&region.session_key_registers, &whole.session_key_registers);
        prop_assert_eq!(&region.ima.rules.signed_by, &whole.ima.rules.signed_by);
    }

    #[test]
    fn timers_only_shorten(said in timers_said()) {
        let whole = Timers {
            attestation_grace_ms: 60_000,
            ..Timers::default()
        };
        let mut problems = Vec::new();
        let settings = RegionSettings { timers: said.clone(), ..RegionSettings::default() };
        let region = settings.timers(&whole, &mut Rules::new("f", &mut problems));
        prop_assert!(region.attestation_interval_ms <= whole.attestation_interval_ms);
        prop_assert!(region.attestation_deadline_ms <= whole.attestation_deadline_ms);
        prop_assert!(region.authorization_life_ms <= whole.authorization_life_ms);
        prop_assert!(region.attestation_grace_ms <= whole.attestation_grace_ms);
        let others = Timers {
            attestation_interval_ms: whole.attestation_interval_ms,
            attestation_deadline_ms: whole.attestation_deadline_ms,
            attestation_grace_ms: whole.attestation_grace_ms,
            authorization_life_ms: whole.authorization_life_ms,
            ..region.clone()
        };
        prop_assert_eq!(others, whole);
        prop_assert!(!problems.is_empty() || region.problems("f").is_empty());
        for (said, kept) in [
            (said.attestation_interval_ms, region.attestation_interval_ms),
            (said.attestation_deadline_ms, region.attestation_deadline_ms),
            (said.authorization_life_ms, region.authorization_life_ms),
            (said.attestation_grace_ms, region.attestation_grace_ms),
        ] {
            prop_assert!(!problems.is_empty() || said.is_none_or(|said| said == kept), "said, and without effect");
        }
    }

    #[test]
    fn scopes_are_some_of_the_wholes(whole in some(SCOPES), said in of(words(SCOPES))) {
        let whole: Vec<Scope> = whole.into_iter().filter_map(Scope::parse).collect();
        let mut problems = Vec::new();
        let settings = RegionSettings { grants: RegionGrants { scopes: said.clone() }, ..RegionSettings::default() };
        let region = settings.scopes(&whole, &mut Rules::new("f", &mut problems));
        prop_assert!(region.iter().all(|scope| whole.contains(scope)));
        if let Some(said) = said {
            prop_assert!(region.iter().all(|scope| said.contains(&scope.to_string())));
            let more = said.iter().any(|text| !whole.iter().any(|scope| scope.to_string() == *text));
            prop_assert_eq!(!problems.is_empty(), more || said.is_empty());
        }
    }
}

// What is wider is refused, with file, key and rule -------------------------------------------------------------------

fn problems_of(whole: &Settings, text: &str) -> Vec<Problem> {
    let mut problems = Vec::new();
    let file = "regions/eu/settings.toml";
    let said = super::settings::read(file, text.as_bytes(), &mut problems);
    let mut rules = Rules::new(file, &mut problems);
    said.timers(&whole.timers, &mut rules);
    said.appraisal(&whole.appraisal, &mut rules);
    said.containment(&whole.containment, &mut rules);
    said.delegation(&whole.delegation, &mut rules);
    said.scopes(&whole.scopes, &mut rules);
    said.selection(&mut rules);
    problems
}

/// A whole in which every key has a value that could be made wider.
fn whole() -> Settings {
    let mut settings = default_settings();
    let snp = &mut settings.appraisal.snp;
    snp.products = [Product::Milan].into();
    snp.floors = BTreeMap::from([(
        Product::Milan,
        Tcb {
            boot_loader: 4,
            snp: 24,
            ..Tcb::default()
        },
    )]);
    (snp.allow_smt, snp.require_ecc, snp.require_rapl_disabled) = (false, true, true);
    snp.require_ciphertext_hiding = true;
    settings.appraisal.tdx.min_tcb_evaluation_number = 17;
    let gpu = &mut settings.appraisal.gpu;
    (gpu.required, gpu.inventory_required) = (true, true);
    gpu.products = Some([chip("GH100")].into());
    gpu.min_driver = Version::driver("550.90");
    gpu.min_vbios = BTreeMap::from([(chip("GH100"), Version::vbios("96.00.9F").unwrap())]);
    settings.appraisal.crl = CrlRule::Required;
    settings.appraisal.ek_certificate = EkCertificateRule::Required;
    settings.appraisal.ima.mode = ImaMode::Required;
    settings.appraisal.roots.required = RequiredRoots::Tpm;
    let rule = |reach, roles: &[&str]| ReachRule {
        reach,
        roles: roles.iter().map(|role| (*role).to_owned()).collect(),
    };
    settings.containment = Containment {
        default: rule(Reach::Zone, &["gateway"]),
        zones: BTreeMap::from([("vault".to_owned(), rule(Reach::Cluster, &["a", "b"]))]),
    };
    settings.timers.attestation_grace_ms = 10_000;
    settings
}

#[test]
fn every_wider_value_is_refused_with_its_key() {
    for (key, text) in [
        (
            "timers.attestation_interval_ms",
            "[timers]\nattestation_interval_ms = 30001",
        ),
        (
            "timers.attestation_deadline_ms",
            "[timers]\nattestation_deadline_ms = 60001",
        ),
        (
            "timers.authorization_life_ms",
            "[timers]\nauthorization_life_ms = 120001",
        ),
        ("tpm.ek_expiry", "[tpm]\nek_expiry = \"ignore-with-claim\""),
        ("tpm.event_log", "[tpm]\nevent_log = \"registers-suffice\""),
        ("tpm.crl", "[tpm]\ncrl = \"when-present\""),
        ("tpm.ek_certificate", "[tpm]\nek_certificate = \"when-present\""),
        ("ima.mode", "[ima]\nmode = \"by-reference\""),
        ("ima.exclude", "[ima]\nexclude = [\"/usr/lib/**\"]"),
        ("ima.violations", "[ima]\nviolations = \"allow\""),
        ("roots.required", "[roots]\nrequired = \"any\""),
        ("roots.required", "[roots]\nrequired = \"tee\""),
        ("snp.alias_check", "[snp]\nalias_check = \"ignored\""),
        ("snp.max_vmpl", "[snp]\nmax_vmpl = 1"),
        ("snp.debug", "[snp]\ndebug = \"allow\""),
        ("snp.migration_agent", "[snp]\nmigration_agent = \"allow\""),
        ("snp.masked_chips", "[snp]\nmasked_chips = \"allow\""),
        ("snp.smt_off", "[snp]\nsmt_off = \"any\""),
        ("snp.ecc", "[snp]\necc = \"any\""),
        ("snp.rapl_off", "[snp]\nrapl_off = \"any\""),
        ("snp.ciphertext_hiding", "[snp]\nciphertext_hiding = \"any\""),
        ("snp.products", "[snp]\nproducts = [\"milan\", \"genoa\"]"),
        (
            "snp.floors.milan.snp",
            "[snp]\nfloors = { milan = { bl = 4, tee = 0, snp = 23, ucode = 0 } }",
        ),
        ("tdx.tcb_status", "[tdx]\ntcb_status = [\"UpToDate\", \"OutOfDate\"]"),
        ("tdx.min_tcb_evaluation_number", "[tdx]\nmin_tcb_evaluation_number = 16"),
        ("azure.report_freshness", "[azure]\nreport_freshness = \"boot\""),
        ("gpu.required", "[gpu]\nrequired = false"),
        ("gpu.locality", "[gpu]\nlocality = \"guest\""),
        ("gpu.products", "[gpu]\nproducts = [\"GH100\", \"LS_10\"]"),
        ("gpu.min_driver", "[gpu]\nmin_driver = \"550.9\""),
        ("gpu.min_vbios.gh100", "[gpu]\nmin_vbios = { GH100 = \"96.00.0F\" }"),
        ("grants.scopes", "[grants]\nscopes = [\"administer:everything\"]"),
        ("timers.attestation_grace_ms", "[timers]\nattestation_grace_ms = 10001"),
        ("containment.default", "[containment]\ndefault = \"subject\""),
        (
            "containment.default",
            "[containment]\ndefault = \"cluster\"\nroles = [\"other\"]",
        ),
        (
            "containment.zones.vault",
            "[containment]\nzones.vault = { reach = \"zone\", roles = [\"a\", \"b\"] }",
        ),
        (
            "containment.zones.vault",
            "[containment]\nzones.vault = { reach = \"cluster\", roles = [\"a\"] }",
        ),
        // A zone that the whole does not name has the whole's default.
        (
            "containment.zones.office",
            "[containment]\nzones.office = { reach = \"subject\" }",
        ),
        ("delegation.max_depth", "[delegation]\nmax_depth = 5"),
        ("delegation.max_children", "[delegation]\nmax_children = 65"),
        ("delegation.workload_life_ms", "[delegation]\nworkload_life_ms = 60001"),
        ("delegation.offline", "[delegation]\noffline = true"),
        ("delegation.offline_depth", "[delegation]\noffline_depth = 3"),
        ("delegation.offline_life_ms", "[delegation]\noffline_life_ms = 60001"),
        (
            "delegation.software_keys",
            "[delegation]\nsoftware_keys = \"short-lived\"",
        ),
    ] {
        let problems = problems_of(&whole(), text);
        let [problem] = problems.as_slice() else {
            panic!("{key}: {problems:?}");
        };
        assert_eq!(problem.code, PolicyCode::RegionWidens, "{key}");
        assert_eq!(problem.claim.to_lowercase(), format!("regions/eu/settings.toml: {key}"));
        assert!(
            problem.expected.starts_with("nothing that the whole does not accept: "),
            "{key}"
        );
    }
}

#[test]
fn what_a_region_has_no_say_in_is_refused() {
    for text in [
        "[status_list]\nuri = \"https://a/b\"",
        "[delegation]\noperators = 1",
        "[containment]\nreach = \"zone\"",
        "domain = \"other\"",
        "generation = 2",
        "[timers]\nfreshness_window_ms = 1",
        "[timers]\nheartbeat_ms = 1",
        "[tpm]\nsession_key_registers = { sha256 = [0] }",
        "[residency]\nproviders = [\"cloud=eu\"]",
        "[enrolment]\n",
        "[snp]\nanchors = [\"x\"]",
        "[select]\nchips = [\"x\"]",
        "[trust]\n",
        "not toml",
    ] {
        let problems = problems_of(&whole(), text);
        assert_eq!(problems.len(), 1, "{text}: {problems:?}");
        assert_eq!(problems[0].code, PolicyCode::RegionSettingsUnreadable, "{text}");
        assert_eq!(problems[0].claim, "regions/eu/settings.toml", "{text}");
    }
}

#[test]
fn an_empty_list_never_means_any() {
    for text in [
        "[grants]\nscopes = []",
        "[select]\nreferences = []",
        "[select]\nanchors = []",
        "[select]\nsigners = []",
        "[snp]\nproducts = []",
        "[snp]\nallowed_chips = []",
        "[snp]\nid_keys = []",
        "[tdx]\ntcb_status = []",
        "[gpu]\nproducts = []",
    ] {
        let codes: Vec<PolicyCode> = problems_of(&whole(), text).iter().map(|p| p.code).collect();
        assert_eq!(codes, [PolicyCode::SettingsEmptyList], "{text}");
    }
}

#[test]
fn what_is_stricter_is_taken() {
    let whole = whole();
    let text = "[timers]\nauthorization_life_ms = 90000\nattestation_deadline_ms = 45000\n\
                [tpm]\nrequired_registers = { sha256 = [5], sha384 = [7] }\n\
                [snp]\nfloors = { milan = { bl = 4, tee = 0, snp = 25, ucode = 0 } }\ndenied_chips = [\"CHIP\"]\n\
                [gpu]\nmin_driver = \"550.100\"\n[roots]\nrequired = \"tpm+tee\"\n";
    let text = text.replace("CHIP", &"ab".repeat(64));
    assert_eq!(problems_of(&whole, &text), []);
    let mut problems = Vec::new();
    let said = super::settings::read("f", text.as_bytes(), &mut problems);
    let mut rules = Rules::new("f", &mut problems);
    let region = said.appraisal(&whole.appraisal, &mut rules);
    assert!(region.required_registers.covers(&whole.appraisal.required_registers));
    assert!(region.required_registers.contains(HashAlg::Sha256, 5));
    assert!(region.required_registers.contains(HashAlg::Sha384, 7));
    assert_eq!(region.snp.floors[&Product::Milan].snp, 25);
    assert!(region.snp.denied_chips.contains(&vec![0xab; 64]));
    assert_eq!(region.gpu.min_driver, Version::driver("550.100"));
    assert_eq!(region.roots.required, RequiredRoots::TpmAndTee);
    assert_eq!(said.timers(&whole.timers, &mut rules).authorization_life_ms, 90_000);
}
