//! Connections that arrive at a listening unix socket, and what the kernel says of who has made them.
//!
//! Theory. Nothing waits: who finds nothing gets an error. What is said of a client is what held when it connected.
//!
//! Not here: listening, reading and writing (`sys`), who may come in (`lane`).
#![allow(unsafe_code)]

use std::io;
use std::mem;
use std::os::fd::{OwnedFd, RawFd};

use libc::{c_int, c_void, socklen_t};

use super::{checked, close, own};

/// Most users are in few groups, and have a short label.
const ROOM: usize = 1024;
/// 32-bit words of it.
const WORDS: usize = ROOM / 4;

/// Who has connected.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Who {
    pub pid: i32,
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
    /// Without the zeros at its end; None if the kernel has none.
    pub label: Option<Vec<u8>>,
}

/// The next connection that waits, close-on-exec and not blocking; the caller owns it.
pub fn accept(listening: RawFd) -> io::Result<RawFd> {
    let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: the kernel is asked for no address, so it writes nowhere.
    let fd = unsafe { libc::accept4(listening, std::ptr::null_mut(), std::ptr::null_mut(), flags) };
    checked(fd as isize).map(|fd| fd as RawFd)
}

/// Nothing comes and goes any more; the other end sees that.
pub fn hang_up(fd: RawFd) {
    // SAFETY: no memory is involved.
    unsafe { libc::shutdown(fd, libc::SHUT_RDWR) };
}

/// The number that the next descriptor will get; any open one helps to find out.
pub fn next_number(fd: RawFd) -> io::Result<RawFd> {
    // SAFETY: the command takes a number.
    let number = checked(unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 0) } as isize)? as RawFd;
    close(number);
    Ok(number)
}

/// Whose connection it is, as the kernel remembers it. Fails if groups or label have no room here.
pub fn who_connected(fd: RawFd) -> io::Result<Who> {
    let mut words = [0_u32; WORDS];
    if option(fd, libc::SO_PEERCRED, &mut words)? != Some(mem::size_of::<libc::ucred>()) {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let [pid, uid, gid, ..] = words;
    let n_bytes = option(fd, libc::SO_PEERGROUPS, &mut words)?.unwrap_or(0);
    let groups = words.get(..n_bytes / 4).unwrap_or_default().to_vec();
    let label = option(fd, libc::SO_PEERSEC, &mut words)?.map(|n_bytes| {
        let bytes = words.iter().flat_map(|word| word.to_ne_bytes()).take(n_bytes);
        let mut label: Vec<u8> = bytes.collect();
        label.truncate(label.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1));
        label
    });
    Ok(Who { pid: pid as i32, uid, gid, groups, label })
}

/// A new descriptor of the process that has connected.
pub fn process(fd: RawFd) -> io::Result<OwnedFd> {
    let mut words = [0_u32; WORDS];
    match option(fd, libc::SO_PEERPIDFD, &mut words)? {
        Some(n_bytes) if n_bytes == mem::size_of::<RawFd>() => Ok(own(words[0] as RawFd)),
        _ => Err(io::Error::from_raw_os_error(libc::ENOPROTOOPT)),
    }
}

/// How many bytes of a socket's option are in `words` now; None if the kernel has it not.
fn option(fd: RawFd, option: c_int, words: &mut [u32; WORDS]) -> io::Result<Option<usize>> {
    let mut length = mem::size_of_val(words) as socklen_t;
    let room = words.as_mut_ptr().cast::<c_void>();
    // SAFETY: the array has room for `length` bytes, for which every value is valid, and both live through the call.
    let result = unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, option, room, &mut length) };
    match checked(result as isize) {
        Ok(_) => Ok(Some((length as usize).min(ROOM))),
        Err(error) if error.raw_os_error() == Some(libc::ERANGE) => Err(error),
        Err(_) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;

    #[test]
    fn the_kernel_says_who_has_connected() {
        let (mine, _other) = UnixStream::pair().expect("a pair");
        let who = who_connected(mine.as_raw_fd()).expect("credentials");
        assert_eq!(who.pid as u32, std::process::id());
        assert!(who_connected(-1).is_err());
    }

    #[test]
    fn a_number_is_foreseen_for_the_next_descriptor() {
        let (mine, other) = UnixStream::pair().expect("a pair");
        drop(other);
        // other tests open some, too: it is one that was free
        assert!(next_number(mine.as_raw_fd()).expect("a number") > 0);
        assert!(next_number(-1).is_err());
    }
}
