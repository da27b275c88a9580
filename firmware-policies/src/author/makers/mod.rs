//! Chip makers' roots, as a new repository lists them. Nothing trusts them but a published policy.

pub(crate) mod amd;
pub(crate) mod intel;
pub(crate) mod nvidia;
