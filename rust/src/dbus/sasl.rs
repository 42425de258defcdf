//! Authentication as almost every client of a unix socket does it: EXTERNAL, as who the kernel says it is.
//!
//! Theory. A client sends one NUL, then lines, in one piece or line by line; each line gets one line back, up to BEGIN. Here
//! are the lines that clients of the usual libraries send if all goes well. Whatever else one says is `Unusual`: the
//! complete table is Python's (`bus1_bridge/sasl.py`), which can be fed with all that was said, and answers the same.
//!
//! Invariants. 1. What is answered is what the table in Python answers. 2. A line is used up when it is answered, and not
//! before. 3. Who is done claims to be nobody but whom the kernel has named.
//!
//! Not here: other mechanisms, refusals, whether that user may connect, sockets.

/// Bytes that may wait for the end of their line.
const LINE_MAX: usize = 256;
/// Lines of one client.
const LINES_MAX: u32 = 16;

/// What the bus says.
#[derive(Clone, Debug, Default)]
pub struct Greeting {
    /// The answer to who is let in, with the bus's own number.
    pub welcome: Box<[u8]>,
    /// The answer to who asks for the mechanisms.
    pub offer: Box<[u8]>,
}

/// Python has to answer this line, and all that follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unusual;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// The NUL is to come.
    #[default]
    Silent,
    Auth,
    Data,
    Begin,
    Done,
}

/// One client's authentication.
#[derive(Clone, Copy, Debug, Default)]
pub struct Auth {
    state: State,
    takes_fds: bool,
    lines: u32,
    /// It has asked for the mechanisms.
    has_asked: bool,
}

impl Auth {
    /// BEGIN has come: all that follows are messages.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// The client has asked for descriptors.
    pub fn takes_fds(&self) -> bool {
        self.takes_fds
    }

    /// Answers the lines that are complete, behind what is in `out`; how many bytes of `data` are used up, and whether what
    /// comes next is usual.
    pub fn feed(
        &mut self,
        data: &[u8],
        uid: u32,
        greeting: &Greeting,
        out: &mut Vec<u8>,
    ) -> (usize, Result<(), Unusual>) {
        let mut at = 0;
        if self.state == State::Silent {
            match data.first() {
                None => return (0, Ok(())),
                Some(0) => (self.state, at) = (State::Auth, 1),
                Some(_) => return (0, Err(Unusual)),
            }
        }
        while !self.is_done() {
            let rest = data.get(at..).unwrap_or_default();
            let end = rest.windows(2).take(LINE_MAX).position(|pair| pair == b"\r\n");
            let Some(line) = end.and_then(|end| rest.get(..end)) else {
                return (at, if rest.len() < LINE_MAX { Ok(()) } else { Err(Unusual) });
            };
            if self.lines == LINES_MAX {
                return (at, Err(Unusual));
            }
            let Ok(answer) = self.line(line, uid, greeting) else {
                return (at, Err(Unusual));
            };
            self.lines += 1;
            out.extend_from_slice(answer);
            at += line.len() + 2;
        }
        (at, Ok(()))
    }

