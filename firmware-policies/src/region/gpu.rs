//! `[gpu]` of a region.

use std::collections::BTreeMap;

use serde::Deserialize;
use touchstone_verifier::gpu::{GpuPolicy, Version};

use super::rules::{Rules, either};
use crate::settings::{GpuSettings, Locality};

/// `[gpu]`, each key with the meaning that it has for the whole.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RegionGpu {
    pub required: Option<bool>,
    pub locality: Option<Locality>,
    pub products: Option<Vec<String>>,
    pub min_driver: Option<String>,
    pub min_vbios: BTreeMap<String, String>,
    /// Beside the whole's.
    pub denied: Vec<String>,
}

impl RegionGpu {
    /// The whole's demands with this region's beside them.
    pub fn narrow(&self, whole: &GpuPolicy, rules: &mut Rules<'_>) -> GpuPolicy {
        let mut wrong = Vec::new();
        let said = GpuSettings {
            required: self.required.unwrap_or_default(),
            locality: self.locality.unwrap_or_default(),
            products: self.products.clone(),
            min_driver: self.min_driver.clone(),
            min_vbios: self.min_vbios.clone(),
            denied: self.denied.clone(),
        }
        .policy(&mut wrong);
        rules.take(wrong);
        let mut min_vbios = whole.min_vbios.clone();
        for (product, version) in said.min_vbios {
            let least = match whole.min_vbios.get(&product) {
                Some(before) => no_older(&format!("gpu.min_vbios.{product}"), before, version, rules),
                None => version,
            };
            min_vbios.insert(product, least);
        }
        GpuPolicy {
            required: rules.demand("gpu.required", whole.required, self.required),
            inventory_required: rules.demand(
                "gpu.locality",
                whole.inventory_required,
                self.locality.map(|_| said.inventory_required),
            ),
            products: match (&whole.products, said.products) {
                (Some(whole), said) => Some(rules.some_of("gpu.products", whole, said)),
                (None, said) => said,
            },
            min_driver: match (&whole.min_driver, said.min_driver) {
                (Some(whole), Some(said)) => Some(no_older("gpu.min_driver", whole, said, rules)),
                (whole, said) => said.or_else(|| whole.clone()),
            },
            min_vbios,
            denied: either(&whole.denied, &said.denied),
        }
    }
}

/// The later of two versions. Their parts decide: `550.90` is later than `550.9`, and not by its letters.
fn no_older(key: &str, whole: &Version, said: Version, rules: &mut Rules<'_>) -> Version {
    if !said.is_below(whole) {
        return said;
    }
    rules.widens(key, whole, said.as_str());
    whole.clone()
}
