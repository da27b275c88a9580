//! A boot's story in words: chapters of lines, each marked as proven or only said. Every text is made safe to show.

use super::boot_text::text;
use super::secure_boot::Database;
use super::story::{BootStory, CommandLineSource, Fact, Image, Missing, Section, Told};
use super::{SignatureKind, certificate_name};
use crate::reason::sanitise;

/// Most commands of a boot loader that are shown.
pub const MAX_COMMANDS: usize = 24;
/// Most lines of one list (drivers, firmware volumes, boot entries, unnamed events) that are shown.
pub const MAX_LISTED: usize = 24;
/// Longest line shown, in bytes.
pub const MAX_LINE: usize = 512;
/// How much of a digest is shown where people do not compare it, in hexadecimal digits.
const SHORT: usize = 16;

/// What stands behind a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Standing {
    /// A digest that is vouched for covers it.
    Proven,
    /// The log says so.
    Said,
    /// A remark of this program.
    Remark,
}

impl Standing {
    /// One character: `=` proven, `~` said.
    pub const fn mark(self) -> char {
        match self {
            Standing::Proven => '=',
            Standing::Said => '~',
            Standing::Remark => ' ',
        }
    }
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// What stands behind it.
    pub standing: Standing,
    /// The words.
    pub text: String,
}

/// One chapter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chapter {
    /// Its title.
    pub title: &'static str,
    /// Its lines; at least one.
    pub lines: Vec<Line>,
}

impl Chapter {
    fn new(title: &'static str) -> Self {
        Self {
            title,
            lines: Vec::new(),
        }
    }

    fn line(&mut self, standing: Standing, text: impl AsRef<str>) {
        self.lines.push(Line {
            standing,
            text: sanitise(text.as_ref(), MAX_LINE),
        });
    }

    fn proven(&mut self, proven: bool, text: impl AsRef<str>) {
        let standing = if proven { Standing::Proven } else { Standing::Said };
        self.line(standing, text);
    }

    fn remark(&mut self, text: impl AsRef<str>) {
        self.line(Standing::Remark, text);
    }

    /// The first lines of a list, and how many more there are.
    fn list<T>(&mut self, items: &[T], limit: usize, mut each: impl FnMut(&mut Self, &T)) {
        for item in items.iter().take(limit) {
            each(self, item);
        }
        if items.len() > limit {
            self.remark(format!("… {} more; --json has them all", items.len() - limit));
        }
    }
}

impl<'a> BootStory<'a> {
    /// The story in words, in the order of the boot.
    pub fn chapters(&self) -> Vec<Chapter> {
        [
            self.firmware_chapter(),
            self.secure_boot_chapter(),
            self.loader_chapter(),
            self.kernel_chapter(),
            self.end_chapter(),
        ]
        .into_iter()
        .filter(|chapter| !chapter.lines.is_empty())
        .collect()
    }

    fn firmware_chapter(&self) -> Chapter {
        let mut chapter = Chapter::new("Firmware");
        match &self.firmware_version {
            Some(version) => chapter.proven(version.proven, format!("version {}", version.value)),
            None => chapter.remark("its version is not told"),
        }
        if self.startup_locality != 0 {
            // The start value of register 0 depends on it: a wrong one does not replay.
            let vouched = self.vouched.registers & 1 != 0 && self.separators & 1 != 0;
            chapter.proven(
                vouched,
                format!("the TPM was started from locality {}", self.startup_locality),
            );
        }
        // A version that was not told has no words.
        let told: Vec<&Told<'a>> = self.firmware.iter().filter(|told| told.event.data != [0, 0]).collect();
        chapter.list(&told, MAX_LISTED, |chapter, told| self.measured_line(chapter, told));
        let drivers: Vec<&Image<'a>> = self.images.iter().filter(|image| !image.is_application()).collect();
        chapter.list(&drivers, MAX_LISTED, |chapter, image| {
            self.image_line(chapter, image, "driver")
        });
        chapter
    }

    /// What was measured, in words if the digest covers the data, else its digest and what the log calls it.
    fn measured_line(&self, chapter: &mut Chapter, told: &Told<'a>) {
        if told.is_proven() {
            chapter.proven(true, told.event.describe());
        } else {
            let digest = self.digest(told, SHORT);
            chapter.proven(false, format!("{} ({digest})", told.event.describe()));
        }
    }

