//! The server's side of D-Bus authentication, as a table.
//!
//! Theory. A client sends one NUL, then lines; each line gets one line back. What a command does depends on the
//! state. Lines that come together are handled together; what follows BEGIN are messages, and is kept in
//! `rest`. EXTERNAL: the client may claim a user id, and what counts is the one that the kernel gave.
//! ANONYMOUS: the client is nobody.
//!
//! Invariants. 1. It is done only after OK and BEGIN; the identity is then the kernel's uid, or None for
//! nobody, and nobody is let in only if that is allowed. 2. `feed` never holds more than `MAX_BUFFER` bytes
//! without a line. 3. After `MAX_REJECTED` rejections the last answer is REJECTED, and the client is closed;
//! it is closed after `MAX_LINES` lines, too, unless the last of them is BEGIN.
//!
//! Not here: DBUS_COOKIE_SHA1 (who offers it needs a keyring; here everybody who tries it is rejected), whether
//! that user may connect, time limits, sockets.

use super::Malformed;

/// Bytes that may wait for the end of their line.
pub const MAX_BUFFER: usize = 16384;
/// Rejections that a client may get.
pub const MAX_REJECTED: u32 = 6;
/// What an authentication may take; a client that wants in needs about four.
pub const MAX_LINES: u32 = 64;

/// How a client may show who it is, in the order in which that is offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mechanism {
    /// By what the kernel says.
    External,
    /// By reading a file; offered, and rejected.
    Cookie,
    /// Not at all.
    Anonymous,
}

impl Mechanism {
    const ALL: [Self; 3] = [Self::External, Self::Cookie, Self::Anonymous];

    fn name(self) -> &'static str {
        match self {
            Self::External => "EXTERNAL",
            Self::Cookie => "DBUS_COOKIE_SHA1",
            Self::Anonymous => "ANONYMOUS",
        }
    }
}

/// How clients of one bus may show who they are.
#[derive(Clone, Debug)]
pub struct AuthRules {
    /// What is offered.
    pub mechanisms: Vec<Mechanism>,
    /// Whether nobody is let in.
    pub allows_anonymous: bool,
}

impl Default for AuthRules {
    fn default() -> Self {
        Self { mechanisms: vec![Mechanism::External], allows_anonymous: false }
    }
}

/// What the server waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthState {
    /// The mechanism.
    Auth,
    /// The identity.
    Data,
    /// The end.
    Begin,
    /// Nothing more.
    Done,
}

/// One client's authentication; Malformed from `feed` closes the connection.
#[derive(Debug)]
pub struct ServerAuth {
    uid: Option<u32>,
    guid: String,
    rules: AuthRules,
    can_pass_fds: bool,
    state: AuthState,
    identity: Option<u32>,
    takes_fds: bool,
    closed: bool,
    rejected: u32,
    lines: u32,
    has_begun: bool,
    mechanism: Mechanism,
    rest: Vec<u8>,
}

impl ServerAuth {
    /// `uid` as the kernel gave it; None if it gave none.
    pub fn new(uid: Option<u32>, guid: &str, rules: AuthRules, can_pass_fds: bool) -> Self {
        Self {
            uid,
            guid: guid.to_owned(),
            rules,
            can_pass_fds,
            state: AuthState::Auth,
            identity: None,
            takes_fds: false,
            closed: false,
            rejected: 0,
            lines: 0,
            has_begun: false,
            mechanism: Mechanism::External,
            rest: Vec::new(),
        }
    }

    /// What the server waits for.
    pub fn state(&self) -> AuthState {
        self.state
    }

    /// BEGIN has come: `rest` and all that follows are messages.
    pub fn is_done(&self) -> bool {
        self.state == AuthState::Done
    }

    /// Send what `feed` returned, then close: BEGIN without OK, too many rejections or lines.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Who the client is once OK was said: None before, and for nobody.
    pub fn identity(&self) -> Option<u32> {
        self.identity
    }

    /// The client asked for descriptors and got them.
    pub fn takes_fds(&self) -> bool {
        self.takes_fds
    }

    /// Not yet handled; once it is done, the first messages.
    pub fn rest(&self) -> &[u8] {
        &self.rest
    }

