//! `touchstone reference compute`: reference values from the files a machine will boot and run.

use std::path::{Path, PathBuf};

use clap::{Args as ClapArgs, ValueEnum};
use touchstone_policies::compute::{
    Base, Boot, Compute, FileList, GrubBoot, GuestKernel, GuestLaunch, HashAlg, MAX_FILE, NamedFile, Replacement,
    StubBoot, UkiBoot, deb_files, initrd_files, parse_tcb,
};
use touchstone_policies::reference_compute;

use crate::clock;
use crate::output::{self, CommandResult, Failure, Outcome, say};
use crate::progress::Progress;

use super::tree;

/// Stage reference values computed from boot images, kernels, initrds, packages and folders
#[derive(ClapArgs)]
#[command(after_help = "Examples:
  A unified kernel image, over the state of a golden machine:
    touchstone reference compute ./repo --name uki-2 --base golden --uki linux.efi
  shim, GRUB with a configuration of plain commands, kernel and initrd:
    touchstone reference compute ./repo --name debian-2 --base golden.evidence --boot grub \\
      --image shimx64.efi --image grubx64.efi --kernel vmlinuz --initrd initrd.img --grub-cfg grub.cfg
  A kernel that firmware or systemd-boot starts:
    touchstone reference compute ./repo --name stub-1 --image systemd-bootx64.efi --boot stub \\
      --kernel vmlinuz --initrd initrd.img --cmdline 'root=/dev/vda2 quiet'
  A kernel update in one command; everything else stays as the golden machine has it:
    touchstone reference compute ./repo --name kernel-45 --base golden --replace vmlinuz-44=vmlinuz-45 \\
      --replace initrd-44=initrd-45 --replace grub-44.cfg=grub-45.cfg --replace-text 6.1.0-44=6.1.0-45
  The launch digest of an SEV-SNP guest that QEMU starts with its kernel:
    touchstone reference compute ./repo --name guest-2 --base guest-1 --snp --ovmf OVMF.fd --kernel vmlinuz \\
      --initrd initrd.img --append 'console=ttyS0 root=/dev/vda1' --vcpus 4 --vcpu-type EPYC-Milan
  What may be executed: a package, a folder, an initrd:
    touchstone reference compute ./repo --name tools-1 --deb busybox-static.deb --directory ./rootfs --initrd-files initrd.img

