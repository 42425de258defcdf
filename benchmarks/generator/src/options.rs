//! The command line: a role, an address, and options with a value each.

use crate::connection::failed;
use std::io;
use std::time::Duration;

/// What was asked for; who doesn't need an option ignores it.
#[derive(Clone, Debug)]
pub struct Options {
    pub role: String,
    pub address: String,
    /// The process of the bus, whose CPU time and memory are asked for; 0 if nobody wants them.
    pub bus: i32,
    pub seconds: f64,
    /// Calls that are outstanding.
    pub window: u64,
    /// Pairs, connections or subscribers.
    pub count: usize,
    /// Bytes of a body.
    pub size: usize,
    /// Signals in one write.
    pub burst: u64,
    /// Strings in a signal.
    pub arguments: usize,
    /// Each message is written by itself.
    pub each: bool,
    /// Each call carries a descriptor.
    pub descriptors: bool,
    /// The name that a callee owns; empty for none.
    pub name: String,
    /// The C library of the caller.
    pub library: String,
}

impl Options {
    /// Read the arguments that follow the program's name.
    pub fn parse(arguments: impl IntoIterator<Item = String>) -> io::Result<Self> {
        let mut words = arguments.into_iter();
        let mut next = |what: &str| words.next().ok_or_else(|| failed(format!("{what} is missing")));
        let (role, address) = (next("a role")?, next("an address")?);
        let mut options = Self {
            role,
            address,
            bus: 0,
            seconds: 0.3,
            window: 64,
            count: 1,
            size: 0,
            burst: 20,
            arguments: 1,
            each: false,
            descriptors: false,
            name: String::new(),
            library: String::new(),
        };
        while let Ok(name) = next("") {
            let value = next(&name)?;
            options.set(&name, &value).map_err(|error| failed(format!("{name} {value}: {error}")))?;
        }
        Ok(options)
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), Box<dyn std::error::Error>> {
        match name {
            "--bus" => self.bus = value.parse()?,
            "--seconds" => self.seconds = value.parse()?,
            "--window" => self.window = value.parse()?,
            "--count" => self.count = value.parse()?,
            "--size" => self.size = value.parse()?,
            "--burst" => self.burst = value.parse()?,
            "--arguments" => self.arguments = value.parse()?,
            "--each" => self.each = value.parse()?,
            "--name" => value.clone_into(&mut self.name),
            "--library" => value.clone_into(&mut self.library),
            "--descriptors" => self.descriptors = value.parse()?,
            _ => return Err("there is no such option".into()),
        }
        Ok(())
    }

    /// How long to measure.
    pub fn time(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }

    /// How long to do the same before.
    pub fn warm_up(&self) -> Duration {
        Duration::from_secs_f64(self.seconds / 5.0)
    }

    /// The options of a child that plays another role on the same bus.
    pub fn of_child(&self, role: &str) -> Vec<String> {
        let mut words = vec![role.to_owned(), self.address.clone()];
        for (name, value) in [
            ("--count", self.count.to_string()),
            ("--size", self.size.to_string()),
            ("--burst", self.burst.to_string()),
            ("--each", self.each.to_string()),
            ("--descriptors", self.descriptors.to_string()),
            ("--name", self.name.clone()),
        ] {
            words.extend([name.to_owned(), value]);
        }
        words
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> io::Result<Options> {
        Options::parse(text.split(' ').map(str::to_owned))
    }

    #[test]
    fn options_have_values_and_unknown_ones_are_refused() {
        let options = parsed("call unix:path=/a --count 3 --each true").unwrap();
        assert_eq!((options.role.as_str(), options.count, options.each), ("call", 3, true));
        assert!(parsed("call unix:path=/a --count").is_err());
        assert!(parsed("call unix:path=/a --count many").is_err());
        assert!(parsed("call unix:path=/a --other 3").is_err());
        assert!(parsed("call").is_err());
    }
}
