//! Credentials made in software, opened by a real software TPM: for each endorsement key template, the right attestation
//! key gets the secret and any other gets nothing.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::fs;
use std::io::Read as _;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Instant;

use swtpm_tests::observe::PATIENCE;
use tempfile::TempDir;
use touchstone_verifier::tpm::credential::{CREDENTIAL_ENTROPY_LEN, CREDENTIAL_SECRET_LEN, make_credential};
use touchstone_verifier::tpm::ek::POLICY_B_SHA384;
use touchstone_verifier::tpm::{EkTemplate, Public};

/// What the tools put in front of a credential file: magic and version.
const CREDENTIAL_FILE_HEAD: [u8; 8] = [0xBA, 0xDC, 0xC0, 0xDE, 0, 0, 0, 1];

/// A software TPM on a Unix socket of its own, gone when dropped.
struct SoftwareTpm {
    dir: TempDir,
    process: Child,
}

impl SoftwareTpm {
    /// Starts one, or says why not: without swtpm and tpm2-tools there is nothing to test against.
    fn start() -> Option<Self> {
        for tool in ["swtpm", "tpm2_activatecredential"] {
            if Command::new(tool).arg("--version").output().is_err() {
                touchstone_vectors::lacking(&format!("credentials at a software TPM: {tool} is not installed"));
                return None;
            }
        }
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).display().to_string();
        let process = touchstone_vectors::alone("swtpm")
            .args(["socket", "--tpm2", "--flags", "not-need-init,startup-clear"])
            .args(["--tpmstate", &format!("dir={}", dir.path().display())])
            .args(["--server", &format!("type=unixio,path={}", path("tpm"))])
            .args(["--ctrl", &format!("type=unixio,path={}", path("tpm.ctrl"))])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let tpm = Self { dir, process };
        let started = Instant::now();
        while !(tpm.path("tpm").exists() && tpm.path("tpm.ctrl").exists()) {
            assert!(started.elapsed() < PATIENCE, "swtpm made no socket");
            std::thread::yield_now();
        }
        Some(tpm)
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    fn run(&self, command: &str) -> Output {
        let mut words = command.split(' ');
        Command::new(words.next().unwrap())
            .args(words)
            .current_dir(self.dir.path())
            .env("TPM2TOOLS_TCTI", format!("swtpm:path={}", self.path("tpm").display()))
            .output()
            .unwrap()
    }

    /// Runs a tool that must succeed, then frees what it left in the TPM's few slots (there is no resource manager).
    fn must(&self, command: &str) {
        let output = self.run(command);
        assert!(
            output.status.success(),
            "{command}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        self.run("tpm2_flushcontext -t");
    }

    fn public(&self, context: &str) -> Public {
        self.must(&format!("tpm2_readpublic -Q -c {context} -f tss -o {context}.pub"));
        Public::from_tpm2b_or_tpmt(&self.read(&format!("{context}.pub"))).unwrap()
    }

    fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap()
    }

    /// The secret that the TPM finds for `ak` in a credential, if it opens it. Low-range EKs want their policy satisfied.
    fn activate(&self, ak: &str, ek: &str, policy: bool) -> Option<Vec<u8>> {
        let _ = fs::remove_file(self.path("secret"));
        let mut command = format!("tpm2_activatecredential -Q -c {ak} -C {ek} -i credential -o secret");
        if policy {
            self.must("tpm2_startauthsession --policy-session -S session");
            self.must("tpm2_policysecret -Q -S session -c e");
            command.push_str(" -P session:session");
        }
        self.run(&command);
        self.run("tpm2_flushcontext -t");
        if policy {
            self.run("tpm2_flushcontext session");
        }
        fs::read(self.path("secret")).ok()
    }
}

impl Drop for SoftwareTpm {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    fs::File::open(Path::new("/dev/urandom"))
        .unwrap()
        .read_exact(&mut bytes)
        .unwrap();
    bytes
}

#[test]
fn only_the_right_tpm_and_key_open_a_credential() {
    let Some(tpm) = SoftwareTpm::start() else { return };
    fs::write(tpm.path("policy-b"), POLICY_B_SHA384).unwrap();
    let ak_attributes = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|restricted|sign";
    for (ak, scheme) in [
        ("ak", "ecc:ecdsa-sha256:null"),
        ("other-ak", "ecc384:ecdsa-sha384:null"),
    ] {
        tpm.must(&format!(
            "tpm2_createprimary -Q -C e -G {scheme} -g sha256 -a {ak_attributes} -c {ak}"
        ));
    }
    let (ak, other_ak) = (tpm.public("ak"), tpm.public("other-ak"));
    assert_ne!(ak.name(), other_ak.name());

    tpm.must("tpm2_createek -Q -G rsa -c ek-rsa");
    tpm.must("tpm2_createek -Q -G ecc -c ek-p256");
    let ek_attributes = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|adminwithpolicy|restricted|decrypt";
    tpm.must(&format!(
        "tpm2_createprimary -Q -C e -G ecc384:aes256cfb -g sha384 -a {ek_attributes} -L policy-b -c ek-p384"
    ));
    for (context, template, policy) in [
        ("ek-rsa", EkTemplate::L1Rsa2048, true),
        ("ek-p256", EkTemplate::L2P256, true),
        ("ek-p384", EkTemplate::H3P384, false),
    ] {
        let ek = tpm.public(context);
        let ek = ek.check_ek().unwrap();
        assert_eq!(ek.template(), template);
        let secret: [u8; CREDENTIAL_SECRET_LEN] = random();
        let entropy: [u8; CREDENTIAL_ENTROPY_LEN] = random();
        let credential = make_credential(&ek, &ak.check_ak().unwrap(), &secret, &entropy).unwrap();
        let write = |blob: &[u8], encrypted: &[u8]| {
            fs::write(
                tpm.path("credential"),
                [&CREDENTIAL_FILE_HEAD, blob, encrypted].concat(),
            )
            .unwrap();
        };
        write(&credential.credential_blob, &credential.encrypted_secret);
        assert_eq!(
            tpm.activate("ak", context, policy).as_deref(),
            Some(secret.as_slice()),
            "{context}"
        );
        assert_eq!(
            tpm.activate("other-ak", context, policy),
            None,
            "{context}: opened for another key"
        );
        let other_ek = if context == "ek-p384" {
            ("ek-p256", true)
        } else {
            ("ek-p384", false)
        };
        assert_eq!(
            tpm.activate("ak", other_ek.0, other_ek.1),
            None,
            "{context}: opened by another key"
        );
        let mut changed = credential.credential_blob;
        *changed.last_mut().unwrap() ^= 1;
        write(&changed, &credential.encrypted_secret);
        assert_eq!(
            tpm.activate("ak", context, policy),
            None,
            "{context}: opened although changed"
        );
    }
}
