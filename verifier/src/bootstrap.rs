//! Register 15 while a machine opens its encrypted disk: what is extended into it, and what its value says.
//!
//! Sources: `docs/protocol.md`, section 11; systemd-cryptsetup's `tpm2-measure-pcr=` (crypttab(5)), whose measurement of a
//! volume key is taken over: HMAC, keyed with the volume key and by the bank's hash, of `cryptsetup:NAME:UUID`. The mark
//! that ends the phase is ours.

use aws_lc_rs::hmac;

use crate::eventlog::RegisterValue;
use crate::tpm::HashAlg;

/// The register volume keys are measured into.
pub const REGISTER: u8 = 15;
/// What is measured when the disk is open, or when opening it was given up: no disk key leaves after it in this boot.
pub const DONE: &[u8] = b"touchstone-bootstrap-done";
/// The phase of a unified kernel image in which its initramfs runs (systemd-pcrphase-initrd.service).
pub const INITRD_PHASE: &str = "enter-initrd";

/// A node's encrypted volume, as the signed inventory has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// The LUKS2 header's UUID, lower case.
    pub luks_uuid: String,
    /// Register 15 after the volume key was measured into it, nothing else before. Its length says which bank it is of.
    pub register: Vec<u8>,
}

impl Volume {
    /// The bank its value is of: SHA-256, SHA-384 or SHA-512.
    #[must_use]
    pub fn bank(&self) -> Option<HashAlg> {
        const BANKS: [HashAlg; 3] = [HashAlg::Sha256, HashAlg::Sha384, HashAlg::Sha512];
        BANKS.into_iter().find(|bank| bank.digest_len() == self.register.len())
    }
}

/// What the bootstrap phase looks like from registers 11 and 15.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// The initramfs runs, and nothing was measured into register 15 yet: a disk key may be had.
    Open,
    /// The node's volume key was measured, the mark was not: a boot that was interrupted.
    VolumeMeasured,
    /// The mark is set: the disk was opened, or opening it was given up.
    Done,
    /// Another phase of a unified kernel image than its initramfs.
    PhaseOver,
    /// Register 15 holds something else.
    RegisterMoved,
}

impl Stage {
    /// As it stands in results: `open`, `volume-measured`, `done`, `phase-over`, `register-moved`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::VolumeMeasured => "volume-measured",
            Self::Done => "done",
            Self::PhaseOver => "phase-over",
            Self::RegisterMoved => "register-moved",
        }
    }

    /// Judges one bank. `own` and `kernel` are the quoted values of registers 15 and 11, `phase` is the phase that
    /// register 11 proves.
    ///
    /// A machine without a unified kernel image has nothing in register 11, and register 15 alone decides. One with it has
    /// to be in its initramfs, by a phase that is proven: an image whose initramfs measures no phase is never there.
    #[must_use]
    pub fn of(bank: HashAlg, own: &[u8], kernel: &[u8], phase: Option<&str>, volume: Option<&Volume>) -> Self {
        let register = u32::from(REGISTER);
        let untouched = RegisterValue::initial(bank, register, 0);
        let ended = |value: &[u8]| {
            RegisterValue::from_bytes(bank, value).map(|mut value| {
                value.extend(bank, bank.digest([DONE]).as_ref());
                value
            })
        };
        let is = |value: Option<RegisterValue>| value.is_some_and(|value| value.as_bytes() == own);
        let measured = volume
            .filter(|volume| volume.bank() == Some(bank))
            .map(|volume| volume.register.as_slice());
        if own == untouched.as_bytes() {
            let uki = kernel.iter().any(|byte| *byte != 0);
            return match phase {
                Some(INITRD_PHASE) => Self::Open,
                None if !uki => Self::Open,
                _ => Self::PhaseOver,
            };
        }
        if is(ended(untouched.as_bytes())) || is(measured.and_then(ended)) {
            Self::Done
        } else if measured == Some(own) {
            Self::VolumeMeasured
        } else {
            Self::RegisterMoved
        }
    }
}

/// What is extended for a volume key in a bank.
#[must_use]
pub fn volume_digest(bank: HashAlg, key: &[u8], name: &str, uuid: &str) -> Vec<u8> {
    let algorithm = match bank {
        HashAlg::Sha1 => hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
        HashAlg::Sha256 => hmac::HMAC_SHA256,
        HashAlg::Sha384 => hmac::HMAC_SHA384,
        HashAlg::Sha512 => hmac::HMAC_SHA512,
    };
    let key = hmac::Key::new(algorithm, key);
    hmac::sign(&key, measured_text(name, uuid).as_bytes()).as_ref().to_vec()
}

/// Register 15 after this volume key alone was measured into it.
#[must_use]
pub fn register_after(bank: HashAlg, key: &[u8], name: &str, uuid: &str) -> Vec<u8> {
    let mut value = RegisterValue::initial(bank, u32::from(REGISTER), 0);
    value.extend(bank, &volume_digest(bank, key, name, uuid));
    value.as_bytes().to_vec()
}

