//! `ClientPolicy`: verdicts on messages, as `bus1_bridge.policy.ClientPolicy` gives them.
//!
//! Theory. It is made of rules as data (`policy.ClientPolicy.as_data`), and never changes.
//!
//! Not here: the evaluator (`crate::tables::policy`), which rules concern whom (Python).

use std::sync::Arc;

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedStr;

use crate::tables;
use crate::tables::policy::{Facts, Listed, Rule, Verdict};

use super::tables::names_of;

/// What the rules say about clients of one kind.
#[pyclass(frozen, module = "bus1._native")]
pub struct ClientPolicy {
    inner: Arc<tables::ClientPolicy>,
}

impl ClientPolicy {
    /// For lanes.
    pub fn shared(&self) -> Arc<tables::ClientPolicy> {
        self.inner.clone()
    }
}

type Said = (bool, bool, Option<usize>);

#[pymethods]
impl ClientPolicy {
    #[new]
    fn new(sent: Vec<RuleData>, received: Vec<RuleData>) -> Self {
        let rules = |data: Vec<RuleData>| data.into_iter().map(|data| data.0).collect();
        let inner = tables::ClientPolicy::new(rules(sent), rules(received));
        ClientPolicy { inner: Arc::new(inner) }
    }

    /// It may send everything to everybody.
    #[getter]
    fn sends_all(&self) -> bool {
        self.inner.sends_all
    }

    /// It may receive everything from everybody.
    #[getter]
    fn receives_all(&self) -> bool {
        self.inner.receives_all
    }

    /// Whether it may send this, whether that is to be reported, and the place of the rule that decides.
    #[pyo3(signature = (message, receiver, *, requested_reply=false))]
    fn may_send(&self, message: MessageFields, receiver: PeerNames, requested_reply: bool) -> Said {
        let names = receiver.listed();
        said(self.inner.may_send(&message.facts(), &names, requested_reply))
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
        let names = sender.listed();
        said(self.inner.may_receive(&message.facts(), &names, requested_reply, eavesdropping))
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
        let [interface, member, error, path] = texts;
        let [allow, is_prefix, requested_reply, eavesdrop, log] = flags;
        let (kind, broadcast, min_fds, max_fds) = numbers;
        Ok(RuleData(Rule {
            allow,
            kind,
            interface,
            member,
            error,
            path,
            name,
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
        Facts {
            kind: self.r#type,
            path: self.path.as_deref(),
            interface: self.interface.as_deref(),
            member: self.member.as_deref(),
            error_name: self.error_name.as_deref(),
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

impl PeerNames {
    fn listed(&self) -> Listed<'_, PyBackedStr> {
        Listed { unique: &self.unique, held: &self.held }
    }
}
