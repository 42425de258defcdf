//! The syntax of the names that travel in D-Bus strings.
//!
//! Theory. A name is read once, from left to right. What a byte may do is one look into a table: start an
//! element, go on with it, and the same with hyphens.
//!
//! Invariants. 1. What is a name is ASCII, without NUL. 2. No name but an object path has more than 255 bytes.
//!
//! Not here: what the names stand for.

use super::MAX_NAME;

/// A letter or an underscore.
const STARTS: u8 = 1;
/// That, or a digit.
const GOES_ON: u8 = 2;
/// A letter, an underscore or a hyphen.
const STARTS_BUS: u8 = 4;
/// That, or a digit.
const GOES_ON_BUS: u8 = 8;
/// The same bytes: an element of a unique name may start with each.
const STARTS_UNIQUE: u8 = 16;

const CLASSES: [u8; 256] = {
    let mut classes = [0; 256];
    let mut at = 0;
    while at < 256 {
        let byte = at as u8;
        classes[at] = if byte.is_ascii_alphabetic() || byte == b'_' {
            STARTS | GOES_ON | STARTS_BUS | GOES_ON_BUS | STARTS_UNIQUE
        } else if byte.is_ascii_digit() {
            GOES_ON | GOES_ON_BUS | STARTS_UNIQUE
        } else if byte == b'-' {
            STARTS_BUS | GOES_ON_BUS | STARTS_UNIQUE
        } else {
            0
        };
        at += 1;
    }
    classes
};

#[inline]
fn is(byte: u8, class: u8) -> bool {
    CLASSES[byte as usize] & class != 0
}

/// Whether these are elements with dots between, and at least so many of them.
#[inline]
fn are_elements(name: &[u8], starts: u8, goes_on: u8, at_least: usize) -> bool {
    let mut count = 1;
    let mut wanted = starts;
    for &byte in name {
        if is(byte, wanted) {
            wanted = goes_on;
        } else if byte == b'.' && wanted == goes_on {
            count += 1;
            wanted = starts;
        } else {
            return false;
        }
    }
    wanted == goes_on && count >= at_least
}

fn is_unique(name: &[u8]) -> bool {
    // like the reference, which asks for no second element, and lets the first be empty
    let Some((b':', rest)) = name.split_first() else {
        return false;
    };
    let mut parts = rest.splitn(2, |byte| *byte == b'.');
    parts.next().is_none_or(|first| first.iter().all(|byte| is(*byte, GOES_ON_BUS)))
        && parts.next().is_none_or(|others| are_elements(others, STARTS_UNIQUE, GOES_ON_BUS, 1))
}

/// A unique or a well-known bus name.
pub fn is_bus_name(name: impl AsRef<[u8]>) -> bool {
    let name = name.as_ref();
    name.len() <= MAX_NAME
        && if name.first() == Some(&b':') {
            is_unique(name)
        } else {
            are_elements(name, STARTS_BUS, GOES_ON_BUS, 2)
        }
}

/// What arg0namespace takes: a bus name, or the first elements of one.
pub fn is_bus_namespace(name: impl AsRef<[u8]>) -> bool {
    let name = name.as_ref();
    name.len() <= MAX_NAME && (is_unique(name) || are_elements(name, STARTS_BUS, GOES_ON_BUS, 1))
}

/// An interface name.
pub fn is_interface_name(name: impl AsRef<[u8]>) -> bool {
    let name = name.as_ref();
    name.len() <= MAX_NAME && are_elements(name, STARTS, GOES_ON, 2)
}

/// An error name: the same syntax.
pub fn is_error_name(name: impl AsRef<[u8]>) -> bool {
    is_interface_name(name)
}

/// The name of a method or a signal.
pub fn is_member_name(name: impl AsRef<[u8]>) -> bool {
    let name = name.as_ref();
    name.len() <= MAX_NAME
        && name.first().is_some_and(|byte| is(*byte, STARTS))
        && name.iter().all(|byte| is(*byte, GOES_ON))
}

/// An object path, of any length.
pub fn is_object_path(path: impl AsRef<[u8]>) -> bool {
    let path = path.as_ref();
    match path {
        b"/" => true,
        [b'/', .., b'/'] | [] => false,
        [b'/', ..] => is_part_of_path(path),
        _ => false,
    }
}

/// Whether a piece of an object path has nothing wrong in it: no other byte, no two slashes in a row.
pub(crate) fn is_part_of_path(part: &[u8]) -> bool {
    let mut is_behind_slash = false;
    for &byte in part {
        let is_slash = byte == b'/';
        if !(is(byte, GOES_ON) || is_slash && !is_behind_slash) {
            return false;
        }
        is_behind_slash = is_slash;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bus_names() {
        for good in [":1.5", ":1", ":", ":.1", ":a-b.c_d", "a.b", "-.-", "_a.b-c.D1", "org.freedesktop.DBus"]
        {
            assert!(is_bus_name(good), "{good}");
        }
        for bad in [
            "", "a", "a.", ".a", "a..b", "1.a", "a.1", ":1.", ":1..2", ":1.é", "a.é", "a.b ", "a/b.c", ":1:2",
        ] {
            assert!(!is_bus_name(bad), "{bad}");
        }
        assert!(is_bus_name(format!("a.{}", "b".repeat(253))));
        assert!(!is_bus_name(format!("a.{}", "b".repeat(254))));
        assert!(is_bus_namespace("a") && is_bus_namespace(":1") && !is_bus_namespace("a."));
    }

    #[test]
    fn interfaces_and_members() {
        assert!(is_interface_name("a.b") && is_interface_name("_1._2") && is_error_name("a.B9"));
        for bad in ["", "a", "a-b.c", "a.1", ".a.b", "a.b.", "a..b", ":1.2"] {
            assert!(!is_interface_name(bad), "{bad}");
        }
        assert!(is_member_name("M") && is_member_name("_9") && is_member_name("M".repeat(255)));
        for bad in ["", "1", "a.b", "a-b", "é"] {
            assert!(!is_member_name(bad), "{bad}");
        }
        assert!(!is_member_name("M".repeat(256)));
    }

    #[test]
    fn object_paths() {
        assert!(is_object_path("/") && is_object_path("/a") && is_object_path("/a/_9"));
        assert!(is_object_path("/x".repeat(1000)));
        for bad in ["", "a", "//", "/a/", "/a//b", "/a-b", "/é", "/a\0", "a/b"] {
            assert!(!is_object_path(bad), "{bad}");
        }
    }
}
