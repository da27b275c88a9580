//! A software TPM (swtpm, Debian package `swtpm`) as a child process: for `touchstone demo` and for tests.
//!
//! Started on a copy of a saved state it has that TPM's endorsement key, certificate and persistent keys. With the
//! digests of a recorded boot extended into it, its PCRs are those of the machine that booted, in milliseconds and
//! without a virtual machine. A domain trusts such a TPM only if its signed policy lists the CA behind it.
//!
//! The TPM is driven here over swtpm's raw TCP channel (TPM 2.0 Library part 3 commands); everything else talks to it
//! through [`SoftwareTpm::tcti`]. libtss2 connects once a command, so both may be used side by side.

use std::fs;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The file swtpm keeps a TPM's permanent state in, inside its state folder.
pub const STATE_FILE: &str = "tpm2-00.permall";
/// How long one answer of the software TPM may take. Key generation on a loaded machine is the slowest.
pub const ANSWER_LIMIT: Duration = Duration::from_secs(60);
/// How many port pairs are tried before giving up.
pub const PORT_ATTEMPTS: usize = 20;
/// The longest response a TPM may send (`TPM2_PT_MAX_RESPONSE_SIZE` of libtpms is 3968).
pub const MAX_RESPONSE: usize = 4096;
/// The number of PCRs of a PC Client TPM.
pub const PCR_COUNT: u8 = 24;

const TPM_ST_NO_SESSIONS: u16 = 0x8001;
const TPM_ST_SESSIONS: u16 = 0x8002;
const TPM_CC_STARTUP: u32 = 0x0000_0144;
const TPM_CC_PCR_READ: u32 = 0x0000_017E;
const TPM_CC_PCR_EXTEND: u32 = 0x0000_0182;
const TPM_RS_PW: u32 = 0x4000_0009;
/// `CMD_INIT` of swtpm's control channel (swtpm_ioctl(3)).
const SWTPM_CMD_INIT: u32 = 2;
const SHA256: u16 = 0x000B;

/// Closes everything but standard input, output and error, then becomes the program.
///
/// libtss2 opens its connections without close-on-exec, and swtpm serves one connection at a time: a software TPM that
/// was started meanwhile by another thread would hold the other one's connection open, and that TPM would stand still.
const CLOSE_INHERITED: &str =
    r#"for fd in /proc/$$/fd/*; do n=${fd##*/}; [ "$n" -gt 2 ] && eval "exec $n>&-"; done; exec "$0" "$@""#;

/// One measurement: the PCR and its digest in each bank, as (TPM_ALG_ID, digest).
pub type Measurement = (u8, Vec<(u16, Vec<u8>)>);

/// Why a software TPM could not be started or driven.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SoftwareTpmError {
    /// The program `swtpm` is not installed.
    #[error("the program swtpm is missing: install the package swtpm")]
    NotInstalled,
    /// The saved state could not be copied.
    #[error("cannot copy the TPM state {path}: {kind}")]
    State {
        /// The file or folder concerned.
        path: PathBuf,
        /// What the system said.
        kind: ErrorKind,
    },
    /// No pair of neighbouring free ports was found, or swtpm ended each time.
    #[error("swtpm did not start in {PORT_ATTEMPTS} attempts, last: {last:?}")]
    NotStarted {
        /// What the last attempt ended with.
        last: ErrorKind,
    },
    /// The connection to the software TPM broke.
    #[error("the software TPM does not answer: {0:?}")]
    Channel(ErrorKind),
    /// The TPM refused a command.
    #[error("TPM command {command:#x} failed with {code:#x}")]
    Refused {
        /// The command code.
        command: u32,
        /// The response code.
        code: u32,
    },
    /// The TPM's answer has not the shape its command asks for.
    #[error("malformed answer to TPM command {command:#x}")]
    Malformed {
        /// The command code.
        command: u32,
    },
}

/// A running software TPM on loopback. Dropping it ends the process and deletes its copy of the state.
#[derive(Debug)]
pub struct SoftwareTpm {
    child: Child,
    state: PathBuf,
    data_port: u16,
    control_port: u16,
}

