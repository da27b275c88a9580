//! The one way this project declares stable reason codes.
//!
//! Every refusal carries a code that scripts may match on and people may look up. [`crate::reason_codes!`] declares an enum
//! of them together with the words shown in `docs/reasons.md`, so that a code without an explanation cannot exist.

/// One row of the reason catalogue: the stable code and what it means, in words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CatalogueEntry {
    /// The stable code, kebab-case, never reused for another meaning.
    pub code: &'static str,
    /// What it means and what to do next, one sentence each.
    pub meaning: &'static str,
}

/// Declares an enum of stable reason codes with `as_str`, `meaning`, `ALL` and `CATALOGUE`.
///
/// ```
/// touchstone_cose::reason_codes! {
///     /// Why a parcel was refused.
///     pub enum ParcelCode {
///         TooHeavy = "parcel-too-heavy": "The parcel is over the limit. Send two.",
///     }
/// }
/// assert_eq!(ParcelCode::TooHeavy.as_str(), "parcel-too-heavy");
/// ```
#[macro_export]
macro_rules! reason_codes {
    ($(#[$outer:meta])* $vis:vis enum $name:ident {
        $($variant:ident = $code:literal : $meaning:literal),+ $(,)?
    }) => {
        $(#[$outer])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        $vis enum $name {
            $(#[doc = $meaning] $variant,)+
        }

        impl $name {
            /// Every code, in declaration order.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The rows this enum adds to `docs/reasons.md`.
            pub const CATALOGUE: &'static [$crate::reason::CatalogueEntry] = &[
                $($crate::reason::CatalogueEntry { code: $code, meaning: $meaning }),+
            ];

            /// The stable, kebab-case code.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $code),+ }
            }

            /// What the code means, in words.
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$variant => $meaning),+ }
            }

            /// The code with this string, if there is one.
            pub fn parse(code: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|c| c.as_str() == code)
            }
        }

        impl ::core::fmt::Display for $name {
            fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}
