//! `ClientPolicy`: the native twin of a `bus1_bridge.policy.ClientPolicy`.
//!
//! Theory. It is made of rules as data (`policy.ClientPolicy.as_data`), and never changes. Python only hands it to the
//! lane, which asks it.
//!
//! Not here: the evaluator (`crate::tables::policy`), which rules concern whom (Python).

use std::sync::Arc;

use pyo3::prelude::*;

use crate::tables;
use crate::tables::policy::Rule;

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

#[pymethods]
impl ClientPolicy {
    /// These rules about sending, and about receiving.
    #[new]
    fn new(sent: Vec<RuleData>, received: Vec<RuleData>) -> Self {
        let rules = |data: Vec<RuleData>| data.into_iter().map(|data| data.0).collect();
        let inner = tables::ClientPolicy::new(rules(sent), rules(received));
        ClientPolicy { inner: Arc::new(inner) }
    }
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
