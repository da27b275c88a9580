mod recorded;
mod relabelled;

use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::*;
use crate::tpm::HashAlg;

/// Builds crypto-agile logs byte by byte.
struct LogBuilder(Vec<u8>);

impl LogBuilder {
    fn new(algorithms: &[(u16, u16)]) -> Self {
        let mut body = b"Spec ID Event03\0".to_vec();
        body.extend([0, 0, 0, 0, 0, 2, 0, 2]);
        body.extend((algorithms.len() as u32).to_le_bytes());
        for (id, size) in algorithms {
            body.extend(id.to_le_bytes());
            body.extend(size.to_le_bytes());
        }
        body.push(0);
        let mut log = vec![0, 0, 0, 0, 3, 0, 0, 0];
        log.extend([0; 20]);
        log.extend((body.len() as u32).to_le_bytes());
        log.extend(body);
        Self(log)
    }

    fn sha256() -> Self {
        Self::new(&[(0x000B, 32)])
    }

    fn event(mut self, pcr: u32, event_type: EventType, digests: &[(u16, &[u8])], data: &[u8]) -> Self {
        self.0.extend(pcr.to_le_bytes());
        self.0.extend(event_type.0.to_le_bytes());
        self.0.extend((digests.len() as u32).to_le_bytes());
        for (id, digest) in digests {
            self.0.extend(id.to_le_bytes());
            self.0.extend(*digest);
        }
        self.0.extend((data.len() as u32).to_le_bytes());
        self.0.extend(data);
        self
    }

    /// An event whose digest is that of its data.
    fn measured(self, pcr: u32, event_type: EventType, data: &[u8]) -> Self {
        let digest = HashAlg::Sha256.digest([data]);
        self.event(pcr, event_type, &[(0x000B, digest.as_ref())], data)
    }

    fn locality(self, locality: u8) -> Self {
        let data = [b"StartupLocality\0".as_slice(), &[locality]].concat();
        self.event(0, EventType::NO_ACTION, &[(0x000B, &[0; 32])], &data)
    }
}

fn boots() -> Vec<PathBuf> {
    let boots = Path::new(env!("CARGO_MANIFEST_DIR")).join("../swtpm-tests/boots");
    ["good", "cmdline-changed", "ima-unknown-exec", "uki"]
        .map(|name| boots.join(name))
        .to_vec()
}

fn log_of(boot: &Path) -> Vec<u8> {
    std::fs::read(boot.join("eventlog.bin")).unwrap()
}

#[test]
fn what_follows_the_quoted_state_is_ignored_and_counted() {
    let log = LogBuilder::sha256()
        .measured(4, EventType::EFI_ACTION, b"one")
        .measured(6, EventType::EFI_ACTION, b"not quoted")
        .measured(4, EventType::EFI_ACTION, b"two");
    let parsed = EventLog::parse(&log.0).unwrap();
    let after = |events: &[&[u8]]| {
        let mut register = RegisterValue::initial(HashAlg::Sha256, 4, 0);
        for data in events {
            register.extend(HashAlg::Sha256, HashAlg::Sha256.digest([*data]).as_ref());
        }
        register
    };
    let zero = [0; 32];
    for (events, expected) in [
        (&[][..], PrefixMatch { events: 0, ignored: 3 }),
        (&[b"one".as_slice()], PrefixMatch { events: 2, ignored: 1 }),
        (&[b"one", b"two"], PrefixMatch { events: 3, ignored: 0 }),
    ] {
        let quoted = after(events);
        let quoted: [(u32, &[u8]); 2] = [(4, quoted.as_bytes()), (11, &zero)];
        assert_eq!(parsed.match_prefix(HashAlg::Sha256, &quoted), Ok(expected));
    }
    let wrong = after(&[b"two"]);
    let error = parsed
        .match_prefix(HashAlg::Sha256, &[(4, wrong.as_bytes()), (11, &zero)])
        .unwrap_err();
    assert_eq!(
        error,
        PrefixError::Diverged {
            registers: vec![(4, after(&[b"one", b"two"]).as_bytes().to_vec())]
        }
    );
    // A register the log never extends must still hold its start value.
    let error = parsed
        .match_prefix(HashAlg::Sha256, &[(12, wrong.as_bytes())])
        .unwrap_err();
    assert_eq!(
        error,
        PrefixError::Diverged {
            registers: vec![(12, zero.to_vec())]
        }
    );
}

#[test]
fn a_missing_digest_ends_the_prefix() {
    let log = LogBuilder::new(&[(4, 20), (0x000B, 32)]).event(4, EventType::IPL, &[(4, &[1; 20])], b"");
    let parsed = EventLog::parse(&log.0).unwrap();
    assert_eq!(
        parsed.replay(HashAlg::Sha256).unwrap_err(),
        ReplayError::DigestAbsent {
            event: 1,
            bank: HashAlg::Sha256
        }
    );
    assert_eq!(
        parsed.match_prefix(HashAlg::Sha256, &[(4, &[0; 32])]).unwrap().events,
        0
    );
    assert!(parsed.replay(HashAlg::Sha1).is_ok());
}

