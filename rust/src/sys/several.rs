//! Several of the same in one system call: messages to write, descriptors to close.
//!
//! Theory. The kernel does the same as in as many calls, in their order, and stops where one of them would have failed.
//!
//! Not here: one of each (`sys`).
#![allow(unsafe_code)]

use std::io;
use std::mem;
use std::os::fd::RawFd;

use libc::c_uint;
use smallvec::SmallVec;

use super::{SCM_MAX_FD, checked, close, send};

/// So many pieces are written without an allocation.
const FEW: usize = 32;

/// Closes descriptors that the caller owns, those with neighbouring numbers at once; the list is empty then.
pub fn close_all(fds: &mut Vec<RawFd>) {
    fds.sort_unstable();
    for run in fds.chunk_by(|one, next| one.checked_add(1) == Some(*next)) {
        match *run {
            [first, .., last] if close_between(first, last).is_ok() => {}
            _ => run.iter().copied().for_each(close),
        }
    }
    fds.clear();
}

/// Closes all descriptors with these numbers, and with those between them; Linux 5.9 can.
fn close_between(first: RawFd, last: RawFd) -> io::Result<usize> {
    let (first, last) = (first as c_uint, last as c_uint);
    // SAFETY: closing numbers touches no memory; the caller gives up the descriptors.
    checked(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0 as c_uint) } as isize)
}

/// Writes pieces, one behind the other, each with its descriptors at its first byte; returns how many bytes were taken.
///
/// Never waits, and raises no SIGPIPE. A piece with bytes has at most `SCM_MAX_FD` descriptors that are looked at.
pub fn send_several(fd: RawFd, pieces: &[(&[u8], &[RawFd])]) -> io::Result<usize> {
    if let [(bytes, fds)] = pieces {
        return send(fd, &[bytes], fds);
    }
    let part = |piece: &(&[u8], &[RawFd])| libc::iovec {
        iov_base: piece.0.as_ptr().cast_mut().cast(),
        iov_len: piece.0.len(),
    };
    let mut parts: SmallVec<[libc::iovec; FEW]> = pieces.iter().map(part).collect();
    let n_fds = |piece: &(&[u8], &[RawFd])| piece.1.len().min(SCM_MAX_FD);
    let n_words = |n: usize| if n == 0 { 0 } else { space(n).div_ceil(8) };
    let mut control: SmallVec<[u64; 3 * FEW]> =
        smallvec::smallvec![0; pieces.iter().map(|piece| n_words(n_fds(piece))).sum()];
    let mut rest = &mut control[..];
    let mut messages: SmallVec<[libc::mmsghdr; FEW]> = SmallVec::with_capacity(pieces.len());
    for (part, piece) in parts.iter_mut().zip(pieces) {
        // SAFETY: mmsghdr is plain data for which zeros are valid.
        let mut message: libc::mmsghdr = unsafe { mem::zeroed() };
        message.msg_hdr.msg_iov = part;
        message.msg_hdr.msg_iovlen = 1;
        let (own, others) = rest.split_at_mut(n_words(n_fds(piece)));
        rest = others;
        if !own.is_empty() {
            put_descriptors(own, &mut message.msg_hdr, &piece.1[..n_fds(piece)]);
        }
        messages.push(message);
    }
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: the headers are as many as told; each points to a vector of `parts`, which is that of a live slice that the
    // kernel only reads, and to its own part of `control`. All of these live through the call, and do not move.
    let n = unsafe { libc::sendmmsg(fd, messages.as_mut_ptr(), messages.len() as c_uint, flags) };
    let n = checked(n as isize)?;
    Ok(messages[..n].iter().map(|message| message.msg_len as usize).sum())
}

/// What a control message with so many descriptors takes.
fn space(n_fds: usize) -> usize {
    // SAFETY: computes a length from a number.
    unsafe { libc::CMSG_SPACE((n_fds * mem::size_of::<RawFd>()) as c_uint) as usize }
}

/// Has a message carry descriptors; `room` is `space` of them long.
fn put_descriptors(room: &mut [u64], message: &mut libc::msghdr, fds: &[RawFd]) {
    let size = mem::size_of_val(fds);
    message.msg_control = room.as_mut_ptr().cast();
    message.msg_controllen = space(fds.len()).min(mem::size_of_val(room));
    // SAFETY: the room is aligned, and as long as a header with `fds` behind it.
    unsafe {
        let header = libc::CMSG_FIRSTHDR(message);
        (*header).cmsg_level = libc::SOL_SOCKET;
        (*header).cmsg_type = libc::SCM_RIGHTS;
        (*header).cmsg_len = libc::CMSG_LEN(size as c_uint) as usize;
        std::ptr::copy_nonoverlapping(fds.as_ptr().cast::<u8>(), libc::CMSG_DATA(header), size);
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::sys::receive;

    #[test]
    fn each_piece_brings_its_own_descriptors_with_its_first_byte() {
        let (one, other) = UnixStream::pair().unwrap();
        let fds = [one.as_raw_fd(), other.as_raw_fd(), one.as_raw_fd()];
        let pieces: [(&[u8], &[RawFd]); 4] =
            [(b"pla", &[]), (b"one", &fds[..1]), (b"two", &fds[1..]), (b"end", &[])];
        assert_eq!(send_several(one.as_raw_fd(), &pieces).unwrap(), 12);
        let mut got = Vec::new();
        while got.iter().map(|(n, _)| n).sum::<usize>() < 12 {
            let mut fds = Vec::new();
            let received = receive(other.as_raw_fd(), &mut Vec::with_capacity(3), 3, &mut fds).unwrap();
            got.push((received.n_bytes, fds.len()));
            close_all(&mut fds);
            assert!(fds.is_empty());
        }
        assert_eq!(got, [(3, 0), (3, 1), (3, 2), (3, 0)]);
    }

    #[test]
    fn what_the_socket_does_not_take_any_more_ends_the_writing() {
        let (one, other) = UnixStream::pair().unwrap();
        let piece = vec![7; 50_000];
        let fds = [other.as_raw_fd()];
        let pieces: Vec<(&[u8], &[RawFd])> = (0..64).map(|_| (&piece[..], &fds[..])).collect();
        let taken = send_several(one.as_raw_fd(), &pieces).unwrap();
        assert!(taken > 0 && taken < 64 * piece.len());
        let error = send_several(one.as_raw_fd(), &pieces).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        drop(other);
        assert!(send_several(one.as_raw_fd(), &pieces).is_err());
    }

    #[test]
    fn neighbours_are_closed_and_what_lies_between_others_is_not() {
        let open = |fd: RawFd| std::fs::metadata(format!("/proc/self/fd/{fd}")).is_ok();
        // far from the numbers that other tests get
        let place = |number: RawFd| {
            let file = std::fs::File::open("/dev/null").unwrap();
            // SAFETY: duplicates a descriptor that is open; nobody has this number.
            unsafe { libc::dup2(file.as_raw_fd(), number) }
        };
        let numbers = [700, 701, 702, 704, 705, 707];
        for number in 700..=707 {
            assert_eq!(place(number), number);
        }
        let mut fds = vec![705, 701, 700, 707, 702, 704];
        close_all(&mut fds);
        assert!(fds.is_empty() && !numbers.into_iter().any(open));
        assert!([703, 706].into_iter().all(open));
        close_all(&mut vec![703, 706]);
        assert!(![703, 706].into_iter().any(open));
    }
}