    fn line<'g>(&mut self, line: &[u8], uid: u32, greeting: &'g Greeting) -> Result<&'g [u8], Unusual> {
        match (self.state, line) {
            (State::Auth, b"AUTH") if !self.has_asked => {
                self.has_asked = true;
                Ok(&greeting.offer)
            }
            (State::Auth, b"AUTH EXTERNAL") => {
                self.state = State::Data;
                Ok(b"DATA\r\n")
            }
            (State::Auth, _) => {
                let claimed = line.strip_prefix(b"AUTH EXTERNAL ").ok_or(Unusual)?;
                self.welcome(claimed, uid, greeting)
            }
            (State::Data, b"DATA") => {
                self.state = State::Begin;
                Ok(&greeting.welcome)
            }
            (State::Data, _) => {
                let claimed = line.strip_prefix(b"DATA ").ok_or(Unusual)?;
                self.welcome(claimed, uid, greeting)
            }
            (State::Begin, b"NEGOTIATE_UNIX_FD") => {
                self.takes_fds = true;
                Ok(b"AGREE_UNIX_FD\r\n")
            }
            (State::Begin, b"BEGIN") => {
                self.state = State::Done;
                Ok(b"")
            }
            _ => Err(Unusual),
        }
    }

    /// The client claims to be somebody: only whom the kernel says it is.
    fn welcome<'g>(&mut self, claimed: &[u8], uid: u32, greeting: &'g Greeting) -> Result<&'g [u8], Unusual> {
        let digits = uid.to_string();
        let is_so = claimed.len() == 2 * digits.len()
            && claimed.chunks(2).zip(digits.bytes()).all(|(pair, digit)| pair == [b'3', digit]);
        if !is_so {
            return Err(Unusual);
        }
        self.state = State::Begin;
        Ok(&greeting.welcome)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn greeting() -> Greeting {
        Greeting { welcome: (*b"OK g1\r\n").into(), offer: (*b"REJECTED EXTERNAL\r\n").into() }
    }

    /// What it answers, how many bytes it leaves, and whether the next are usual.
    fn said(auth: &mut Auth, data: &str) -> (String, usize, bool) {
        let mut out = Vec::new();
        let (used, next) = auth.feed(data.as_bytes(), 1000, &greeting(), &mut out);
        (String::from_utf8(out).expect("lines"), data.len() - used, next.is_ok())
    }

    #[test]
    fn what_libraries_say_in_one_piece_is_answered_up_to_begin() {
        let at_once = "\0AUTH EXTERNAL 31303030\r\nNEGOTIATE_UNIX_FD\r\nBEGIN\r\nl\x01";
        let mut auth = Auth::default();
        assert_eq!(said(&mut auth, at_once), ("OK g1\r\nAGREE_UNIX_FD\r\n".to_owned(), 2, true));
        assert!(auth.is_done() && auth.takes_fds());
        let mut auth = Auth::default();
        let answer = said(&mut auth, "\0AUTH\r\nAUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n");
        assert_eq!(answer, ("REJECTED EXTERNAL\r\nDATA\r\nOK g1\r\n".to_owned(), 0, true));
        assert!(auth.is_done() && !auth.takes_fds());
    }

    #[test]
    fn one_byte_after_the_other_makes_no_difference() {
        let mut auth = Auth::default();
        let (mut answers, mut waiting) = (String::new(), String::new());
        for letter in "\0AUTH EXTERNAL\r\nDATA 31303030\r\nNEGOTIATE_UNIX_FD\r\nBEGIN\r\n".chars() {
            waiting.push(letter);
            let (answer, left, is_usual) = said(&mut auth, &waiting);
            assert!(is_usual);
            waiting.drain(..waiting.len() - left);
            answers += &answer;
        }
        assert_eq!(answers, "DATA\r\nOK g1\r\nAGREE_UNIX_FD\r\n");
        assert!(auth.is_done());
    }

    #[test]
    fn what_is_unusual_is_left_as_it_was_said() {
        let cases = [
            ("x", 1),
            ("\0AUTH EXTERNAL 30\r\nBEGIN\r\n", 25),
            ("\0AUTH EXTERNAL  31303030\r\n", 25),
            ("\0AUTH ANONYMOUS\r\n", 16),
            ("\0BEGIN\r\n", 7),
            ("\0AUTH\r\nAUTH\r\n", 6),
            ("\0AUTH EXTERNAL 31303030\r\nCANCEL\r\n", 8),
            ("\0AUTH EXTERNAL\r\nDATA 31\r\n", 9),
        ];
        for (data, left) in cases {
            let (_, behind, is_usual) = said(&mut Auth::default(), data);
            assert_eq!((behind, is_usual), (left, false), "{data:?}");
        }
    }

    #[test]
    fn neither_long_lines_nor_many_are_waited_for() {
        assert!(said(&mut Auth::default(), &format!("\0{}", "A".repeat(LINE_MAX - 1))).2);
        assert!(!said(&mut Auth::default(), &format!("\0{}", "A".repeat(LINE_MAX))).2);
        let many = format!("\0AUTH EXTERNAL\r\nDATA\r\n{}", "NEGOTIATE_UNIX_FD\r\n".repeat(15));
        assert_eq!(said(&mut Auth::default(), &many).1, 19);
    }
}