#[test]
fn startup_locality_sets_register_0_once_and_in_time() {
    let start = |log: LogBuilder| {
        EventLog::parse(&log.0).map(|log| log.replay(HashAlg::Sha256).unwrap().register(0).unwrap().to_vec())
    };
    let three = start(LogBuilder::sha256().locality(3)).unwrap();
    assert_eq!((three[31], &three[..31]), (3, &[0; 31][..]));
    assert_eq!(start(LogBuilder::sha256()).unwrap(), [0; 32]);
    let body = |data: &[u8], pcr| LogBuilder::sha256().event(pcr, EventType::NO_ACTION, &[(0x000B, &[0; 32])], data);
    let at = LogBuilder::sha256().0.len();
    let second = LogBuilder::sha256().locality(3).0.len();
    let late = LogBuilder::sha256().measured(0, EventType::EFI_ACTION, b"x").0.len();
    for (what, log, error) in [
        (
            "a second one",
            LogBuilder::sha256().locality(3).locality(3),
            LogError::StartupLocalityRepeated { offset: second },
        ),
        (
            "after register 0 was extended",
            LogBuilder::sha256()
                .measured(0, EventType::EFI_ACTION, b"x")
                .locality(3),
            LogError::StartupLocalityLate { offset: late },
        ),
        (
            "locality 2",
            LogBuilder::sha256().locality(2),
            LogError::StartupLocalityInvalid { offset: at },
        ),
        (
            "two bytes",
            body(b"StartupLocality\0\x03\x03", 0),
            LogError::StartupLocalityInvalid { offset: at },
        ),
        (
            "another register",
            body(b"StartupLocality\0\x03", 1),
            LogError::StartupLocalityInvalid { offset: at },
        ),
    ] {
        assert_eq!(start(log).unwrap_err(), error, "{what}");
    }
}

#[test]
fn malformed_events_are_refused() {
    let one = [1; 32];
    let at = LogBuilder::sha256().0.len();
    let event = |pcr, digests: &[(u16, &[u8])]| LogBuilder::sha256().event(pcr, EventType::IPL, digests, b"");
    for (what, log, error) in [
        (
            "register 24",
            event(24, &[(0x000B, &one)]),
            LogError::RegisterOutOfRange {
                offset: at,
                last: 23,
                found: 24,
            },
        ),
        (
            "no digest",
            event(0, &[]),
            LogError::DigestCount {
                offset: at,
                declared: 1,
                found: 0,
            },
        ),
        (
            "too many digests",
            event(0, &[(0x000B, &one), (0x000C, &[1; 48])]),
            LogError::DigestCount {
                offset: at,
                declared: 1,
                found: 2,
            },
        ),
        (
            "undeclared algorithm",
            event(0, &[(4, &[1; 20])]),
            LogError::AlgorithmUndeclared {
                offset: at,
                algorithm: 4,
            },
        ),
        (
            "one digest twice",
            LogBuilder::new(&[(0x000B, 32), (4, 20)]).event(0, EventType::IPL, &[(0x000B, &one), (0x000B, &one)], b""),
            LogError::DigestRepeated {
                offset: at + 4,
                algorithm: 0x000B,
            },
        ),
    ] {
        assert_eq!(EventLog::parse(&log.0).unwrap_err(), error, "{what}");
    }
    // Never extended, so register -1 (Windows) is fine.
    let information = LogBuilder::sha256().event(u32::MAX, EventType::NO_ACTION, &[(0x000B, &[0; 32])], b"");
    assert_eq!(
        EventLog::parse(&information.0)
            .unwrap()
            .replay(HashAlg::Sha256)
            .unwrap()
            .register(0)
            .unwrap(),
        [0; 32]
    );
    // An algorithm nobody knows is skipped by its declared size.
    let strange = LogBuilder::new(&[(0x0F0F, 5), (0x000B, 32)]).event(
        1,
        EventType::IPL,
        &[(0x0F0F, &[9; 5]), (0x000B, &one)],
        b"data",
    );
    let parsed = EventLog::parse(&strange.0).unwrap();
    assert_eq!(
        (parsed.events()[0].digest(HashAlg::Sha256), parsed.events()[0].data),
        (Some(&one[..]), &b"data"[..])
    );
}

#[test]
fn limits_hold() {
    assert_eq!(
        EventLog::parse(&vec![0; MAX_LOG + 1]).unwrap_err(),
        LogError::TooLarge {
            limit: MAX_LOG,
            found: MAX_LOG + 1
        }
    );
    let mut large = LogBuilder::sha256();
    let at = large.0.len();
    large = large.event(0, EventType::IPL, &[(0x000B, &[0; 32])], &vec![1; MAX_EVENT_DATA + 1]);
    assert_eq!(
        EventLog::parse(&large.0).unwrap_err(),
        LogError::EventTooLarge {
            offset: at,
            limit: MAX_EVENT_DATA,
            found: MAX_EVENT_DATA as u32 + 1
        }
    );
    let mut many = LogBuilder::new(&[(4, 20)]);
    for _ in 0..=MAX_EVENTS {
        many = many.event(0, EventType::IPL, &[(4, &[1; 20])], b"");
    }
    assert_eq!(
        EventLog::parse(&many.0).unwrap_err(),
        LogError::TooManyEvents { limit: MAX_EVENTS }
    );
}

