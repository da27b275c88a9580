//! What a policy may rest on: facts of a boot that quoted digests prove, as plain values.

use std::collections::BTreeSet;

use super::boot_text::{grub_text, loaded_command_line, unquoted};
use super::secure_boot::{Authority, AuthorityKind, Database};
use super::signature_list::sha256;
use super::story::{BootStory, CommandLine, CommandLineSource, Fact, Told};
use super::{DataCheck, Format};
use crate::tpm::HashAlg;

/// Most members of one set. A boot that has more makes no such claim.
pub const MAX_CLAIM_SET: usize = 64;

/// What the digests of a boot prove. Each is absent where nothing proves it, where two proven events contradict each other,
/// or where it would be too large: a policy that asks for it then denies.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BootClaims {
    /// Whether Secure Boot enforces signatures.
    pub secure_boot: Option<bool>,
    /// Whether the keys may be set by anyone: measured, or known by whether there is a platform key (UEFI 2.10, 32.3).
    pub setup_mode: Option<bool>,
    /// SHA-256 of the platform key's certificates.
    pub pk: Option<BTreeSet<[u8; 32]>>,
    /// SHA-256 of the certificates that may change db and dbx.
    pub kek: Option<BTreeSet<[u8; 32]>>,
    /// SHA-256 of the certificates that let images run.
    pub db: Option<BTreeSet<[u8; 32]>>,
    /// How many entries forbid images and certificates.
    pub dbx_entries: Option<usize>,
    /// SHA-256 of the certificates that an image was really let in by.
    pub authorities: Option<BTreeSet<[u8; 32]>>,
    /// shim's revocation level.
    pub sbat_level: Option<String>,
    /// The kernel's command line.
    pub kernel_command_line: Option<String>,
    /// The digests in register 4 that are of no text: the images that ran, whatever the log calls them.
    pub boot_images: Option<BTreeSet<Vec<u8>>>,
    /// The firmware's version.
    pub firmware_version: Option<String>,
    /// Whether the log holds the whole boot: Secure Boot's state, the firmware's separators, ExitBootServices. Absent where
    /// the register of ExitBootServices (5) is not quoted, unless something is missing all the same.
    pub complete: Option<bool>,
}

/// What the registers hold, taken up without trust in any event's type or label: those are not covered by a digest, so a
/// liar may call a proven event something else. Claims that say "there is no other" rest on this.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Measured<'a> {
    /// Whether register 7 has had the digest of a separator: what follows is not the firmware's.
    pub(super) secure_boot_closed: bool,
    /// Whether every event of register 7 up to there is proven, and there is one.
    secure_boot_clear: Option<bool>,
    /// Registers with an event whose data no vouched-for digest covers, as a bit mask.
    unclear: u32,
    /// Command lines that proven texts of register 8 give to a kernel they load.
    loads: Vec<&'a [u8]>,
    /// Certificates in proven variables of register 7.
    authorities: Vec<&'a [u8]>,
    /// Digests of register 4 that are not of the event's own data.
    images: Vec<&'a [u8]>,
    /// Whether an event of register 4 is not vouched for.
    images_unclear: bool,
}

impl<'a> Measured<'a> {
    /// Takes up an extended event, before the story does; `separates` if its digest is a separator's.
    pub(super) fn take(&mut self, bank: HashAlg, told: &Told<'a>, separates: bool) {
        let event = &told.event;
        let proven = told.is_proven();
        if !proven {
            self.unclear |= 1u32.checked_shl(event.pcr).unwrap_or(0);
        }
        if event.belongs_to(7) {
            if !self.secure_boot_closed {
                *self.secure_boot_clear.get_or_insert(true) &= proven;
            }
            self.secure_boot_closed |= separates;
            let authority = Authority::read(event.data, false).filter(|_| proven);
            if let Some(AuthorityKind::Certificate(der)) = authority.map(|authority| authority.kind) {
                self.authorities.push(der);
            }
        }
        if event.belongs_to(8) && proven {
            let text = grub_text(event.data).map_or(event.data, |(_, text)| text);
            let text = text.strip_suffix(b"\0").unwrap_or(text);
            self.loads.extend(loaded_command_line(text));
        }
        if event.belongs_to(4) {
            self.images_unclear |= !told.vouched;
            // Text that is an image's own bytes is an image, whatever the event calls itself.
            if told.check != DataCheck::Covered || event.data.starts_with(b"MZ") {
                self.images.extend(event.digest(bank));
            }
        }
    }