    /// Handle the lines that are complete; returns what to send.
    pub fn feed(&mut self, data: &[u8]) -> Result<Vec<u8>, Malformed> {
        let mut answers = Vec::new();
        if self.is_done() {
            self.rest.extend_from_slice(data);
        }
        if self.is_done() || self.closed {
            return Ok(answers);
        }
        let mut waiting = std::mem::take(&mut self.rest);
        waiting.extend_from_slice(data);
        let mut ahead = waiting.as_slice();
        if let (false, Some((first, behind))) = (self.has_begun, ahead.split_first()) {
            if *first != 0 {
                return Err(Malformed::new("the first byte is not NUL"));
            }
            self.has_begun = true;
            ahead = behind;
        }
        while !self.is_done() && !self.closed {
            let end = ahead.windows(2).position(|pair| pair == b"\r\n");
            if end.map_or(ahead.len(), |end| end + 2) > MAX_BUFFER {
                return Err(Malformed::new(format!(
                    "more than {MAX_BUFFER} bytes without the end of a line"
                )));
            }
            let Some((line, behind)) = end.and_then(|end| ahead.split_at_checked(end)) else {
                break;
            };
            ahead = behind.get(2..).unwrap_or_default();
            let answer = self.line(line);
            self.lines += 1;
            if self.lines >= MAX_LINES && !self.is_done() {
                self.closed = true;
            }
            if !answer.is_empty() {
                answers.extend_from_slice(answer.as_bytes());
                answers.extend_from_slice(b"\r\n");
            }
        }
        self.rest = ahead.to_vec();
        Ok(answers)
    }

    fn line(&mut self, line: &[u8]) -> String {
        let Some(line) =
            std::str::from_utf8(line).ok().filter(|line| line.is_ascii() && !line.contains('\0'))
        else {
            return error("Not ASCII");
        };
        let (command, argument) = cut(line);
        use AuthState::{Auth, Begin, Data, Done};
        match (self.state, command) {
            (Done, _) => String::new(),
            (Auth, "AUTH") => self.start(argument),
            (Data, "AUTH") => error("Sent AUTH while another AUTH in progress"),
            (Begin, "AUTH") => error("Sent AUTH while expecting BEGIN"),
            (Auth, "DATA" | "CANCEL") => error("Not currently in an auth conversation"),
            (Data, "DATA") => self.respond(argument),
            (Begin, "DATA") => error("Sent DATA while expecting BEGIN"),
            (_, "CANCEL" | "ERROR") => self.reject(),
            (Begin, "NEGOTIATE_UNIX_FD") => self.negotiate(),
            (_, "NEGOTIATE_UNIX_FD") => error("Need to authenticate first"),
            (Begin, "BEGIN") => {
                self.state = Done;
                String::new()
            }
            (_, "BEGIN") => {
                // what was answered before is still to be sent
                self.closed = true;
                String::new()
            }
            _ => error("Unknown command"),
        }
    }

    fn start(&mut self, argument: &str) -> String {
        let (name, response) = cut(argument);
        let Some(mechanism) = self.rules.mechanisms.iter().find(|mechanism| mechanism.name() == name) else {
            return self.reject();
        };
        self.mechanism = *mechanism;
        if self.mechanism == Mechanism::External && response.is_empty() {
            self.state = AuthState::Data;
            return "DATA".to_owned();
        }
        self.respond(response)
    }

    fn respond(&mut self, response: &str) -> String {
        let content = unhex(response).unwrap_or_default();
        if !response.is_empty() && content.is_empty() {
            return error("Invalid hex encoding");
        }
        match (self.mechanism, self.uid) {
            (Mechanism::External, Some(uid)) => {
                if content.is_empty() || content == uid.to_string().as_bytes() {
                    self.accept(Some(uid))
                } else {
                    self.reject()
                }
            }
            (Mechanism::Anonymous, _) if self.rules.allows_anonymous => {
                if std::str::from_utf8(&content).is_ok() { self.accept(None) } else { self.reject() }
            }
            _ => self.reject(),
        }
    }

    fn accept(&mut self, identity: Option<u32>) -> String {
        self.state = AuthState::Begin;
        self.identity = identity;
        format!("OK {}", self.guid)
    }

    fn reject(&mut self) -> String {
        self.state = AuthState::Auth;
        self.takes_fds = false;
        self.identity = None;
        self.rejected += 1;
        self.closed = self.rejected >= MAX_REJECTED;
        let mut answer = "REJECTED".to_owned();
        for mechanism in Mechanism::ALL {
            if self.rules.mechanisms.contains(&mechanism) {
                answer.push(' ');
                answer.push_str(mechanism.name());
            }
        }
        answer
    }

    fn negotiate(&mut self) -> String {
        if !self.can_pass_fds {
            return error("This transport cannot pass descriptors");
        }
        self.takes_fds = true;
        "AGREE_UNIX_FD".to_owned()
    }
}

fn error(text: &str) -> String {
    format!("ERROR \"{text}\"")
}

