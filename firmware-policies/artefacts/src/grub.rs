//! GRUB's measurements: every command in register 8, every file it reads in register 9.
//!
//! Source: GRUB manual 2.06 and later, "Measuring boot components": a command is measured as its words after expansion,
//! joined by blanks; a kernel's command line as the words after `linux`; a file as its content.
//!
//! Only configurations of plain commands are understood: no menu, no condition, no function, no command whose effect
//! depends on the machine. Others are refused with the line that is too much, because GRUB measures what it *does*.

use std::collections::BTreeMap;

use touchstone_verifier::eventlog::EventType;
use touchstone_verifier::tpm::HashAlg;

use crate::ArtefactError;
use crate::bytes::{array_at, size, u32_at};
use crate::event::{ComputedEvent, REGISTER_COMMANDS, REGISTER_FILES};
use crate::pe::Image;

/// Longest configuration, in bytes.
pub const MAX_CONFIG: usize = 1 << 20;
/// Most commands of a configuration.
pub const MAX_COMMANDS: usize = 4096;
/// Longest measured command, in bytes: expansion must not multiply.
pub const MAX_COMMAND: usize = 16 << 10;

/// Commands that do the same on every machine and read no file.
const HARMLESS: &[&str] = &["set", "echo", "true", "boot"];
/// Commands that load the kernel, and those that load initrds.
const KERNEL: &[&str] = &["linux", "linuxefi"];
const INITRD: &[&str] = &["initrd", "initrdefi"];
/// What GRUB's texts in register 8 begin with; what follows is measured.
const PREFIXES: &[&str] = &["grub_cmd: ", "kernel_cmdline: ", "module_cmdline: "];
/// Characters whose meaning in GRUB's language is more than a word's.
const SPECIAL: &[char] = &['{', '}', '|', '&', '<', '>', '`', '*', '?', '\t'];

/// A configuration of plain commands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Script {
    commands: Vec<Vec<String>>,
}

/// What GRUB reads while it runs a configuration.
#[derive(Debug, Clone, Copy)]
pub struct GrubFiles<'a> {
    /// The configuration's path as GRUB names it, for the words, and its content.
    pub config: (&'a str, &'a [u8]),
    /// The kernel's content.
    pub kernel: &'a [u8],
    /// The initrds' contents, in the order of the command.
    pub initrds: &'a [&'a [u8]],
}

impl Script {
    /// Reads a configuration.
    ///
    /// # Errors
    /// [`ArtefactError::NotComputable`] with the line for anything but plain commands; [`ArtefactError::TooLarge`].
    pub fn parse(config: &[u8]) -> Result<Self, ArtefactError> {
        if config.len() > MAX_CONFIG {
            return Err(ArtefactError::TooLarge {
                what: "GRUB configuration",
                limit: MAX_CONFIG,
            });
        }
        let text = std::str::from_utf8(config)
            .map_err(|_| ArtefactError::malformed("GRUB configuration", "text in UTF-8", "other bytes"))?;
        let mut variables = BTreeMap::new();
        let mut commands = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let refuse = |why: &str| {
                let why = format!(
                    "{why}. Only plain commands can be computed; for another configuration take the reference from a golden machine (reference add --evidence), or replace files in it (--base with --replace)"
                );
                ArtefactError::not_computable(format!("grub.cfg line {}: {line}", number + 1), why)
            };
            let Some(words) = words(line, &variables).map_err(|why| refuse(&why))? else {
                continue;
            };
            check_command(&words).map_err(|why| refuse(&why))?;
            if let [set, assignment] = words.as_slice()
                && set == "set"
                && let Some((name, value)) = assignment.split_once('=')
            {
                variables.insert(name.to_owned(), value.to_owned());
            }
            commands.push(words);
            if commands.len() > MAX_COMMANDS {
                return Err(ArtefactError::TooLarge {
                    what: "commands of a GRUB configuration",
                    limit: MAX_COMMANDS,
                });
            }
        }
        Ok(Self { commands })
    }

    /// The kernel's command line: the words after `linux`, the kernel's path first.
    pub fn kernel_command_line(&self) -> Option<String> {
        let command = self.commands.iter().find(|words| is(words, KERNEL))?;
        command.get(1..).map(|words| words.join(" "))
    }

    /// The events of register 8 alone: what the configuration's commands are, whatever files they name.
    pub fn command_events(&self, banks: &[HashAlg]) -> Vec<ComputedEvent> {
        let mut events = Vec::new();
        for words in &self.commands {
            events.push(command_event(banks, &words.join(" ")));
            if is(words, KERNEL) {
                let arguments = words.get(1..).unwrap_or_default();
                events.push(text_event(banks, "kernel_cmdline: ", &arguments.join(" ")));
            }
        }
        events
    }

    /// The events of registers 8 and 9 from the moment GRUB has opened the configuration.
    ///
    /// # Errors
    /// [`ArtefactError`]: not one kernel, or another number of initrds than files.
    pub fn events(&self, banks: &[HashAlg], files: GrubFiles<'_>) -> Result<Vec<ComputedEvent>, ArtefactError> {
        let count = |kind: &[&str]| self.commands.iter().filter(|words| is(words, kind)).count();
        let paths: usize = self
            .commands
            .iter()
            .filter(|words| is(words, INITRD))
            .map(|words| words.len() - 1)
            .sum();
        if count(KERNEL) != 1 || paths != files.initrds.len() || count(&["boot"]) > 1 {
            let expected = format!("one kernel, {} initrds, one boot", files.initrds.len());
            let found = format!("{} kernels, {paths} initrds", count(KERNEL));
            return Err(ArtefactError::malformed("GRUB configuration", expected, found));
        }
        let (path, content) = files.config;
        let mut events = vec![file_event(banks, path, content)];
        let mut initrds = files.initrds.iter();
        for words in &self.commands {
            events.push(command_event(banks, &words.join(" ")));
            let Some((_, arguments)) = words.split_first() else {
                continue;
            };
            if is(words, KERNEL) {
                let path = arguments.first().map_or("", String::as_str);
                events.push(file_event(banks, path, files.kernel));
                let text = arguments.join(" ");
                events.push(text_event(banks, "kernel_cmdline: ", &text));
            } else if is(words, INITRD) {
                for (path, content) in arguments.iter().zip(initrds.by_ref()) {
                    events.push(file_event(banks, path, content));
                }
            }
        }
        Ok(events)
    }
}