Without --base the result has the registers that follow from the files (4, 8, 9, 11) and the files; with it, a whole
state that machines can match.")]
pub struct Args {
    /// The repository
    repo: PathBuf,
    /// Name of the reference values
    #[arg(long)]
    name: String,
    /// The state to start from: a reference of the repository, or a file with evidence
    #[arg(long, value_name = "REFERENCE|EVIDENCE")]
    base: Option<String>,
    /// A unified kernel image that is booted
    #[arg(long, conflicts_with_all = ["kernel", "boot"])]
    uki: Option<PathBuf>,
    /// A boot loader's image, in the order of the boot (shim, GRUB, systemd-boot)
    #[arg(long)]
    image: Vec<PathBuf>,
    /// How the kernel is started
    #[arg(long, value_enum, requires = "kernel")]
    boot: Option<BootPath>,
    /// The kernel; with --boot the machine's, with --snp the one QEMU loads
    #[arg(long)]
    kernel: Option<PathBuf>,
    /// The initrds, in the order the loader reads them
    #[arg(long, requires = "kernel")]
    initrd: Vec<PathBuf>,
    /// The kernel's command line; with GRUB it is in the configuration, and this must be it
    #[arg(long, requires = "kernel", value_name = "TEXT")]
    cmdline: Option<String>,
    /// GRUB's configuration: plain commands only
    #[arg(long, value_name = "FILE")]
    grub_cfg: Option<PathBuf>,
    /// Where GRUB finds its configuration
    #[arg(long, default_value = "hd0,gpt1", value_name = "DEVICE")]
    grub_device: String,
    /// How often the kernel is measured into register 4 (default: by shim's version)
    #[arg(long, value_name = "N")]
    kernel_measured: Option<u8>,
    /// Secure Boot is off: the firmware measures the kernel inside the unified kernel image as well
    #[arg(long, requires = "uki")]
    secure_boot_off: bool,
    /// State the launch digest of an SEV-SNP guest under QEMU
    #[arg(long, requires_all = ["ovmf", "vcpus", "vcpu_type"], conflicts_with_all = ["uki", "boot", "image"])]
    snp: bool,
    /// The guest's firmware: an OVMF image with SEV metadata
    #[arg(long, requires = "snp", value_name = "FILE")]
    ovmf: Option<PathBuf>,
    /// The command line of the guest's kernel, the very text given to QEMU
    #[arg(long, requires = "snp", value_name = "TEXT", allow_hyphen_values = true)]
    append: Option<String>,
    /// How many virtual processors the guest has
    #[arg(long, requires = "snp", value_name = "N")]
    vcpus: Option<u32>,
    /// Their type as QEMU names it (EPYC-Milan)
    #[arg(long, requires = "snp", value_name = "TYPE")]
    vcpu_type: Option<String>,
    /// SEV_FEATURES as the host's kernel sets it, hexadecimal (0x21 with debug swap)
    #[arg(long, default_value = "0x1", value_name = "HEX")]
    guest_features: String,
    /// Least security versions of its platform, by component: bl=4,tee=0,snp=24,ucode=219, on Turin with fmc=1; without
    /// them the settings must have snp.floors
    #[arg(long, requires = "snp", value_name = "VERSIONS")]
    tcb: Option<String>,
    /// The guest's ID block (96 bytes), which must state this launch digest
    #[arg(long, requires_all = ["snp", "id_auth"], value_name = "FILE")]
    id_block: Option<PathBuf>,
    /// The ID block's authentication (4096 bytes)
    #[arg(long, requires = "id_block", value_name = "FILE")]
    id_auth: Option<PathBuf>,
    /// A folder whose files may be executed, with the paths they have below it
    #[arg(long, value_name = "DIR")]
    directory: Vec<PathBuf>,
    /// A Debian package whose files may be executed
    #[arg(long, value_name = "FILE")]
    deb: Vec<PathBuf>,
    /// An initrd whose files may be executed
    #[arg(long, value_name = "FILE")]
    initrd_files: Vec<PathBuf>,
    /// A file of the base and the one that replaces it, wherever its digests are
    #[arg(long, value_name = "OLD=NEW", requires = "base")]
    replace: Vec<String>,
    /// Text in GRUB's commands of the base and the one that replaces it
    #[arg(long, value_name = "OLD=NEW", requires = "base")]
    replace_text: Vec<String>,
    /// Register banks where there is no base
    #[arg(long, value_enum, default_values_t = [Hash::Sha256], conflicts_with = "base")]
    bank: Vec<Hash>,
    /// Algorithm of the files' digests: the one the kernel's IMA is set to
    #[arg(long, value_enum, default_value_t = Hash::Sha256)]
    hash: Hash,
    /// Not valid before (RFC 3339); by default they judge any time
    #[arg(long)]
    valid_from: Option<String>,
    /// Not valid from then on (RFC 3339)
    #[arg(long)]
    valid_until: Option<String>,
    /// One JSON object: name, registers, events_only, events, files, measurement, words, notes, staged
    #[arg(long)]
    json: bool,
}

/// How a kernel that is no unified image is started.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum BootPath {
    /// By GRUB, which measures its commands and files
    Grub,
    /// By firmware, systemd-boot or another loader, through the kernel's own EFI stub
    Stub,
}

/// Hash algorithms that are strong.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Hash {
    Sha256,
    Sha384,
    Sha512,
}

impl Hash {
    const fn algorithm(self) -> HashAlg {
        match self {
            Hash::Sha256 => HashAlg::Sha256,
            Hash::Sha384 => HashAlg::Sha384,
            Hash::Sha512 => HashAlg::Sha512,
        }
    }
}

