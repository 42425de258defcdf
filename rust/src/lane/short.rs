//! `Short`: a text that is mostly short, and then lies where it is kept.
//!
//! Theory. Each client has a unique name. Behind a pointer it would take twice as much memory as it does here.
//!
//! Invariants. 1. It is the text that it was made of.
//!
//! Not here: names (`parties`).

use std::fmt;
use std::ops::Deref;

/// Bytes that find room.
const ROOM: usize = 22;

#[derive(Clone)]
enum Place {
    Here(u8, [u8; ROOM]),
    There(Box<str>),
}

/// A text.
#[derive(Clone)]
pub struct Short(Place);

impl From<&str> for Short {
    fn from(text: &str) -> Self {
        let mut bytes = [0; ROOM];
        Self(match bytes.get_mut(..text.len()) {
            Some(room) => {
                room.copy_from_slice(text.as_bytes());
                Place::Here(text.len() as u8, bytes)
            }
            None => Place::There(text.into()),
        })
    }
}

impl Short {
    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        match &self.0 {
            Place::Here(length, bytes) => bytes.get(..usize::from(*length)).unwrap_or_default(),
            Place::There(text) => text.as_bytes(),
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.as_bytes().len()
    }

    /// There are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Deref for Short {
    type Target = str;

    fn deref(&self) -> &str {
        // it is a whole text, always
        str::from_utf8(self.as_bytes()).unwrap_or_default()
    }
}

impl fmt::Debug for Short {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, out)
    }
}

#[cfg(test)]
mod tests {
    use super::{ROOM, Short};

    #[test]
    fn a_text_of_any_length_comes_back() {
        for n in [0, 1, ROOM - 1, ROOM, ROOM + 1, 255, 1000] {
            let text = "x".repeat(n);
            let short = Short::from(&*text);
            assert_eq!((&*short, short.len(), short.is_empty()), (&*text, n, n == 0));
        }
        assert_eq!(&*Short::from(":1.ö"), ":1.ö");
        assert_eq!(size_of::<Short>(), 24);
    }
}
