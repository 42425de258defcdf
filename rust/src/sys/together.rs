//! Writes to several sockets in one system call.
//!
//! Theory. Each write wakes who reads there, and where all share a CPU that one may run before the next write: a bus that
//! answers 16 clients is then interrupted 16 times. An io_uring takes all writes in one call, so that everybody is woken
//! before anybody runs. No operation outlives the call: none waits (`MSG_DONTWAIT`), so the kernel carries it out while it
//! takes it. Where there is no io_uring, or it is not permitted, the writes are made one by one; the results are the same.
//!
//! Not here: one write (`sys::send`), several to one socket (`several`).
#![allow(unsafe_code)]

use std::io;
use std::os::fd::RawFd;

use io_uring::{IoUring, cqueue, opcode, types};
use smallvec::SmallVec;

use super::send;

/// So many writes are one call.
pub const MOST: usize = 32;

/// A write that is not made yet.
const UNDONE: i32 = i32::MIN;

/// `IORING_ENTER_GETEVENTS`.
const WAIT: u32 = 1;

/// What has been written, of each.
pub type Results = SmallVec<[io::Result<usize>; MOST]>;

/// Whoever writes to several sockets again and again; by default one by one.
#[derive(Default)]
pub struct Together {
    ring: Option<IoUring>,
}

impl Together {
    /// With a ring. An error if none is to be had here.
    pub fn new() -> io::Result<Self> {
        let ring = IoUring::new(MOST as u32)?;
        // 5.17 has that; a kernel that has it is known not to let an operation wait that may not
        let is_new = ring.params().is_feature_skip_cqe_on_success();
        if is_new { Ok(Self { ring: Some(ring) }) } else { Err(io::Error::from_raw_os_error(libc::ENOSYS)) }
    }

    /// Writes to each socket, in their order, as `send` does; how many bytes each has taken. They are `MOST` at most.
    pub fn send_each(&mut self, writes: &[(RawFd, &[u8])]) -> Results {
        let mut results = [UNDONE; MOST];
        if writes.len() > 1
            && let Some(ring) = &mut self.ring
            && submit(ring, writes, &mut results).is_err()
        {
            // what it holds unsubmitted goes with it
            self.ring = None;
        }
        let told = |(&(fd, bytes), &result): (&(RawFd, &[u8]), &i32)| match result {
            UNDONE => send(fd, &[bytes], &[]),
            0.. => Ok(result as usize),
            _ => Err(io::Error::from_raw_os_error(-result)),
        };
        writes.iter().zip(&results).map(told).collect()
    }
}

/// One call for all; an error if the ring is of no use any more. What is still `UNDONE` was not begun.
fn submit(ring: &mut IoUring, writes: &[(RawFd, &[u8])], results: &mut [i32; MOST]) -> io::Result<()> {
    for (number, (fd, bytes)) in writes.iter().enumerate().take(MOST) {
        let size = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let entry = opcode::Send::new(types::Fd(*fd), bytes.as_ptr(), size)
            .flags(libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL)
            .build()
            .user_data(number as u64);
        // SAFETY: the pointer and the length are those of a live slice, which the kernel only reads, and is done with
        // when this is over: an operation that may not wait is carried out, or refused, as it is taken.
        unsafe { ring.submission().push(&entry) }.map_err(|_| io::ErrorKind::OutOfMemory)?;
    }
    // an error tells that none was taken
    let submitted = ring.submit_and_wait(writes.len()).unwrap_or(0);
    let mut n_done = 0;
    loop {
        for completion in ring.completion().map(|entry: cqueue::Entry| (entry.user_data(), entry.result())) {
            n_done += 1;
            if let Some(result) = results.get_mut(completion.0 as usize) {
                *result = completion.1;
            }
        }
        if n_done >= submitted {
            break;
        }
        // it does not come to that, but nothing that the kernel may still read must go
        // SAFETY: waits for a completion, and passes no pointers.
        let _ = unsafe { ring.submitter().enter::<libc::sigset_t>(0, 1, WAIT, None) };
    }
    if submitted == writes.len() { Ok(()) } else { Err(io::ErrorKind::Interrupted.into()) }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    fn all_kinds(mut together: Together) {
        let pairs: Vec<_> = (0..4).map(|_| UnixStream::pair().unwrap()).collect();
        let (full, _unread) = UnixStream::pair().unwrap();
        while send(full.as_raw_fd(), &[&[0; 4096]], &[]).is_ok() {}
        let (alone, other) = UnixStream::pair().unwrap();
        drop(other);
        let texts: Vec<_> = (0..4).map(|i| format!("to {i}")).collect();
        let mut writes: Vec<(RawFd, &[u8])> =
            pairs.iter().zip(&texts).map(|(pair, text)| (pair.0.as_raw_fd(), text.as_bytes())).collect();
        writes.push((full.as_raw_fd(), b"no room"));
        writes.push((alone.as_raw_fd(), b"nobody"));
        writes.push((-1, b"no descriptor"));
        for _ in 0..3 {
            let told = together.send_each(&writes);
            let codes: Vec<_> = told
                .iter()
                .map(|result| result.as_ref().map_err(|error| error.raw_os_error().unwrap()).copied())
                .collect();
            let failed = [libc::EAGAIN, libc::EPIPE, libc::EBADF].map(Err);
            assert_eq!(codes, [&[Ok(4); 4][..], &failed].concat());
            for (mut pair, text) in pairs.iter().zip(&texts).map(|(pair, text)| (&pair.1, text)) {
                let mut got = [0; 4];
                pair.read_exact(&mut got).unwrap();
                assert_eq!(got, *text.as_bytes());
            }
        }
    }

    #[test]
    fn each_socket_takes_what_is_its_own_and_fails_by_itself() {
        all_kinds(Together::new().unwrap());
    }

    #[test]
    fn one_by_one_they_take_the_same() {
        all_kinds(Together::default());
    }

    #[test]
    fn a_socket_takes_a_part_if_there_is_no_room_for_all() {
        let pairs: Vec<_> = (0..2).map(|_| UnixStream::pair().unwrap()).collect();
        let large = vec![7; 8 << 20];
        let writes: Vec<(RawFd, &[u8])> = pairs.iter().map(|pair| (pair.0.as_raw_fd(), &large[..])).collect();
        let told = Together::new().unwrap().send_each(&writes);
        let one_by_one = UnixStream::pair().unwrap();
        let expected = send(one_by_one.0.as_raw_fd(), &[&large], &[]).unwrap();
        assert!(expected < large.len());
        assert_eq!(told.iter().map(|result| *result.as_ref().unwrap()).collect::<Vec<_>>(), [expected; 2]);
    }
}
