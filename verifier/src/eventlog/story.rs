//! A boot as a story: what the firmware, the boot loaders and the kernel's loader measured, as typed facts.
//!
//! A [`Fact`] is *proven* if a digest covers it and a quote vouches for that digest; everything else is what the log says.
//! An event's type and a text's prefix are never covered, so a proven text says *that these bytes were measured into this
//! register*; facts that also rest on a label or a type are claimed only where no relabelling could give another answer: see
//! [`BootStory::claims`].

use std::borrow::Cow;

use super::boot_text;
use super::check::SeparatorDigests;
use super::claims::Measured;
use super::describe;
use super::efi;
use super::secure_boot::{Authority, AuthorityKind, SecureBoot};
use super::tag::{Tag, TagKind};
use super::{DataCheck, Event, EventLog, EventType, Format, TextKind};
use crate::tpm::HashAlg;

/// What EV_EFI_ACTION says when the boot loader takes over the machine (PFP 1.06, 10.4.4).
const EXIT_INVOCATION: &[u8] = b"Exit Boot Services Invocation";
const EXIT_SUCCESS: &[u8] = b"Exit Boot Services Returned with Success";
const EXIT_FAILURE: &[u8] = b"Exit Boot Services Returned with Failure";
/// Registers that firmware closes with a separator (PFP 1.06, 3.3.2.2).
const SEPARATED: std::ops::RangeInclusive<u32> = 0..=7;

/// What a quote vouches for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vouched {
    /// How many of the log's first events belong to the quoted state.
    pub events: usize,
    /// The quoted registers as a bit mask, by the index of the log's form.
    pub registers: u32,
}

impl Vouched {
    /// As if every register were quoted after the whole log: what is proven is then proven *by a digest in the log*.
    pub const WHOLE_LOG: Vouched = Vouched {
        events: usize::MAX,
        registers: u32::MAX,
    };
}

/// A value, the event that says it, and whether a vouched-for digest covers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fact<T> {
    /// The value.
    pub value: T,
    /// [`Event::index`].
    pub event: usize,
    /// Whether a digest that a quote vouches for covers it.
    pub proven: bool,
}

/// An event, and what its digest says about its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Told<'a> {
    /// The event.
    pub event: Event<'a>,
    /// Whether the digest covers the data.
    pub check: DataCheck,
    /// Whether a quote vouches for the digest.
    pub vouched: bool,
}

impl<'a> Told<'a> {
    /// Whether a vouched-for digest covers the data.
    pub fn is_proven(&self) -> bool {
        self.vouched && self.check == DataCheck::Covered
    }

    /// A fact that this event says.
    pub fn fact<T>(&self, value: T) -> Fact<T> {
        Fact {
            value,
            event: self.event.index,
            proven: self.is_proven(),
        }
    }

    /// The data as text, made safe to show.
    pub fn text(&self) -> String {
        text_of(self.event.data)
    }
}

/// Text where it is text, hexadecimal otherwise, made safe to show.
pub fn text_of(data: &[u8]) -> String {
    crate::reason::sanitise(&boot_text::text_or_hex(data), super::MAX_DESCRIPTION)
}

/// A loaded image: an application, a boot loader, a kernel, a driver. Its digest (Authenticode) is what was measured; where
/// it came from is what the log says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Image<'a> {
    /// The event; its digest is the image's.
    pub told: Told<'a>,
    /// Position in [`BootStory::authorities`] of the entry that was measured right before it. None where the entry had been
    /// used before, or where signatures are not enforced.
    pub authority: Option<usize>,
}

impl Image<'_> {
    /// Whether it is an application (a boot loader or kernel) and no driver.
    pub fn is_application(&self) -> bool {
        self.told.event.event_type == EventType::EFI_BOOT_SERVICES_APPLICATION
    }

    /// Where it came from, as the log says.
    pub fn path(&self) -> Option<String> {
        let (_, path) = efi::image(self.told.event.data)?;
        path.map(|path| crate::reason::sanitise(&path, super::MAX_DESCRIPTION))
    }

    /// Its length in memory, as the log says.
    pub fn len(&self) -> Option<u64> {
        efi::image(self.told.event.data).map(|(len, _)| len)
    }

    /// Whether the log says it is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == Some(0)
    }
}

/// A section of a unified kernel image: systemd-stub measures its name, then its contents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section<'a> {
    /// The name, proven by its own digest.
    pub name: Fact<String>,
    /// The event whose digest is that of the contents.
    pub contents: Option<Told<'a>>,
}

