//! Keys: short byte strings, ordered bytewise, grouped by namespace.

use std::fmt;

use crate::KeyError;

/// Longest key, in bytes. Both engines take far more; a longer key is a mistake or an attack.
pub const MAX_KEY_LEN: usize = 512;

/// Longest namespace name, in bytes.
pub const MAX_NAMESPACE_LEN: usize = 32;

/// Ends the namespace inside a key. No namespace may contain it, so no namespace is a prefix of another one's keys.
const SEPARATOR: u8 = b'/';

/// The name of one value: 1 to [`MAX_KEY_LEN`] bytes, ordered bytewise.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Box<[u8]>);

impl Key {
    /// A key of exactly these bytes. Most callers want [`Namespace::key`].
    ///
    /// # Errors
    /// [`KeyError`] if `bytes` is empty or longer than [`MAX_KEY_LEN`].
    pub fn new(bytes: impl Into<Box<[u8]>>) -> Result<Self, KeyError> {
        let bytes = bytes.into();
        match bytes.len() {
            0 => Err(KeyError::Empty),
            1..=MAX_KEY_LEN => Ok(Self(bytes)),
            found => Err(KeyError::TooLong {
                limit: MAX_KEY_LEN,
                found,
            }),
        }
    }

    /// The bytes of the key, namespace included.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl AsRef<[u8]> for Key {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// Escapes what is not printable ASCII, so that a key can stand in a log line or an error.
impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.escape_ascii().fmt(f)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({self})")
    }
}

/// The first part of a key: which kind of thing the value is.
///
/// ```
/// use touchstone_store::Namespace;
/// const NODES: Namespace = Namespace::new("node");
/// assert_eq!(NODES.key(b"rack-7").unwrap().as_bytes(), b"node/rack-7");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Namespace(&'static str);

impl Namespace {
    /// Names a namespace: 1 to [`MAX_NAMESPACE_LEN`] of `a-z 0-9 -`.
    ///
    /// # Panics
    /// On any other name. Namespaces are constants, so a bad one does not compile.
    #[must_use]
    pub const fn new(name: &'static str) -> Self {
        let mut rest = name.as_bytes();
        assert!(
            !rest.is_empty() && rest.len() <= MAX_NAMESPACE_LEN,
            "a namespace has 1 to 32 characters"
        );
        while let [first, tail @ ..] = rest {
            assert!(
                matches!(*first, b'a'..=b'z' | b'0'..=b'9' | b'-'),
                "a namespace is made of a-z, 0-9 and '-'"
            );
            rest = tail;
        }
        Self(name)
    }

    /// The name given to [`Namespace::new`].
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.0
    }

    /// The key of `id` in this namespace.
    ///
    /// # Errors
    /// [`KeyError::TooLong`] if namespace, separator and `id` together exceed [`MAX_KEY_LEN`].
    pub fn key(self, id: &[u8]) -> Result<Key, KeyError> {
        let mut bytes = Vec::with_capacity(self.0.len() + 1 + id.len());
        bytes.extend_from_slice(self.0.as_bytes());
        bytes.push(SEPARATOR);
        bytes.extend_from_slice(id);
        Key::new(bytes)
    }

    /// The key of a number in this namespace, big-endian, so that ranges run in numeric order.
    #[must_use]
    pub fn numbered(self, number: u64) -> Key {
        self.bounded(&number.to_be_bytes())
    }

    /// The prefix that all keys of this namespace share, for [`Store::range`](crate::Store::range).
    #[must_use]
    pub fn prefix(self) -> Key {
        self.bounded(&[])
    }

    /// A key whose id is known to fit: the name is at most 32 bytes, and `id` at most 8.
    fn bounded(self, id: &[u8]) -> Key {
        Key([self.0.as_bytes(), &[SEPARATOR], id].concat().into_boxed_slice())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn length_is_bounded_on_both_sides() {
        assert_eq!(Key::new([]), Err(KeyError::Empty));
        assert!(Key::new(vec![7; MAX_KEY_LEN]).is_ok());
        assert_eq!(
            Key::new(vec![7; MAX_KEY_LEN + 1]),
            Err(KeyError::TooLong { limit: 512, found: 513 })
        );
    }

    #[test]
    fn namespace_counts_towards_the_length() {
        const N: Namespace = Namespace::new("n");
        assert!(N.key(&[0; MAX_KEY_LEN - 2]).is_ok());
        assert_eq!(
            N.key(&[0; MAX_KEY_LEN - 1]),
            Err(KeyError::TooLong { limit: 512, found: 513 })
        );
    }

    #[test]
    fn no_namespace_is_a_prefix_of_another() {
        let short = Namespace::new("node").prefix();
        let long = Namespace::new("node-key").key(b"x").unwrap();
        assert!(!long.as_bytes().starts_with(short.as_bytes()));
    }

    #[test]
    fn numbers_sort_as_numbers() {
        const N: Namespace = Namespace::new("leaf");
        assert!(N.numbered(9) < N.numbered(10));
        assert!(N.numbered(255) < N.numbered(256));
    }

    #[test]
    fn hostile_bytes_are_escaped_where_people_read_them() {
        let key = Key::new(*b"node/\x1b[2J\n").unwrap();
        assert_eq!(key.to_string(), "node/\\x1b[2J\\n");
    }

    #[test]
    #[should_panic(expected = "made of a-z")]
    fn namespace_refuses_the_separator() {
        let _ = Namespace::new("a/b");
    }
}
