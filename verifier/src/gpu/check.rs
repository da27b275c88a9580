//! What a domain demands of a device whose report is genuine.

use std::collections::{BTreeMap, BTreeSet};

use super::code::GpuCode;
use super::product::{Kind, Product};
use super::report::NONCE_LEN;
use super::verified::SignedGpu;
use super::version::Version;
use crate::appraisal::{ClaimValue, Claims};
use crate::reason::Reason;

/// What a domain demands of GPUs and NVSwitches. The default demands none to be there, and of those that are there no
/// least version: what they run must be that of a signed reference in any case.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GpuPolicy {
    /// Whether a machine without GPU evidence is refused, and one whose inventory entry lists a device that does not
    /// report.
    pub required: bool,
    /// Whether each device must be listed with its machine in the inventory. Elsewhere it is enough that an affirmed
    /// machine says that the device is its own.
    pub inventory_required: bool,
    /// Where there is a list, only these chips are accepted.
    pub products: Option<BTreeSet<Product>>,
    /// Least version of the driver that set a GPU up.
    pub min_driver: Option<Version>,
    /// Least version of the firmware, by chip.
    pub min_vbios: BTreeMap<Product, Version>,
    /// Devices that are not trusted, by the serial number of their device identity certificate, hexadecimal.
    pub denied: BTreeSet<String>,
}

/// Judges a genuine report, before its measurements are compared: it must answer `nonce`, and be what `policy` demands.
/// Every reason against it.
pub fn check(gpu: &SignedGpu<'_>, nonce: &[u8; NONCE_LEN], policy: &GpuPolicy) -> Vec<Reason> {
    let mut reasons = Vec::new();
    let mut refuse = |code: GpuCode, what: &str, expected: String, found: String| {
        let claim = format!("{} {}: {what}", gpu.product(), gpu.serial());
        reasons.push(Reason::new(code, claim, expected, found));
    };
    let details = gpu.details();
    if gpu.report().nonce() != nonce {
        let (expected, found) = (hex::encode(nonce), hex::encode(gpu.report().nonce()));
        refuse(GpuCode::NonceMismatch, "nonce", expected, found);
    }
    if let Some(products) = &policy.products
        && !products.contains(gpu.product())
    {
        let expected: Vec<&str> = products.iter().map(Product::as_str).collect();
        let found = gpu.product().to_string();
        refuse(GpuCode::ProductRefused, "chip", expected.join(", "), found);
    }
    if policy.denied.contains(gpu.serial()) {
        let expected = "a device that is not denied".into();
        refuse(GpuCode::DeviceDenied, "device", expected, gpu.serial().into());
    }
    let too_old = |version: Option<&Version>, floor: &Version| version.is_none_or(|version| version.is_below(floor));
    let words = |version: Option<&Version>| version.map_or("none".to_owned(), Version::to_string);
    if let Some(floor) = &policy.min_driver
        && gpu.product().kind() == Kind::Gpu
        && too_old(details.driver.as_ref(), floor)
    {
        let found = words(details.driver.as_ref());
        refuse(GpuCode::DriverTooOld, "driver", format!("at least {floor}"), found);
    }
    if let Some(floor) = policy.min_vbios.get(gpu.product())
        && too_old(Some(&details.vbios), floor)
    {
        let found = details.vbios.to_string();
        refuse(GpuCode::VbiosTooOld, "VBIOS", format!("at least {floor}"), found);
    }
    if gpu.product().kind() == Kind::Switch && details.locked != Some(true) {
        let found = details.locked.map_or("not said", |_| "not locked");
        refuse(GpuCode::InsecureMode, "lock", "a locked switch".into(), found.into());
    }
    reasons
}

/// Names of the claims that are sets. One about which no device says anything is absent.
pub const SETS: [&str; 8] = [
    "gpu_products",
    "gpu_serials",
    "gpu_attestation_keys",
    "gpu_fwids",
    "gpu_driver_versions",
    "gpu_vbios_versions",
    "gpu_modes",
    "gpu_boards",
];
/// Names of the claims that are numbers.
pub const NUMBERS: [&str; 2] = ["gpu_count", "gpu_switch_count"];

/// What genuine reports say, under names that policies can ask for: sets over all devices, so that the names are the same
/// for one device and for many.
pub fn claims<'g, 'a: 'g>(devices: impl IntoIterator<Item = &'g SignedGpu<'a>>) -> Claims {
    let mut sets: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    let (mut gpus, mut switches) = (0i64, 0i64);
    for device in devices {
        match device.product().kind() {
            Kind::Gpu => gpus += 1,
            Kind::Switch => switches += 1,
        }
        let details = device.details();
        let mut add = |name, value: String| {
            sets.entry(name).or_default().insert(value);
        };
        add("gpu_products", device.product().to_string());
        add("gpu_serials", device.serial().to_owned());
        add("gpu_attestation_keys", device.attestation_key().to_owned());
        add("gpu_fwids", hex::encode(device.fwid()));
        add("gpu_vbios_versions", details.vbios.to_string());
        if let Some(driver) = &details.driver {
            add("gpu_driver_versions", driver.to_string());
        }
        if device.product().kind() == Kind::Gpu {
            add("gpu_modes", details.mode.as_str().to_owned());
        }
        if let [Some(project), Some(sku), Some(chip)] = &details.board {
            add("gpu_boards", format!("{project}-{sku}-{chip}"));
        }
    }
    let mut claims: Claims = sets
        .into_iter()
        .map(|(name, set)| (name.to_owned(), ClaimValue::Set(set)))
        .collect();
    claims.insert("gpu_count".into(), ClaimValue::Int(gpus));
    claims.insert("gpu_switch_count".into(), ClaimValue::Int(switches));
    claims
}
