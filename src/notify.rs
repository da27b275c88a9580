//! Telling a service manager that a service is ready (`sd_notify(3)`): one datagram to the socket it has named.
//!
//! What is ordered after such a unit starts when this was said, not when the process was made. Where it cannot be said
//! the unit never becomes active, and nothing that rests on it starts.

use std::ffi::{OsStr, OsString};
use std::io::{Error, ErrorKind, Result};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// Where the service manager listens: a path, or after `@` a name in the abstract namespace.
const SOCKET: &str = "NOTIFY_SOCKET";
/// What it is told.
const READY: &[u8] = b"READY=1";
/// How long a service manager whose queue is full may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// The service manager that waits for this process.
#[derive(Debug)]
pub struct Manager(OsString);

impl Manager {
    /// Who waits, if anybody does.
    #[must_use]
    pub fn of_this_process() -> Option<Self> {
        std::env::var_os(SOCKET).map(Self)
    }

    /// Says that this service is ready.
    ///
    /// # Errors
    /// The operating system's, or that the address is of no kind that is known here.
    pub fn ready(&self) -> Result<()> {
        let socket = UnixDatagram::unbound()?;
        socket.set_write_timeout(Some(PATIENCE))?;
        socket.send_to_addr(READY, &address(&self.0)?)?;
        Ok(())
    }
}

fn address(name: &OsStr) -> Result<SocketAddr> {
    match name.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        [b'/', ..] => SocketAddr::from_pathname(name),
        _ => Err(Error::new(
            ErrorKind::InvalidInput,
            format!("expected a path or @name in {SOCKET}, found {}", name.display()),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(socket: &UnixDatagram) -> Vec<u8> {
        let mut room = [0; 64];
        socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let length = socket.recv(&mut room).unwrap();
        room[..length].to_vec()
    }

    #[test]
    fn it_is_said_at_a_path_and_under_a_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        Manager(path.into()).ready().unwrap();
        assert_eq!(heard(&socket), b"READY=1");

        let name = format!("touchstone-notify-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let socket = UnixDatagram::bind_addr(&address).unwrap();
        Manager(format!("@{name}").into()).ready().unwrap();
        assert_eq!(heard(&socket), b"READY=1");
    }

    #[test]
    fn nobody_there_and_an_address_of_another_kind_are_errors() {
        for name in ["/no/such/socket", "", "@no-such-name", "vsock:2:1", "relative"] {
            assert!(Manager(name.into()).ready().is_err(), "{name}");
        }
    }
}