/// The first word, and what follows the blanks behind it.
fn cut(line: &str) -> (&str, &str) {
    const BLANKS: [char; 2] = [' ', '\t'];
    let (word, rest) = line.split_at(line.find(BLANKS).unwrap_or(line.len()));
    (word, rest.trim_start_matches(BLANKS))
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    pairs.iter().map(|[high, low]| Some((digit(*high)? << 4 | digit(*low)?) as u8)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn auth(mechanisms: &[Mechanism], allows_anonymous: bool) -> ServerAuth {
        let rules = AuthRules { mechanisms: mechanisms.to_vec(), allows_anonymous };
        ServerAuth::new(Some(1000), "g1", rules, true)
    }

    fn said(auth: &mut ServerAuth, lines: &str) -> String {
        String::from_utf8(auth.feed(lines.as_bytes()).unwrap()).unwrap()
    }

    #[test]
    fn a_client_is_who_the_kernel_says() {
        let mut client = auth(&[Mechanism::External], false);
        let answers = said(&mut client, "\0AUTH EXTERNAL 31303030\r\nNEGOTIATE_UNIX_FD\r\nBEGIN\r\nl\x01");
        assert_eq!(answers, "OK g1\r\nAGREE_UNIX_FD\r\n");
        assert!(client.is_done() && client.takes_fds());
        assert_eq!((client.identity(), client.rest()), (Some(1000), &b"l\x01"[..]));
        said(&mut client, "more");
        assert_eq!(client.rest(), b"l\x01more");
    }

    #[test]
    fn one_byte_at_a_time_makes_no_difference() {
        let mut client = auth(&[Mechanism::External], false);
        let mut answers = String::new();
        for byte in
            "\0AUTH\r\nAUTH \t EXTERNAL\r\nDATA\r\nCANCEL\r\nAUTH EXTERNAL 30\r\nAUTH EXTERNAL 3\r\n".chars()
        {
            answers += &said(&mut client, &byte.to_string());
        }
        let expected = "REJECTED EXTERNAL\r\nDATA\r\nOK g1\r\nREJECTED EXTERNAL\r\nREJECTED EXTERNAL\r\n\
                        ERROR \"Invalid hex encoding\"\r\n";
        assert_eq!(answers, expected);
        assert_eq!(client.identity(), None);
    }

    #[test]
    fn nobody_is_let_in_only_if_that_is_allowed() {
        let all = [Mechanism::External, Mechanism::Cookie, Mechanism::Anonymous];
        let mut client = auth(&all, false);
        let rejected = "REJECTED EXTERNAL DBUS_COOKIE_SHA1 ANONYMOUS\r\n";
        assert_eq!(said(&mut client, "\0AUTH ANONYMOUS 61\r\n"), rejected);
        assert_eq!(said(&mut client, "AUTH DBUS_COOKIE_SHA1 31\r\n"), rejected);
        let mut client = auth(&all, true);
        assert_eq!(
            said(&mut client, "\0AUTH ANONYMOUS ff\r\nAUTH ANONYMOUS 61\r\nBEGIN\r\n"),
            rejected.to_owned() + "OK g1\r\n"
        );
        assert!(client.is_done() && client.identity().is_none());
    }

    #[test]
    fn who_is_rejected_too_often_is_closed_and_who_talks_without_end_too() {
        let mut client = auth(&[Mechanism::External], false);
        let answers = said(&mut client, &("\0".to_owned() + &"AUTH\r\n".repeat(9)));
        assert_eq!((answers.matches("REJECTED").count(), client.is_closed()), (6, true));
        assert_eq!(said(&mut client, "AUTH\r\n"), "");
        let mut client = auth(&[Mechanism::External], false);
        let answers = said(&mut client, &("\0".to_owned() + &"WHAT\r\n".repeat(99)));
        assert_eq!((answers.matches("Unknown command").count(), client.is_closed()), (64, true));
        let mut client = auth(&[Mechanism::External], false);
        assert_eq!(
            said(&mut client, "\0NEGOTIATE_UNIX_FD\r\nBEGIN\r\n"),
            "ERROR \"Need to authenticate first\"\r\n"
        );
        assert!(client.is_closed() && !client.is_done());
    }

    #[test]
    fn bytes_that_are_no_lines_are_refused() {
        let mut client = auth(&[Mechanism::External], false);
        assert_eq!(client.feed(b"A").unwrap_err().0, "the first byte is not NUL");
        let mut client = auth(&[Mechanism::External], false);
        assert_eq!(
            client.feed(b"\0A\xc3\xa9\r\nA\0\r\n").unwrap().as_slice(),
            "ERROR \"Not ASCII\"\r\n".repeat(2).as_bytes()
        );
        assert!(client.feed(&[b'x'; MAX_BUFFER]).unwrap().is_empty());
        let text = client.feed(b"x").unwrap_err().0;
        assert_eq!(text, "more than 16384 bytes without the end of a line");
    }
}
