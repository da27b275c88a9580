//! What a request is aimed at: method, authority and path, read so strictly that no service behind can read it otherwise.
//!
//! A right is looked up by these, and the proof of possession is over them. So whatever two readers of a URL are known to
//! disagree about (dot segments, empty segments, escapes of plain characters, escaped separators, parameters, backslashes,
//! a second host) is not normalised but refused: `request-ambiguous`. Syntax: RFC 3986, section 3; RFC 9110, section 7.

use axum::http::request::Parts;
use axum::http::{Version, header};
use touchstone_authorization::request_digest;

use super::reason::{AccessCode, Denied};

/// The longest method, in bytes.
pub const MAX_METHOD: usize = 16;
/// The longest authority, in bytes.
pub const MAX_AUTHORITY: usize = 255;
/// The longest path with its query, in bytes.
pub const MAX_PATH: usize = 4096;

/// One request's aim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    method: String,
    authority: String,
    path: String,
}

impl Target {
    /// Reads the three, as they came.
    ///
    /// # Errors
    /// `request-ambiguous` for anything that could be read in two ways.
    pub fn new(method: &str, authority: &str, path: &str) -> Result<Self, Denied> {
        let refuse = |what: &str| Denied::access(AccessCode::RequestAmbiguous, what);
        if !(1..=MAX_METHOD).contains(&method.len()) || !method.bytes().all(|b| b.is_ascii_uppercase()) {
            return Err(refuse("the method is not 1 to 16 capital letters"));
        }
        let authority = authority.to_ascii_lowercase();
        if !is_authority(&authority) {
            return Err(refuse("the authority is not a plain host with or without a port"));
        }
        if path.len() > MAX_PATH {
            return Err(refuse("the path is longer than 4096 bytes"));
        }
        let (plain, query) = path.split_once('?').unwrap_or((path, ""));
        judge_path(plain).map_err(refuse)?;
        if !query
            .bytes()
            .all(|b| b.is_ascii_graphic() && !matches!(b, b'#' | b'\\'))
        {
            return Err(refuse("the query holds a character that must be escaped"));
        }
        Ok(Self {
            method: method.to_owned(),
            authority,
            path: path.to_owned(),
        })
    }

    /// That of a request as the HTTP library gives it: exactly one host, and the same one wherever it stands.
    ///
    /// # Errors
    /// `request-ambiguous`.
    pub fn of(parts: &Parts) -> Result<Self, Denied> {
        let refuse = |what: &str| Denied::access(AccessCode::RequestAmbiguous, what);
        let mut hosts = parts.headers.get_all(header::HOST).iter();
        let host = hosts.next().map(|host| host.to_str().unwrap_or_default());
        if hosts.next().is_some() {
            return Err(refuse("the request names more than one host"));
        }
        let in_uri = parts.uri.authority().map(axum::http::uri::Authority::as_str);
        let authority = match (host, in_uri) {
            (Some(host), Some(uri)) if !host.eq_ignore_ascii_case(uri) => {
                return Err(refuse(
                    "the request names one host in its line and another in its header",
                ));
            }
            // RFC 9112, section 3.2: a request of HTTP/1.1 without Host is none.
            (None, _) if parts.version < Version::HTTP_2 => return Err(refuse("the request names no host")),
            (Some(authority), _) | (None, Some(authority)) => authority,
            (None, None) => return Err(refuse("the request names no host")),
        };
        let path = parts
            .uri
            .path_and_query()
            .map_or("", axum::http::uri::PathAndQuery::as_str);
        Self::new(parts.method.as_str(), authority, path)
    }

    /// Capital letters.
    #[must_use]
    pub fn method(&self) -> &str {
        &self.method
    }

    /// Host, in lower case, and the port where one was sent.
    #[must_use]
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// The authority without its port.
    #[must_use]
    pub fn host(&self) -> &str {
        split_port(&self.authority).0
    }

    /// The path without its query.
    #[must_use]
    pub fn path(&self) -> &str {
        self.path.split_once('?').map_or(self.path.as_str(), |(path, _)| path)
    }

