//! A network namespace that reaches what policy names for the scope, and nothing else.
//!
//! A pair of virtual Ethernet devices (veth(4)) leads out of it; in it an nftables rule set drops by default what goes out
//! and comes in. The workload cannot change that: it has no `CAP_NET_ADMIN`. Outside, its packets take the address of this
//! machine. No name is looked up for it: where it needs one, policy opens an address that answers.
//!
//! `ip` (iproute2) and `nft` (nftables) do the work; both are looked for where an administrator's programs are, never
//! in `PATH`.

use std::fs::File;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::process::{Command, Stdio};

use nix::sched::{CloneFlags, setns};
use touchstone_policies::{Reachable, Transport};

/// Where programs are.
const PLACES: [&str; 4] = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"];
/// The device's name inside.
const INSIDE: &str = "eth0";
/// The first address that is given out, of shared address space (RFC 6598); each namespace has four.
const FIRST_V4: Ipv4Addr = Ipv4Addr::new(100, 127, 0, 0);
/// The same of a unique local prefix (RFC 4193).
const FIRST_V6: Ipv6Addr = Ipv6Addr::new(0xfd74, 0x6f75, 0x6368, 0, 0, 0, 0, 0);
/// How many namespaces there are addresses for.
const MAX_SEGMENTS: u32 = 1 << 14;
/// How the tables outside are named: then follows the process that made them.
const TABLE: &str = "touchstone_exec_";

/// A network namespace that is set up; what is outside of it goes away when this is dropped.
#[derive(Debug)]
pub struct Segment {
    namespace: File,
    place: Addresses,
    device: String,
    table: String,
    reaches: Vec<Reachable>,
    cut: bool,
    forwarded: bool,
}

impl Segment {
    /// Sets up the namespace that process `pid` has.
    ///
    /// # Errors
    /// In words; then what had been set up is taken away.
    pub async fn build(pid: u32, reaches: Vec<Reachable>) -> Result<Self, String> {
        let built = tokio::task::spawn_blocking(move || Self::build_now(pid, reaches)).await;
        built.map_err(|error| error.to_string())?
    }

    fn build_now(pid: u32, reaches: Vec<Reachable>) -> Result<Self, String> {
        sweep();
        let own = std::process::id();
        let namespace = format!("/proc/{pid}/ns/net");
        let place = Addresses::free()?;
        let segment = Self {
            place,
            namespace: File::open(&namespace).map_err(|error| format!("{namespace}: {error}"))?,
            device: format!("tse{own}"),
            table: format!("{TABLE}{own}"),
            forwarded: is_forwarding(),
            reaches,
            cut: false,
        };
        let device = segment.device.as_str();
        let pid = pid.to_string();
        ip(&format!("link add {device} type veth peer name {INSIDE} netns {pid}"))?;
        ip(&format!("addr add {}/30 dev {device}", place.outside))?;
        segment.up()?;
        segment.inside(|| {
            ip("link set lo up")?;
            ip(&format!("addr add {}/30 dev {INSIDE}", place.inside))?;
            let _ = ip(&format!("addr add {}/126 dev {INSIDE} nodad", place.inside_v6));
            // The filter is there before anything can pass.
            filter(&segment.reaches)?;
            ip(&format!("link set {INSIDE} up"))?;
            ip(&format!("route add default via {}", place.outside))?;
            let _ = ip(&format!("-6 route add default via {}", place.outside_v6));
            Ok(())
        })?;
        nft(&translation(&segment.table, &place))?;
        Ok(segment)
    }

    /// What it reaches.
    #[must_use]
    pub fn reaches(&self) -> &[Reachable] {
        &self.reaches
    }

    /// Whether this machine forwards packets: without, only itself is reached. It is not switched on here.
    #[must_use]
    pub const fn is_forwarded(&self) -> bool {
        self.forwarded
    }

