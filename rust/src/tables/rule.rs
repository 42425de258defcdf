//! Rule: a match rule as a value, out of its text and back.
//!
//! Theory. A rule is text of `key='value'` pairs; `parse` turns it into a value, and rules are equal if they ask
//! for the same. `Display` writes the normal form.
//!
//! Invariants. 1. `parse` accepts what `bus1_bridge.match.parse` accepts, and `parse(rule.to_string())` is the rule.
//!
//! Not here: the words of a refusal (Python has them), who gets a message (`matching`).

use crate::dbus::names::{is_bus_name, is_bus_namespace, is_interface_name, is_member_name, is_object_path};
use std::borrow::Cow;
use std::fmt;

/// Bytes of a rule's text.
pub const MAX_TEXT: usize = 1024;
const MAX_ARGUMENT: u8 = 63;
const TYPES: [&str; 4] = ["method_call", "method_return", "error", "signal"];
const BLANK: [u8; 4] = [b' ', b'\t', b'\n', b'\r'];

/// How an argument is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Form {
    /// Equal strings.
    Text,
    /// Equal, or one is a directory above the other.
    Path,
    /// Equal, or the argument goes on after a dot.
    Namespace,
}

impl Form {
    /// What follows the number in the key.
    pub fn suffix(self) -> &'static str {
        match self {
            Form::Text => "",
            Form::Path => "path",
            Form::Namespace => "namespace",
        }
    }

    /// The form with this suffix.
    pub fn of(suffix: &str) -> Option<Form> {
        [Form::Text, Form::Path, Form::Namespace].into_iter().find(|form| form.suffix() == suffix)
    }
}

/// What a rule asks of one argument.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArgumentMatch {
    /// Which one, from 0.
    pub index: u8,
    /// How it is compared.
    pub form: Form,
    /// With what.
    pub value: String,
}

/// One rule; None and 0 stand for keys that are not given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MatchRule {
    /// The message's type; 0 for any.
    pub kind: u8,
    /// Unique or well-known name.
    pub sender: Option<String>,
    /// Interface.
    pub interface: Option<String>,
    /// Method or signal.
    pub member: Option<String>,
    /// Object path.
    pub path: Option<String>,
    /// The path, or one above it.
    pub path_namespace: Option<String>,
    /// Whom the message is addressed to.
    pub destination: Option<String>,
    /// Whether it is about what is addressed to others, too.
    pub eavesdrop: bool,
    /// In ascending order of index, at most one for each.
    pub arguments: Vec<ArgumentMatch>,
}

/// Why a text is no rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoRule {
    /// It is not a match rule.
    Invalid,
    /// It has more than `MAX_TEXT` bytes.
    TooLong,
}

impl MatchRule {
    /// The rule that the text stands for.
    pub fn parse(text: &str) -> Result<MatchRule, NoRule> {
        if text.len() > MAX_TEXT {
            return Err(NoRule::TooLong);
        }
        let mut rule = MatchRule::default();
        let mut eavesdrop = None;
        let mut at = 0;
        while let Some((key, value, end)) = pair(text, at)? {
            at = end;
            if let Some(rest) = key.strip_prefix("arg") {
                rule.ask(argument(rest, value.into_owned())?)?;
            } else if key == "eavesdrop" {
                // the last one counts: old monitors put one in front of the rule that they were given
                eavesdrop = Some(match &*value {
                    "true" => true,
                    "false" => false,
                    _ => return Err(NoRule::Invalid),
                });
            } else if key == "type" {
                let number = TYPES.iter().position(|name| *name == value);
                match number {
                    Some(number) if rule.kind == 0 => rule.kind = number as u8 + 1,
                    _ => return Err(NoRule::Invalid),
                }
            } else {
                rule.set(key, value.into_owned())?;
            }
        }
        if rule.path.is_some() && rule.path_namespace.is_some() {
            return Err(NoRule::Invalid);
        }
        rule.eavesdrop = eavesdrop.unwrap_or(false);
        Ok(rule)
    }

    fn set(&mut self, key: &str, value: String) -> Result<(), NoRule> {
        let (field, is_valid) = match key {
            "sender" => (&mut self.sender, is_bus_name(&value)),
            "interface" => (&mut self.interface, is_interface_name(&value)),
            "member" => (&mut self.member, is_member_name(&value)),
            "path" => (&mut self.path, is_object_path(&value)),
            "path_namespace" => (&mut self.path_namespace, is_object_path(&value)),
            "destination" => (&mut self.destination, is_bus_name(&value)),
            _ => return Err(NoRule::Invalid),
        };
        if field.is_some() || !is_valid {
            return Err(NoRule::Invalid);
        }
        *field = Some(value);
        Ok(())
    }

    fn ask(&mut self, argument: ArgumentMatch) -> Result<(), NoRule> {
        let place = self.arguments.binary_search_by_key(&argument.index, |other| other.index);
        match place {
            Ok(_) => Err(NoRule::Invalid),
            Err(place) => {
                self.arguments.insert(place, argument);
                Ok(())
            }
        }
    }
}

