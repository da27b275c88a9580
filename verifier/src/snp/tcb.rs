//! Security versions of a platform, by component.
//!
//! A TCB_VERSION travels as one 64-bit number. Comparing that number is unsound: its highest byte, the microcode,
//! would outweigh everything below it. So a [`Tcb`] has no order; [`Tcb::below`] names the components that are too low.

use std::fmt;

use super::product::{Product, TcbLayout};

/// A component with a security version of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Component {
    /// Firmware of the first mutable code (Turin and later).
    Fmc,
    /// The security processor's boot loader.
    BootLoader,
    /// The security processor's operating system.
    Tee,
    /// The SNP firmware.
    Snp,
    /// Microcode.
    Microcode,
}

impl Component {
    /// Every component.
    pub const ALL: [Component; 5] = [
        Component::Fmc,
        Component::BootLoader,
        Component::Tee,
        Component::Snp,
        Component::Microcode,
    ];

    /// Its name in reference values and settings: `fmc`, `bl`, `tee`, `snp`, `ucode`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Component::Fmc => "fmc",
            Component::BootLoader => "bl",
            Component::Tee => "tee",
            Component::Snp => "snp",
            Component::Microcode => "ucode",
        }
    }
}

/// Security versions, one a component.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Tcb {
    /// First mutable code; none before Turin.
    pub fmc: Option<u8>,
    /// Boot loader.
    pub boot_loader: u8,
    /// Security processor's operating system.
    pub tee: u8,
    /// SNP firmware.
    pub snp: u8,
    /// Microcode.
    pub microcode: u8,
}

/// A reserved byte that is not zero: a layout this version does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("byte {byte} of a TCB version is reserved on {product} and holds {found}")]
pub struct TcbError {
    /// The product whose layout was used.
    pub product: Product,
    /// The byte.
    pub byte: usize,
    /// What it holds.
    pub found: u8,
}

impl Tcb {
    /// Reads the eight bytes as `product` lays them out (AMD 56860, table 3).
    ///
    /// # Errors
    /// [`TcbError`] for a reserved byte that is not zero.
    pub fn parse(bytes: [u8; 8], product: Product) -> Result<Self, TcbError> {
        let reserved = |byte: usize, found: u8| match found {
            0 => Ok(()),
            found => Err(TcbError { product, byte, found }),
        };
        let [b0, b1, b2, b3, b4, b5, b6, b7] = bytes;
        match product.layout() {
            TcbLayout::Original => {
                [(2, b2), (3, b3), (4, b4), (5, b5)]
                    .into_iter()
                    .try_for_each(|(byte, found)| reserved(byte, found))?;
                Ok(Self {
                    fmc: None,
                    boot_loader: b0,
                    tee: b1,
                    snp: b6,
                    microcode: b7,
                })
            }
            TcbLayout::WithFmc => {
                [(4, b4), (5, b5), (6, b6)]
                    .into_iter()
                    .try_for_each(|(byte, found)| reserved(byte, found))?;
                Ok(Self {
                    fmc: Some(b0),
                    boot_loader: b1,
                    tee: b2,
                    snp: b3,
                    microcode: b7,
                })
            }
        }
    }

    /// The version of one component; none where the product has no such component.
    pub const fn get(&self, component: Component) -> Option<u8> {
        match component {
            Component::Fmc => self.fmc,
            Component::BootLoader => Some(self.boot_loader),
            Component::Tee => Some(self.tee),
            Component::Snp => Some(self.snp),
            Component::Microcode => Some(self.microcode),
        }
    }

    /// The components whose version is below `floor`'s, with (floor, found). A component that only one of the two has
    /// is below: it cannot be compared.
    pub fn below(&self, floor: &Tcb) -> impl Iterator<Item = (Component, Option<u8>, Option<u8>)> {
        let (own, floor) = (*self, *floor);
        Component::ALL.into_iter().filter_map(move |component| {
            let (wanted, found) = (floor.get(component), own.get(component));
            let enough = match (wanted, found) {
                (Some(wanted), Some(found)) => found >= wanted,
                (None, None) => true,
                _ => false,
            };
            (!enough).then_some((component, wanted, found))
        })
    }
}

impl fmt::Display for Tcb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut first = true;
        for component in Component::ALL {
            if let Some(version) = self.get(component) {
                let gap = if first { "" } else { " " };
                write!(f, "{gap}{} {version}", component.as_str())?;
                first = false;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_higher_microcode_does_not_outweigh_an_older_boot_loader() {
        let floor = Tcb::parse([4, 0, 0, 0, 0, 0, 24, 219], Product::Milan).unwrap();
        let found = Tcb::parse([3, 0, 0, 0, 0, 0, 24, 255], Product::Milan).unwrap();
        let packed = |bytes: [u8; 8]| u64::from_le_bytes(bytes);
        assert!(packed([3, 0, 0, 0, 0, 0, 24, 255]) > packed([4, 0, 0, 0, 0, 0, 24, 219]));
        assert_eq!(
            found.below(&floor).collect::<Vec<_>>(),
            [(Component::BootLoader, Some(4), Some(3))]
        );
        assert_eq!(floor.below(&floor).count(), 0);
    }

    #[test]
    fn layouts_are_not_mixed_up() {
        let turin = [0, 1, 0, 2, 0, 0, 0, 0x47];
        let tcb = Tcb::parse(turin, Product::Turin).unwrap();
        assert_eq!(
            (tcb.fmc, tcb.boot_loader, tcb.snp, tcb.microcode),
            (Some(0), 1, 2, 0x47)
        );
        assert_eq!(
            Tcb::parse(turin, Product::Milan),
            Err(TcbError {
                product: Product::Milan,
                byte: 3,
                found: 2
            })
        );
        let milan = Tcb::parse([4, 0, 0, 0, 0, 0, 24, 219], Product::Milan).unwrap();
        assert!(milan.below(&tcb).any(|(component, ..)| component == Component::Fmc));
        assert_eq!(tcb.to_string(), "fmc 0 bl 1 tee 0 snp 2 ucode 71");
    }
}
