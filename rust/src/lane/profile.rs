//! What the bus says of a connection: the body of the answer to GetConnectionCredentials.
//!
//! Theory. A dictionary of what the kernel said of a client when it connected, under the keys of the specification; what is
//! not known is left out.
//!
//! Not here: whose credentials they are (`driver`).

use smallvec::{Array, SmallVec};

use super::connection::Connection;
use super::express::NotEveryday;
use crate::core::Credentials;

/// The uid and gid of a client of whom the kernel knows none.
const UNKNOWN: u32 = u32::MAX;

/// What the kernel said of a client, if that is all there is to say of it.
pub fn of(c: &Connection) -> Result<&Credentials, NotEveryday> {
    // who came in by another door sees a part of the bus, and more is said of it
    if c.standing.is_known() { Ok(&c.credentials) } else { Err(NotEveryday) }
}

/// A uid or gid, if the kernel knew it.
pub fn known(id: i64) -> Option<u32> {
    u32::try_from(id).ok().filter(|id| *id != UNKNOWN)
}

/// Appends the dictionary to a body in which nothing is yet. Of a client its groups are told, and that descriptor 0 is its process.
pub fn append<A: Array<Item = u8>>(
    who: &Credentials,
    is_client: bool,
    has_process: bool,
    out: &mut SmallVec<A>,
) {
    out.extend_from_slice(&[0; 4]);
    pad(out, 8);
    let start = out.len();
    if let Some(uid) = known(who.uid) {
        put(out, "UnixUserID", "u", &uid.to_le_bytes());
    }
    if let Some(pid) = u32::try_from(who.pid).ok().filter(|pid| *pid != 0) {
        put(out, "ProcessID", "u", &pid.to_le_bytes());
    }
    if is_client {
        let mut groups: Vec<u32> = who.groups.iter().chain([&who.gid]).copied().filter_map(known).collect();
        groups.sort_unstable();
        groups.dedup();
        if !groups.is_empty() {
            let groups: Vec<u8> = groups.into_iter().flat_map(u32::to_le_bytes).collect();
            put_array(out, "UnixGroupIDs", "au", &groups, &[]);
        }
    }
    let label = who.secctx.iter().flat_map(|label| label.split(|byte| *byte == 0)).next().unwrap_or_default();
    if !label.is_empty() {
        put_array(out, "LinuxSecurityLabel", "ay", label, &[0]);
    }
    if has_process {
        put(out, "ProcessFD", "h", &[0; 4]);
    }
    let length = (out.len() - start) as u32;
    if let Some(room) = out.get_mut(..4) {
        room.copy_from_slice(&length.to_le_bytes());
    }
}

/// An entry whose value may begin at a multiple of 4.
fn put<A: Array<Item = u8>>(out: &mut SmallVec<A>, key: &str, signature: &str, value: &[u8]) {
    pad(out, 8);
    out.extend_from_slice(&(key.len() as u32).to_le_bytes());
    out.extend_from_slice(key.as_bytes());
    out.extend_from_slice(&[0, signature.len() as u8]);
    out.extend_from_slice(signature.as_bytes());
    out.push(0);
    pad(out, 4);
    out.extend_from_slice(value);
}

/// The same of an array, whose bytes are in two pieces.
fn put_array<A: Array<Item = u8>>(
    out: &mut SmallVec<A>,
    key: &str,
    signature: &str,
    value: &[u8],
    rest: &[u8],
) {
    put(out, key, signature, &((value.len() + rest.len()) as u32).to_le_bytes());
    out.extend_from_slice(value);
    out.extend_from_slice(rest);
}

fn pad<A: Array<Item = u8>>(out: &mut SmallVec<A>, multiple: usize) {
    out.resize(out.len().next_multiple_of(multiple), 0);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::Beside;
    use bytes::Bytes;
    use std::sync::Arc;

    fn body(who: &Credentials, is_client: bool, has_process: bool) -> SmallVec<[u8; 128]> {
        let mut out = SmallVec::new();
        append(who, is_client, has_process, &mut out);
        crate::dbus::body::check_body("a{sv}", &out, crate::dbus::Endian::Little).expect("a valid body");
        out
    }

    #[test]
    fn of_who_is_nobody_nothing_is_said() {
        let unknown = i64::from(UNKNOWN);
        let nobody = Credentials { uid: unknown, gid: unknown, ..Credentials::default() };
        assert_eq!(body(&nobody, true, false).as_slice(), [0; 8]);
    }

    #[test]
    fn groups_are_told_once_and_in_order_and_a_label_ends_with_a_zero() {
        let label = Some(Bytes::from_static(b"label\0behind it"));
        let groups = vec![7, 3, 9, 3, i64::from(UNKNOWN)];
        let beside = Some(Arc::new(Beside { secctx: label, groups, ..Beside::default() }));
        let who = Credentials { uid: 1, gid: 7, pid: 2, tid: 0, beside };
        let found = body(&who, true, true);
        let expected: [&[u8]; 3] =
            [b"\x0c\0\0\0\x03\0\0\0\x07\0\0\0\x09\0\0\0", b"\x06\0\0\0label\0", b"ProcessFD\0\x01h\0"];
        for piece in expected {
            assert!(found.windows(piece.len()).any(|bytes| bytes == piece), "{piece:?} in {found:?}");
        }
        assert!(!body(&who, false, false).windows(12).any(|bytes| bytes == b"UnixGroupIDs"));
    }
}