impl fmt::Display for MatchRule {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = usize::from(self.kind).checked_sub(1).and_then(|number| TYPES.get(number));
        let pairs = [
            ("type", kind.copied()),
            ("interface", self.interface.as_deref()),
            ("member", self.member.as_deref()),
            ("path", self.path.as_deref()),
            ("path_namespace", self.path_namespace.as_deref()),
            ("sender", self.sender.as_deref()),
            ("destination", self.destination.as_deref()),
            ("eavesdrop", self.eavesdrop.then_some("true")),
        ];
        let mut comma = "";
        for (key, value) in pairs {
            if let Some(value) = value {
                write!(out, "{comma}{key}={}", Quoted(value))?;
                comma = ",";
            }
        }
        for argument in &self.arguments {
            let suffix = argument.form.suffix();
            let value = Quoted(&argument.value);
            write!(out, "{comma}arg{}{suffix}={value}", argument.index)?;
            comma = ",";
        }
        Ok(())
    }
}

struct Quoted<'t>(&'t str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "'{}'", self.0.replace('\'', r"'\''"))
    }
}

/// Key, value, and where the pair behind them begins.
type Pair<'t> = (&'t str, Cow<'t, str>, usize);

/// The next pair; None at the end.
fn pair(text: &str, mut at: usize) -> Result<Option<Pair<'_>>, NoRule> {
    let bytes = text.as_bytes();
    while bytes.get(at).is_some_and(|byte| BLANK.contains(byte)) {
        at += 1;
    }
    let rest = text.get(at..).unwrap_or("");
    if rest.is_empty() {
        return Ok(None);
    }
    let (key, _) = rest.split_once('=').ok_or(NoRule::Invalid)?;
    let (value, end) = value(text, at + key.len() + 1)?;
    let key = key.trim_end_matches([' ', '\t', '\n', '\r']);
    Ok(Some((key, value, end)))
}

/// The unquoted value that starts at `at`, and the position behind its comma.
fn value(text: &str, start: usize) -> Result<(Cow<'_, str>, usize), NoRule> {
    let rest = text.get(start..).unwrap_or("");
    if let Some(inside) = quoted(rest) {
        return Ok((inside.into(), text.len().min(start + inside.len() + 3)));
    }
    let mut value = String::new();
    let mut is_quoted = false;
    let mut characters = rest.char_indices().peekable();
    while let Some((at, character)) = characters.next() {
        match character {
            '\'' => is_quoted = !is_quoted,
            _ if is_quoted => value.push(character),
            ',' => return Ok((value.into(), start + at + 1)),
            '\\' if characters.next_if(|(_, next)| *next == '\'').is_some() => value.push('\''),
            _ => value.push(character),
        }
    }
    if is_quoted {
        return Err(NoRule::Invalid);
    }
    Ok((value.into(), text.len()))
}

/// A value that is all between two apostrophes, as most are.
fn quoted(rest: &str) -> Option<&str> {
    let (inside, behind) = rest.strip_prefix('\'')?.split_once('\'')?;
    (behind.is_empty() || behind.starts_with(',')).then_some(inside)
}

/// What a key that begins with `arg` asks for.
fn argument(rest: &str, value: String) -> Result<ArgumentMatch, NoRule> {
    let digits = rest.trim_end_matches(|character: char| character.is_ascii_lowercase());
    let suffix = rest.get(digits.len()..).unwrap_or("");
    if digits.len() > 3 || digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(NoRule::Invalid);
    }
    let index: u8 = digits.parse().map_err(|_| NoRule::Invalid)?;
    let form = Form::of(suffix).ok_or(NoRule::Invalid)?;
    let is_wrong = form == Form::Namespace && (digits != "0" || !is_bus_namespace(&value));
    if index > MAX_ARGUMENT || is_wrong {
        return Err(NoRule::Invalid);
    }
    Ok(ArgumentMatch { index, form, value })
}

#[cfg(test)]
mod tests {
    use super::{MatchRule, NoRule};

    fn normal(text: &str) -> Option<String> {
        MatchRule::parse(text).ok().map(|rule| rule.to_string())
    }

    #[test]
    fn each_text_has_its_normal_form_or_is_no_rule() {
        for (text, form) in [
            ("", Some("")),
            (" \t\n\r", Some("")),
            ("type=signal,", Some("type='signal'")),
            ("\ttype\n='signal',\r member='M'", Some("type='signal',member='M'")),
            ("type = 'signal'", None),
            ("type='signal',,member='M'", None),
            ("type='sig'n'al'", Some("type='signal'")),
            ("type='signal'al", None),
            ("member='M' ", None),
            ("member='M','arg0='x'", None),
            ("arg0='',arg1=''", Some("arg0='',arg1=''")),
            ("arg0=''',arg1='", Some("arg0=',arg1='")),
            ("type='signal',type='signal'", None),
            ("eavesdrop=true,eavesdrop=false", Some("")),
            ("sender=':1'", Some("sender=':1'")),
            ("sender='a.1'", None),
            ("path='/a',path_namespace='/a'", None),
            ("arg00='x'", Some("arg0='x'")),
            ("arg64='x'", None),
            ("arg1='x',arg0='y'", Some("arg0='y',arg1='x'")),
            ("arg0='x',arg0path='/x'", None),
            ("arg00namespace='com'", None),
            ("arg0=it\\'s", Some("arg0='it'\\''s'")),
            ("arg0=a\\", Some("arg0='a\\'")),
        ] {
            assert_eq!(normal(text).as_deref(), form, "{text:?}");
        }
    }

    #[test]
    fn a_rule_has_at_most_1024_bytes() {
        assert!(MatchRule::parse(&format!("arg0='{}'", "x".repeat(1017))).is_ok());
        let text = format!("arg0='{}'", "x".repeat(1018));
        assert_eq!(MatchRule::parse(&text), Err(NoRule::TooLong));
    }
}
