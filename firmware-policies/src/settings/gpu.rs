//! `[gpu]`: what is demanded of GPUs and NVSwitches.
//!
//! A file without the section demands none to be there; one that is there must be genuine and in a state of a signed
//! reference in any case.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use touchstone_verifier::gpu::{GpuPolicy, Product, Version};

use super::MAX_LISTED;
use crate::error::{PolicyCode, Problem};

/// Longest serial number of a device's certificate, in bytes (RFC 5280 4.1.2.2).
const MAX_SERIAL: usize = 20;
/// What names a chip.
const CHIP: &str = "a chip as NVIDIA names it (GH100, LS_10)";

/// How it is known that a GPU sits in the machine that reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Locality {
    /// The affirmed machine says so; the result names it (`gpu_locality`).
    #[default]
    Guest,
    /// The node's inventory entry lists the device.
    Inventory,
}

/// `[gpu]`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GpuSettings {
    /// Whether a machine without GPU evidence is refused, and one whose entry lists a device that does not report.
    pub required: bool,
    /// How it is known where a device sits.
    pub locality: Locality,
    /// Chips that are accepted; left out, all that are known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub products: Option<Vec<String>>,
    /// Least version of the driver.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_driver: Option<String>,
    /// Least version of the VBIOS, by chip.
    pub min_vbios: BTreeMap<String, String>,
    /// Devices that are refused, by the serial number of their device identity certificate.
    pub denied: Vec<String>,
}

impl GpuSettings {
    /// What an appraisal is told. Adds everything that is wrong to `problems`.
    pub(crate) fn policy(&self, problems: &mut Vec<Problem>) -> GpuPolicy {
        let mut wrong = |key: &str, code: PolicyCode, expected: &str, found: &str| {
            problems.push(Problem::new(code, format!("settings.toml: gpu.{key}"), expected, found));
        };
        let mut products = BTreeSet::new();
        for name in self.products.iter().flatten() {
            match Product::parse(name) {
                Some(product) => {
                    products.insert(product);
                }
                None => wrong("products", PolicyCode::SettingValue, CHIP, name),
            }
        }
        let mut min_vbios = BTreeMap::new();
        for (name, text) in &self.min_vbios {
            let Some(product) = Product::parse(name) else {
                wrong("min_vbios", PolicyCode::SettingValue, CHIP, name);
                continue;
            };
            match Version::vbios(text) {
                Some(version) => drop(min_vbios.insert(product, version)),
                None => {
                    let expected = "hexadecimal numbers with dots (96.00.9F.00.01)";
                    wrong("min_vbios", PolicyCode::SettingValue, expected, text);
                }
            }
        }
        if self.products.as_ref().is_some_and(Vec::is_empty) {
            wrong("products", PolicyCode::SettingsEmptyList, "at least one", "none");
        }
        let min_driver = self.min_driver.as_deref().map(|text| (text, Version::driver(text)));
        if let Some((text, None)) = &min_driver {
            let expected = "decimal numbers with dots (550.90.07)";
            wrong("min_driver", PolicyCode::SettingValue, expected, text);
        }
        let mut denied = BTreeSet::new();
        for text in self.denied.iter().take(MAX_LISTED) {
            let serial = hex::decode(text)
                .ok()
                .filter(|serial| (1..=MAX_SERIAL).contains(&serial.len()));
            // Also where one is listed twice: then the author meant another.
            if !serial.is_some_and(|serial| denied.insert(hex::encode(serial))) {
                let expected = "serial numbers in hexadecimal, each once";
                wrong("denied", PolicyCode::SettingValue, expected, text);
            }
        }
        if self.denied.len() > MAX_LISTED {
            let found = self.denied.len().to_string();
            wrong(
                "denied",
                PolicyCode::SettingValue,
                &format!("at most {MAX_LISTED}"),
                &found,
            );
        }
        GpuPolicy {
            required: self.required,
            inventory_required: self.locality == Locality::Inventory,
            products: self.products.is_some().then_some(products),
            min_driver: min_driver.and_then(|(_, version)| version),
            min_vbios,
            denied,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (GpuPolicy, Vec<Problem>) {
        let mut problems = Vec::new();
        let settings: GpuSettings = toml::from_str(text).unwrap();
        (settings.policy(&mut problems), problems)
    }

    #[test]
    fn nothing_said_is_the_default() {
        let (policy, problems) = read("");
        assert!(problems.is_empty());
        assert_eq!(policy, GpuPolicy::default());
    }

    #[test]
    fn every_key_has_its_effect() {
        let (policy, problems) = read(
            "required = true\nlocality = \"inventory\"\nproducts = [\"GH100\", \"LS_10\"]\nmin_driver = \"550.90.07\"\n\
             min_vbios = { GH100 = \"96.00.9f.00.01\" }\ndenied = [\"416A5FAFCBD9FA5CA3\"]\n",
        );
        assert!(problems.is_empty(), "{problems:?}");
        let chip = |name| Product::parse(name).unwrap();
        let expected = GpuPolicy {
            required: true,
            inventory_required: true,
            products: Some([chip("GH100"), chip("LS_10")].into()),
            min_driver: Version::driver("550.90.07"),
            min_vbios: [(chip("GH100"), Version::vbios("96.00.9F.00.01").unwrap())].into(),
            denied: ["416a5fafcbd9fa5ca3".to_owned()].into(),
        };
        assert_eq!(policy, expected);
    }

    #[test]
    fn what_is_wrong_is_refused() {
        for text in [
            "products = []",
            "products = [\"H100\"]",
            "min_driver = \"new\"",
            "min_vbios = { GH100 = \"9G\" }",
            "min_vbios = { H100 = \"96\" }",
            "denied = [\"zz\"]",
            "denied = [\"\"]",
            "denied = [\"41\", \"41\"]",
        ] {
            assert!(!read(text).1.is_empty(), "{text}");
        }
        for text in ["locality = \"anywhere\"", "require = true", "required = \"yes\""] {
            assert!(toml::from_str::<GpuSettings>(text).is_err(), "{text}");
        }
    }
}