fn is(words: &[String], kind: &[&str]) -> bool {
    words.first().is_some_and(|first| kind.contains(&first.as_str()))
}

fn check_command(words: &[String]) -> Result<(), String> {
    let (Some(command), arguments) = (words.first(), words.get(1..).unwrap_or_default()) else {
        return Err("an empty command".into());
    };
    let loads = is(words, KERNEL) || is(words, INITRD);
    if !loads && !HARMLESS.contains(&command.as_str()) {
        return Err(format!("`{command}` is not a plain command"));
    }
    if loads && arguments.is_empty() {
        return Err(format!("`{command}` without a file"));
    }
    // Versions of GRUB differ in how they write such words into the kernel's command line.
    if is(words, KERNEL) && arguments.iter().any(|word| word.contains([' ', '\'', '"', '\\'])) {
        return Err("a quoted word in the kernel's command line".into());
    }
    if is(words, INITRD) && arguments.iter().any(|word| word.starts_with('-') || word.contains(':')) {
        return Err("an option of `initrd`".into());
    }
    Ok(())
}

/// The words of a line after expansion; none for an empty line or a comment.
fn words(line: &str, variables: &BTreeMap<String, String>) -> Result<Option<Vec<String>>, String> {
    let mut words: Vec<String> = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut rest = line.trim_end_matches('\r').chars().peekable();
    let mut length = 0;
    while let Some(c) = rest.next() {
        match (quote, c) {
            (Some(q), c) if c == q => quote = None,
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (Some('"') | None, '\\') => return Err("an escape".into()),
            (Some('"') | None, '$') => {
                let mut name = String::new();
                let braces = rest.next_if_eq(&'{').is_some();
                while let Some(c) = rest.next_if(|c| c.is_ascii_alphanumeric() || *c == '_') {
                    name.push(c);
                }
                if braces && rest.next() != Some('}') {
                    return Err("a variable without an end".into());
                }
                let value = variables
                    .get(&name)
                    .ok_or_else(|| format!("variable `{name}` is not set in this file"))?;
                // Outside quotes GRUB would split the value into words.
                if quote.is_none() && value.contains(' ') {
                    return Err(format!("variable `{name}` has blanks"));
                }
                word.get_or_insert_default().push_str(value);
            }
            (None, ' ') => {
                length += word.as_ref().map_or(0, |word| word.len() + 1);
                words.extend(word.take());
            }
            (None, '#') if word.is_none() => break,
            (None, ';') => return Err("two commands on a line".into()),
            (None, c) if SPECIAL.contains(&c) || (c == '!' && word.is_none()) => return Err(format!("`{c}`")),
            (_, c) => word.get_or_insert_default().push(c),
        }
        if word.as_ref().map_or(0, String::len) + length > MAX_COMMAND {
            return Err("a command too long".into());
        }
    }
    if quote.is_some() {
        return Err("a quotation over several lines".into());
    }
    words.extend(word);
    if words.is_empty() { Ok(None) } else { Ok(Some(words)) }
}

/// GRUB's text in the data of an event of register 8: what it begins with, and what was measured of it.
pub fn measured_text(data: &[u8]) -> Option<(&'static str, &str)> {
    let text = std::str::from_utf8(data.strip_suffix(b"\0")?).ok()?;
    let mut prefixes = PREFIXES.iter();
    prefixes.find_map(|prefix| Some((*prefix, text.strip_prefix(prefix)?)))
}