#[test]
fn only_filling_may_follow_the_last_event() {
    let log = LogBuilder::sha256().measured(4, EventType::EFI_ACTION, b"one").0;
    for filling in [0x00, 0xFF] {
        let padded = [log.as_slice(), &[filling; 100]].concat();
        let parsed = EventLog::parse(&padded).unwrap();
        assert_eq!((parsed.events().len(), parsed.padding()), (1, 100));
    }
    let mixed = [log.as_slice(), &[0; 50], &[0xFF; 50]].concat();
    assert!(EventLog::parse(&mixed).is_err());
}

#[test]
fn lies_about_data_are_seen() {
    let hash = |data: &[u8]| HashAlg::Sha256.digest([data]).as_ref().to_vec();
    let variable = |value: &[u8]| {
        let mut data = vec![7; 16];
        data.extend(1u64.to_le_bytes());
        data.extend((value.len() as u64).to_le_bytes());
        data.extend(b"x\0");
        data.extend(value);
        data
    };
    let (config, separator) = (variable(b"\x01"), [0; 4]);
    let stray = [config.as_slice(), b"?"].concat();
    for (what, pcr, event_type, digest, data, verdict) in [
        (
            "true separator",
            7,
            EventType::SEPARATOR,
            hash(&separator),
            separator.to_vec(),
            DataCheck::Covered,
        ),
        (
            "other separator",
            7,
            EventType::SEPARATOR,
            hash(&[0xFF; 4]),
            separator.to_vec(),
            DataCheck::Mismatch,
        ),
        (
            "variable",
            7,
            EventType::EFI_VARIABLE_DRIVER_CONFIG,
            hash(&config),
            config.clone(),
            DataCheck::Covered,
        ),
        (
            "value only",
            7,
            EventType::EFI_VARIABLE_DRIVER_CONFIG,
            hash(b"\x01"),
            config.clone(),
            DataCheck::Mismatch,
        ),
        (
            "boot value",
            1,
            EventType::EFI_VARIABLE_BOOT,
            hash(b"\x01"),
            config.clone(),
            DataCheck::Covered,
        ),
        (
            "boot structure",
            1,
            EventType::EFI_VARIABLE_BOOT,
            hash(&config),
            config.clone(),
            DataCheck::Covered,
        ),
        (
            "boot lie",
            1,
            EventType::EFI_VARIABLE_BOOT,
            hash(b"\x02"),
            config.clone(),
            DataCheck::Mismatch,
        ),
        (
            "stray byte",
            7,
            EventType::EFI_VARIABLE_AUTHORITY,
            hash(&config),
            stray.clone(),
            DataCheck::Covered,
        ),
        (
            "value's last byte left out",
            7,
            EventType::EFI_VARIABLE_AUTHORITY,
            hash(&config[..config.len() - 1]),
            config.clone(),
            DataCheck::Mismatch,
        ),
        (
            "grub",
            8,
            EventType::IPL,
            hash(b"linux /a"),
            b"grub_cmd: linux /a\0".to_vec(),
            DataCheck::Covered,
        ),
        (
            "grub lie",
            8,
            EventType::IPL,
            hash(b"linux /b"),
            b"grub_cmd: linux /a\0".to_vec(),
            DataCheck::Mismatch,
        ),
        (
            "file name",
            9,
            EventType::IPL,
            hash(b"contents"),
            b"/vmlinuz\0".to_vec(),
            DataCheck::Commentary,
        ),
    ] {
        let log = LogBuilder::sha256()
            .event(pcr, event_type, &[(0x000B, &digest)], &data)
            .0;
        assert_eq!(
            EventLog::parse(&log).unwrap().events()[0].check_data(HashAlg::Sha256),
            verdict,
            "{what}"
        );
    }
    let smuggled = LogBuilder::sha256()
        .event(7, EventType::POST_CODE, &[(0x000B, &hash(&[0xFF; 4]))], b"innocent")
        .0;
    let parsed = EventLog::parse(&smuggled).unwrap();
    assert!(SeparatorDigests::new(HashAlg::Sha256).is_smuggled(&parsed.events()[0], HashAlg::Sha256));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let _ = EventLog::parse(&bytes);
        let mut log = LogBuilder::new(&[(4, 20), (0x000B, 32)]).0;
        log.extend(&bytes);
        let _ = EventLog::parse(&log);
    }

    #[test]
    fn no_altered_genuine_log_makes_it_panic(flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)) {
        let mut bytes = log_of(&boots()[0]);
        for (position, value) in &flips {
            let position = position.index(bytes.len());
            bytes[position] = *value;
        }
        if let Ok(log) = EventLog::parse(&bytes) {
            let _ = log.replay(HashAlg::Sha256);
            for event in log.events() {
                prop_assert!(event.describe().len() <= MAX_DESCRIPTION);
                let _ = event.check_data(HashAlg::Sha256);
            }
        }
    }
}
