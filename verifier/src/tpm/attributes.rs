//! TPMA_OBJECT: what the TPM promises about a key.
//!
//! Source: TCG TPM 2.0 Library Part 2, 8.3.

use std::fmt;

/// The object attributes as received; bits without a meaning here are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ObjectAttributes(pub u32);

impl ObjectAttributes {
    /// The key can never leave this TPM.
    pub const FIXED_TPM: ObjectAttributes = ObjectAttributes(1 << 1);
    /// The key is flushed at `TPM2_Startup(CLEAR)`.
    pub const ST_CLEAR: ObjectAttributes = ObjectAttributes(1 << 2);
    /// The key can never have another parent.
    pub const FIXED_PARENT: ObjectAttributes = ObjectAttributes(1 << 4);
    /// The TPM made the secret.
    pub const SENSITIVE_DATA_ORIGIN: ObjectAttributes = ObjectAttributes(1 << 5);
    /// A password or HMAC authorizes the user role.
    pub const USER_WITH_AUTH: ObjectAttributes = ObjectAttributes(1 << 6);
    /// Only a policy authorizes the admin role.
    pub const ADMIN_WITH_POLICY: ObjectAttributes = ObjectAttributes(1 << 7);
    /// Not subject to dictionary-attack protection.
    pub const NO_DA: ObjectAttributes = ObjectAttributes(1 << 10);
    /// Duplication only under encryption.
    pub const ENCRYPTED_DUPLICATION: ObjectAttributes = ObjectAttributes(1 << 11);
    /// Signs or decrypts only what the TPM itself made.
    pub const RESTRICTED: ObjectAttributes = ObjectAttributes(1 << 16);
    /// Can decrypt (for ECC: do a key agreement).
    pub const DECRYPT: ObjectAttributes = ObjectAttributes(1 << 17);
    /// Can sign (for a symmetric cipher: encrypt).
    pub const SIGN: ObjectAttributes = ObjectAttributes(1 << 18);
    /// Signs X.509 certificates only.
    pub const X509_SIGN: ObjectAttributes = ObjectAttributes(1 << 19);

    const NAMES: [(ObjectAttributes, &'static str); 12] = [
        (Self::FIXED_TPM, "fixedTPM"),
        (Self::ST_CLEAR, "stClear"),
        (Self::FIXED_PARENT, "fixedParent"),
        (Self::SENSITIVE_DATA_ORIGIN, "sensitiveDataOrigin"),
        (Self::USER_WITH_AUTH, "userWithAuth"),
        (Self::ADMIN_WITH_POLICY, "adminWithPolicy"),
        (Self::NO_DA, "noDA"),
        (Self::ENCRYPTED_DUPLICATION, "encryptedDuplication"),
        (Self::RESTRICTED, "restricted"),
        (Self::DECRYPT, "decrypt"),
        (Self::SIGN, "sign"),
        (Self::X509_SIGN, "x509sign"),
    ];

    /// Both sets together.
    pub const fn with(self, other: ObjectAttributes) -> Self {
        ObjectAttributes(self.0 | other.0)
    }

    /// Whether every attribute of `all` is set.
    pub const fn has(self, all: ObjectAttributes) -> bool {
        self.0 & all.0 == all.0
    }

    /// Whether any attribute of `some` is set.
    pub const fn has_any(self, some: ObjectAttributes) -> bool {
        self.0 & some.0 != 0
    }
}

/// The TCG names joined by `|`; bits without a name here as one hexadecimal number.
impl fmt::Display for ObjectAttributes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0;
        let mut first = true;
        for (bit, name) in Self::NAMES {
            if self.has(bit) {
                rest &= !bit.0;
                f.write_str(if first { "" } else { "|" })?;
                f.write_str(name)?;
                first = false;
            }
        }
        match (rest, first) {
            (0, true) => f.write_str("none"),
            (0, false) => Ok(()),
            (_, _) => write!(f, "{}{rest:#010x}", if first { "" } else { "|" }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_names_bits() {
        let ek = ObjectAttributes(0x0003_00B2);
        assert!(ek.has(ObjectAttributes::RESTRICTED.with(ObjectAttributes::DECRYPT)));
        assert!(!ek.has_any(ObjectAttributes::SIGN.with(ObjectAttributes::USER_WITH_AUTH)));
        assert_eq!(
            ek.to_string(),
            "fixedTPM|fixedParent|sensitiveDataOrigin|adminWithPolicy|restricted|decrypt"
        );
        assert_eq!(ObjectAttributes(0x8000_0002).to_string(), "fixedTPM|0x80000000");
        assert_eq!(ObjectAttributes(0).to_string(), "none");
    }
}