    /// The digest, cut after `digits`, with the bank's name.
    fn digest(&self, told: &Told<'a>, digits: usize) -> String {
        let Some(digest) = told.event.digest(self.bank) else {
            return format!("no {} digest", self.bank);
        };
        let hexadecimal = hex::encode(digest);
        match hexadecimal.get(..digits) {
            Some(short) if digits < hexadecimal.len() => format!("{} {short}…", self.bank),
            _ => format!("{} {hexadecimal}", self.bank),
        }
    }

    fn image_line(&self, chapter: &mut Chapter, image: &Image<'a>, what: &str) {
        let told = &image.told;
        chapter.proven(told.vouched, format!("{what} {}", self.digest(told, usize::MAX)));
        let from = match (image.path(), image.len()) {
            (Some(path), _) => format!("  loaded from {path}"),
            (None, Some(len)) => format!("  loaded from memory, {len} bytes"),
            (None, None) => "  from an unknown place".to_owned(),
        };
        chapter.line(Standing::Said, from);
        if let Some(fact) = image.authority.and_then(|position| self.authorities.get(position)) {
            let authority = &fact.value;
            chapter.proven(
                fact.proven,
                format!("  after it was let in by {}: {}", authority.source(), authority.words()),
            );
        }
    }

    fn secure_boot_chapter(&self) -> Chapter {
        let mut chapter = Chapter::new("Secure Boot");
        let state = &self.secure_boot;
        match &state.enabled {
            Some(enabled) => chapter.proven(enabled.proven, on_off("Secure Boot", enabled.value)),
            None => chapter.remark("its state was not measured (firmware without it measures an empty variable)"),
        }
        for (name, mode) in [
            ("setup mode", &state.setup_mode),
            ("audit mode", &state.audit_mode),
            ("deployed mode", &state.deployed_mode),
        ] {
            if let Some(mode) = mode {
                chapter.proven(mode.proven, on_off(name, mode.value));
            }
        }
        for name in &state.contradictions {
            chapter.remark(format!(
                "{name} was measured more than once, differently: nothing is taken from it"
            ));
        }
        for (name, database) in state.databases() {
            database_lines(&mut chapter, name, database);
        }
        if let Some(level) = self.sbat_level() {
            let level_words = level.value.replace("\\u{a}", " ");
            chapter.proven(level.proven, format!("SBAT level {}", level_words.trim()));
        }
        chapter.list(&self.authorities, MAX_LISTED, |chapter, fact| {
            let authority = &fact.value;
            if authority.admits_images() {
                let name = sanitise(&authority.words(), MAX_LINE);
                let digest = authority.certificate_sha256().map(hex::encode).unwrap_or_default();
                let short = digest.get(..SHORT).unwrap_or_default();
                let when = if authority.before_separator {
                    ", for drivers"
                } else {
                    ""
                };
                chapter.proven(
                    fact.proven,
                    format!("used{when}: {name} ({}; sha256 {short}…)", authority.source()),
                );
            } else if !authority.variable.is_named("SbatLevel") {
                let name = authority.variable.name();
                chapter.proven(fact.proven, format!("{name}: {}", authority.words()));
            }
        });
        chapter
    }

    fn loader_chapter(&self) -> Chapter {
        let mut chapter = Chapter::new("Boot loaders");
        chapter.list(&self.boot_entries, MAX_LISTED, |chapter, told| {
            chapter.proven(told.is_proven(), format!("boot entry {}", told.event.describe()));
        });
        chapter.list(&self.partition_tables, MAX_LISTED, |chapter, told| {
            chapter.proven(told.is_proven(), told.event.describe());
        });
        let applications: Vec<&Image<'a>> = self.images.iter().filter(|image| image.is_application()).collect();
        chapter.list(&applications, MAX_LISTED, |chapter, image| {
            self.image_line(chapter, image, "image");
        });
        chapter.list(&self.shim_lists, MAX_LISTED, |chapter, told| {
            let name = text(told.event.data).unwrap_or_else(|| "list".to_owned());
            let digest = self.digest(told, SHORT);
            chapter.line(Standing::Said, format!("shim measured {name} ({digest})"));
        });
        chapter.list(&self.commands, MAX_COMMANDS, |chapter, command| {
            let words = String::from_utf8_lossy(command.value);
            chapter.proven(command.proven, format!("GRUB: {words}"));
        });
        chapter.list(&self.files, MAX_LISTED, |chapter, told| {
            chapter.proven(told.vouched, format!("file {}", self.digest(told, usize::MAX)));
            chapter.line(Standing::Said, format!("  read from {}", told.text()));
        });
        chapter
    }