/// The event of a text that begins with one of GRUB's prefixes.
pub fn text_event(banks: &[HashAlg], prefix: &str, text: &str) -> ComputedEvent {
    let data = format!("{prefix}{text}\0").into_bytes();
    ComputedEvent::of(banks, REGISTER_COMMANDS, EventType::IPL, data, text.as_bytes())
}

/// A command's event.
pub fn command_event(banks: &[HashAlg], text: &str) -> ComputedEvent {
    text_event(banks, "grub_cmd: ", text)
}

fn file_event(banks: &[HashAlg], path: &str, content: &[u8]) -> ComputedEvent {
    let data = format!("{path}\0").into_bytes();
    ComputedEvent::of(banks, REGISTER_FILES, EventType::IPL, data, content)
}

/// How GRUB finds its configuration, before the first command of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Start {
    /// Path of the configuration as GRUB names it.
    pub config: String,
    /// The commands measured before it is opened.
    pub commands: Vec<String>,
}

/// Magic number of GRUB's module area (`mimg`, little-endian), and the kinds of its parts.
const MODULES: u32 = 0x676D_696D;
const PART_MEMDISK: u32 = 1;
const PART_PREFIX: u32 = 3;
/// Most parts of the module area.
const MAX_PARTS: usize = 4096;
/// Longest memory disk that is searched, in bytes.
const MAX_MEMDISK: usize = 16 << 20;
/// The search for the configuration that Debian's and Ubuntu's signed GRUB carries in its memory disk.
const DEBIAN_SEARCH: &[u8] = b"if [ -e $prefix/x86_64-efi/grub.cfg ]; then\n\tsource $prefix/x86_64-efi/grub.cfg\nelif [ -e $prefix/grub.cfg ]; then\n\tsource $prefix/grub.cfg\n";

impl Start {
    /// The start of a signed GRUB of Debian's kind that finds `grub.cfg` in its prefix on `device` (`hd0,gpt1`).
    ///
    /// # Errors
    /// [`ArtefactError::NotComputable`] for a GRUB that searches in another way.
    pub fn of(grub: &Image<'_>, device: &str) -> Result<Self, ArtefactError> {
        let unknown = |what: &str| {
            let why = "how this GRUB finds its configuration is not known: give --base with the evidence or reference of a machine that boots it";
            ArtefactError::not_computable(what, why)
        };
        let modules = grub
            .section("mods")?
            .ok_or_else(|| unknown("GRUB image without modules"))?
            .data;
        let (mut prefix, mut searches) = (None, false);
        for (kind, content) in parts(modules).ok_or_else(|| unknown("GRUB's modules"))? {
            match kind {
                PART_PREFIX => prefix = content.split(|byte| *byte == 0).next(),
                PART_MEMDISK if content.len() <= MAX_MEMDISK => {
                    searches = content
                        .windows(DEBIAN_SEARCH.len())
                        .any(|window| window == DEBIAN_SEARCH);
                }
                _ => (),
            }
        }
        let prefix = prefix.and_then(|prefix| std::str::from_utf8(prefix).ok());
        let prefix = prefix.filter(|prefix| prefix.starts_with('/') && !prefix.contains([' ', '"', '\'']));
        let prefix = prefix.ok_or_else(|| unknown("GRUB's prefix"))?;
        if !searches {
            return Err(unknown("GRUB's first commands"));
        }
        let prefix = format!("({device}){prefix}");
        Ok(Self {
            config: format!("{prefix}/grub.cfg"),
            commands: vec![
                format!("[ -z {prefix} -o ! -e {prefix} ]"),
                format!("[ -e {prefix}/x86_64-efi/grub.cfg ]"),
                format!("[ -e {prefix}/grub.cfg ]"),
                format!("source {prefix}/grub.cfg"),
            ],
        })
    }
}

/// The parts of GRUB's module area: kind and content.
fn parts(modules: &[u8]) -> Option<Vec<(u32, &[u8])>> {
    if u32_at(modules, 0)? != MODULES {
        return None;
    }
    // struct grub_module_info64: magic, padding, offset of the first part, size of the area.
    let at = usize::try_from(u64::from_le_bytes(array_at(modules, 8)?)).ok()?;
    let len = usize::try_from(u64::from_le_bytes(array_at(modules, 16)?)).ok()?;
    let mut rest = modules.get(at..len)?;
    let mut parts = Vec::new();
    while !rest.is_empty() {
        let (kind, len) = (u32_at(rest, 0)?, size(u32_at(rest, 4)?));
        parts.push((kind, rest.get(8..len)?));
        rest = rest.get(len..)?;
        if parts.len() > MAX_PARTS {
            return None;
        }
    }
    Some(parts)
}
