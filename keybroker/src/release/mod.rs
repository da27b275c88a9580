//! Key release: secrets kept for attested nodes, and given to nobody else.
//!
//! What is kept: [`key`] (a key's settings and its versions), [`source`] (where the secrets themselves lie: sealed in the
//! store, or in a PKCS#11 token), [`kek`] (the key that wraps the data key of each sealed secret, and where it comes
//! from). The operator's commands are in [`keeper`]. What is asked for over the network is decided in [`decide`], on what the node
//! last showed ([`shown`]), recorded with everything it rests on ([`inputs`]), and answered in [`serve`]. Source of the rules: `docs/protocol.md`, section 11.
//!
//! A secret is in memory only while it is sealed, opened or encrypted to its receiver, is wiped afterwards, and is in no
//! log, error, statement or debug output.

pub mod admin;
pub mod config;
pub mod decide;
pub mod inputs;
pub mod keeper;
pub mod kek;
pub mod key;
pub mod passphrase;
pub mod serve;
pub mod shown;
pub mod source;
pub mod token;
pub mod turns;

use zeroize::Zeroizing;

/// Largest secret, in bytes: keys and small bundles of them.
pub const MAX_SECRET_BYTES: usize = 8 * 1024;

/// Most versions of one key that are kept. A rotation beyond drops the oldest.
pub const MAX_VERSIONS: usize = 16;

/// Most regions a key may be marked for.
pub const MAX_KEY_REGIONS: usize = 32;

/// Longest `life` of a key, in seconds: ten years.
pub const MAX_LIFE_SECONDS: u64 = 10 * 366 * 24 * 3600;

/// A secret in memory, wiped when dropped.
pub type Secret = Zeroizing<Vec<u8>>;