impl SoftwareTpm {
    /// Starts swtpm on a copy of `state_file` (a saved `tpm2-00.permall`) and sends TPM2_Startup(CLEAR).
    ///
    /// # Errors
    /// [`SoftwareTpmError`] when swtpm is missing, the state cannot be copied, or the TPM refuses to start.
    pub fn start(state_file: &Path) -> Result<Self, SoftwareTpmError> {
        let state = copy_state(state_file)?;
        let mut last = ErrorKind::AddrInUse;
        for _ in 0..PORT_ATTEMPTS {
            match launch(&state) {
                Ok((child, data_port, control_port)) => {
                    let tpm = Self {
                        child,
                        state,
                        data_port,
                        control_port,
                    };
                    tpm.startup()?;
                    return Ok(tpm);
                }
                Err(ErrorKind::NotFound) => {
                    remove(&state);
                    return Err(SoftwareTpmError::NotInstalled);
                }
                // Another process took one of the two ports in between: swtpm ended. Try another pair.
                Err(kind) => last = kind,
            }
        }
        remove(&state);
        Err(SoftwareTpmError::NotStarted { last })
    }

    /// The TCTI string for libtss2: `swtpm:host=127.0.0.1,port=N`.
    #[must_use]
    pub fn tcti(&self) -> String {
        format!("swtpm:host=127.0.0.1,port={}", self.data_port)
    }

    /// The port TPM commands go to; the control channel is one above.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.data_port
    }

    /// Extends measurements in order, each into all the banks it has a digest for.
    ///
    /// # Errors
    /// [`SoftwareTpmError::Refused`] when the TPM knows no such PCR or bank, [`SoftwareTpmError::Channel`] on I/O.
    pub fn extend(&self, measurements: &[Measurement]) -> Result<(), SoftwareTpmError> {
        let mut channel = self.channel()?;
        for (pcr, digests) in measurements {
            let mut body = Vec::with_capacity(128);
            body.extend_from_slice(&u32::from(*pcr).to_be_bytes());
            // One authorization: the empty password (handle, no nonce, no attributes, no secret).
            body.extend_from_slice(&9u32.to_be_bytes());
            body.extend_from_slice(&TPM_RS_PW.to_be_bytes());
            body.extend_from_slice(&[0, 0, 0, 0, 0]);
            let count = u32::try_from(digests.len()).unwrap_or(u32::MAX);
            body.extend_from_slice(&count.to_be_bytes());
            for (algorithm, digest) in digests {
                body.extend_from_slice(&algorithm.to_be_bytes());
                body.extend_from_slice(digest);
            }
            channel.command(TPM_ST_SESSIONS, TPM_CC_PCR_EXTEND, &body)?;
        }
        Ok(())
    }

    /// Extends one SHA-256 digest into one PCR of the SHA-256 bank.
    ///
    /// # Errors
    /// As [`Self::extend`].
    pub fn extend_sha256(&self, pcr: u8, digest: [u8; 32]) -> Result<(), SoftwareTpmError> {
        self.extend(&[(pcr, vec![(SHA256, digest.to_vec())])])
    }

    /// The values of PCRs 0-23 in the bank of `algorithm` (a TPM_ALG_ID), in order.
    ///
    /// # Errors
    /// [`SoftwareTpmError::Malformed`] when the TPM has no such bank (it then answers with no values).
    pub fn pcr_values(&self, algorithm: u16) -> Result<Vec<Vec<u8>>, SoftwareTpmError> {
        let mut channel = self.channel()?;
        (0..PCR_COUNT)
            .map(|pcr| {
                let mut body = Vec::with_capacity(10);
                body.extend_from_slice(&1u32.to_be_bytes());
                body.extend_from_slice(&algorithm.to_be_bytes());
                body.push(3);
                body.extend_from_slice(&(1u32 << pcr).to_le_bytes()[..3]);
                let answer = channel.command(TPM_ST_NO_SESSIONS, TPM_CC_PCR_READ, &body)?;
                only_digest(&answer).ok_or(SoftwareTpmError::Malformed {
                    command: TPM_CC_PCR_READ,
                })
            })
            .collect()
    }

    /// A TPM Reset: power off and on, then TPM2_Startup(CLEAR). resetCount goes up by one, resettable PCRs and
    /// everything in the NULL hierarchy are gone.
    ///
    /// # Errors
    /// [`SoftwareTpmError::Channel`] when swtpm does not answer.
    pub fn reset(&self) -> Result<(), SoftwareTpmError> {
        power_on(self.control_port).map_err(SoftwareTpmError::Channel)?;
        self.startup()
    }

    fn startup(&self) -> Result<(), SoftwareTpmError> {
        self.channel()?
            .command(TPM_ST_NO_SESSIONS, TPM_CC_STARTUP, &[0, 0])
            .map(drop)
    }

    fn channel(&self) -> Result<Channel, SoftwareTpmError> {
        connect(self.data_port).map(Channel).map_err(SoftwareTpmError::Channel)
    }
}

