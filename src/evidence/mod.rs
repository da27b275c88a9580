//! `touchstone evidence`: collect from this machine, pack what other tools wrote, explain an envelope.

mod collect;
mod gpu;
mod ima;
mod quote;
mod show;
mod snp;
mod tdx;

use std::path::{Path, PathBuf};

use clap::{Args as ClapArgs, Subcommand};
use sha2::{Digest as _, Sha256};
use touchstone_attest::pack::{self, Files};
use touchstone_policies::compute::MAX_FILE;

use crate::output::{self, CommandResult, Failure};

/// Collect evidence from this machine, pack other tools' files, explain an envelope.
#[derive(ClapArgs)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Have this machine's hardware sign a raw nonce: for reference values, an inventory, an offline verdict
    #[command(
        after_help = "Examples:\n  touchstone evidence collect --nonce $(openssl rand -hex 32) -o golden.evidence\n  \
        touchstone evidence collect --tee configfs --nonce $(openssl rand -hex 32) -o guest.evidence"
    )]
    Collect(Box<collect::Args>),
    /// Pack files written by tpm2-tools and the like into unbound evidence
    #[command(
        after_help = "Example:\n  tpm2_quote -c ak.ctx -l sha256:0,2,4,7 -q NONCE -m quote.msg -s quote.sig -o quote.pcrs\n  \
        touchstone evidence pack --tpm-quote quote.msg --tpm-signature quote.sig --tpm-pcrs quote.pcrs \\\n    \
        --tpm-ak ak.pub --ek-cert ek.der --event-log /sys/kernel/security/tpm0/binary_bios_measurements -o node.evidence\n\n\
        With --uki /boot/efi/EFI/Linux/linux.efi the evidence says what is in the unified kernel image that register 11 proves:\n  \
        its command line, kernel release and system. An image that was not the one measured is refused (uki-sections-mismatch).\n\n\
        A confidential VM's report needs no TPM:\n  \
        snpguest report report.bin data.bin && snpguest certificates pem certs\n  \
        touchstone evidence pack --snp-report report.bin --snp-cert certs/vcek.pem -o guest.evidence\n  \
        touchstone evidence pack --tdx-quote quote.bin --tdx-collateral collateral.json --ccel CCEL -o guest.evidence\n  \
        touchstone evidence pack --azure-hcl hcl.bin --snp-cert vcek.pem --tpm-quote q.msg --tpm-signature q.sig --tpm-pcrs q.pcrs -o vm.evidence\n\n\
        Binary files may also be hexadecimal or base64 text.\n\n\
        GPUs, alone or with the above:\n  \
        touchstone evidence pack --gpu-report gpu0.hex gpu1.hex --gpu-certs gpu0.pem gpu1.pem -o gpus.evidence"
    )]
    Pack(Box<PackArgs>),
    /// Explain an envelope in words: what booted, what of it a digest proves, and what the log only says
    #[command(
        after_help = "Examples:\n  touchstone evidence show golden.evidence\n  touchstone evidence show golden.evidence --json | jq '.events[] | select(.check == \"mismatch\")'"
    )]
    Show {
        /// The envelope
        evidence: PathBuf,
        /// One JSON object: records, quote, registers, the story, and every event
        #[arg(long)]
        json: bool,
    },
}

