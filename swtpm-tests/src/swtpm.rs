//! Software TPMs for tests: recorded machines brought back to life, and blank ones of an unknown maker.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use touchstone_attest::software_tpm::{STATE_FILE, SoftwareTpm, SoftwareTpmError};

use crate::boots::Boot;
use crate::measurements;

/// The certificates of a manufactured TPM's CA, PEM: the root first, then the issuer.
pub const CA_FILES: [&str; 2] = ["swtpm-localca-rootca-cert.pem", "issuercert.pem"];

/// Why a software TPM could not be made.
#[derive(Debug, thiserror::Error)]
pub enum SwtpmError {
    /// swtpm itself.
    #[error(transparent)]
    Tpm(#[from] SoftwareTpmError),
    /// The scratch folder.
    #[error("scratch folder: {0}")]
    Io(#[from] std::io::Error),
    /// swtpm_setup failed.
    #[error("swtpm_setup failed: {0}")]
    Setup(String),
}

/// A running software TPM. Dropping it ends the process.
#[derive(Debug)]
pub struct Swtpm {
    tpm: SoftwareTpm,
    maker: Option<tempfile::TempDir>,
}

impl Swtpm {
    /// The TPM of `state_of` (its endorsement key, certificate and persistent keys) in the state after the firmware
    /// and boot loaders of `digests_of` ran. PCR 10 is as at reset: see [`Self::extend_ima`].
    ///
    /// # Errors
    /// [`SwtpmError`] when swtpm is not installed or does not start.
    pub fn from_boot(state_of: &Boot, digests_of: &Boot) -> Result<Self, SwtpmError> {
        let tpm = SoftwareTpm::start(&state_of.tpm_state())?;
        tpm.extend(&digests_of.firmware_measurements())?;
        Ok(Self { tpm, maker: None })
    }

    /// A newly made TPM whose endorsement certificates come from a CA made for it alone: nobody's policy knows it.
    /// Takes about a second.
    ///
    /// # Errors
    /// [`SwtpmError`] when swtpm_setup is not installed or fails.
    pub fn blank() -> Result<Self, SwtpmError> {
        let maker = tempfile::tempdir()?;
        let state = manufacture(maker.path())?;
        Ok(Self {
            tpm: SoftwareTpm::start(&state)?,
            maker: Some(maker),
        })
    }

    /// A newly made TPM without endorsement certificates: its maker vouches for nothing.
    ///
    /// # Errors
    /// [`SwtpmError`] when swtpm_setup is not installed or fails.
    pub fn bare() -> Result<Self, SwtpmError> {
        let folder = tempfile::tempdir()?;
        let output = Command::new("swtpm_setup")
            .args(["--tpm2", "--pcr-banks", "sha1,sha256", "--tpmstate"])
            .arg(folder.path())
            .stdin(Stdio::null())
            .output()?;
        if !output.status.success() {
            return Err(SwtpmError::Setup(String::from_utf8_lossy(&output.stdout).into_owned()));
        }
        Ok(Self {
            tpm: SoftwareTpm::start(&folder.path().join(STATE_FILE))?,
            maker: None,
        })
    }

    /// The certificates of the CA of a [`Self::blank`] TPM, PEM: the root first, then the issuer.
    ///
    /// # Errors
    /// When this is a recorded TPM.
    pub fn maker_ca(&self) -> Result<[String; 2], SwtpmError> {
        let maker = self
            .maker
            .as_ref()
            .ok_or_else(|| SwtpmError::Setup("a recorded TPM has no CA of its own".into()))?;
        let ca = maker.path().join("ca");
        let [root, issuer] = CA_FILES.map(|file| std::fs::read_to_string(ca.join(file)));
        Ok([root?, issuer?])
    }

    /// Extends the first `entries` entries of a boot's IMA list (all with `None`), as its kernel did.
    ///
    /// # Errors
    /// [`SwtpmError::Tpm`] when the TPM does not answer.
    pub fn extend_ima(&self, boot: &Boot, entries: Option<usize>) -> Result<(), SwtpmError> {
        let mut list = boot.ima_measurements();
        list.truncate(entries.unwrap_or(usize::MAX));
        Ok(self.tpm.extend(&list)?)
    }

    /// Extends what a kernel with this part of an IMA list extended.
    ///
    /// # Errors
    /// [`SwtpmError::Setup`] when it is no list; [`SwtpmError::Tpm`] when the TPM does not answer.
    pub fn extend_list(&self, list: &[u8]) -> Result<(), SwtpmError> {
        let measured = measurements::ima(list).ok_or_else(|| SwtpmError::Setup("no IMA list".into()))?;
        Ok(self.tpm.extend(&measured)?)
    }

    /// Extends one digest into one PCR of the SHA-256 bank.
    ///
    /// # Errors
    /// [`SwtpmError::Tpm`] when the TPM does not answer.
    pub fn extend(&self, pcr: u8, sha256: [u8; 32]) -> Result<(), SwtpmError> {
        Ok(self.tpm.extend_sha256(pcr, sha256)?)
    }

    /// The values of PCRs 0-23 in one bank (a TPM_ALG_ID).
    ///
    /// # Errors
    /// [`SwtpmError::Tpm`] when there is no such bank.
    pub fn pcr_values(&self, algorithm: u16) -> Result<Vec<Vec<u8>>, SwtpmError> {
        Ok(self.tpm.pcr_values(algorithm)?)
    }

    /// A reboot of the machine into the state after `digests_of`: TPM Reset (resetCount goes up by one, the NULL
    /// hierarchy is new), then the measurements.
    ///
    /// # Errors
    /// [`SwtpmError::Tpm`] when the TPM does not answer.
    pub fn reboot(&self, digests_of: &Boot) -> Result<(), SwtpmError> {
        self.reset()?;
        Ok(self.tpm.extend(&digests_of.firmware_measurements())?)
    }

    /// A TPM Reset alone: all PCRs as at power-on.
    ///
    /// # Errors
    /// [`SwtpmError::Tpm`] when the TPM does not answer.
    pub fn reset(&self) -> Result<(), SwtpmError> {
        Ok(self.tpm.reset()?)
    }

    /// The TCTI string for libtss2.
    #[must_use]
    pub fn tcti(&self) -> String {
        self.tpm.tcti()
    }

    /// The port TPM commands go to; the control channel is one above.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.tpm.port()
    }
}

/// Makes a TPM below `folder`, with a CA of its own: its state in `state`, the CA's certificates ([`CA_FILES`]) in `ca`.
/// Returns its state file.
///
/// # Errors
/// [`SwtpmError`] when swtpm_setup is not installed or fails.
pub fn manufacture(folder: &Path) -> Result<PathBuf, SwtpmError> {
    let [state, ca] = ["state", "ca"].map(|name| folder.join(name));
    std::fs::create_dir(&state)?;
    std::fs::create_dir(&ca)?;
    let file = |name: &str, contents: String| {
        let path = folder.join(name);
        std::fs::write(&path, contents).map(|()| path)
    };
    let ca_config = file(
        "ca.conf",
        format!(
            "statedir={ca}\nsigningkey={ca}/signkey.pem\nissuercert={ca}/issuercert.pem\ncertserial={ca}/certserial\n",
            ca = ca.display()
        ),
    )?;
    let ca_options = file(
        "ca.options",
        "--platform-manufacturer Unknown\n--platform-version 1\n--platform-model Blank\n".to_owned(),
    )?;
    let config = file(
        "setup.conf",
        format!(
            "create_certs_tool=swtpm_localca\ncreate_certs_tool_config={}\ncreate_certs_tool_options={}\n",
            ca_config.display(),
            ca_options.display()
        ),
    )?;
    let output = Command::new("swtpm_setup")
        .args([
            "--tpm2",
            "--create-ek-cert",
            "--lock-nvram",
            "--pcr-banks",
            "sha1,sha256",
        ])
        .arg("--tpmstate")
        .arg(&state)
        .arg("--config")
        .arg(&config)
        .stdin(Stdio::null())
        .output()?;
    if output.status.success() {
        Ok(state.join(STATE_FILE))
    } else {
        Err(SwtpmError::Setup(String::from_utf8_lossy(&output.stdout).into_owned()))
    }
}