impl Drop for SoftwareTpm {
    fn drop(&mut self) {
        // A child that is already gone is what we want; there is nobody to tell about another failure.
        let _ = self.child.kill();
        let _ = self.child.wait();
        remove(&self.state);
    }
}

/// The raw command channel. swtpm serves one connection at a time, so each use opens its own and closes it.
struct Channel(TcpStream);

impl Channel {
    /// Sends one command and returns what follows the response header.
    fn command(&mut self, tag: u16, code: u32, body: &[u8]) -> Result<Vec<u8>, SoftwareTpmError> {
        let io = |e: std::io::Error| SoftwareTpmError::Channel(e.kind());
        let size = u32::try_from(body.len() + 10).map_err(|_| SoftwareTpmError::Malformed { command: code })?;
        let mut request = Vec::with_capacity(body.len() + 10);
        request.extend_from_slice(&tag.to_be_bytes());
        request.extend_from_slice(&size.to_be_bytes());
        request.extend_from_slice(&code.to_be_bytes());
        request.extend_from_slice(body);
        self.0.write_all(&request).map_err(io)?;
        let mut header = [0u8; 10];
        self.0.read_exact(&mut header).map_err(io)?;
        let [_, _, a, b, c, d, e, f, g, h] = header;
        let answered = u32::from_be_bytes([e, f, g, h]);
        let length = usize::try_from(u32::from_be_bytes([a, b, c, d]))
            .ok()
            .filter(|n| (10..=MAX_RESPONSE).contains(n))
            .ok_or(SoftwareTpmError::Malformed { command: code })?;
        let mut rest = vec![0u8; length - 10];
        self.0.read_exact(&mut rest).map_err(io)?;
        if answered != 0 {
            return Err(SoftwareTpmError::Refused {
                command: code,
                code: answered,
            });
        }
        Ok(rest)
    }
}

/// The single digest in a TPM2_PCR_Read answer: pcrUpdateCounter, TPML_PCR_SELECTION of one bank, TPML_DIGEST.
fn only_digest(answer: &[u8]) -> Option<Vec<u8>> {
    let (_counter, rest) = answer.split_first_chunk::<4>()?;
    let (&banks, rest) = rest.split_first_chunk::<4>()?;
    let (_algorithm, rest) = rest.split_first_chunk::<2>()?;
    let (&octets, rest) = rest.split_first()?;
    let rest = rest.get(usize::from(octets)..)?;
    let (&digests, rest) = rest.split_first_chunk::<4>()?;
    let (&size, rest) = rest.split_first_chunk::<2>()?;
    let whole = rest.len() == usize::from(u16::from_be_bytes(size));
    (u32::from_be_bytes(banks) == 1 && u32::from_be_bytes(digests) == 1 && whole).then(|| rest.to_vec())
}