/// Who measured a kernel command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommandLineSource {
    /// GRUB, in register 8.
    Grub,
    /// systemd-boot or systemd-stub, in register 12 (or, before systemd 251, 8).
    Systemd,
    /// The kernel's EFI stub, in register 9: the digest only.
    EfiStub,
}

/// A kernel command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommandLine<'a> {
    /// Who measured it.
    pub source: CommandLineSource,
    /// The event.
    pub told: Told<'a>,
}

impl<'a> CommandLine<'a> {
    /// The text; none where only its digest is known.
    pub fn text(&self) -> Option<Cow<'a, str>> {
        match self.source {
            CommandLineSource::Grub => self
                .told
                .event
                .grub_text()
                .map(|(_, text)| String::from_utf8_lossy(text)),
            CommandLineSource::Systemd => boot_text::text(self.told.event.data).map(Cow::Owned),
            CommandLineSource::EfiStub => None,
        }
    }
}

/// What the log is missing to be the whole boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Missing {
    /// The state of Secure Boot was not measured.
    SecureBootState,
    /// The firmware's separator of a register.
    Separator(u32),
    /// The boot loader's call of ExitBootServices.
    ExitBootServices,
}

/// How the boot loader's ExitBootServices went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExitBootServices {
    /// Whether the firmware also measured that it succeeded. A kernel that quotes before that is not one.
    pub succeeded: bool,
}

/// The story of one boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootStory<'a> {
    /// The form of the log.
    pub format: Format,
    /// The bank whose digests are meant.
    pub bank: HashAlg,
    /// What a quote vouches for.
    pub vouched: Vouched,
    /// What each event's digest says about its data, in the log's order.
    pub checks: Vec<DataCheck>,
    /// The locality TPM2_Startup came from.
    pub startup_locality: u8,
    /// The firmware's version.
    pub firmware_version: Option<Fact<String>>,
    /// What the platform measured of itself: firmware volumes, root of trust, microcode, tables, configuration, devices.
    pub firmware: Vec<Told<'a>>,
    /// Boot entries and their order.
    pub boot_entries: Vec<Told<'a>>,
    /// Partition tables.
    pub partition_tables: Vec<Told<'a>>,
    /// Secure Boot's state and keys.
    pub secure_boot: SecureBoot<'a>,
    /// What vouched for images, and shim's settings, in order.
    pub authorities: Vec<Fact<Authority<'a>>>,
    /// Images, in order: drivers, boot loaders, kernels.
    pub images: Vec<Image<'a>>,
    /// shim's lists in register 14, each by its digest.
    pub shim_lists: Vec<Told<'a>>,
    /// GRUB's commands, in order.
    pub commands: Vec<Fact<&'a [u8]>>,
    /// Files that GRUB read, each by its digest; the names are what the log says.
    pub files: Vec<Told<'a>>,
    /// Kernel command lines.
    pub command_lines: Vec<CommandLine<'a>>,
    /// initrds that the EFI stub loaded, each by its digest.
    pub initrds: Vec<Told<'a>>,
    /// Sections of a unified kernel image.
    pub sections: Vec<Section<'a>>,
    /// Phases that systemd measured in register 11, proven ones only.
    pub phases: Vec<Fact<String>>,
    /// Credentials, configuration and system extensions, additions, other texts in registers 12, 13 and 15.
    pub additions: Vec<Told<'a>>,
    /// Windows' own events, and others that have no place elsewhere.
    pub other: Vec<Told<'a>>,
    /// Registers with a separator, as a bit mask of a TPM's registers: a proven one, or where the register is not quoted
    /// at all, one that the log says.
    pub separators: u32,
    /// Registers whose separator reports a firmware error.
    pub error_separators: Vec<Fact<u32>>,
    /// The call of ExitBootServices.
    pub exit_boot_services: Option<Fact<ExitBootServices>>,
    /// What the registers hold, whatever the log calls it.
    pub(super) measured: Measured<'a>,
}

impl<'a> BootStory<'a> {
    /// Tells the part of `log` that a quote vouches for, by the digests of `bank`; what it does not vouch for is told as
    /// unproven. One pass; every event's data is hashed once.
    pub fn tell(log: &EventLog<'a>, bank: HashAlg, vouched: Vouched) -> Self {
        let mut story = Self::empty(log, bank, vouched);
        let separators = SeparatorDigests::new(bank);
        let mut image_since = 0;
        for (position, event) in log.events().iter().enumerate() {
            let check = event.check_data(bank);
            story.checks.push(check);
            if !event.is_extended() {
                continue;
            }
            let quoted = vouched.registers & 1u32.checked_shl(event.pcr).unwrap_or(0) != 0;
            let told = Told {
                event: *event,
                check,
                vouched: position < vouched.events && quoted && event.digest(bank).is_some(),
            };
            story.measured.take(bank, &told, separators.has_digest(event, bank));
            story.take(told, &mut image_since);
        }
        story
    }

