//! One table per set of numbered names: the enum and the way back from its number.

/// Declares a `#[repr(u8)]` enum and its `TryFrom<u8>`, which fails as malformed with the given
/// text for a number that has no name.
macro_rules! wire_enum {
    (
        $(#[$outer:meta])*
        $vis:vis enum $name:ident, $unknown:literal {
            $( $(#[$inner:meta])* $variant:ident = $number:literal, )*
        }
    ) => {
        $(#[$outer])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        $vis enum $name {
            $( $(#[$inner])* $variant = $number, )*
        }

        impl TryFrom<u8> for $name {
            type Error = $crate::codec::DecodeError;

            fn try_from(number: u8) -> Result<Self, Self::Error> {
                match number {
                    $( $number => Ok(Self::$variant), )*
                    _ => Err($crate::codec::DecodeError::Malformed($unknown)),
                }
            }
        }
    };
}

pub(super) use wire_enum;
