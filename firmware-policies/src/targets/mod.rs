//! What the targets of a repository say: one module a file, from bytes to checked values. Settings and Cedar policies are
//! larger and have folders of their own ([`settings`](crate::settings), [`cedar`](crate::cedar)).

pub mod deny_file;
pub mod detectors_file;
pub mod enforcers_file;
pub mod federation_file;
pub(crate) mod ima_keys;
pub mod inventory_file;
pub mod keyset_file;
pub mod network_file;
pub mod node_name;
pub mod operators_file;
pub(crate) mod public_key;
pub(crate) mod scope;
pub mod signers_file;
pub mod tenants_file;