    fn empty(log: &EventLog<'a>, bank: HashAlg, vouched: Vouched) -> Self {
        Self {
            format: log.format(),
            bank,
            vouched,
            checks: Vec::with_capacity(log.events().len()),
            startup_locality: log.startup_locality(),
            firmware_version: None,
            firmware: Vec::new(),
            boot_entries: Vec::new(),
            partition_tables: Vec::new(),
            secure_boot: SecureBoot::default(),
            authorities: Vec::new(),
            images: Vec::new(),
            shim_lists: Vec::new(),
            commands: Vec::new(),
            files: Vec::new(),
            command_lines: Vec::new(),
            initrds: Vec::new(),
            sections: Vec::new(),
            phases: Vec::new(),
            additions: Vec::new(),
            other: Vec::new(),
            separators: 0,
            error_separators: Vec::new(),
            exit_boot_services: None,
            measured: Measured::default(),
        }
    }

    fn take(&mut self, told: Told<'a>, image_since: &mut usize) {
        let event = told.event;
        let before_separator = !self.measured.secure_boot_closed;
        if before_separator {
            self.secure_boot.take(&told);
        }
        match event.event_type {
            EventType::SEPARATOR => {
                for pcr in SEPARATED.filter(|pcr| event.belongs_to(*pcr)) {
                    let quoted = self.vouched.registers & 1u32.wrapping_shl(event.pcr) != 0;
                    if told.is_proven() || (!quoted && told.check == DataCheck::Covered) {
                        self.separators |= 1u32.wrapping_shl(pcr);
                    }
                }
                if event.is_error_separator(self.bank) {
                    self.error_separators.push(told.fact(event.pcr));
                }
            }
            EventType::EFI_VARIABLE_DRIVER_CONFIG => {
                if !event.belongs_to(7) {
                    self.firmware.push(told);
                }
            }
            EventType::EFI_VARIABLE_AUTHORITY => {
                if let Some(authority) = Authority::read(event.data, before_separator) {
                    self.authorities.push(told.fact(authority));
                }
            }
            EventType::EFI_VARIABLE_BOOT | EventType::EFI_VARIABLE_BOOT2 => self.boot_entries.push(told),
            EventType::EFI_GPT_EVENT | EventType::EFI_GPT_EVENT2 => self.partition_tables.push(told),
            EventType::EFI_BOOT_SERVICES_APPLICATION
            | EventType::EFI_BOOT_SERVICES_DRIVER
            | EventType::EFI_RUNTIME_SERVICES_DRIVER => {
                let mut newly = self.authorities.iter().enumerate().skip(*image_since);
                let authority = newly.rfind(|(_, fact)| fact.value.admits_images());
                let authority = authority.map(|(position, _)| position);
                *image_since = self.authorities.len();
                self.images.push(Image { told, authority });
            }
            EventType::EFI_ACTION => self.take_action(told),
            EventType::S_CRTM_VERSION => match describe::version(event.data) {
                Some(version) if self.firmware_version.is_none() => {
                    let version = crate::reason::sanitise(&version, super::MAX_DESCRIPTION);
                    self.firmware_version = Some(told.fact(version));
                }
                _ => self.firmware.push(told),
            },
            EventType::IPL => self.take_text(told),
            EventType::EVENT_TAG => match Tag::parse(event.data).and_then(|tag| tag.kind()) {
                Some(TagKind::KernelCommandLine) => self.command_lines.push(CommandLine {
                    source: CommandLineSource::EfiStub,
                    told,
                }),
                Some(TagKind::Initrd) => self.initrds.push(told),
                Some(TagKind::Addition) => self.additions.push(told),
                Some(TagKind::Windows) | None => self.other.push(told),
            },
            _ if (0..=3).chain([6]).any(|pcr| event.belongs_to(pcr)) => self.firmware.push(told),
            _ => self.other.push(told),
        }
    }

