//! Reference values of a device, and what differs from them.

use std::collections::{BTreeMap, BTreeSet};

use super::opaque::Mode;
use super::product::{Kind, NVDEC0_BLOCK, Product};
use super::report::DIGEST_LEN;
use super::verified::SignedGpu;
use super::version::Version;

/// Digest of a measurement: SHA-384.
pub type Digest = [u8; DIGEST_LEN];

/// One state of one kind of device: which firmware and driver, in which mode, with which measurements.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct GpuReference {
    /// The chip.
    pub product: Product,
    /// The driver's version; none for a switch.
    pub driver: Option<Version>,
    /// The firmware's version.
    pub vbios: Version,
    /// The mode.
    pub mode: Mode,
    /// By number of the measurement block, the digests it may have.
    pub measurements: BTreeMap<u8, BTreeSet<Digest>>,
    /// Blocks about which nothing is stated, because the maker says that they vary. A block that is neither here nor
    /// above is refused.
    pub unstated: BTreeSet<u8>,
}

/// What a device has that its reference does not say.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Difference {
    /// The driver's version.
    Driver,
    /// The firmware's version.
    Vbios,
    /// The mode.
    Mode,
    /// A measurement: the digests it may have (none where the reference does not know the block), and the one it has
    /// (none where the block is missing).
    Measurement {
        /// Number of the block.
        index: u8,
        /// What it may have.
        expected: BTreeSet<Digest>,
        /// What it has.
        found: Option<Digest>,
    },
}

impl GpuReference {
    /// The state of a golden device. What the maker says to vary between devices or boots is left unstated.
    pub fn of_golden(gpu: &SignedGpu<'_>) -> Self {
        let blocks = gpu.report().measurements();
        let stated = gpu.product().stated(blocks.iter().map(|block| block.index));
        let (mut measurements, mut unstated) = (BTreeMap::new(), BTreeSet::new());
        for block in blocks {
            if stated.contains(&block.index) {
                measurements.insert(block.index, BTreeSet::from([*block.digest]));
            } else {
                unstated.insert(block.index);
            }
        }
        Self {
            product: gpu.product().clone(),
            driver: gpu.details().driver.clone(),
            vbios: gpu.details().vbios.clone(),
            mode: gpu.details().mode,
            measurements,
            unstated,
        }
    }

    /// Whether this reference is about devices of the same chip.
    pub fn is_about(&self, gpu: &SignedGpu<'_>) -> bool {
        self.product == *gpu.product()
    }

    /// What differs; empty for a device in exactly this state. The chip must be the same ([`Self::is_about`]): one of
    /// another chip has every difference.
    pub fn differences(&self, gpu: &SignedGpu<'_>) -> Vec<Difference> {
        let details = gpu.details();
        let mut differences = Vec::new();
        let same = self.is_about(gpu);
        for (equal, difference) in [
            (self.driver == details.driver, Difference::Driver),
            (self.vbios == details.vbios, Difference::Vbios),
            (self.mode == details.mode, Difference::Mode),
        ] {
            if !(same && equal) {
                differences.push(difference);
            }
        }
        // Without the first video decoder its block says nothing, and the device signs that it is off.
        let skip_nvdec0 = self.product.kind() == Kind::Gpu && details.nvdec0 == Some(false);
        let found: BTreeMap<u8, &Digest> = gpu
            .report()
            .measurements()
            .iter()
            .map(|block| (block.index, block.digest))
            .collect();
        for (index, digest) in &found {
            let expected = self.measurements.get(index);
            let right = expected.is_some_and(|expected| expected.contains(*digest))
                || (expected.is_none() && self.unstated.contains(index))
                || (skip_nvdec0 && *index == NVDEC0_BLOCK);
            if !right {
                differences.push(Difference::Measurement {
                    index: *index,
                    expected: expected.cloned().unwrap_or_default(),
                    found: Some(**digest),
                });
            }
        }
        for (index, expected) in &self.measurements {
            if !found.contains_key(index) {
                differences.push(Difference::Measurement {
                    index: *index,
                    expected: expected.clone(),
                    found: None,
                });
            }
        }
        differences
    }

    /// In a few words: chip, versions and mode.
    pub fn describe(&self) -> String {
        words(&self.product, self.driver.as_ref(), &self.vbios, self.mode)
    }
}

/// A device in a few words: chip, versions and mode.
pub fn describe(gpu: &SignedGpu<'_>) -> String {
    let details = gpu.details();
    words(gpu.product(), details.driver.as_ref(), &details.vbios, details.mode)
}

fn words(product: &Product, driver: Option<&Version>, vbios: &Version, mode: Mode) -> String {
    let driver = driver.map_or(String::new(), |driver| format!(", driver {driver}"));
    let mode = match mode {
        Mode::Unstated => String::new(),
        stated => format!(", {}", stated.as_str()),
    };
    format!("{product}{driver}, VBIOS {vbios}{mode}")
}
