//! Where the parts of a genuine boot lie: unpacked Debian packages (`setup/boot-files.sh`) and the command under test.
#![expect(
    clippy::panic,
    clippy::expect_used,
    reason = "test support: what is not as it must be fails the test"
)]

use std::path::{Path, PathBuf};
use std::process::Command;

/// Names the folder of unpacked packages.
pub const FILES: &str = "TOUCHSTONE_BOOT_FILES";
/// Says why there is none.
pub const NO_FILES: &str = "TOUCHSTONE_NO_BOOT_FILES";
/// Names the command that runs in the guest, where it is not beside the test.
pub const COMMAND: &str = "TOUCHSTONE_BOOT_COMMAND";
/// Folders of libraries in the packages.
const LIBRARIES: [&str; 2] = ["lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"];

/// The parts of a genuine boot.
#[derive(Debug, Clone)]
pub struct BootFiles {
    root: PathBuf,
}

impl BootFiles {
    /// The folder that the environment names.
    ///
    /// # Errors
    /// Why there is none: the reason to report the calling test as skipped with.
    pub fn find() -> Result<Self, String> {
        match std::env::var_os(FILES) {
            Some(root) => Ok(Self { root: root.into() }),
            None => {
                let because = std::env::var(NO_FILES).unwrap_or_else(|_| format!("{FILES} is not set"));
                Err(format!("genuine boots (make test-boot): {because}"))
            }
        }
    }

    /// A file by its path in the packages.
    ///
    /// # Panics
    /// When it is not there.
    #[must_use]
    pub fn path(&self, path: &str) -> PathBuf {
        let path = self.root.join(path);
        assert!(
            path.exists(),
            "{} is missing: run setup/boot-files.sh again",
            path.display()
        );
        path
    }

    /// Where the packages have their libraries, as `LD_LIBRARY_PATH` names it.
    #[must_use]
    pub fn library_path(&self) -> String {
        LIBRARIES
            .map(|folder| self.root.join(folder).display().to_string())
            .join(":")
    }

    /// A program of the packages, to be run on this machine with their libraries.
    ///
    /// # Panics
    /// When it is not there.
    #[must_use]
    pub fn program(&self, path: &str) -> Command {
        let mut command = Command::new(self.path(path));
        command.env("LD_LIBRARY_PATH", self.library_path());
        command
    }

    /// What a program of the packages is linked with: each library, and where the guest's loader looks for it.
    ///
    /// # Panics
    /// When a library is missing.
    #[must_use]
    pub fn libraries(&self, program: &str) -> Vec<(PathBuf, PathBuf)> {
        let mut ldd = Command::new("ldd");
        ldd.arg(self.path(program)).env("LD_LIBRARY_PATH", self.library_path());
        let in_guest = |library: PathBuf| match library.strip_prefix(&self.root) {
            Ok(path) => (library.clone(), Path::new("/").join(path)),
            Err(_) => (library.clone(), library),
        };
        linked(ldd, program).into_iter().map(in_guest).collect()
    }

    /// The bytes of a file.
    ///
    /// # Panics
    /// When it cannot be read.
    #[must_use]
    pub fn read(&self, path: &str) -> Vec<u8> {
        read(&self.path(path))
    }

    /// The signed kernel.
    ///
    /// # Panics
    /// When there is not exactly one.
    #[must_use]
    pub fn kernel(&self) -> Vec<u8> {
        let mut found = names(&self.path("boot"))
            .into_iter()
            .filter(|name| name.starts_with("vmlinuz-"));
        let (Some(kernel), None) = (found.next(), found.next()) else {
            panic!("not one kernel in {}", self.root.display());
        };
        self.read(&format!("boot/{kernel}"))
    }

    /// A kernel module by its name: its file's name and bytes. Dashes and underscores are the same in a module's name.
    ///
    /// # Panics
    /// When there is no such module.
    #[must_use]
    pub fn module(&self, name: &str) -> (String, Vec<u8>) {
        let wanted = format!("{}.ko", name.replace('-', "_"));
        let mut folders = vec![self.path("lib/modules")];
        while let Some(folder) = folders.pop() {
            for entry in names(&folder) {
                let path = folder.join(&entry);
                if path.is_dir() {
                    folders.push(path);
                } else if entry.replace('-', "_") == wanted {
                    return (entry, read(&path));
                }
            }
        }
        panic!("no kernel module {name} in {}", self.root.display());
    }
}

/// The `touchstone` command as cargo built it, beside the test that is running.
///
/// # Panics
/// When it is not there, or is a build without TPM support.
#[must_use]
pub fn command() -> PathBuf {
    let path = std::env::var_os(COMMAND).map_or_else(beside_the_test, PathBuf::from);
    assert!(
        path.exists(),
        "{} is missing: cargo build --bin touchstone",
        path.display()
    );
    let linked = libraries(&path);
    assert!(
        linked
            .iter()
            .any(|library| library.to_string_lossy().contains("libtss2-esys")),
        "{} is a build without TPM support: cargo build --bin touchstone",
        path.display()
    );
    path
}

fn beside_the_test() -> PathBuf {
    let test = std::env::current_exe().expect("a running test");
    let profile = test.parent().and_then(Path::parent).expect("target/debug/deps");
    profile.join("touchstone")
}

/// What `ldd` says a program is linked with, its interpreter too.
///
/// # Panics
/// When a library is missing.
#[must_use]
pub fn libraries(program: &Path) -> Vec<PathBuf> {
    let mut ldd = Command::new("ldd");
    ldd.arg(program);
    linked(ldd, &program.to_string_lossy())
}

fn linked(mut ldd: Command, program: &str) -> Vec<PathBuf> {
    let output = ldd.output().expect("ldd of libc-bin");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(!text.contains("not found"), "{program}: {text}");
    let words = text.split_whitespace();
    let mut paths: Vec<_> = words.filter(|word| word.starts_with('/')).map(PathBuf::from).collect();
    paths.sort();
    paths.dedup();
    paths
}

/// The bytes of a file.
///
/// # Panics
/// When it cannot be read.
#[must_use]
pub fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The names in a folder, sorted.
///
/// # Panics
/// When it cannot be read.
#[must_use]
pub fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut names: Vec<_> = entries
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}