#[derive(ClapArgs)]
struct PackArgs {
    /// TPMS_ATTEST or TPM2B_ATTEST
    #[arg(long)]
    tpm_quote: Option<PathBuf>,
    /// TPMT_SIGNATURE, or the bare bytes of an RSASSA signature with SHA-256
    #[arg(long, requires = "tpm_quote")]
    tpm_signature: Option<PathBuf>,
    /// The attestation key: TPM2B_PUBLIC, TPMT_PUBLIC or PEM
    #[arg(long, requires = "tpm_quote")]
    tpm_ak: Option<PathBuf>,
    /// Register values: JSON {"sha256":{"0":"hex"}}, the tpm2-tools pcr file, or tpm2_pcrread text
    #[arg(long, requires = "tpm_quote")]
    tpm_pcrs: Option<PathBuf>,
    /// Endorsement key certificate (DER or PEM)
    #[arg(long)]
    ek_cert: Option<PathBuf>,
    /// Intermediates above it (PEM, or DER one after the other as in NV 0x01C00100)
    #[arg(long)]
    ek_chain: Option<PathBuf>,
    /// The attestation key's own certificate, IAK or LAK (DER or PEM)
    #[arg(long)]
    iak_cert: Option<PathBuf>,
    /// The firmware's event log
    #[arg(long)]
    event_log: Option<PathBuf>,
    /// IMA's list: binary_runtime_measurements or ascii_runtime_measurements. The quote must hold register 10
    #[arg(long)]
    ima_log: Option<PathBuf>,
    /// The unified kernel image that was booted. The quote must hold register 11, and the event log must be there
    #[arg(long, value_name = "FILE")]
    uki: Option<PathBuf>,
    /// An SEV-SNP report: its 1184 bytes (snpguest report, /dev/sev-guest), or a configfs-tsm outblob
    #[arg(long, value_name = "FILE")]
    snp_report: Option<PathBuf>,
    /// Certificate of the key that signed the report (VCEK, VLEK) and those above it: DER, PEM, AMD's chain file, a
    /// configfs-tsm auxblob, or the JSON of Azure's metadata service (repeatable, or several after the flag)
    #[arg(long, value_name = "FILE", num_args = 1..)]
    snp_cert: Vec<PathBuf>,
    /// Attestation reports of NVIDIA GPUs and switches, as the driver gives them: binary or hexadecimal text, or the
    /// JSON of NVIDIA's attestation SDK, which holds the chains too (several)
    #[arg(long, value_name = "FILE", num_args = 1..)]
    gpu_report: Vec<PathBuf>,
    /// Their certificate chains in the same order: PEM, or DER one after the other
    #[arg(long, value_name = "FILE", num_args = 1.., requires = "gpu_report")]
    gpu_certs: Vec<PathBuf>,
    /// A TDX quote, as the guest device or a configfs-tsm outblob gives it, or JSON that has it as `quote`
    #[arg(long, value_name = "FILE")]
    tdx_quote: Option<PathBuf>,
    /// Intel's collateral for the quote's platform: its answers in JSON
    #[arg(long, value_name = "FILE")]
    tdx_collateral: Option<PathBuf>,
    /// The guest's event log (/sys/firmware/acpi/tables/data/CCEL)
    #[arg(long, value_name = "FILE")]
    ccel: Option<PathBuf>,
    /// The report of Azure's paravisor (NV index 0x01400001); the key that signed --tpm-quote is in it
    #[arg(long, value_name = "FILE")]
    azure_hcl: Option<PathBuf>,
    /// The manifest of the service module (SVSM) that runs the guest's TPM, as the report vouches for it
    #[arg(long, value_name = "FILE")]
    svsm_manifest: Option<PathBuf>,
    /// Where to write the envelope
    #[arg(short, long)]
    output: PathBuf,
    /// One JSON object: file, bytes, sha256 (of the envelope)
    #[arg(long)]
    json: bool,
}

/// Runs the subcommand.
pub fn run(args: Args) -> CommandResult {
    match args.command {
        Command::Collect(args) => collect::run(&args),
        Command::Pack(args) => {
            let files = Files {
                tpm_quote: args.tpm_quote.as_deref().map(output::read).transpose()?,
                tpm_signature: args.tpm_signature.as_deref().map(output::read).transpose()?,
                tpm_ak: args.tpm_ak.as_deref().map(output::read).transpose()?,
                tpm_pcrs: args.tpm_pcrs.as_deref().map(output::read).transpose()?,
                ek_certificate: args.ek_cert.as_deref().map(output::read).transpose()?,
                ek_chain: args.ek_chain.as_deref().map(output::read).transpose()?,
                iak_certificate: args.iak_cert.as_deref().map(output::read).transpose()?,
                event_log: args.event_log.as_deref().map(output::read).transpose()?,
                ima_log: args.ima_log.as_deref().map(output::read).transpose()?,
                uki: args.uki.as_deref().map(read_image).transpose()?,
                tdx_quote: args.tdx_quote.as_deref().map(output::read).transpose()?,
                tdx_collateral: args.tdx_collateral.as_deref().map(output::read).transpose()?,
                ccel: args.ccel.as_deref().map(output::read).transpose()?,
                azure_hcl: args.azure_hcl.as_deref().map(output::read).transpose()?,
                svsm_manifest: args.svsm_manifest.as_deref().map(output::read).transpose()?,
                snp_report: args.snp_report.as_deref().map(output::read).transpose()?,
                snp_certificates: args
                    .snp_cert
                    .iter()
                    .map(|path| output::read(path))
                    .collect::<Result<_, _>>()?,
                gpu_reports: all(&args.gpu_report)?,
                gpu_certificates: all(&args.gpu_certs)?,
            };
            save(&args.output, &pack::pack(files)?, args.json)
        }
        Command::Show { evidence, json } => show::run(&output::read(&evidence)?, json),
    }
}

/// Writes an envelope, and says where it is.
fn save(path: &Path, envelope: &[u8], json: bool) -> CommandResult {
    output::write(path, envelope)?;
    let sha256 = hex::encode(Sha256::digest(envelope));
    let done = serde_json::json!({ "file": path, "bytes": envelope.len(), "sha256": sha256 });
    output::tell(json, &done, || {
        output::say!("{}: {} bytes of evidence", path.display(), envelope.len());
    })
}

/// Every file, in order.
fn all(paths: &[PathBuf]) -> Result<Vec<Vec<u8>>, Failure> {
    paths.iter().map(|path| output::read(path)).collect()
}

/// A boot image, which is large and still has a limit.
fn read_image(path: &Path) -> Result<Vec<u8>, Failure> {
    output::read_at_most(path, MAX_FILE)
}
