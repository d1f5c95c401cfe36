//! Values that are one word out of a few.

/// The word is not among those the key knows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{given:?} is not known; use {known}")]
pub struct UnknownKeyword {
    /// The word as it was given.
    pub given: String,
    /// The words that are known, for a person.
    pub known: String,
}

/// Defines an enum whose variants are words of the configuration, with `Display` and `FromStr` for them.
macro_rules! keyword {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)+
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(match self {
                    $(Self::$variant => $word,)+
                })
            }
        }

        impl std::str::FromStr for $name {
            type Err = $crate::config::keyword::UnknownKeyword;

            fn from_str(word: &str) -> Result<Self, Self::Err> {
                match word {
                    $($word => Ok(Self::$variant),)+
                    _ => Err($crate::config::keyword::UnknownKeyword {
                        given: word.to_owned(),
                        known: [$($word),+].join(", "),
                    }),
                }
            }
        }
    };
}

pub(super) use keyword;
