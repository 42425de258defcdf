//! What becomes of a request: an answer, an error, the end of its channel.
//!
//! Not here: whose it is (`exchange`), what a message says (`py::answer`).

use std::os::fd::OwnedFd;

use super::protocol as wire;

/// An error that an answer tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Its errno.
    pub code: u32,
    /// What it says.
    pub text: Vec<u8>,
}

/// Why a channel is of no use any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The bus broke the protocol.
    Broken(String),
    /// The bus says why.
    Refused(Refusal),
    /// The bus has closed it.
    Closed,
    /// What this side knows of.
    Own,
}

/// The outcome of one request.
#[derive(Debug)]
pub struct Answer {
    /// The request's.
    pub operation: u16,
    /// In place of everything else.
    pub error: Option<Refusal>,
    /// How many operations of a sequence took effect.
    pub done: u16,
    /// Prefix, fixed fields and tail.
    pub body: Vec<u8>,
    /// Those of the frame.
    pub fds: Vec<OwnedFd>,
    /// Those of a message.
    pub offered: Vec<OwnedFd>,
    /// Counts answers as they arrive.
    pub arrival: u64,
    /// It is about the next message of the queue.
    pub is_from_queue: bool,
    /// The message stays where it was.
    pub is_peek: bool,
    /// NODE_RELEASE of the message's node came with it.
    pub is_released: bool,
}

impl Answer {
    /// It brings a message that is nobody else's.
    pub fn is_message(&self) -> bool {
        self.is_from_queue && !self.is_peek && self.error.is_none()
    }

    /// The fixed fields: what they are, and their bytes.
    pub fn fixed(&self) -> (&'static [u8], &[u8]) {
        let fields = match self.error {
            None => wire::result_fields(self.operation).unwrap_or_default(),
            Some(_) => b"",
        };
        let end = wire::PREFIX_SIZE + wire::size_of(fields);
        (fields, self.body.get(wire::PREFIX_SIZE..end).unwrap_or_default())
    }

    /// What is behind the fixed fields; nothing in an error.
    pub fn tail(&self) -> &[u8] {
        if self.error.is_some() {
            return &[];
        }
        let fields = wire::result_fields(self.operation).unwrap_or_default();
        self.body.get(wire::PREFIX_SIZE + wire::size_of(fields)..).unwrap_or_default()
    }
}
