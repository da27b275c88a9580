//! COSE receipts (RFC 9942) for the RFC 9162 SHA-256 tree: framing and signature. The Merkle arithmetic is the
//! ledger's, and comes in as a function.
//!
//! A receipt is a COSE_Sign1 over a root that does not travel with it: whoever verifies recomputes the root from the
//! leaf and the proof, and only then does the signature fit. Header and signature depend on the root alone, so all
//! receipts of one batch share them and differ in the proof only. Beyond the RFC our profile demands, protected, a key
//! id, the log's origin, the time, and the tree size (`protocol.md` 10).

use crate::cbor::{self, CborError, Limits, MapReader, ShapeError, Value};
use crate::code::Code;
use crate::cwt::claim;
use crate::key::{KID_LEN, SignError, Signer, VerifyingKey};
use crate::sign1::{self, CoseError, Protected, Unverified, label};

/// RFC 9942 section 4.2: the verifiable data structure RFC9162_SHA256.
pub const VDS_RFC9162_SHA256: i64 = 1;
/// Our private header label for the tree size (private use: below -65536).
pub const TREE_SIZE: i64 = -65537;
/// RFC 9942 section 4.3: inclusion proofs within header 396.
const INCLUSION: i64 = -1;
/// Longest path: a tree of 2^63 leaves.
pub const MAX_PATH: usize = 63;
/// Longest origin of a log, in bytes.
pub const MAX_ORIGIN: usize = 256;
/// Limits of a whole receipt.
pub const LIMITS: Limits = Limits::TOKEN;

/// Why a receipt was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReceiptError {
    /// Not a COSE_Sign1 of our profile, or its signature is not good for the recomputed root.
    #[error(transparent)]
    Cose(#[from] CoseError),
    /// A header or the proof has another shape.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// The proof is not CBOR that we accept.
    #[error(transparent)]
    Cbor(#[from] CborError),
    /// The tree size in the signed header and the one in the proof differ.
    #[error("signed for a tree of {expected}, the proof is for one of {found}")]
    TreeSize {
        /// In the signed header.
        expected: u64,
        /// In the proof.
        found: u64,
    },
    /// A leaf that the tree does not have, or a path of impossible length. A tree of one leaf has no encodable proof.
    #[error("leaf {leaf_index} with a path of {path} in a tree of {tree_size}")]
    Impossible {
        /// The tree size.
        tree_size: u64,
        /// The leaf.
        leaf_index: u64,
        /// Number of hashes in the path.
        path: usize,
    },
}

impl ReceiptError {
    /// The stable code of this refusal.
    pub const fn code(&self) -> Code {
        match self {
            ReceiptError::Cose(e) => e.code(),
            ReceiptError::Shape(e) => e.code(),
            ReceiptError::Cbor(e) => e.code(),
            ReceiptError::TreeSize { .. } | ReceiptError::Impossible { .. } => Code::ReceiptInvalid,
        }
    }
}

/// Where a leaf stands, and the way from it to the root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proof {
    /// Number of leaves of the tree.
    pub tree_size: u64,
    /// Index of the leaf, from 0.
    pub leaf_index: u64,
    /// The RFC 9162 inclusion path, from the leaf up.
    pub path: Vec<[u8; 32]>,
}

impl Proof {
    fn check(&self) -> Result<(), ReceiptError> {
        let Proof {
            tree_size,
            leaf_index,
            ref path,
        } = *self;
        if leaf_index >= tree_size || path.is_empty() || path.len() > MAX_PATH {
            return Err(ReceiptError::Impossible {
                tree_size,
                leaf_index,
                path: path.len(),
            });
        }
        Ok(())
    }

    fn from_value(value: Value) -> Result<Proof, ShapeError> {
        const CONTEXT: &str = "inclusion proof";
        let shape = |found: &Value| ShapeError::whole(CONTEXT, "[size, index, [+ 32 bytes]]", found);
        let Some([tree_size, leaf_index, Value::Array(path)]) = value.as_array() else {
            return Err(shape(&value));
        };
        let (Some(tree_size), Some(leaf_index)) = (tree_size.as_u64(), leaf_index.as_u64()) else {
            return Err(shape(&value));
        };
        let path = path
            .iter()
            .map(|h| h.as_bytes().and_then(|b| b.try_into().ok()).ok_or_else(|| shape(h)));
        Ok(Proof {
            tree_size,
            leaf_index,
            path: path.collect::<Result<_, _>>()?,
        })
    }
}

/// The part that all receipts of a batch have in common: one signature over one root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedRoot {
    protected: Vec<u8>,
    signature: Vec<u8>,
    tree_size: u64,
}

/// Signs `root`, the root of the first `tree_size` leaves of the log `origin`, at `iat` (Unix seconds).
///
/// # Errors
/// The signer failed.
pub fn sign_root(
    signer: &dyn Signer,
    origin: &str,
    tree_size: u64,
    root: &[u8; 32],
    iat: i64,
) -> Result<SignedRoot, SignError> {
    let claims = Value::map([(claim::ISS, Value::text(origin)), (claim::IAT, Value::int(iat))]);
    let header = Protected {
        typ: None,
        content_type: None,
        extra: vec![
            (label::CWT_CLAIMS, claims),
            (label::VDS, Value::int(VDS_RFC9162_SHA256)),
            (TREE_SIZE, Value::Unsigned(tree_size)),
        ],
    };
    let (protected, signature) = sign1::header_and_signature(signer, &header, root, &[])?;
    Ok(SignedRoot {
        protected,
        signature,
        tree_size,
    })
}

