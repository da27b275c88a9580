//! AMD product lines: each has a root of its own, and one of two layouts of security versions.

use std::fmt;

/// A product line, as AMD certifies it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Product {
    /// EPYC 7003.
    Milan,
    /// EPYC 9004 and its relatives Bergamo and Siena, which AMD certifies under Genoa.
    Genoa,
    /// EPYC 9005.
    Turin,
}

/// How the eight bytes of a TCB_VERSION are laid out (AMD 56860, table 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TcbLayout {
    /// Boot loader, TEE, four reserved, SNP, microcode.
    Original,
    /// FMC, boot loader, TEE, SNP, three reserved, microcode: Turin and later.
    WithFmc,
}

impl Product {
    /// Every product line this version knows.
    pub const ALL: [Product; 3] = [Product::Milan, Product::Genoa, Product::Turin];

    /// Its name in settings and claims: `milan`, `genoa`, `turin`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Product::Milan => "milan",
            Product::Genoa => "genoa",
            Product::Turin => "turin",
        }
    }

    /// The product line of this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|product| product.as_str() == name)
    }

    /// The product line that a certificate's productName says: `Milan-B0`, `Genoa`, `Turin` (AMD 57230, table 8). What
    /// follows a hyphen is the stepping.
    pub fn of_certificate(name: &str) -> Option<Self> {
        match name.split('-').next()? {
            "Milan" => Some(Product::Milan),
            "Genoa" | "Bergamo" | "Siena" => Some(Product::Genoa),
            "Turin" => Some(Product::Turin),
            _ => None,
        }
    }

    /// The product line of a CPUID family and model (combined values), for reports of version 3 and later.
    pub const fn of_cpuid(family: u8, model: u8) -> Option<Self> {
        match (family, model) {
            (0x19, 0x00..=0x0F) => Some(Product::Milan),
            (0x19, 0x10..=0x1F | 0xA0..=0xAF) => Some(Product::Genoa),
            (0x1A, 0x00..=0x11) => Some(Product::Turin),
            _ => None,
        }
    }

    /// How its security versions are laid out.
    pub const fn layout(self) -> TcbLayout {
        match self {
            Product::Milan | Product::Genoa => TcbLayout::Original,
            Product::Turin => TcbLayout::WithFmc,
        }
    }

    /// How many bytes of CHIP_ID it uses; the others are zero.
    pub const fn chip_id_len(self) -> usize {
        match self {
            Product::Milan | Product::Genoa => 64,
            Product::Turin => 8,
        }
    }
}

impl fmt::Display for Product {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_processors_lead_to_their_product_line() {
        for (name, product) in [
            ("Milan-B0", Some(Product::Milan)),
            ("Genoa", Some(Product::Genoa)),
            ("Siena-A0", Some(Product::Genoa)),
            ("Turin", Some(Product::Turin)),
            ("Milano", None),
            ("", None),
            ("Venice", None),
        ] {
            assert_eq!(Product::of_certificate(name), product, "{name}");
        }
        assert_eq!(Product::of_cpuid(0x19, 0x01), Some(Product::Milan));
        assert_eq!(Product::of_cpuid(0x19, 0xA0), Some(Product::Genoa));
        assert_eq!(Product::of_cpuid(0x1A, 0x02), Some(Product::Turin));
        assert_eq!(Product::of_cpuid(0x1A, 0x50), None);
        for product in Product::ALL {
            assert_eq!(Product::parse(product.as_str()), Some(product));
        }
    }
}
