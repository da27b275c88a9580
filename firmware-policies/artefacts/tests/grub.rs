//! GRUB's commands and files: computed events equal those of the recorded boots.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use crate::common;

use common::{BANKS, computed, grub, kernel, logged, pe, recorded};
use proptest::prelude::*;
use touchstone_artefacts::event::{ComputedEvent, to_event_log};
use touchstone_artefacts::fuzz;
use touchstone_artefacts::grub::{GrubFiles, Script, Start, command_event};
use touchstone_artefacts::pe::Image;
use touchstone_verifier::eventlog::{DataCheck, EventLog};
use touchstone_verifier::tpm::HashAlg;

const PREFIX: &str = "(hd0,gpt1)/EFI/debian";

fn start() -> Start {
    Start {
        config: format!("{PREFIX}/grub.cfg"),
        commands: vec![
            format!("[ -z {PREFIX} -o ! -e {PREFIX} ]"),
            format!("[ -e {PREFIX}/x86_64-efi/grub.cfg ]"),
            format!("[ -e {PREFIX}/grub.cfg ]"),
            format!("source {PREFIX}/grub.cfg"),
        ],
    }
}

fn events(boot: &str, kernel: &[u8]) -> Vec<ComputedEvent> {
    let config = recorded(&format!("{boot}/grub.cfg"));
    let start = start();
    let mut events: Vec<_> = start
        .commands
        .iter()
        .map(|command| command_event(&BANKS, command))
        .collect();
    let files = GrubFiles {
        config: (&start.config, &config),
        kernel,
        initrds: &[b"another initrd"],
    };
    events.extend(Script::parse(&config).unwrap().events(&BANKS, files).unwrap());
    events
}

/// Register 8 whole, data and digests in both banks; register 9 but for the two files that are not in the repository.
#[test]
fn computed_events_equal_the_recorded_logs() {
    for boot in ["good", "cmdline-changed"] {
        let events = events(boot, b"another kernel");
        assert_eq!(computed(&events, 8), logged(boot, 8), "{boot}");
        let (ours, theirs) = (computed(&events, 9), logged(boot, 9));
        assert_eq!(ours.len(), theirs.len(), "{boot}");
        assert_eq!(ours[0], theirs[0], "{boot}: grub.cfg");
        for (our, their) in ours.iter().zip(&theirs) {
            assert_eq!(our.1, their.1, "{boot}: names in order");
        }
        assert_ne!(ours[1].0, theirs[1].0);
    }
    assert_ne!(logged("good", 8), logged("cmdline-changed", 8));
}

#[test]
fn the_recorded_kernel_is_measured_as_a_file() {
    let Some(kernel) = kernel() else { return };
    assert_eq!(computed(&events("good", &kernel), 9)[..2], logged("good", 9)[..2]);
}

/// What reads a machine's log reads computed events: the replay gives the quoted register 8.
#[test]
fn a_log_of_computed_events_replays_to_the_recorded_register() {
    let bytes = to_event_log(&BANKS, &events("good", b"k")).unwrap();
    let log = EventLog::parse(&bytes).unwrap();
    assert!(
        log.events()
            .iter()
            .filter(|event| event.pcr == 8)
            .all(|event| event.check_data(HashAlg::Sha256) == DataCheck::Covered)
    );
    let machine = recorded("good/eventlog.bin");
    let machine = EventLog::parse(&machine).unwrap();
    for bank in BANKS {
        let (ours, theirs) = (log.replay(bank).unwrap(), machine.replay(bank).unwrap());
        assert_eq!(ours.register(8), theirs.register(8), "{bank}");
    }
    let line = log
        .events()
        .iter()
        .find_map(|event| event.kernel_command_line())
        .unwrap();
    assert!(line.starts_with(b"/vmlinuz console=ttyS0 "));
}

#[test]
fn the_start_of_a_signed_grub_is_read_from_the_image() {
    let Some(grub) = grub() else { return };
    assert_eq!(Start::of(&Image::parse(&grub).unwrap(), "hd0,gpt1").unwrap(), start());
}