impl SignedRoot {
    /// The tree size that was signed.
    pub const fn tree_size(&self) -> u64 {
        self.tree_size
    }

    /// The receipt for the leaf `leaf_index` with this path to the signed root.
    ///
    /// # Errors
    /// The leaf is not in the tree, or the path is empty or too long.
    pub fn encode(&self, leaf_index: u64, path: &[[u8; 32]]) -> Result<Vec<u8>, ReceiptError> {
        let proof = Proof {
            tree_size: self.tree_size,
            leaf_index,
            path: path.to_vec(),
        };
        proof.check()?;
        let path = Value::array(path.iter().map(|h| Value::from(*h)));
        let proof = Value::array([Value::Unsigned(self.tree_size), Value::Unsigned(leaf_index), path]);
        let vdp = Value::map([(INCLUSION, Value::array([Value::bytes(cbor::encode(&proof))]))]);
        Ok(sign1::assemble(
            &self.protected,
            &[(label::VDP, &cbor::encode(&vdp))],
            None,
            &self.signature,
        ))
    }
}

/// A well-formed receipt whose signature nobody has checked yet.
#[derive(Debug)]
pub struct Receipt {
    signed: Unverified,
    origin: String,
    iat: i64,
    proof: Proof,
}

impl Receipt {
    /// Reads a receipt of our profile.
    ///
    /// # Errors
    /// See [`ReceiptError`].
    pub fn parse(input: &[u8]) -> Result<Receipt, ReceiptError> {
        let signed = Unverified::parse_with_unprotected(input, LIMITS, &[label::VDP])?;
        let mut header = MapReader::new(Value::Map(signed.extra_entries().to_vec()), "receipt header")?;
        let mut claims = header.map(label::CWT_CLAIMS, "receipt claims")?;
        let origin = claims.text(claim::ISS, MAX_ORIGIN)?;
        let iat = claims.i64(claim::IAT)?;
        claims.finish()?;
        let vds = header.required(label::VDS)?;
        if vds.as_i64() != Some(VDS_RFC9162_SHA256) {
            return Err(ShapeError::member("receipt header", "key 395", "1 (RFC9162_SHA256)", vds.kind()).into());
        }
        let expected = header.u64(TREE_SIZE)?;
        header.finish()?;
        let vdp = signed.unprotected(label::VDP).cloned().unwrap_or(Value::Null);
        let mut vdp = MapReader::new(vdp, "receipt proofs")?;
        let proofs = vdp.required(INCLUSION)?;
        vdp.finish()?;
        let Some([Value::Bytes(encoded)]) = proofs.as_array() else {
            return Err(ShapeError::member("receipt proofs", "key -1", "[bytes], exactly one", proofs.kind()).into());
        };
        let proof = Proof::from_value(cbor::decode(encoded, LIMITS)?)?;
        proof.check()?;
        if proof.tree_size != expected {
            return Err(ReceiptError::TreeSize {
                expected,
                found: proof.tree_size,
            });
        }
        Ok(Receipt {
            signed,
            origin,
            iat,
            proof,
        })
    }

    /// The id of the log's key.
    pub fn kid(&self) -> [u8; KID_LEN] {
        self.signed.kid()
    }

    /// The log it claims to be from.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// The proof it carries.
    pub const fn proof(&self) -> &Proof {
        &self.proof
    }

    /// Checks the signature over `root`, which the caller has recomputed from the leaf and [`Receipt::proof`].
    ///
    /// # Errors
    /// See [`CoseError`].
    pub fn verify_signature(self, key: &VerifyingKey, root: &[u8; 32]) -> Result<VerifiedReceipt, ReceiptError> {
        self.signed.verify_detached_untyped(key, root.to_vec())?;
        let Proof {
            tree_size, leaf_index, ..
        } = self.proof;
        Ok(VerifiedReceipt {
            origin: self.origin,
            iat: self.iat,
            tree_size,
            leaf_index,
            root: *root,
        })
    }
}

/// What a receipt was found to prove.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct VerifiedReceipt {
    /// The log.
    pub origin: String,
    /// When the root was signed, Unix seconds.
    pub iat: i64,
    /// Number of leaves under the root.
    pub tree_size: u64,
    /// Where the leaf stands.
    pub leaf_index: u64,
    /// The signed root.
    pub root: [u8; 32],
}

/// Verifies a whole receipt for the leaf `leaf_hash` of the log `origin`. `recompute` is the RFC 9162 arithmetic: the
/// root that leaf hash and proof lead to, or `None` if the path does not fit index and size.
///
/// # Errors
/// See [`ReceiptError`]. The root comes first, then the signature (RFC 9942 section 5.2.1).
pub fn verify(
    input: &[u8],
    key: &VerifyingKey,
    origin: &str,
    leaf_hash: &[u8; 32],
    recompute: impl FnOnce(&[u8; 32], &Proof) -> Option<[u8; 32]>,
) -> Result<VerifiedReceipt, ReceiptError> {
    let receipt = Receipt::parse(input)?;
    if receipt.origin != origin {
        let error = ShapeError::member("receipt claims", "key 1", "the log that was asked", "another log");
        return Err(error.into());
    }
    let Proof {
        tree_size,
        leaf_index,
        ref path,
    } = receipt.proof;
    let impossible = ReceiptError::Impossible {
        tree_size,
        leaf_index,
        path: path.len(),
    };
    let root = recompute(leaf_hash, &receipt.proof).ok_or(impossible)?;
    receipt.verify_signature(key, &root)
}