    /// What `req` of a proof must be for this request with this body.
    #[must_use]
    pub fn digest(&self, body_digest: &[u8; 32]) -> [u8; 32] {
        request_digest(&self.method, &self.authority, &self.path, Some(body_digest))
    }
}

/// Host and port; an IPv6 address in brackets is all host.
fn split_port(authority: &str) -> (&str, Option<&str>) {
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (authority, None),
    }
}

fn is_authority(text: &str) -> bool {
    let (host, port) = split_port(text);
    let port_fits = port.is_none_or(|port| {
        !port.is_empty() && port.len() <= 5 && port.bytes().all(|b| b.is_ascii_digit()) && !port.starts_with('0')
    });
    let host_fits = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(v6) => v6.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            let label = |label: &str| {
                !label.is_empty()
                    && label
                        .bytes()
                        .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_')
            };
            host.split('.').all(label)
        }
    };
    text.len() <= MAX_AUTHORITY && port_fits && host_fits
}

/// Whether every reader takes the path for the same thing.
fn judge_path(path: &str) -> Result<(), &'static str> {
    let Some(rest) = path.strip_prefix('/') else {
        return Err("the path does not begin with a slash");
    };
    let mut segments = rest.split('/').peekable();
    while let Some(segment) = segments.next() {
        if segment.is_empty() && segments.peek().is_some() {
            return Err("the path has an empty segment");
        }
        if segment == "." || segment == ".." {
            return Err("the path has a dot segment");
        }
        judge_segment(segment)?;
    }
    Ok(())
}

