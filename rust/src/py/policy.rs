//! `ClientPolicy`: verdicts on messages, as `bus1_bridge.policy.ClientPolicy` gives them.
//!
//! Theory. It is made of rules as data (`policy.ClientPolicy.as_data`), and never changes. The lane asks it; who else asks
//! compares it with its twin in Python.
//!
//! Not here: the evaluator (`crate::tables::policy`), which rules concern whom (Python).

use std::sync::Arc;

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedStr;

use crate::tables;
use crate::tables::policy::{Facts, Names, Rule, Space, Verdict};

use super::tables::names_of;

/// What the rules say about clients of one kind.
#[pyclass(frozen, module = "bus1._native")]
pub struct ClientPolicy {
    inner: Arc<tables::ClientPolicy>,
}

impl ClientPolicy {
    /// For the lane.
    pub fn shared(&self) -> Arc<tables::ClientPolicy> {
        Arc::clone(&self.inner)
    }
}

type Said = (bool, bool, Option<usize>);

#[pymethods]
impl ClientPolicy {
    /// These rules about sending, and about receiving.
    #[new]
    fn new(sent: Vec<RuleData>, received: Vec<RuleData>) -> Self {
        let rules = |data: Vec<RuleData>| data.into_iter().map(|data| data.0).collect();
        let inner = tables::ClientPolicy::new(rules(sent), rules(received));
        ClientPolicy { inner: Arc::new(inner) }
    }

    /// Whether it may send this, whether that is to be reported, and the place of the rule that decides.
    #[pyo3(signature = (message, receiver, *, requested_reply=false))]
    fn may_send(&self, message: MessageFields, receiver: PeerNames, requested_reply: bool) -> Said {
        said(self.inner.may_send(&message.facts(), &receiver, requested_reply))
    }

    /// Whether it may receive this, in the same way.
    #[pyo3(signature = (message, sender, *, requested_reply=false, eavesdropping=false))]
    fn may_receive(
        &self,
        message: MessageFields,
        sender: PeerNames,
        requested_reply: bool,
        eavesdropping: bool,
    ) -> Said {
        said(self.inner.may_receive(&message.facts(), &sender, requested_reply, eavesdropping))
    }
}

fn said(verdict: Verdict) -> Said {
    (verdict.allowed, verdict.log, verdict.rule)
}

type Texts = [Option<String>; 4];
type Numbers = (u8, Option<bool>, u32, u32);

/// A rule as `policyrules.Rule.as_data` gives it.
struct RuleData(Rule);

impl<'py> FromPyObject<'_, 'py> for RuleData {
    type Error = PyErr;

    fn extract(data: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        let (texts, name, flags, numbers): (Texts, Option<String>, [bool; 5], Numbers) = data.extract()?;
        let [interface, member, error, path] = texts.map(|text| text.map(Into::into));
        let [allow, is_prefix, requested_reply, eavesdrop, log] = flags;
        let (kind, broadcast, min_fds, max_fds) = numbers;
        Ok(RuleData(Rule {
            allow,
            kind,
            interface,
            member,
            error,
            path,
            name: name.map(Into::into),
            is_prefix,
            requested_reply,
            eavesdrop,
            broadcast,
            min_fds,
            max_fds,
            log,
        }))
    }
}

/// A `policy.Message`.
#[derive(FromPyObject)]
struct MessageFields {
    r#type: u8,
    path: Option<PyBackedStr>,
    interface: Option<PyBackedStr>,
    member: Option<PyBackedStr>,
    error_name: Option<PyBackedStr>,
    destination: Option<PyBackedStr>,
    reply_serial: u32,
    unix_fds: u32,
}

impl MessageFields {
    fn facts(&self) -> Facts<'_> {
        fn bytes(text: &Option<PyBackedStr>) -> Option<&[u8]> {
            text.as_deref().map(str::as_bytes)
        }
        Facts {
            kind: self.r#type,
            path: bytes(&self.path),
            interface: bytes(&self.interface),
            member: bytes(&self.member),
            error_name: bytes(&self.error_name),
            has_destination: self.destination.is_some(),
            is_reply: self.reply_serial != 0,
            unix_fds: self.unix_fds,
        }
    }
}

/// A `policy.Names`.
struct PeerNames {
    unique: PyBackedStr,
    held: Vec<PyBackedStr>,
}

impl<'py> FromPyObject<'_, 'py> for PeerNames {
    type Error = PyErr;

    fn extract(names: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        let py = names.py();
        Ok(PeerNames {
            unique: names.getattr(intern!(py, "unique"))?.extract()?,
            held: names_of(&names.getattr(intern!(py, "held"))?)?,
        })
    }
}

impl Names for PeerNames {
    fn unique(&self) -> &str {
        &self.unique
    }

    fn held(&self) -> impl ExactSizeIterator<Item = &str> {
        self.held.iter().map(AsRef::as_ref)
    }

    fn holds(&self, name: &str) -> bool {
        self.held().any(|held| held == name)
    }

    fn holds_in(&self, space: &Space) -> bool {
        self.held().any(|held| space.contains(held))
    }
}