/// Runs the subcommand.
pub fn run(args: &Args) -> CommandResult {
    let progress = Progress::new("computing", None);
    let time = |text: &Option<String>| text.as_deref().map(clock::parse).transpose();
    let mut replacements = Vec::new();
    for pair in &args.replace {
        let (old, new) = split(pair, "--replace")?;
        let (old, new) = (named(Path::new(old))?, named(Path::new(new))?);
        replacements.push(Replacement::File { old, new });
    }
    for pair in &args.replace_text {
        let (old, new) = split(pair, "--replace-text")?;
        let (old, new) = (old.to_owned(), new.to_owned());
        replacements.push(Replacement::Text { old, new });
    }
    let base = args.base.as_ref().map(|base| {
        let path = Path::new(base);
        if path.is_file() {
            return output::read(path).map(Base::Evidence);
        }
        Ok(Base::Reference(base.clone()))
    });
    let mut banks: Vec<HashAlg> = args.bank.iter().map(|bank| bank.algorithm()).collect();
    banks.sort();
    banks.dedup();
    let compute = Compute {
        banks,
        boot: boot(args)?,
        guest: guest(args)?,
        files: files(args)?,
        base: base.transpose()?,
        replacements,
        validity: (time(&args.valid_from)?, time(&args.valid_until)?),
    };
    let computed = reference_compute(&args.repo, &args.name, &compute)?;
    drop(progress);
    if args.json {
        output::json(&serde_json::to_value(&computed)?);
        return Ok(Outcome::Done);
    }
    let list = |registers: &[u8]| registers.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    say!(
        "staged {}: {} events, {} files",
        computed.name,
        computed.events,
        computed.files
    );
    if let Some(measurement) = &computed.measurement {
        say!("  launch measurement {measurement}");
    }
    if !computed.registers.is_empty() {
        say!("  registers {}", list(&computed.registers));
    }
    if !computed.events_only.is_empty() {
        say!(
            "  events only (the values depend on the machine too): registers {}",
            list(&computed.events_only)
        );
    }
    for words in &computed.words {
        say!("  {words}");
    }
    for note in &computed.notes {
        say!("  note: {note}");
    }
    say!("it counts for nothing before `touchstone policy publish` signs it");
    Ok(Outcome::Done)
}

fn split<'a>(pair: &'a str, option: &str) -> Result<(&'a str, &'a str), Failure> {
    let wrong = || Failure::new(format!("{option} {pair}: expected OLD=NEW"));
    pair.split_once('=')
        .filter(|(old, _)| !old.is_empty())
        .ok_or_else(wrong)
}

fn named(path: &Path) -> Result<NamedFile, Failure> {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
    Ok(NamedFile {
        name: name.unwrap_or_default(),
        bytes: output::read(path)?,
    })
}

fn boot(args: &Args) -> Result<Option<Boot>, Failure> {
    let all = |paths: &[PathBuf]| paths.iter().map(|path| named(path)).collect::<Result<Vec<_>, _>>();
    if let Some(uki) = &args.uki {
        return Ok(Some(Boot::Uki(UkiBoot {
            loaders: all(&args.image)?,
            uki: named(uki)?,
            secure_boot: !args.secure_boot_off,
        })));
    }
    let (Some(kernel), Some(path)) = (&args.kernel, args.boot) else {
        if args.kernel.is_some() && !args.snp {
            return Err(
                Failure::new("--kernel without how it is started").hint("add --boot grub, --boot stub, or --snp")
            );
        }
        if args.image.is_empty() {
            return Ok(None);
        }
        return Err(Failure::new("--image without what it boots").hint("add --uki FILE, or --boot with --kernel FILE"));
    };
    let (loaders, kernel, mut initrds) = (all(&args.image)?, named(kernel)?, all(&args.initrd)?);
    match path {
        BootPath::Grub => {
            let missing = || Failure::new("--boot grub needs GRUB's configuration").hint("add --grub-cfg FILE");
            Ok(Some(Boot::Grub(GrubBoot {
                loaders,
                kernel,
                initrds,
                config: named(args.grub_cfg.as_ref().ok_or_else(missing)?)?,
                device: args.grub_device.clone(),
                command_line: args.cmdline.clone(),
                kernel_measured: args.kernel_measured,
            })))
        }
        BootPath::Stub if initrds.len() > 1 => Err(Failure::new(
            "--boot stub takes one initrd: the kernel's stub measures it as a whole",
        )),
        BootPath::Stub => {
            let missing = || Failure::new("--boot stub needs the command line").hint("add --cmdline TEXT");
            Ok(Some(Boot::Stub(StubBoot {
                loaders,
                kernel,
                initrd: initrds.pop(),
                command_line: args.cmdline.clone().ok_or_else(missing)?,
            })))
        }
    }
}

