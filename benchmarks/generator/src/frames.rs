//! Cutting a stream into messages without keeping it: only the first 16 bytes of each are looked at.
//!
//! Invariants. 1. However the bytes arrive, `feed` tells of each message once, when its last byte is there.

/// The first bytes of a message.
#[derive(Clone, Copy, Default)]
pub struct Head([u8; 16]);

impl Head {
    fn word(&self, at: usize) -> u32 {
        let bytes = [self.0[at], self.0[at + 1], self.0[at + 2], self.0[at + 3]];
        if self.0[0] == b'B' {
            u32::from_be_bytes(bytes)
        } else {
            u32::from_le_bytes(bytes)
        }
    }

    /// The type.
    pub fn kind(&self) -> u8 {
        self.0[1]
    }

    /// The sender's number for it.
    pub fn serial(&self) -> u32 {
        self.word(8)
    }

    fn length(&self) -> usize {
        16 + (self.word(12) as usize).next_multiple_of(8) + self.word(4) as usize
    }
}

/// The length of the message that `data` begins with; 16 bytes of it must be there.
pub fn length(data: &[u8]) -> usize {
    let mut head = Head::default();
    head.0.copy_from_slice(&data[..16]);
    head.length()
}

/// One stream.
#[derive(Default)]
pub struct Frames {
    head: Head,
    have: usize,
    left: usize,
}

impl Frames {
    /// Take the next bytes; `found` is called with the head of each message that they complete.
    pub fn feed(&mut self, mut data: &[u8], mut found: impl FnMut(Head)) {
        loop {
            if self.left > 0 {
                let taken = self.left.min(data.len());
                data = &data[taken..];
                self.left -= taken;
                if self.left > 0 {
                    return;
                }
                found(self.head);
            }
            let wanted = 16 - self.have;
            if data.len() < wanted {
                self.head.0[self.have..self.have + data.len()].copy_from_slice(data);
                self.have += data.len();
                return;
            }
            self.head.0[self.have..].copy_from_slice(&data[..wanted]);
            data = &data[wanted..];
            self.have = 0;
            self.left = self.head.length() - 16;
            if self.left == 0 {
                found(self.head);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{driver_call, signal};

    #[test]
    fn messages_are_cut_where_they_end_however_they_arrive() {
        let stream = [
            driver_call(1, "Hello", &[]),
            signal(3, 0),
            driver_call(7, "GetId", &[]),
        ]
        .concat();
        for step in 1..stream.len() {
            let (mut frames, mut serials) = (Frames::default(), Vec::new());
            stream
                .chunks(step)
                .for_each(|chunk| frames.feed(chunk, |head| serials.push(head.serial())));
            assert_eq!(serials, [1, 2, 7]);
            assert_eq!((frames.have, frames.left), (0, 0));
        }
    }
}