#[test]
fn a_grub_that_starts_in_another_way_is_refused() {
    let search = "if [ -e $prefix/x86_64-efi/grub.cfg ]; then\n\tsource $prefix/x86_64-efi/grub.cfg\nelif [ -e $prefix/grub.cfg ]; then\n\tsource $prefix/grub.cfg\n";
    let modules = |parts: &[(u32, &[u8])]| {
        let mut body = Vec::new();
        for (kind, content) in parts {
            body.extend(kind.to_le_bytes());
            body.extend((content.len() as u32 + 8).to_le_bytes());
            body.extend(*content);
        }
        let mut area = b"mimg\0\0\0\0".to_vec();
        area.extend(24u64.to_le_bytes());
        area.extend((24 + body.len() as u64).to_le_bytes());
        area.extend(body);
        area
    };
    let start = |area: &[u8]| Start::of(&Image::parse(&pe(&[("mods", area)], b"", b"")).unwrap(), "hd0,gpt1");
    let good: [(u32, &[u8]); 2] = [(1, search.as_bytes()), (3, b"/EFI/x\0\0")];
    assert_eq!(start(&modules(&good)).unwrap().config, "(hd0,gpt1)/EFI/x/grub.cfg");
    for (what, area) in [
        ("no search", modules(&[(1, b"set x=1"), (3, b"/EFI/x\0")])),
        ("no prefix", modules(&[(1, search.as_bytes())])),
        (
            "a prefix on a device",
            modules(&[(1, search.as_bytes()), (3, b"(hd1)/x\0")]),
        ),
        ("another magic", modules(&good).iter().map(|byte| byte ^ 1).collect()),
        ("a cut area", modules(&good)[..80].to_vec()),
        ("nothing", Vec::new()),
    ] {
        assert!(start(&area).is_err(), "{what}");
    }
    let mut endless = modules(&good);
    endless[28..32].copy_from_slice(&0u32.to_le_bytes());
    assert!(start(&endless).is_err(), "a part of no length");
}

#[test]
fn only_plain_commands_are_computed() {
    for (what, config) in [
        ("a menu entry", "menuentry 'Debian' {\nlinux /vmlinuz\n}"),
        ("a condition", "if [ -e /x ]; then\nset a=b\nfi"),
        ("a test", "[ -e /x ]"),
        ("another file", "source /x.cfg"),
        ("another configuration", "configfile /x.cfg"),
        ("a module", "insmod gzio"),
        ("a search", "search --fs-uuid --set=root 0-0"),
        ("a saved environment", "load_env"),
        ("an unknown variable", "set root=$x"),
        ("a variable of the machine", "linux ($root)/vmlinuz"),
        ("two commands", "set a=b; boot"),
        ("an escape", "linux /vmlinuz a\\ b"),
        ("a quoted word for the kernel", "linux /vmlinuz \"dyndbg=file x +p\""),
        ("a quotation without an end", "echo 'x"),
        ("an initrd under another name", "initrd newc:x:/initrd"),
        ("a kernel without a file", "linux"),
        ("an assignment", "timeout=0"),
        ("not text", "set x=\u{0}\nchainloader /x"),
    ] {
        assert!(Script::parse(config.as_bytes()).is_err(), "{what}");
    }
    assert!(Script::parse(&[0xFF, 0xFE]).is_err());
    let script =
        Script::parse(b"# x\n\nset k='/vm'\nset r=\"${k}linuz\"\n echo  \"a  b\"\nlinux $r quiet # end\nboot\n")
            .unwrap();
    assert_eq!(script.kernel_command_line().as_deref(), Some("/vmlinuz quiet"));
    let files = GrubFiles {
        config: ("/g", b""),
        kernel: b"",
        initrds: &[],
    };
    let events = script.events(&BANKS, files).unwrap();
    let texts: Vec<_> = computed(&events, 8)
        .into_iter()
        .map(|(_, data)| String::from_utf8(data).unwrap())
        .collect();
    assert_eq!(
        texts,
        [
            "grub_cmd: set k=/vm\0",
            "grub_cmd: set r=/vmlinuz\0",
            "grub_cmd: echo a  b\0",
            "grub_cmd: linux /vmlinuz quiet\0",
            "kernel_cmdline: /vmlinuz quiet\0",
            "grub_cmd: boot\0"
        ]
    );
}

#[test]
fn files_and_commands_must_fit() {
    let events = |config: &str, initrds: &[&[u8]]| {
        let files = GrubFiles {
            config: ("/g", config.as_bytes()),
            kernel: b"k",
            initrds,
        };
        Script::parse(config.as_bytes()).unwrap().events(&BANKS, files)
    };
    assert!(events("linux /a\ninitrd /b /c", &[b"1", b"2"]).is_ok());
    assert!(events("linux /a\ninitrd /b /c", &[b"1"]).is_err(), "an initrd too few");
    assert!(events("linux /a", &[b"1"]).is_err(), "an initrd too many");
    assert!(events("linux /a\nlinux /b", &[]).is_err(), "two kernels");
    assert!(events("boot", &[]).is_err(), "no kernel");
    // Doubling a variable forty times must not double memory forty times.
    let bomb: String = (0..40).map(|n| format!("set a{}=\"$a{n}$a{n}\"\n", n + 1)).collect();
    assert!(Script::parse(format!("set a0=x\n{bomb}").as_bytes()).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn no_configuration_makes_the_parser_panic(text in "[ -~\\n\\t]{0,200}", bytes in prop::collection::vec(any::<u8>(), 0..100)) {
        fuzz::grub_config(text.as_bytes());
        fuzz::grub_config(&bytes);
        fuzz::grub_config(format!("linux {text}\ninitrd /x\n").as_bytes());
    }
}