    fn kernel_chapter(&self) -> Chapter {
        let mut chapter = Chapter::new("Kernel");
        chapter.list(&self.sections, MAX_LISTED, |chapter, section| {
            self.section_line(chapter, section);
        });
        chapter.list(&self.command_lines, MAX_LISTED, |chapter, line| {
            let by = match line.source {
                CommandLineSource::Grub => "GRUB",
                CommandLineSource::Systemd => "systemd",
                CommandLineSource::EfiStub => "the kernel's EFI stub",
            };
            match line.text() {
                Some(text) => chapter.proven(line.told.is_proven(), format!("command line, measured by {by}: {text}")),
                None => chapter.line(
                    Standing::Said,
                    format!(
                        "command line, measured by {by}, known by its digest only ({})",
                        self.digest(&line.told, SHORT)
                    ),
                ),
            }
        });
        chapter.list(&self.initrds, MAX_LISTED, |chapter, told| {
            chapter.proven(told.vouched, format!("initrd {}", self.digest(told, usize::MAX)));
        });
        chapter.list(&self.additions, MAX_LISTED, |chapter, told| {
            self.measured_line(chapter, told);
        });
        chapter.list(&self.phases, MAX_LISTED, |chapter, phase| {
            chapter.proven(phase.proven, format!("boot phase {}", phase.value));
        });
        chapter
    }

    fn section_line(&self, chapter: &mut Chapter, section: &Section<'a>) {
        match &section.contents {
            Some(contents) => chapter.proven(
                section.name.proven && contents.vouched,
                format!(
                    "unified kernel image, section {}: {}",
                    section.name.value,
                    self.digest(contents, usize::MAX)
                ),
            ),
            None => chapter.proven(
                section.name.proven,
                format!("unified kernel image, section {}, without contents", section.name.value),
            ),
        }
    }

    fn end_chapter(&self) -> Chapter {
        let mut chapter = Chapter::new("Hand-over and later");
        chapter.list(&self.error_separators, MAX_LISTED, |chapter, fact| {
            chapter.remark(format!("register {}: the firmware closed it with an error", fact.value));
        });
        if let Some(exit) = &self.exit_boot_services {
            let words = match exit.value.succeeded {
                true => "the boot loader ended the firmware's services (ExitBootServices)",
                false => "the boot loader called ExitBootServices; that it succeeded was not measured",
            };
            chapter.proven(exit.proven, words);
        }
        let missing = self.missing();
        let separators: Vec<String> = missing
            .iter()
            .filter_map(|missing| match missing {
                Missing::Separator(pcr) => Some(pcr.to_string()),
                _ => None,
            })
            .collect();
        if !separators.is_empty() {
            chapter.remark(format!(
                "INCOMPLETE: no separator for register {}: where the firmware ended is not known",
                separators.join(", ")
            ));
        }
        if missing.contains(&Missing::ExitBootServices) {
            chapter.remark("INCOMPLETE: ExitBootServices was not measured: the log ends before the kernel took over");
        }
        chapter.list(&self.other, MAX_LISTED, |chapter, told| {
            let register = self.format.register_name(told.event.pcr);
            let words = told.event.describe();
            chapter.proven(told.is_proven(), format!("{register}: {words}"));
        });
        chapter
    }
}

fn on_off(what: &str, on: bool) -> String {
    format!("{what} is {}", if on { "on" } else { "off" })
}

/// A database: how much it holds, and the names of its certificates.
fn database_lines(chapter: &mut Chapter, name: &str, database: &Fact<Database<'_>>) {
    let lists = match &database.value.lists {
        Ok(lists) => lists,
        Err(error) => {
            let len = database.value.value.len();
            return chapter.proven(
                database.proven,
                format!("{name}: {len} bytes that are no signature database ({error})"),
            );
        }
    };
    let counts: Vec<String> = lists
        .counts()
        .into_iter()
        .filter(|(_, count)| *count > 0)
        .map(|(kind, count)| match (kind, count) {
            (SignatureKind::X509, 1) => "1 certificate".to_owned(),
            _ => format!("{count} {}", kind.plural()),
        })
        .collect();
    let held = if counts.is_empty() {
        "empty".to_owned()
    } else {
        counts.join(", ")
    };
    chapter.proven(database.proven, format!("{name}: {held}"));
    let certificates: Vec<&[u8]> = lists.certificates().collect();
    chapter.list(&certificates, MAX_LISTED, |chapter, der| {
        let digest = hex::encode(super::signature_list::sha256(der));
        let short = digest.get(..SHORT).unwrap_or_default();
        chapter.proven(
            database.proven,
            format!("  {} (sha256 {short}…)", certificate_name(der)),
        );
    });
}
