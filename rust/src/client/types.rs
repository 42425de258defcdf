//! D-Bus types, as far as a codec of values needs them: where one ends, how it is aligned, which texts are paths.
//!
//! Theory. A codec walks a signature and the values beside it. Whatever is not right gives None here: who asks
//! hands it to the body in Python, which says what is wrong.
//!
//! Invariants. 1. No type nests deeper than 32 arrays and 32 structs; a dict entry counts as a struct.
//!
//! Not here: values (`py::body`).

/// Bytes of a signature.
pub const MAX_SIGNATURE: usize = 255;
/// Of arrays, and again of structs, within one signature.
pub const MAX_NESTING: u32 = 32;
/// Of containers within one body, variants included.
pub const MAX_DEPTH: u32 = 64;
/// Bytes of one array.
pub const MAX_ARRAY: usize = 1 << 26;

pub use crate::dbus::signature::{alignment, fixed_size};

fn is_basic(code: u8) -> bool {
    fixed_size(code) > 0 || matches!(code, b's' | b'o' | b'g')
}

/// The complete type at the start of a signature, and what is behind it.
pub fn first_type(signature: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = complete(signature, 0, 0, 0)?;
    signature.split_at_checked(end)
}

/// Whether this is a signature of any number of complete types.
pub fn is_signature(signature: &[u8]) -> bool {
    let mut at = 0;
    while at < signature.len() {
        match complete(signature, at, 0, 0) {
            Some(end) => at = end,
            None => return false,
        }
    }
    signature.len() <= MAX_SIGNATURE
}

/// Whether it is one of exactly one.
pub fn is_single(signature: &[u8]) -> bool {
    signature.len() <= MAX_SIGNATURE && complete(signature, 0, 0, 0) == Some(signature.len())
}

fn complete(signature: &[u8], at: usize, arrays: u32, structs: u32) -> Option<usize> {
    let code = *signature.get(at)?;
    match code {
        b'a' if arrays < MAX_NESTING => match signature.get(at + 1) {
            Some(b'{') if structs < MAX_NESTING => {
                if !is_basic(*signature.get(at + 2)?) {
                    return None;
                }
                let end = complete(signature, at + 3, arrays + 1, structs + 1)?;
                (signature.get(end) == Some(&b'}')).then_some(end + 1)
            }
            _ => complete(signature, at + 1, arrays + 1, structs),
        },
        b'(' if structs < MAX_NESTING => {
            let mut end = complete(signature, at + 1, arrays, structs + 1)?;
            while signature.get(end) != Some(&b')') {
                end = complete(signature, end, arrays, structs + 1)?;
            }
            Some(end + 1)
        }
        b'v' => Some(at + 1),
        code if is_basic(code) => Some(at + 1),
        _ => None,
    }
}

/// Whether this is an object path.
pub fn is_path(text: &[u8]) -> bool {
    let Some((b'/', rest)) = text.split_first() else {
        return false;
    };
    let is_word = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
    rest.is_empty()
        || rest.split(|byte| *byte == b'/').all(|part| !part.is_empty() && part.iter().all(is_word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_are_told_from_what_is_none() {
        for good in ["", "s", "a{sv}", "(i(ss)as)", "aaaay", "a{s(iu)}v"] {
            assert!(is_signature(good.as_bytes()), "{good}");
        }
        let deep = "a".repeat(33) + "y";
        for bad in ["a", "(", "()", "{ss}", "a{vs}", "a{s}", "a{sss}", "z", "(s", "s)", &deep] {
            assert!(!is_signature(bad.as_bytes()), "{bad}");
        }
        assert!(is_single(b"as") && !is_single(b"ss") && !is_single(b""));
    }

    #[test]
    fn paths_are_told_from_what_is_none() {
        for good in ["/", "/a", "/a_0/B"] {
            assert!(is_path(good.as_bytes()), "{good}");
        }
        for bad in ["", "a", "//", "/a/", "/a//b", "/a-b"] {
            assert!(!is_path(bad.as_bytes()), "{bad}");
        }
    }
}
