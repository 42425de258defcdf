//! Another process of the load: this program in another role, which speaks by lines.

use crate::connection::failed;
use crate::options::Options;
use std::env;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::process::{self, ChildStdout, Command, Stdio};

/// A running child; it is killed when this is dropped.
pub struct Child {
    process: process::Child,
    output: BufReader<ChildStdout>,
}

impl Child {
    /// Start `role` on the same bus.
    pub fn start(role: &str, options: &Options) -> io::Result<Self> {
        let mut command = Command::new(env::current_exe()?);
        command
            .args(options.of_child(role))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut process = command.spawn()?;
        let output = process
            .stdout
            .take()
            .ok_or_else(|| failed("the child has no output"))?;
        Ok(Self {
            process,
            output: BufReader::new(output),
        })
    }

    /// The next line that it says.
    pub fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        match self.output.read_line(&mut line)? {
            0 => Err(failed("a process of the load ended")),
            _ => Ok(line.trim_end().to_owned()),
        }
    }

    /// Wait for one byte, the sign that a part of the work is done.
    pub fn credit(&mut self) -> io::Result<()> {
        self.output.read_exact(&mut [0])
    }

    /// Tell it a line.
    pub fn say(&mut self, line: &str) -> io::Result<()> {
        let input = self
            .process
            .stdin
            .as_mut()
            .ok_or_else(|| failed("the child has no input"))?;
        writeln!(input, "{line}")
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        !matches!(self.process.try_wait(), Ok(None))
    }

    /// Its process.
    pub fn number(&self) -> i32 {
        self.process.id() as i32
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What the parent of this process says next.
pub fn told() -> io::Result<String> {
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line)?;
    Ok(line.trim_end().to_owned())
}

/// Say a line to the parent.
pub fn say(line: &str) -> io::Result<()> {
    let mut output = io::stdout().lock();
    writeln!(output, "{line}")?;
    output.flush()
}
