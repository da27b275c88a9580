//! `configfs-tsm` in user space: a folder in which a program makes entries and reads reports, as it does in Linux.
//!
//! What the kernel does when a file is opened is done here with named pipes, and noticed a moment later. Differences that
//! remain: an entry's attributes appear shortly after the entry, and an entry goes away by itself once it has been read,
//! for a folder with files in it cannot be removed by the program.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat};

use crate::guest::{DATA_LEN, Guest};

/// How often the folder is looked at.
const TICK: Duration = Duration::from_millis(1);
/// How long an entry that has been read stays.
const LINGER: Duration = Duration::from_millis(500);
const OUTPUTS: [&str; 2] = ["outblob", "auxblob"];
const INPUTS: [&str; 2] = ["inblob", "privlevel"];

/// A running emulation; it ends with this.
#[derive(Debug)]
pub struct EmulatedTsm {
    base: PathBuf,
    guest: Arc<Mutex<Guest>>,
    conflicts: Arc<Mutex<u32>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl EmulatedTsm {
    /// Shows `guest` in the folder `base`, which is made where it is not there.
    ///
    /// # Errors
    /// The operating system's.
    pub fn start(base: &Path, guest: Guest) -> io::Result<Self> {
        fs::create_dir_all(base)?;
        let guest = Arc::new(Mutex::new(guest));
        let (conflicts, stop) = (Arc::new(Mutex::new(0)), Arc::new(AtomicBool::new(false)));
        let mut service = Service {
            base: base.to_owned(),
            guest: Arc::clone(&guest),
            conflicts: Arc::clone(&conflicts),
            entries: BTreeMap::new(),
        };
        let stopped = Arc::clone(&stop);
        let thread = std::thread::Builder::new().name("tsm".into()).spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                service.tick();
                std::thread::park_timeout(TICK);
            }
        })?;
        Ok(Self {
            base: base.to_owned(),
            guest,
            conflicts,
            stop,
            thread: Some(thread),
        })
    }

    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.base
    }

    /// Changes what reports say from now on.
    pub fn change<T>(&self, change: impl FnOnce(&mut Guest) -> T) -> T {
        change(&mut self.guest.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Makes the next `count` reports look as if somebody else had written to their entries too.
    pub fn conflict(&self, count: u32) {
        *self.conflicts.lock().unwrap_or_else(PoisonError::into_inner) = count;
    }

    /// Whether reports remain that will look so.
    #[must_use]
    pub fn conflicts_left(&self) -> u32 {
        *self.conflicts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for EmulatedTsm {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
        let _ = fs::remove_dir_all(&self.base);
    }
}

struct Service {
    base: PathBuf,
    guest: Arc<Mutex<Guest>>,
    conflicts: Arc<Mutex<u32>>,
    entries: BTreeMap<PathBuf, Entry>,
}

struct Entry {
    /// Open ends of the pipes that a program writes to, with what has come of the present write.
    inputs: Vec<(&'static str, File, Vec<u8>)>,
    generation: u64,
    data: Option<[u8; DATA_LEN]>,
    read: Option<Instant>,
}

impl Service {
    fn tick(&mut self) {
        self.find_entries();
        let mut gone = Vec::new();
        for (path, entry) in &mut self.entries {
            entry.take_inputs(path);
            for name in OUTPUTS {
                let Some(mut reader) = waiting_reader(&path.join(name)) else {
                    continue;
                };
                // Whoever reads has written before.
                entry.take_inputs(path);
                let bytes = entry.output(name, &self.guest);
                let _ = reader.write_all(&bytes);
                if name == "outblob" {
                    let mut conflicts = self.conflicts.lock().unwrap_or_else(PoisonError::into_inner);
                    if *conflicts > 0 {
                        *conflicts -= 1;
                        entry.count(path);
                    }
                }
                entry.read = Some(Instant::now());
            }
            let lingered = entry.read.is_some_and(|since| since.elapsed() > LINGER);
            if lingered || !path.exists() {
                let _ = fs::remove_dir_all(path);
                gone.push(path.clone());
            }
        }
        for path in gone {
            self.entries.remove(&path);
        }
    }

    fn find_entries(&mut self) {
        let Ok(listed) = fs::read_dir(&self.base) else { return };
        let provider = self.guest.lock().unwrap_or_else(PoisonError::into_inner).provider;
        for found in listed.flatten() {
            let path = found.path();
            if !self.entries.contains_key(&path)
                && let Ok(entry) = Entry::make(&path, provider)
            {
                self.entries.insert(path, entry);
            }
        }
    }
}

impl Entry {
    /// Fills a folder that a program has just made; `outblob` comes last, for by it the program sees that all is there.
    fn make(path: &Path, provider: &str) -> io::Result<Self> {
        fs::write(path.join("provider"), format!("{provider}\n"))?;
        fs::write(path.join("generation"), "0\n")?;
        let mut inputs = Vec::new();
        for name in INPUTS {
            pipe(&path.join(name))?;
            let mut options = File::options();
            let file = options.read(true).custom_flags(nonblocking()).open(path.join(name))?;
            inputs.push((name, file, Vec::new()));
        }
        for name in OUTPUTS.iter().rev() {
            pipe(&path.join(name))?;
        }
        Ok(Self {
            inputs,
            generation: 0,
            data: None,
            read: None,
        })
    }

    /// Takes what has been written and closed.
    fn take_inputs(&mut self, path: &Path) {
        let mut written = 0;
        for (name, file, kept) in &mut self.inputs {
            let mut buffer = [0; 256];
            loop {
                match file.read(&mut buffer) {
                    Ok(0) if kept.is_empty() => break,
                    // The writer has closed: the write counts.
                    Ok(0) => {
                        if *name == "inblob" {
                            let mut data = [0; DATA_LEN];
                            for (to, from) in data.iter_mut().zip(kept.iter()) {
                                *to = *from;
                            }
                            self.data = Some(data);
                        }
                        kept.clear();
                        written += 1;
                        break;
                    }
                    Ok(count) => kept.extend(buffer.iter().take(count)),
                    Err(_) => break,
                }
            }
        }
        for _ in 0..written {
            self.count(path);
        }
    }

    fn count(&mut self, path: &Path) {
        self.generation += 1;
        let next = path.join("generation.next");
        let _ = fs::write(&next, format!("{}\n", self.generation));
        let _ = fs::rename(&next, path.join("generation"));
    }

    fn output(&self, name: &str, guest: &Mutex<Guest>) -> Vec<u8> {
        let guest = guest.lock().unwrap_or_else(PoisonError::into_inner);
        match (name, &self.data) {
            ("outblob", Some(data)) => guest.report(data).unwrap_or_default(),
            ("auxblob", Some(_)) => guest.certificate_table(),
            _ => Vec::new(),
        }
    }
}

/// The end to write to of a pipe that somebody is waiting to read; the next one finds another pipe under the name.
fn waiting_reader(path: &Path) -> Option<File> {
    let mut options = File::options();
    let file = options.write(true).custom_flags(nonblocking()).open(path).ok()?;
    let next = path.with_extension("next");
    pipe(&next).ok()?;
    fs::rename(&next, path).ok()?;
    Some(file)
}

fn pipe(path: &Path) -> io::Result<()> {
    mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?;
    Ok(())
}

const fn nonblocking() -> i32 {
    OFlags::NONBLOCK.bits().cast_signed()
}