fn guest(args: &Args) -> Result<Option<GuestLaunch>, Failure> {
    let (Some(ovmf), Some(vcpus), Some(vcpu_type)) = (&args.ovmf, args.vcpus, &args.vcpu_type) else {
        return Ok(None);
    };
    let digits = args.guest_features.trim_start_matches("0x");
    let guest_features = u64::from_str_radix(digits, 16)
        .map_err(|error| Failure::new(format!("--guest-features {}: {error}", args.guest_features)))?;
    let (initrd, more) = match args.initrd.as_slice() {
        [] => (None, false),
        [initrd, rest @ ..] => (Some(initrd), !rest.is_empty()),
    };
    if more {
        return Err(Failure::new("--snp takes one initrd: QEMU loads one"));
    }
    if args.kernel.is_none() && args.append.is_some() {
        return Err(Failure::new(
            "--append without --kernel: nothing of it would be measured",
        ));
    }
    let kernel = args.kernel.as_ref().map(|kernel| {
        Ok::<_, Failure>(GuestKernel {
            image: output::read_at_most(kernel, MAX_FILE)?,
            initrd: initrd.map(|path| output::read_at_most(path, MAX_FILE)).transpose()?,
            command_line: args.append.clone().unwrap_or_default(),
        })
    });
    let id_block = match (&args.id_block, &args.id_auth) {
        (Some(block), Some(auth)) => Some((output::read(block)?, output::read(auth)?)),
        _ => None,
    };
    let floor = args.tcb.as_ref().map(|text| {
        let wrong = |found| Failure::new(format!("--tcb {text}: {found}"));
        parse_tcb(text, vcpu_type).map_err(wrong)
    });
    Ok(Some(GuestLaunch {
        ovmf: output::read(ovmf)?,
        kernel: kernel.transpose()?,
        vcpus,
        vcpu_type: vcpu_type.clone(),
        guest_features,
        floor: floor.transpose()?,
        id_block,
    }))
}

fn files(args: &Args) -> Result<Option<FileList>, Failure> {
    let algorithm = args.hash.algorithm();
    let mut files = FileList::new(algorithm);
    let in_file = |path: &Path, error| Failure::new(format!("{}: {error}", path.display()));
    for path in &args.deb {
        let list = deb_files(&output::read(path)?, algorithm);
        let list = list.map_err(|error| in_file(path, error))?;
        files.extend(list).map_err(|error| in_file(path, error))?;
    }
    for path in &args.initrd_files {
        let list = initrd_files(&output::read(path)?, algorithm);
        let list = list.map_err(|error| in_file(path, error))?;
        files.extend(list).map_err(|error| in_file(path, error))?;
    }
    for path in &args.directory {
        tree::add(path, &mut files)?;
    }
    let given = !(args.deb.is_empty() && args.initrd_files.is_empty() && args.directory.is_empty());
    if given && files.files().len() == 0 {
        return Err(Failure::new("there is no file in what was given"));
    }
    Ok(given.then_some(files))
}
