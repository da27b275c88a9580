//! COSE_Key (RFC 9052 section 7, RFC 9053 section 7.1).

use super::{KeyError, VerifyingKey};
use crate::cbor::{MapReader, ShapeError, Value};

const CONTEXT: &str = "COSE_Key";
const KTY: i64 = 1;
const ALG: i64 = 3;
const CRV: i64 = -1;
const X: i64 = -2;
const Y: i64 = -3;
const KTY_OKP: u64 = 1;
const KTY_EC2: u64 = 2;
const CRV_P256: u64 = 1;
const CRV_P384: u64 = 2;
const CRV_ED25519: u64 = 6;

enum Y2<const N: usize> {
    Coordinate([u8; N]),
    IsOdd(bool),
}

impl VerifyingKey {
    /// Reads a COSE_Key: kty, crv, coordinates and, if present, an alg that fits them. y may be a coordinate or the
    /// sign of a compressed point. Any other label (a private part, key_ops, a kid) is refused.
    ///
    /// # Errors
    /// See [`KeyError`].
    pub fn from_cose_key(key: &Value) -> Result<VerifyingKey, KeyError> {
        let mut map = MapReader::new(key.clone(), CONTEXT)?;
        let kty = map.u64(KTY)?;
        let alg = map.optional(ALG);
        let crv = map.u64(CRV)?;
        let key = match (kty, crv) {
            (KTY_OKP, CRV_ED25519) => VerifyingKey::ed25519(map.fixed(X)?)?,
            (KTY_EC2, CRV_P256) => {
                let x = map.fixed(X)?;
                match y(&mut map)? {
                    Y2::Coordinate(y) => VerifyingKey::p256(x, y)?,
                    Y2::IsOdd(odd) => VerifyingKey::p256_compressed(x, odd)?,
                }
            }
            (KTY_EC2, CRV_P384) => {
                let x = map.fixed(X)?;
                match y(&mut map)? {
                    Y2::Coordinate(y) => VerifyingKey::p384(x, y)?,
                    Y2::IsOdd(odd) => VerifyingKey::p384_compressed(x, odd)?,
                }
            }
            _ => {
                return Err(KeyError::Unsupported {
                    what: "key type and curve",
                    found: format!("{kty}/{crv}"),
                });
            }
        };
        map.finish()?;
        if let Some(alg) = alg {
            let expected = key.algorithm().id();
            let found = alg
                .as_i64()
                .ok_or_else(|| ShapeError::member(CONTEXT, "key 3", "integer", alg.kind()))?;
            if found != expected {
                return Err(KeyError::AlgorithmMismatch { expected, found });
            }
        }
        Ok(key)
    }

    /// The COSE_Key with the required members alone; with `compressed`, an EC2 y is given as its sign.
    pub fn to_cose_key(&self, compressed: bool) -> Value {
        let ec2 = |crv, x: &[u8], y: &[u8]| {
            let y = if compressed {
                Value::Bool(y.last().is_some_and(|b| b & 1 == 1))
            } else {
                Value::bytes(y)
            };
            Value::map([
                (KTY, Value::Unsigned(KTY_EC2)),
                (CRV, Value::Unsigned(crv)),
                (X, Value::bytes(x)),
                (Y, y),
            ])
        };
        match self {
            VerifyingKey::Ed25519(x) => Value::map([
                (KTY, Value::Unsigned(KTY_OKP)),
                (CRV, Value::Unsigned(CRV_ED25519)),
                (X, Value::bytes(*x)),
            ]),
            VerifyingKey::P256 { x, y } => ec2(CRV_P256, x, y),
            VerifyingKey::P384 { x, y } => ec2(CRV_P384, x, y),
        }
    }
}

fn y<const N: usize>(map: &mut MapReader) -> Result<Y2<N>, ShapeError> {
    let value = map.required(Y)?;
    if let Some(odd) = value.as_bool() {
        return Ok(Y2::IsOdd(odd));
    }
    let fixed = value.as_bytes().and_then(|b| <[u8; N]>::try_from(b).ok());
    fixed.map(Y2::Coordinate).ok_or_else(|| {
        ShapeError::member(
            CONTEXT,
            format!("key {Y}"),
            format!("{N} bytes, true or false"),
            value.kind(),
        )
    })
}