    /// Cuts it off, whole.
    ///
    /// # Errors
    /// In words; then the caller ends the workload.
    pub fn cut(&mut self) -> Result<(), String> {
        self.cut = true;
        // Outside first: that alone is enough, at once.
        ip(&format!("link set {} down", self.device))?;
        self.inside(|| filter(&[]))
    }

    /// Joins it again.
    ///
    /// # Errors
    /// In words.
    pub fn join(&mut self) -> Result<(), String> {
        if !self.cut {
            return Ok(());
        }
        self.inside(|| filter(&self.reaches))?;
        self.up()?;
        self.cut = false;
        Ok(())
    }

    fn up(&self) -> Result<(), String> {
        ip(&format!("link set {} up", self.device))?;
        // A device that is down keeps no IPv6 address. Where IPv6 is switched off nothing is reached by it.
        let _ = ip(&format!(
            "addr add {}/126 dev {} nodad",
            self.place.outside_v6, self.device
        ));
        Ok(())
    }

    /// Goes on with what another policy opens.
    ///
    /// # Errors
    /// In words; then the caller ends the workload.
    pub fn change(&mut self, reaches: Vec<Reachable>) -> Result<(), String> {
        if reaches == self.reaches {
            return Ok(());
        }
        if !self.cut {
            self.inside(|| filter(&reaches))?;
        }
        self.reaches = reaches;
        Ok(())
    }

    /// Does something in the namespace, on a thread of its own: a namespace is a thread's.
    fn inside<T: Send>(&self, job: impl FnOnce() -> Result<T, String> + Send) -> Result<T, String> {
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                setns(&self.namespace, CloneFlags::CLONE_NEWNET).map_err(|error| format!("its namespace: {error}"))?;
                job()
            });
            inside.join().unwrap_or_else(|_| Err("the thread ended".to_owned()))
        })
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        // The device goes with the namespace, or now.
        let _ = ip(&format!("link del {}", self.device));
        let _ = nft(&format!("delete table inet {}\n", self.table));
    }
}

/// Addresses of one namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Addresses {
    outside: Ipv4Addr,
    inside: Ipv4Addr,
    outside_v6: Ipv6Addr,
    inside_v6: Ipv6Addr,
}

impl Addresses {
    fn number(number: u32) -> Self {
        let v4 = |host: u32| Ipv4Addr::from_bits(FIRST_V4.to_bits() + 4 * number + host);
        let v6 = |host: u32| Ipv6Addr::from_bits(FIRST_V6.to_bits() + u128::from(4 * number + host));
        Self {
            outside: v4(1),
            inside: v4(2),
            outside_v6: v6(1),
            inside_v6: v6(2),
        }
    }

    /// Some that no device of this machine has.
    fn free() -> Result<Self, String> {
        let taken = ip("-o addr show")?;
        (0..MAX_SEGMENTS)
            // Two that start at once must not try the same.
            .map(|offset| Self::number((std::process::id() + offset) % MAX_SEGMENTS))
            .find(|place| !taken.contains(&format!(" {}/30 ", place.outside)))
            .ok_or_else(|| format!("all {MAX_SEGMENTS} segments are in use"))
    }
}

/// The rule set inside, replaced as one. Replies come in because they are replies; what goes out is looked at packet for
/// packet, so that what is closed ends in the middle of a connection.
fn rules(reaches: &[Reachable]) -> String {
    let mut out = String::new();
    let mut add = |line: &str| {
        out.push_str(line);
        out.push('\n');
    };
    add("table inet touchstone");
    add("delete table inet touchstone");
    add("table inet touchstone {");
    add("  chain input {");
    add("    type filter hook input priority 0; policy drop;");
    if !reaches.is_empty() {
        add("    iifname \"lo\" accept");
        add("    ct state established,related accept");
        add("    icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept");
    }
    add("  }");
    add("  chain forward {");
    add("    type filter hook forward priority 0; policy drop;");
    add("  }");
    add("  chain output {");
    add("    type filter hook output priority 0; policy drop;");
    if !reaches.is_empty() {
        add("    oifname \"lo\" accept");
        add("    icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept");
    }
    for reachable in reaches {
        let family = match reachable.address {
            IpAddr::V4(_) => "ip",
            IpAddr::V6(_) => "ip6",
        };
        let transport = match reachable.transport {
            Transport::Tcp => "tcp",
            Transport::Udp => "udp",
        };
        add(&format!(
            "    {family} daddr {}/{} {transport} dport {} accept",
            reachable.address, reachable.prefix, reachable.port
        ));
    }
    add("  }");
    add("}");
    out
}

