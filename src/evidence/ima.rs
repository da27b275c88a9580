//! The IMA list in an envelope: what ran since the boot, and how much of it the quote vouches for.
//!
//! For people who want to see. Whether any of it may run, only `touchstone verify` judges.

use serde_json::{Value, json};
use touchstone_verifier::ima::{Entry, EntryKind, ImaList, ImaPrefix, replay};
use touchstone_verifier::tpm::HashAlg;

/// Most entries that are named for people; `--json` has all.
const MAX_NAMED: usize = 8;

/// A list, told.
pub(super) struct ToldList {
    /// Words for people, and the same for machines.
    pub(super) lines: Vec<String>,
    pub(super) json: Value,
}

impl ToldList {
    /// Reads the list against `quoted`, the quoted values of register 10; nothing here fails.
    pub(super) fn of(bytes: &[u8], quoted: &[(HashAlg, &[u8])]) -> Self {
        let list = match ImaList::parse(bytes) {
            Ok(list) => list,
            Err(error) => {
                return Self {
                    lines: vec![format!("the list cannot be read: {error}")],
                    json: json!({ "error": error.to_string() }),
                };
            }
        };
        let entries = list.entries();
        let count = |kind| entries.iter().filter(|entry| entry.kind() == kind).count();
        let signed = entries.iter().filter(|entry| entry.signature().is_some()).count();
        let mut lines = vec![format!(
            "{} entries: {} files ({signed} signed), {} buffers, {} violations",
            entries.len(),
            count(EntryKind::File),
            count(EntryKind::Buffer) + count(EntryKind::KexecCmdline),
            count(EntryKind::Violation),
        )];
        let vouched = match quoted {
            [] => {
                lines.push("nothing vouches for it: register 10 is not quoted".to_owned());
                0
            }
            _ => match replay(&ImaPrefix::default(), bytes, quoted) {
                Ok(replayed) => {
                    lines.push(format!(
                        "register 10 vouches for the first {}; {} came after the quote",
                        replayed.entries.len(),
                        replayed.ignored
                    ));
                    replayed.entries.len()
                }
                Err(error) => {
                    lines.push(format!("nothing vouches for it: {error}"));
                    0
                }
            },
        };
        for (title, kind) in [
            ("violation", EntryKind::Violation),
            ("command line of another kernel", EntryKind::KexecCmdline),
        ] {
            let of_kind = entries.iter().filter(|entry| entry.kind() == kind);
            lines.extend(
                of_kind
                    .take(MAX_NAMED)
                    .map(|entry| format!("{title}: entry {}, {}", entry.index, entry.path_words())),
            );
        }
        let told: Vec<Value> = entries.iter().map(|entry| json_of(entry, vouched)).collect();
        Self {
            lines,
            json: json!({ "entries": told, "vouched": vouched, "trailing_bytes": list.trailing() }),
        }
    }
}

fn json_of(entry: &Entry<'_>, vouched: usize) -> Value {
    let kind = match entry.kind() {
        EntryKind::BootAggregate => "boot-aggregate",
        EntryKind::File => "file",
        EntryKind::Buffer => "buffer",
        EntryKind::KexecCmdline => "kexec-cmdline",
        EntryKind::Violation => "violation",
    };
    json!({
        "index": entry.index,
        "register": entry.pcr,
        "template": entry.template.name(),
        "kind": kind,
        "path": entry.path_words(),
        "algorithm": entry.file_digest().map(|hash| hash.algorithm),
        "digest": entry.file_digest().map(|hash| hex::encode(hash.digest)),
        "signature": entry.signature().map(hex::encode),
        "vouched": entry.index <= vouched,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn a_recorded_list_is_told_with_what_the_quote_vouches_for() {
        let boot = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("swtpm-tests/boots/good");
        let list = std::fs::read(boot.join("ima.bin")).unwrap();
        let pcrs = std::fs::read_to_string(boot.join("pcrs.txt")).unwrap();
        let value = pcrs.lines().find_map(|line| line.strip_prefix("sha256 10 ")).unwrap();
        let value = hex::decode(value).unwrap();
        let told = ToldList::of(&list, &[(HashAlg::Sha256, &value)]);
        assert_eq!(
            told.lines.first().unwrap(),
            "53 entries: 52 files (0 signed), 0 buffers, 0 violations"
        );
        assert_eq!(
            told.lines.get(1).unwrap(),
            "register 10 vouches for the first 53; 0 came after the quote"
        );
        let second = told.json.get("entries").and_then(|entries| entries.get(1)).unwrap();
        assert_eq!(second.get("path").unwrap(), "/init");
        assert_eq!(second.get("vouched").unwrap(), true);
        let alone = ToldList::of(&list, &[]);
        assert!(alone.lines.get(1).unwrap().starts_with("nothing vouches for it"));
        let other = ToldList::of(&list, &[(HashAlg::Sha256, &[1; 32])]);
        assert!(other.lines.get(1).unwrap().starts_with("nothing vouches for it"));
        assert_eq!(other.json.get("vouched").unwrap(), 0);
    }
}
