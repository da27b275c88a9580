//! A real NGINX with the shipped configuration.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::io::Read as _;
use std::net::TcpListener as StdListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const PATIENCE: Duration = Duration::from_secs(60);

/// NGINX, ended with the test.
pub struct Nginx {
    process: Child,
    pub port: u16,
    folder: tempfile::TempDir,
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // Its workers end with it.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A port that nobody listens on now.
pub fn free_port() -> u16 {
    StdListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Nginx {
    /// The shipped configuration with these ports in the place of its own; nothing where there is no NGINX.
    pub async fn start(
        configuration: &str,
        port: u16,
        (guard, service): (u16, u16),
        change: impl Fn(String) -> String,
    ) -> Option<Self> {
        if Command::new("nginx").arg("-v").stderr(Stdio::null()).status().is_err() {
            touchstone_vectors::lacking("nginx: not installed");
            return None;
        }
        let server = std::fs::read_to_string(configuration).unwrap();
        for expected in ["127.0.0.1:8080", "127.0.0.1:8081", "127.0.0.1:9191"] {
            assert!(server.contains(expected), "{expected}");
        }
        let server = server
            .replace("127.0.0.1:8080", &format!("127.0.0.1:{port}"))
            .replace("127.0.0.1:8081", &format!("127.0.0.1:{service}"))
            .replace("127.0.0.1:9191", &format!("127.0.0.1:{guard}"));
        let folder = tempfile::tempdir().unwrap();
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .iter()
            .map(|kind| format!("{kind}_temp_path {}/{kind};\n", folder.path().display()))
            .collect();
        let path = folder.path().display();
        let whole = format!(
            "daemon off;\nmaster_process off;\npid {path}/pid;\nerror_log {path}/error.log warn;\nevents {{}}\nhttp {{\n\
             access_log off;\n{temporary}{}\n}}\n",
            change(server)
        );
        let file = folder.path().join("nginx.conf");
        std::fs::write(&file, whole).unwrap();
        let process = touchstone_vectors::alone("nginx")
            .args(["-p", &path.to_string(), "-c", &file.display().to_string()])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut nginx = Self { process, port, folder };
        let begun = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            if let Some(status) = nginx.process.try_wait().unwrap() {
                let mut words = String::new();
                nginx.process.stderr.take().unwrap().read_to_string(&mut words).unwrap();
                unreachable!("nginx ended with {status}: {words} {}", nginx.log());
            }
            assert!(begun.elapsed() < PATIENCE, "nginx does not listen");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Some(nginx)
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("error.log")).unwrap_or_default()
    }

    /// Sends these bytes; gives status, the reasons header, and all of the answer.
    pub async fn send(&self, request: &str) -> (u16, String, String) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
        read.unwrap().unwrap();
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let status = answer
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok())
            .unwrap_or(0);
        let reason = answer.lines().find_map(|line| line.strip_prefix("Touchstone-Reason: "));
        let reason = reason.unwrap_or_default().trim().to_owned();
        (status, reason, answer)
    }
}