fn filter(reaches: &[Reachable]) -> Result<(), String> {
    nft(&rules(reaches)).map(drop)
}

/// Outside: what comes from there leaves with this machine's address.
fn translation(table: &str, place: &Addresses) -> String {
    format!(
        "table inet {table} {{\n  chain postrouting {{\n    type nat hook postrouting priority 100;\n    \
         ip saddr {} masquerade\n    ip6 saddr {} masquerade\n  }}\n}}\n",
        place.inside, place.inside_v6
    )
}

fn is_forwarding() -> bool {
    std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").is_ok_and(|value| value.trim() == "1")
}

/// Takes away the tables of processes that are gone.
fn sweep() {
    for line in nft("list tables inet\n").unwrap_or_default().lines() {
        let table = line.rsplit(' ').next().unwrap_or_default();
        let Some(maker) = table.strip_prefix(TABLE) else {
            continue;
        };
        let is_number = !maker.is_empty() && maker.bytes().all(|byte| byte.is_ascii_digit());
        if is_number && !Path::new("/proc").join(maker).exists() {
            let _ = nft(&format!("delete table inet {table}\n"));
        }
    }
}

fn ip(arguments: &str) -> Result<String, String> {
    let arguments: Vec<&str> = arguments.split(' ').collect();
    run("ip", &arguments, "")
}

fn nft(script: &str) -> Result<String, String> {
    run("nft", &["-f", "-"], script)
}

fn run(program: &str, arguments: &[&str], input: &str) -> Result<String, String> {
    let path = PLACES.iter().map(|place| Path::new(place).join(program));
    let path = path
        .into_iter()
        .find(|path| path.exists())
        .ok_or_else(|| format!("{program} is not installed; it takes iproute2 and nftables"))?;
    let failed = |error: std::io::Error| format!("{program}: {error}");
    let mut child = Command::new(path)
        .args(arguments)
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that reads nothing says why below.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().map_err(failed)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let first = said.lines().next().unwrap_or_default();
    Err(format!("{program} {}: {first}", arguments.join(" ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_dropped_but_what_is_named() {
        let reaches: Vec<Reachable> = ["tcp 10.0.0.5:5432", "udp [fd00::/64]:53"]
            .iter()
            .map(|text| Reachable::parse(text).unwrap())
            .collect();
        let rules = rules(&reaches);
        assert_eq!(rules.matches("policy drop;").count(), 3);
        assert!(
            rules.contains("    ip daddr 10.0.0.5/32 tcp dport 5432 accept\n"),
            "{rules}"
        );
        assert!(
            rules.contains("    ip6 daddr fd00::/64 udp dport 53 accept\n"),
            "{rules}"
        );
        assert!(
            rules.starts_with("table inet touchstone\ndelete table inet touchstone\n"),
            "one transaction"
        );
    }

    #[test]
    fn what_is_cut_has_not_even_itself() {
        assert!(!rules(&[]).contains("accept"));
    }

    #[test]
    fn addresses_are_within_their_four_and_differ() {
        let (first, last) = (Addresses::number(0), Addresses::number(MAX_SEGMENTS - 1));
        assert_eq!(first.outside.to_string(), "100.127.0.1");
        assert_eq!(first.inside_v6.to_string(), "fd74:6f75:6368::2");
        assert_eq!(last.inside.to_string(), "100.127.255.254");
        assert_ne!(Addresses::number(1).outside, first.inside);
    }
}
