//! How much a decoder may be made to do by the bytes it is given.

/// Bounds on one decoded item. Every limit is checked before the memory or time it bounds is spent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Length of the whole input in bytes.
    pub max_bytes: usize,
    /// Arrays, maps and tags inside one another; an integer alone has depth 0.
    pub max_depth: usize,
    /// Data items in all, the outermost included; a map entry counts as two.
    pub max_items: usize,
}

impl Limits {
    /// A whole message or CMW collection: 4 MiB (standards: RFC 9999 lets the profile choose).
    pub const MESSAGE: Limits = Limits {
        max_bytes: 4 << 20,
        max_depth: 16,
        max_items: 1 << 16,
    };
    /// A token, a proof of possession, a receipt, a statement: small by design.
    pub const TOKEN: Limits = Limits {
        max_bytes: 8 << 10,
        max_depth: 8,
        max_items: 512,
    };
    /// A COSE protected header, certificate chain included.
    pub const HEADER: Limits = Limits {
        max_bytes: 64 << 10,
        max_depth: 8,
        max_items: 512,
    };
}
