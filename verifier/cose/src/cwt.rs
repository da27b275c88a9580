//! CBOR Web Tokens (RFC 8392): claim numbers, the tag, and the one place that compares token times.

use crate::cbor;
use crate::code::Code;

/// CBOR tag of a CWT (RFC 8392 section 6), around the tag of its COSE structure.
pub const TAG: u64 = 61;

/// The tag as it stands on the wire.
const TAG_BYTES: [u8; 2] = [0xd8, 0x3d];

/// Claim keys (IANA "CBOR Web Token Claims", and ours).
pub mod claim {
    /// Issuer (RFC 8392).
    pub const ISS: i64 = 1;
    /// Subject (RFC 8392).
    pub const SUB: i64 = 2;
    /// Audience (RFC 8392).
    pub const AUD: i64 = 3;
    /// Expiry, Unix seconds (RFC 8392).
    pub const EXP: i64 = 4;
    /// Not before, Unix seconds (RFC 8392).
    pub const NBF: i64 = 5;
    /// Issued at, Unix seconds (RFC 8392).
    pub const IAT: i64 = 6;
    /// Token id (RFC 8392).
    pub const CTI: i64 = 7;
    /// Confirmation key (RFC 8747).
    pub const CNF: i64 = 8;
    /// Scope (RFC 9200).
    pub const SCOPE: i64 = 9;
    /// Nonce (RFC 9711).
    pub const NONCE: i64 = 10;
    /// Profile of an EAT (RFC 9711).
    pub const EAT_PROFILE: i64 = 265;
    /// Submodules of an EAT (RFC 9711).
    pub const SUBMODS: i64 = 266;
    /// The status list itself (draft-ietf-oauth-status-list, section 5.2).
    pub const STATUS_LIST: i64 = 65533;
    /// How long a status list may be cached, seconds (draft-ietf-oauth-status-list, section 5.2).
    pub const TTL: i64 = 65534;
    /// Where the status of this token stands (draft-ietf-oauth-status-list, section 6.3).
    pub const STATUS: i64 = 65535;
    /// All our private claims, in one map under one label of the private-use range (below -65536).
    pub const PRIVATE: i64 = -65537;
}

/// Members of the confirmation claim (RFC 8747 section 3.1).
pub mod confirmation {
    /// A COSE_Key.
    pub const COSE_KEY: i64 = 1;
}

/// Why a token was refused before its claims were looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CwtError {
    /// Tag 61 is missing.
    #[error("expected a CWT under tag 61")]
    NotTagged,
    /// Before `nbf`.
    #[error("not valid before {nbf}, it is {now}")]
    NotYetValid {
        /// When it becomes valid, Unix seconds.
        nbf: i64,
        /// The time of the check.
        now: i64,
    },
    /// At or after `exp`.
    #[error("expired at {exp}, it is {now}")]
    Expired {
        /// When it expired, Unix seconds.
        exp: i64,
        /// The time of the check.
        now: i64,
    },
    /// A window that is never open.
    #[error("expires at {exp}, before it becomes valid at {nbf}")]
    Empty {
        /// When it would become valid.
        nbf: i64,
        /// When it expires.
        exp: i64,
    },
}

impl CwtError {
    /// The stable code of this refusal.
    pub const fn code(&self) -> Code {
        match self {
            CwtError::NotTagged => Code::CoseMalformed,
            CwtError::NotYetValid { .. } => Code::TokenNotYetValid,
            CwtError::Expired { .. } | CwtError::Empty { .. } => Code::TokenExpired,
        }
    }
}

/// Puts tag 61 in front of an encoded COSE structure.
pub fn wrap(cose: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(cose.len() + TAG_BYTES.len());
    cbor::write_head(&mut out, cbor::major::TAG, TAG);
    out.extend_from_slice(cose);
    out
}

/// The COSE structure under tag 61, not looked at further.
///
/// # Errors
/// There is no tag 61 in its shortest form.
pub fn unwrap(token: &[u8]) -> Result<&[u8], CwtError> {
    token.strip_prefix(&TAG_BYTES).ok_or(CwtError::NotTagged)
}

/// Checks `nbf <= now < exp`, each end widened by `skew` seconds. The end is exclusive (RFC 8392 section 3.1.4: "on or
/// after"). Who may not be lenient passes a skew of 0; a negative skew counts as 0.
///
/// # Errors
/// See [`CwtError`].
pub fn check_window(nbf: Option<i64>, exp: i64, now: i64, skew: i64) -> Result<(), CwtError> {
    let skew = skew.max(0);
    if let Some(nbf) = nbf {
        if exp <= nbf {
            return Err(CwtError::Empty { nbf, exp });
        }
        if now.saturating_add(skew) < nbf {
            return Err(CwtError::NotYetValid { nbf, now });
        }
    }
    if now.saturating_sub(skew) >= exp {
        return Err(CwtError::Expired { exp, now });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tag_is_61_in_its_shortest_form_and_nothing_else() {
        assert_eq!(wrap(&[0xd2, 0x80]), [0xd8, 0x3d, 0xd2, 0x80]);
        assert_eq!(unwrap(&wrap(b"x")), Ok(&b"x"[..]));
        for bad in [&[][..], &[0xd8], &[0xd2, 0x80], &[0xd9, 0x00, 0x3d, 0xd2]] {
            assert_eq!(unwrap(bad), Err(CwtError::NotTagged));
        }
    }

    #[test]
    fn the_window_includes_its_start_and_excludes_its_end() {
        let rows = [
            ("inside", Some(100), 200, 150, 0, Ok(())),
            ("at the start", Some(100), 200, 100, 0, Ok(())),
            (
                "before the start",
                Some(100),
                200,
                99,
                0,
                Err(CwtError::NotYetValid { nbf: 100, now: 99 }),
            ),
            ("before the start within skew", Some(100), 200, 99, 1, Ok(())),
            (
                "at the end",
                Some(100),
                200,
                200,
                0,
                Err(CwtError::Expired { exp: 200, now: 200 }),
            ),
            ("at the end within skew", Some(100), 200, 200, 1, Ok(())),
            (
                "past end and skew",
                Some(100),
                200,
                201,
                1,
                Err(CwtError::Expired { exp: 200, now: 201 }),
            ),
            ("negative skew narrows nothing", Some(100), 200, 100, -5, Ok(())),
            (
                "never open",
                Some(200),
                200,
                200,
                9,
                Err(CwtError::Empty { nbf: 200, exp: 200 }),
            ),
            ("no start", None, 200, i64::MIN, 5, Ok(())),
            (
                "extremes do not overflow",
                Some(i64::MIN),
                i64::MAX,
                i64::MAX,
                i64::MAX,
                Ok(()),
            ),
        ];
        for (name, nbf, exp, now, skew, expected) in rows {
            assert_eq!(check_window(nbf, exp, now, skew), expected, "{name}");
        }
    }
}
