use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Ends a text that was shortened.
const CUT: &str = "\u{2026}";

/// A text of at most `MOST` bytes of UTF-8. It may hold anything else; control characters are escaped by JSON.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Text<const MOST: usize>(String);

/// A user, an address, a reason, an application id.
pub type Word = Text<256>;
/// A title of a window, a name of a file.
pub type Name = Text<1024>;

impl<const MOST: usize> Text<MOST> {
    /// The text, if it is short enough.
    ///
    /// # Errors
    /// When it is longer than `MOST` bytes.
    pub fn new(text: impl Into<String>) -> Result<Self> {
        let text = text.into();
        if text.len() > MOST { Err(Error::Text { length: text.len(), most: MOST }) } else { Ok(Self(text)) }
    }

    /// The text; one that is too long ends with an ellipsis (U+2026) instead.
    #[must_use]
    pub fn shortened(text: &str) -> Self {
        if text.len() <= MOST {
            return Self(text.to_owned());
        }
        let mut end = MOST.saturating_sub(CUT.len());
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let cut = if MOST < CUT.len() { "" } else { CUT };
        Self(format!("{}{cut}", &text[..end]))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<const MOST: usize> TryFrom<String> for Text<MOST> {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        Self::new(text)
    }
}

impl<const MOST: usize> From<Text<MOST>> for String {
    fn from(text: Text<MOST>) -> Self {
        text.0
    }
}

impl<const MOST: usize> fmt::Display for Text<MOST> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_never_longer_than_its_place_and_never_cut_within_a_letter() {
        for length in 0..40 {
            let text = "a\u{df}\u{20ac}\u{1f600}".repeat(5).chars().take(length).collect::<String>();
            let short = Text::<16>::shortened(&text);
            assert!(short.as_str().len() <= 16);
            assert_eq!(short.as_str() == text, text.len() <= 16);
            assert_eq!(short.as_str().ends_with(CUT), text.len() > 16);
            assert_eq!(Text::<16>::new(text.clone()).is_ok(), text.len() <= 16);
        }
        assert!(Text::<2>::shortened("abc").as_str().len() <= 2);
    }
}