/// `cryptsetup:NAME:UUID`; a colon or backslash of the name and what is not printable ASCII is `\xNN`, as systemd writes it.
fn measured_text(name: &str, uuid: &str) -> String {
    use std::fmt::Write as _;
    let mut text = String::from("cryptsetup:");
    for byte in name.bytes() {
        if (b' '..0x7f).contains(&byte) && byte != b':' && byte != b'\\' {
            text.push(char::from(byte));
        } else {
            // Writing to a string does not fail.
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text.push(':');
    text.push_str(uuid);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const BANK: HashAlg = HashAlg::Sha256;
    const UUID: &str = "4878cbe9-f3c5-4d20-82da-b2bb10ae2940";

    fn volume() -> Volume {
        Volume {
            luks_uuid: UUID.into(),
            register: register_after(BANK, &[7; 64], "root", UUID),
        }
    }

    fn ended(value: &[u8]) -> Vec<u8> {
        let mut value = RegisterValue::from_bytes(BANK, value).expect("a value of the bank");
        value.extend(BANK, BANK.digest([DONE]).as_ref());
        value.as_bytes().to_vec()
    }

    #[test]
    fn stages() {
        let volume = volume();
        let (zero, kernel) = ([0u8; 32], [9u8; 32]);
        let measured = volume.register.clone();
        type Row<'r> = (&'r str, &'r [u8], &'r [u8], Option<&'r str>, Stage);
        let rows: &[Row<'_>] = &[
            (
                "initramfs without a unified kernel image",
                &zero,
                &zero,
                None,
                Stage::Open,
            ),
            (
                "initramfs of a unified kernel image",
                &zero,
                &kernel,
                Some(INITRD_PHASE),
                Stage::Open,
            ),
            (
                "a unified kernel image that tells no phase",
                &zero,
                &kernel,
                None,
                Stage::PhaseOver,
            ),
            (
                "the initramfs was left",
                &zero,
                &kernel,
                Some("leave-initrd"),
                Stage::PhaseOver,
            ),
            ("the system is ready", &zero, &kernel, Some("ready"), Stage::PhaseOver),
            ("the volume was measured", &measured, &zero, None, Stage::VolumeMeasured),
            ("the volume was opened", &ended(&measured), &zero, None, Stage::Done),
            (
                "the volume was opened, still enter-initrd",
                &ended(&measured),
                &kernel,
                Some(INITRD_PHASE),
                Stage::Done,
            ),
            ("given up before a volume", &ended(&zero), &zero, None, Stage::Done),
            (
                "something else was measured",
                &[1; 32],
                &zero,
                None,
                Stage::RegisterMoved,
            ),
            (
                "another volume",
                &register_after(BANK, &[8; 64], "root", UUID),
                &zero,
                None,
                Stage::RegisterMoved,
            ),
            ("a value of another length", &[0; 48], &zero, None, Stage::RegisterMoved),
            ("no value", &[], &zero, None, Stage::RegisterMoved),
        ];
        for (name, own, kernel, phase, stage) in rows {
            assert_eq!(Stage::of(BANK, own, kernel, *phase, Some(&volume)), *stage, "{name}");
        }
        // Without an entry of the inventory nobody can tell a volume's value from another one.
        assert_eq!(Stage::of(BANK, &measured, &zero, None, None), Stage::RegisterMoved);
    }

    /// Computed with Python's hmac and hashlib.
    #[test]
    fn what_is_measured_is_what_systemd_measures() {
        let key: Vec<u8> = (0..64).collect();
        let digest = volume_digest(BANK, &key, "root", UUID);
        assert_eq!(
            hex::encode(digest),
            "90dd622676f51b96683c63cee21d263c7835c44414da364f0069b6138b62cf41"
        );
        let value = register_after(BANK, &key, "root", UUID);
        assert_eq!(
            hex::encode(value),
            "371e736a06ef607daeede3304217cf399ac182e39c3565b0c368fd512fba5f27"
        );
        assert_eq!(volume_digest(HashAlg::Sha384, &key, "root", UUID).len(), 48);
        assert_eq!(
            measured_text("a:b\\c\u{e9}", "u"),
            "cryptsetup:a\\x3ab\\x5cc\\xc3\\xa9:u"
        );
    }

    #[test]
    fn every_part_of_what_is_measured_counts() {
        let value = |key: &[u8], name: &str, uuid: &str| register_after(BANK, key, name, uuid);
        let right = value(&[7; 64], "root", UUID);
        assert_eq!(right, volume().register);
        for other in [
            value(&[8; 64], "root", UUID),
            value(&[7; 32], "root", UUID),
            value(&[7; 64], "data", UUID),
            value(&[7; 64], "root", "4878cbe9-f3c5-4d20-82da-b2bb10ae2941"),
        ] {
            assert_ne!(right, other);
        }
    }
}
