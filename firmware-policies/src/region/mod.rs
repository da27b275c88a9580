//! What a sovereign region may say: it narrows what the whole allows, and adds only what the whole delegates to it by name.
//!
//! Everything that the nodes of a region are judged by is its [`View`]: by construction the whole's, put together value by
//! value with what the region says (`rules`), so that nothing is accepted in the region that the whole does not accept.
//! What a region adds (nodes, roles, owners, reference values) counts for the nodes of that region only, in the classes
//! that [`additions`] names. A region without settings, deny list and references of its own is judged by the whole's view
//! itself: nothing is copied. Source: `docs/protocol.md`, section 8.

pub mod additions;
mod authority;
mod gpu;
mod judge;
mod nodes;
mod rules;
mod settings;
mod snp;
mod tdx;
mod view;

pub use additions::Additions;
pub use judge::appraise_in_region;
pub use nodes::seen_by_whole;
pub use settings::MAX_SELECTED;
pub use view::{Demands, View};

pub(crate) use nodes::check as check_node;
pub(crate) use view::{Whole, views};

/// Whether these bytes are a file that says what a region demands, or what regions may add.
pub(crate) fn reads(file: &str, bytes: &[u8]) -> bool {
    let demands = settings::RegionSettings::parse(file, bytes).is_ok();
    additions::parse(bytes).is_ok() || demands
}

#[cfg(test)]
mod tests;