/// A folder of its own, readable by this user only, with a copy of the state in it.
fn copy_state(state_file: &Path) -> Result<PathBuf, SoftwareTpmError> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let failed = |path: &Path, e: &std::io::Error| SoftwareTpmError::State {
        path: path.into(),
        kind: e.kind(),
    };
    let base = std::env::temp_dir();
    let folder = loop {
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let folder = base.join(format!("touchstone-swtpm-{}-{number}", std::process::id()));
        match fs::DirBuilder::new().mode(0o700).create(&folder) {
            Ok(()) => break folder,
            // Left behind by a killed process that had our number.
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
            Err(e) => return Err(failed(&folder, &e)),
        }
    };
    let copy = folder.join(STATE_FILE);
    // Read and write, not fs::copy: a read-only original must not make the copy read-only.
    let copied = fs::read(state_file).and_then(|bytes| fs::write(&copy, bytes));
    copied.map_err(|e| {
        remove(&folder);
        failed(state_file, &e)
    })?;
    Ok(folder)
}

fn remove(folder: &Path) {
    // The folder is ours and lies in the system's scratch space: one that stays does no harm.
    let _ = fs::remove_dir_all(folder);
}

/// Starts swtpm on a free pair of ports and returns it once it answers, with data and control port.
///
/// The control listener is made here and handed over as swtpm's standard input, so nobody can take its port, and the
/// answer to `CMD_INIT` is the sign that the data port is open too: nothing is polled. The data port cannot be handed
/// over (swtpm reads commands from such a descriptor directly); when it is lost to somebody else swtpm ends and the
/// control connection breaks.
fn launch(state: &Path) -> Result<(Child, u16, u16), ErrorKind> {
    let kind = |e: std::io::Error| e.kind();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(kind)?;
    let control_port = listener.local_addr().map_err(kind)?.port();
    let data_port = control_port - 1;
    drop(TcpListener::bind((Ipv4Addr::LOCALHOST, data_port)).map_err(kind)?);
    if !is_on_path("swtpm") {
        return Err(ErrorKind::NotFound);
    }
    let mut child = Command::new("bash")
        .args(["-c", CLOSE_INHERITED, "swtpm"])
        .args(["socket", "--tpm2", "--ctrl", "type=tcp,fd=0", "--log", "file=-"])
        .arg("--tpmstate")
        .arg(format!("dir={}", state.display()))
        .arg("--server")
        .arg(format!("type=tcp,port={data_port},bindaddr=127.0.0.1"))
        .stdin(Stdio::from(OwnedFd::from(listener)))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(kind)?;
    match power_on(control_port) {
        Ok(()) => Ok((child, data_port, control_port)),
        Err(kind) => {
            let _ = child.kill();
            let _ = child.wait();
            // Kept apart from a missing program.
            Err(if kind == ErrorKind::NotFound {
                ErrorKind::BrokenPipe
            } else {
                kind
            })
        }
    }
}

/// True where a program of this name is in a folder of `PATH`.
fn is_on_path(program: &str) -> bool {
    std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).is_file()))
}

/// Powers the TPM on (or off and on again) over the control channel.
fn power_on(control_port: u16) -> Result<(), ErrorKind> {
    let kind = |e: std::io::Error| e.kind();
    let mut control = connect(control_port)?;
    let mut request = SWTPM_CMD_INIT.to_be_bytes().to_vec();
    request.extend_from_slice(&0u32.to_be_bytes());
    control.write_all(&request).map_err(kind)?;
    let mut result = [0u8; 4];
    control.read_exact(&mut result).map_err(kind)?;
    if result == [0; 4] {
        Ok(())
    } else {
        Err(ErrorKind::InvalidData)
    }
}

fn connect(port: u16) -> Result<TcpStream, ErrorKind> {
    let kind = |e: std::io::Error| e.kind();
    let stream = TcpStream::connect(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port)).map_err(kind)?;
    stream.set_nodelay(true).map_err(kind)?;
    stream.set_read_timeout(Some(ANSWER_LIMIT)).map_err(kind)?;
    stream.set_write_timeout(Some(ANSWER_LIMIT)).map_err(kind)?;
    Ok(stream)
}