fn judge_segment(segment: &str) -> Result<(), &'static str> {
    let mut bytes = segment.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'%' => {
                let digits = [bytes.next(), bytes.next()].map(|digit| digit.and_then(|d| char::from(d).to_digit(16)));
                let [Some(high), Some(low)] = digits else {
                    return Err("the path has a percent sign without two hexadecimal digits");
                };
                let escaped = u8::try_from(high * 16 + low).unwrap_or_default();
                // Whoever unescapes a plain character once more, or a separator at all, reads another path.
                let plain = escaped.is_ascii_alphanumeric() || matches!(escaped, b'-' | b'.' | b'_' | b'~');
                if plain || escaped.is_ascii_control() || matches!(escaped, b'/' | b'\\' | b'%' | b';' | b'?' | b'#') {
                    return Err("the path escapes a character that is plain, or that separates");
                }
            }
            b';' => return Err("the path has parameters"),
            b if b.is_ascii_alphanumeric() => {}
            // RFC 3986, pchar without the semicolon.
            b'-' | b'.' | b'_' | b'~' | b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b'=' | b':'
            | b'@' => {}
            _ => return Err("the path holds a character that must be escaped"),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_is_the_authority_without_its_port() {
        for (authority, host) in [
            ("Tools.Example", "tools.example"),
            ("tools.example:8443", "tools.example"),
            ("[::1]", "[::1]"),
            ("[::1]:8080", "[::1]"),
        ] {
            assert_eq!(Target::new("GET", authority, "/").unwrap().host(), host);
        }
    }

    fn codes(target: Result<Target, Denied>) -> Vec<&'static str> {
        target.map_or_else(|denied| denied.codes(), |_| Vec::new())
    }

    #[test]
    fn what_every_reader_reads_the_same() {
        for (method, authority, path) in [
            ("GET", "tools.example", "/"),
            ("POST", "Tools.Example:8443", "/search"),
            ("GET", "[::1]:8080", "/a/b/?q=../x&y=%2e"),
            ("DELETE", "a_b-c.example", "/a%20b/%C3%A4/~u/x,y:z@w=1"),
            ("GET", "127.0.0.1", "/a/"),
            ("GET", "127.0.0.1", "/...a/..b/c.."),
        ] {
            let target = Target::new(method, authority, path).unwrap();
            assert_eq!(target.authority(), authority.to_ascii_lowercase());
            assert!(!target.path().contains('?'));
        }
    }

    #[test]
    fn what_two_readers_may_read_differently_is_refused() {
        let long = format!("/{}", "a".repeat(MAX_PATH));
        let rows = [
            ("method in small letters", "get", "a.example", "/"),
            ("no method", "", "a.example", "/"),
            ("a method with a space", "GET /x", "a.example", "/"),
            ("no host", "GET", "", "/"),
            ("user information", "GET", "tools.example@evil.example", "/"),
            ("two hosts in one", "GET", "a.example,b.example", "/"),
            ("a host with a path", "GET", "a.example/x", "/"),
            ("an empty label", "GET", "a..example", "/"),
            ("a final dot", "GET", "a.example.", "/"),
            ("a port that is none", "GET", "a.example:99999999", "/"),
            ("an empty port", "GET", "a.example:", "/"),
            ("a port with a leading zero", "GET", "a.example:0443", "/"),
            ("an address that is none", "GET", "[::zz]", "/"),
            ("a newline in the host", "GET", "a.example\r\nX: y", "/"),
            ("no slash at first", "GET", "a.example", "search"),
            ("asterisk form", "OPTIONS", "a.example", "*"),
            ("absolute form as a path", "GET", "a.example", "http://b.example/"),
            ("empty path", "GET", "a.example", ""),
            ("dot segment", "GET", "a.example", "/open/../admin"),
            ("single dot", "GET", "a.example", "/./admin"),
            ("final dot segment", "GET", "a.example", "/open/.."),
            ("escaped dot segment", "GET", "a.example", "/open/%2e%2e/admin"),
            ("half-escaped dot segment", "GET", "a.example", "/open/.%2E/admin"),
            ("escaped slash", "GET", "a.example", "/open%2fadmin"),
            ("escaped backslash", "GET", "a.example", "/open%5c..%5cadmin"),
            ("backslash", "GET", "a.example", "/open\\admin"),
            ("double escape", "GET", "a.example", "/%252e%252e/admin"),
            ("escaped plain letter", "GET", "a.example", "/%61dmin"),
            ("escaped NUL", "GET", "a.example", "/admin%00"),
            ("escaped newline", "GET", "a.example", "/a%0d%0aX"),
            ("escaped question mark", "GET", "a.example", "/a%3fb"),
            ("empty segment", "GET", "a.example", "//admin"),
            ("empty segment inside", "GET", "a.example", "/a//b"),
            ("parameter", "GET", "a.example", "/open;/admin"),
            ("escaped parameter", "GET", "a.example", "/open%3b/admin"),
            ("fragment", "GET", "a.example", "/a#b"),
            ("fragment in the query", "GET", "a.example", "/a?b#c"),
            ("space", "GET", "a.example", "/a b"),
            ("space in the query", "GET", "a.example", "/a?b c"),
            ("not ASCII", "GET", "a.example", "/ädmin"),
            ("cut escape", "GET", "a.example", "/a%2"),
            ("no escape", "GET", "a.example", "/a%zz"),
            ("escape with a sign", "GET", "a.example", "/a%+1"),
            ("too long", "GET", "a.example", long.as_str()),
        ];
        for (attack, method, authority, path) in rows {
            assert_eq!(
                codes(Target::new(method, authority, path)),
                ["request-ambiguous"],
                "{attack}"
            );
        }
    }

    #[test]
    fn a_request_names_its_host_once() {
        let of = |version: Version, uri: &str, hosts: &[&str]| {
            let mut request = axum::http::Request::builder().version(version).uri(uri);
            for host in hosts {
                request = request.header("host", *host);
            }
            codes(Target::of(&request.body(()).unwrap().into_parts().0))
        };
        let refused = ["request-ambiguous"];
        assert!(of(Version::HTTP_11, "/a", &["a.example"]).is_empty());
        assert!(of(Version::HTTP_11, "http://a.example/a", &["A.example"]).is_empty());
        assert!(of(Version::HTTP_2, "https://a.example/a", &[]).is_empty());
        assert_eq!(of(Version::HTTP_11, "/a", &[]), refused);
        assert_eq!(of(Version::HTTP_11, "/a", &["a.example", "a.example"]), refused);
        assert_eq!(of(Version::HTTP_11, "http://a.example/a", &["b.example"]), refused);
        assert_eq!(of(Version::HTTP_11, "http://a.example/a", &[]), refused);
        assert_eq!(of(Version::HTTP_2, "https://a.example/a", &["b.example"]), refused);
    }
}