    /// Whether every event of a TPM's register is proven (and nothing is said of a register without events).
    fn is_clear(&self, pcr: u32) -> bool {
        self.unclear & 1u32.wrapping_shl(pcr) == 0
    }
}

impl<'a> BootStory<'a> {
    /// What the digests of this boot prove, for policies.
    ///
    /// Types and labels are not covered by digests. So each claim holds whatever the events are called: Secure Boot's
    /// state only if every event of register 7 before the separator's digest is proven, the authorities only if all of
    /// register 7 is, the command line only if all of registers 8 and 12 is and every loading command gives that very line.
    /// In a confidential VM's log one register holds several of a TPM's, so that some claims are never made.
    pub fn claims(&self) -> BootClaims {
        let (state, measured) = (&self.secure_boot, &self.measured);
        let clear = measured.secure_boot_closed && measured.secure_boot_clear == Some(true);
        let database = |fact: &'_ Option<Fact<Database<'a>>>| proven(fact).filter(|_| clear).cloned();
        let certificates = |fact| bounded(database(fact)?.certificate_sha256()?);
        let entries = |fact| Some(database(fact)?.lists.ok()?.len());
        let setup_mode = match &state.setup_mode {
            Some(measured) => measured.proven.then_some(measured.value),
            None => entries(&state.pk).map(|keys| keys == 0),
        };
        let authorities = measured.authorities.iter().copied().map(sha256);
        let firmware_version = self.firmware_version.as_ref().filter(|fact| fact.proven);
        let images = measured.images.iter().map(|digest| digest.to_vec());
        BootClaims {
            secure_boot: proven(&state.enabled).copied().filter(|_| clear),
            setup_mode: setup_mode.filter(|_| clear),
            pk: certificates(&state.pk),
            kek: certificates(&state.kek),
            db: certificates(&state.db),
            dbx_entries: entries(&state.dbx),
            authorities: bounded(authorities).filter(|set| clear && measured.is_clear(7) && !set.is_empty()),
            sbat_level: self
                .sbat_level()
                .filter(|fact| fact.proven && measured.is_clear(7))
                .map(|fact| fact.value),
            kernel_command_line: self.kernel_command_line(),
            boot_images: bounded(images).filter(|set| !measured.images_unclear && !set.is_empty()),
            firmware_version: firmware_version.map(|fact| fact.value.clone()),
            complete: self.complete(),
        }
    }

    fn complete(&self) -> Option<bool> {
        let missing = !self.missing().is_empty();
        let proven = self.exit_boot_services.as_ref().is_some_and(|exit| exit.proven);
        match (missing, proven) {
            (true, _) => Some(false),
            (false, true) => Some(true),
            (false, false) => None,
        }
    }

    /// The kernel's command line, where it is proven and could be no other.
    fn kernel_command_line(&self) -> Option<String> {
        let measured = &self.measured;
        if self.format == Format::ConfidentialComputing || !measured.is_clear(8) || !measured.is_clear(12) {
            return None;
        }
        let texts = |line: &&CommandLine<'_>| line.source != CommandLineSource::EfiStub;
        let mut lines = self.command_lines.iter().filter(texts);
        let first = lines.next()?;
        let text = first.text()?;
        if !lines.all(|line| line.text().as_deref() == Some(&*text)) {
            return None;
        }
        if first.source == CommandLineSource::Grub {
            let (_, bytes) = first.told.event.grub_text()?;
            let line: Vec<u8> = unquoted(bytes).copied().collect();
            let same = measured.loads.iter().all(|loaded| unquoted(loaded).eq(&line));
            if measured.loads.is_empty() || !same {
                return None;
            }
        }
        Some(text.into_owned())
    }
}

fn proven<T>(fact: &Option<Fact<T>>) -> Option<&T> {
    fact.as_ref().filter(|fact| fact.proven).map(|fact| &fact.value)
}

fn bounded<T: Ord>(values: impl IntoIterator<Item = T>) -> Option<BTreeSet<T>> {
    let mut set = BTreeSet::new();
    for value in values {
        set.insert(value);
        if set.len() > MAX_CLAIM_SET {
            return None;
        }
    }
    Some(set)
}
