//! A wire-tapper between the TSS and a software TPM, as it sits on the bus between CPU and TPM in the field.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// The longest command or response a TPM exchanges.
const MAX_MESSAGE: usize = 4096;

/// What the tapper does with a response on its way to the host. Gets the command it answers.
pub type Meddle = Box<dyn Fn(&[u8], &mut Vec<u8>) + Send>;

/// A tap on the connection to one software TPM.
#[derive(Debug)]
pub struct Tap {
    port: u16,
    heard: Arc<Mutex<Vec<u8>>>,
    ended: Arc<AtomicBool>,
}

impl Tap {
    /// Puts a tap before the TPM whose data port is `target` (control one above).
    ///
    /// # Errors
    /// When no pair of ports is free.
    pub fn before(target: u16, meddle: Meddle) -> std::io::Result<Self> {
        let (data, control) = pair()?;
        let port = data.local_addr()?.port();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let ended = Arc::new(AtomicBool::new(false));
        let ears = Arc::clone(&heard);
        let stop = Arc::clone(&ended);
        std::thread::spawn(move || {
            serve(&data, target, &stop, |command, response| {
                meddle(command, response);
                let mut heard = ears.lock().unwrap_or_else(PoisonError::into_inner);
                heard.extend_from_slice(command);
                heard.extend_from_slice(response);
            })
        });
        let stop = Arc::clone(&ended);
        std::thread::spawn(move || serve(&control, target + 1, &stop, |_, _| ()));
        Ok(Self { port, heard, ended })
    }

    /// The TCTI string through the tap.
    #[must_use]
    pub fn tcti(&self) -> String {
        format!("swtpm:host=127.0.0.1,port={}", self.port)
    }

    /// Whether these bytes went over the wire in the clear, in either direction.
    #[must_use]
    pub fn heard(&self, bytes: &[u8]) -> bool {
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.windows(bytes.len()).any(|window| window == bytes)
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        // Wakes the two listeners, which then see that they are done.
        for port in [self.port, self.port + 1] {
            drop(TcpStream::connect((Ipv4Addr::LOCALHOST, port)));
        }
    }
}

/// Two listeners on neighbouring ports.
fn pair() -> std::io::Result<(TcpListener, TcpListener)> {
    let mut last = None;
    for _ in 0..20 {
        let control = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        match TcpListener::bind((Ipv4Addr::LOCALHOST, control.local_addr()?.port() - 1)) {
            Ok(data) => return Ok((data, control)),
            Err(e) => last = Some(e),
        }
    }
    Err(last.unwrap_or_else(|| std::io::ErrorKind::AddrInUse.into()))
}

/// Passes messages to and fro, one connection at a time, as the TSS makes them.
fn serve(listener: &TcpListener, target: u16, ended: &AtomicBool, mut each: impl FnMut(&[u8], &mut Vec<u8>)) {
    for host in listener.incoming() {
        if ended.load(Ordering::Relaxed) {
            return;
        }
        let (Ok(mut host), Ok(mut tpm)) = (host, TcpStream::connect((Ipv4Addr::LOCALHOST, target))) else {
            continue;
        };
        while let Some(command) = message(&mut host) {
            let Some(mut response) = tpm.write_all(&command).ok().and_then(|()| message(&mut tpm)) else {
                break;
            };
            each(&command, &mut response);
            if host.write_all(&response).is_err() {
                break;
            }
        }
        let _ = tpm.shutdown(Shutdown::Both);
    }
}

/// One message: a TPM command or response up to the length its header says, or whatever came (control channel).
fn message(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut bytes = vec![0; MAX_MESSAGE];
    let mut length = 0;
    loop {
        let count = stream.read(bytes.get_mut(length..)?).ok().filter(|count| *count > 0)?;
        length += count;
        let whole = match bytes.get(..length)? {
            [0x80, 0x01 | 0x02, a, b, c, d, ..] => usize::try_from(u32::from_be_bytes([*a, *b, *c, *d])).ok()?,
            _ => length,
        };
        if length >= whole {
            bytes.truncate(length);
            return Some(bytes);
        }
    }
}
