//! References of GPUs: looked up by chip and firmware version, then compared whole.

use std::collections::HashMap;

use super::{NEAREST_HOLDERS, Positions, Reference, ReferenceSet, rank};
use crate::gpu::{Difference, GpuReference, Product, SignedGpu, Version};

/// Most references of one chip and firmware that are looked at.
pub const GPU_HOLDERS: usize = 1024;

/// Answer of [`ReferenceSet::find_gpu`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FoundGpu<'a> {
    /// The device is in a state of this reference, which is in force.
    Match(&'a Reference),
    /// The device is in a state of this reference, but none of those that list it is in force.
    OutOfForce(&'a Reference),
    /// The best that lists its state is one that this part of the domain does not select: no other stands in its place.
    Deselected(&'a Reference),
    /// It is in no state that is listed. This state of this reference is nearest, with every difference from it.
    Nearest(&'a Reference, &'a GpuReference, Vec<Difference>),
    /// There is no reference of this chip.
    Nothing,
}

/// The references with states of GPUs, by what they state.
#[derive(Debug, Clone, Default)]
pub(super) struct GpuIndex {
    by_firmware: HashMap<(Product, Version), Positions>,
    /// The first of each chip: what is nearest where nothing else is.
    first: HashMap<Product, Positions>,
}

impl GpuIndex {
    pub(super) fn add(&mut self, position: u32, states: &[GpuReference]) {
        for state in states {
            let key = (state.product.clone(), state.vbios.clone());
            let holders = self.by_firmware.entry(key).or_default();
            if holders.last() != Some(&position) {
                holders.push(position);
            }
            let first = self.first.entry(state.product.clone()).or_default();
            if first.len() < NEAREST_HOLDERS && first.last() != Some(&position) {
                first.push(position);
            }
        }
    }
}

impl ReferenceSet {
    /// The reference that lists the device's state, at the time `now` (Unix seconds). A state is compared whole; states of
    /// several references are never mixed.
    pub fn find_gpu(&self, device: &SignedGpu<'_>, now: i64) -> FoundGpu<'_> {
        let key = (device.product().clone(), device.details().vbios.clone());
        let holders = self.gpus.by_firmware.get(&key);
        let holders = holders.or_else(|| self.gpus.first.get(device.product()));
        let (mut best, mut out_of_force): (Option<(u32, &Reference)>, _) = (None, None);
        let mut nearest: Option<(&Reference, &GpuReference, Vec<Difference>)> = None;
        let positions = holders.map(Vec::as_slice).unwrap_or_default();
        for (position, reference) in self.at(positions).take(GPU_HOLDERS) {
            for state in reference.values.gpus.iter().filter(|state| state.is_about(device)) {
                let differences = state.differences(device);
                if !differences.is_empty() {
                    let nearer = |(_, _, before): &(_, _, Vec<Difference>)| differences.len() < before.len();
                    if nearest.as_ref().is_none_or(nearer) {
                        nearest = Some((reference, state, differences));
                    }
                } else if !reference.in_force(now) {
                    out_of_force.get_or_insert(reference);
                } else if best.is_none_or(|(_, best)| rank(reference) > rank(best)) {
                    best = Some((position, reference));
                }
            }
        }
        match (best, out_of_force, nearest) {
            (Some((position, reference)), ..) if self.is_selected(position) => FoundGpu::Match(reference),
            (Some((_, reference)), ..) => FoundGpu::Deselected(reference),
            (None, Some(reference), _) => FoundGpu::OutOfForce(reference),
            (None, None, Some((reference, state, differences))) => FoundGpu::Nearest(reference, state, differences),
            (None, None, None) => FoundGpu::Nothing,
        }
    }
}