    fn take_action(&mut self, told: Told<'a>) {
        let action = told.event.data;
        let action = action.strip_suffix(b"\0").unwrap_or(action);
        match action {
            EXIT_INVOCATION if told.event.belongs_to(5) && self.exit_boot_services.is_none() => {
                self.exit_boot_services = Some(told.fact(ExitBootServices { succeeded: false }));
            }
            EXIT_SUCCESS | EXIT_FAILURE if told.event.belongs_to(5) => {
                if let Some(exit) = &mut self.exit_boot_services {
                    exit.value.succeeded |= action == EXIT_SUCCESS && told.is_proven() >= exit.proven;
                }
            }
            _ => {}
        }
    }

    /// A boot loader's text: whose it is, its register says, and in a confidential VM's log, its form.
    fn take_text(&mut self, told: Told<'a>) {
        let event = told.event;
        if let Some((kind, text)) = event.grub_text() {
            match kind {
                TextKind::Command => self.commands.push(told.fact(text)),
                TextKind::KernelCommandLine | TextKind::ModuleCommandLine => self.command_lines.push(CommandLine {
                    source: CommandLineSource::Grub,
                    told,
                }),
            }
            return;
        }
        let wide = boot_text::utf16_text(event.data);
        if event.belongs_to(14) && boot_text::text(event.data).is_some_and(|text| text.starts_with("MokList")) {
            self.shim_lists.push(told);
        } else if event.belongs_to(11) && wide.as_ref().is_some_and(|text| text.starts_with('.')) {
            self.take_section(told, wide.unwrap_or_default());
        } else if event.pcr == 11 && event.format() != Format::ConfidentialComputing {
            match boot_text::text(event.data) {
                Some(phase) if told.is_proven() && super::PHASES.contains(&phase.as_str()) => {
                    self.phases.push(told.fact(phase));
                }
                _ => self.other.push(told),
            }
        } else if event.format() == Format::ConfidentialComputing {
            match wide {
                Some(_) if told.check == DataCheck::Covered => self.command_lines.push(CommandLine {
                    source: CommandLineSource::Systemd,
                    told,
                }),
                Some(_) => self.additions.push(told),
                None if event.belongs_to(9) => self.files.push(told),
                None => self.other.push(told),
            }
        } else {
            match event.pcr {
                8 | 12 if wide.is_some() && (told.check == DataCheck::Covered || event.pcr == 8) => {
                    self.command_lines.push(CommandLine {
                        source: CommandLineSource::Systemd,
                        told,
                    });
                }
                9 => self.files.push(told),
                12 | 13 | 15 => self.additions.push(told),
                14 => self.shim_lists.push(told),
                _ => self.other.push(told),
            }
        }
    }

    /// A section's name and its contents have the same text; only the name's digest is that of the text.
    fn take_section(&mut self, told: Told<'a>, name: String) {
        if told.check == DataCheck::Covered {
            self.sections.push(Section {
                name: told.fact(name),
                contents: None,
            });
            return;
        }
        match self.sections.last_mut() {
            Some(section) if section.contents.is_none() && section.name.value == name => section.contents = Some(told),
            _ => self.additions.push(told),
        }
    }

    /// What the log is missing to be the whole boot, in order.
    pub fn missing(&self) -> Vec<Missing> {
        let mut missing = Vec::new();
        if self.secure_boot.enabled.is_none() {
            missing.push(Missing::SecureBootState);
        }
        let separated = SEPARATED.filter(|pcr| match self.format {
            Format::CryptoAgile | Format::Sha1 => true,
            // One register stands for several; the firmware of a TD closes RTMR0 and, where it boots from a disk, RTMR1.
            Format::ConfidentialComputing => *pcr == 7,
        });
        missing.extend(
            separated
                .filter(|pcr| self.separators & 1u32.wrapping_shl(*pcr) == 0)
                .map(Missing::Separator),
        );
        if self.exit_boot_services.is_none() {
            missing.push(Missing::ExitBootServices);
        }
        missing
    }

    /// SBAT's level, as shim measured it: proven, and said once.
    pub fn sbat_level(&self) -> Option<Fact<String>> {
        let mut levels = self.authorities.iter().filter(|fact| {
            fact.value.variable.guid == super::guid::SHIM_LOCK && fact.value.variable.is_named("SbatLevel")
        });
        let first = levels.next()?;
        let same = levels.all(|other| other.value.variable.value == first.value.variable.value);
        let AuthorityKind::Setting(value) = first.value.kind else {
            return None;
        };
        same.then(|| Fact {
            value: text_of(value),
            event: first.event,
            proven: first.proven,
        })
    }
}
