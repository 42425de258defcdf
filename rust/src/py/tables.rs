//! `MatchIndex`, `Tally`, `ReplyTable`: as the classes of these names in `bus1_bridge`.
//!
//! Theory. Rules cross as `MatchRule` values or as their text; what is wrong with a text Python's parser says, in
//! its words. A message is looked at without its arguments first: only if a rule asks for them are they read, by
//! calling into Python, while nothing is locked.
//!
//! Not here: the tables (`crate::tables`).

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use pyo3::exceptions::PyValueError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedStr;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyString, PyTuple, PyType};

use crate::tables::rule::{ArgumentMatch, Form};
use crate::tables::{self, Argument, MatchInput, MatchRule};

use super::locking::lock;

static MATCH_RULE: PyOnceLock<Py<PyType>> = PyOnceLock::new();
static ARGUMENT_MATCH: PyOnceLock<Py<PyType>> = PyOnceLock::new();
static OBJECT_PATH: PyOnceLock<Py<PyType>> = PyOnceLock::new();
static NOT_UNIQUE: PyOnceLock<Py<PyType>> = PyOnceLock::new();
const MATCH: &str = "bus1_bridge.match";

/// How many rules each owner has, and the most that it ever had.
#[pyclass(frozen, module = "bus1._native")]
pub struct Tally {
    inner: Arc<Mutex<tables::Tally>>,
}

#[pymethods]
impl Tally {
    #[new]
    fn new() -> Self {
        Tally { inner: Arc::default() }
    }

    /// How many all owners have.
    #[getter]
    fn total(&self, py: Python<'_>) -> u64 {
        lock(py, &self.inner).total
    }

    /// The highest `total`.
    #[getter]
    fn peak(&self, py: Python<'_>) -> u64 {
        lock(py, &self.inner).peak
    }

    /// The most that one owner ever had.
    #[getter]
    fn owner_peak(&self, py: Python<'_>) -> u64 {
        lock(py, &self.inner).owner_peak
    }

    /// How many the owner has.
    fn of(&self, py: Python<'_>, owner: u64) -> u64 {
        lock(py, &self.inner).of(owner)
    }

    /// The most that the owner had.
    fn peak_of(&self, py: Python<'_>, owner: u64) -> u64 {
        lock(py, &self.inner).peak_of(owner)
    }
}

/// The rules of everybody; its length is the number of owners that have one.
#[pyclass(frozen, module = "bus1._native")]
pub struct MatchIndex {
    inner: Arc<Mutex<tables::MatchIndex>>,
    /// What counts the rules.
    #[pyo3(get)]
    tally: Py<Tally>,
}

impl MatchIndex {
    /// For lanes.
    pub fn shared(&self) -> Arc<Mutex<tables::MatchIndex>> {
        self.inner.clone()
    }
}

#[pymethods]
impl MatchIndex {
    #[new]
    #[pyo3(signature = (tally=None))]
    fn new(py: Python<'_>, tally: Option<Py<Tally>>) -> PyResult<Self> {
        let tally = tally.map_or_else(|| Py::new(py, Tally::new()), Ok)?;
        let inner = tables::MatchIndex::new(tally.get().inner.clone());
        Ok(MatchIndex { inner: Arc::new(Mutex::new(inner)), tally })
    }

    fn __len__(&self, py: Python<'_>) -> usize {
        lock(py, &self.inner).len()
    }

    /// One more instance of the rule for this owner.
    fn add(&self, owner: u64, rule: &Bound<'_, PyAny>) -> PyResult<()> {
        let value = rule_of(rule)?;
        lock(rule.py(), &self.inner).add(owner, &value);
        Ok(())
    }

    /// One instance less; False if the owner has none.
    fn remove(&self, owner: u64, rule: &Bound<'_, PyAny>) -> PyResult<bool> {
        let value = rule_of(rule)?;
        Ok(lock(rule.py(), &self.inner).remove(owner, &value))
    }

    /// All rules of the owner go.
    fn drop(&self, py: Python<'_>, owner: u64) {
        lock(py, &self.inner).drop_owner(owner);
    }

    /// Everybody's rules with this unique name as sender or destination go, except those of the spared.
    #[pyo3(signature = (unique, spared=None))]
    fn forget_name(&self, py: Python<'_>, unique: &str, spared: Option<Bound<'_, PyAny>>) -> PyResult<()> {
        let spared = spared.map_or_else(
            || Ok(HashSet::new()),
            |owners| {
                owners.try_iter()?.map(|owner| owner?.extract::<u64>()).collect::<PyResult<HashSet<_>>>()
            },
        )?;
        lock(py, &self.inner).forget_name(unique, |owner| spared.contains(&owner));
        Ok(())
    }

    /// Owners with a rule that matches, in the order in which they added their first rules.
    fn receivers(&self, message: &Bound<'_, PyAny>) -> PyResult<Vec<u64>> {
        let py = message.py();
        let fields = Fields::of(message)?;
        let mut found = Vec::new();
        let mut is_asked = false;
        let mut ask = |_: &mut Vec<_>| is_asked = true;
        lock(py, &self.inner).receivers(&mut fields.input(&mut ask), &mut found);
        if is_asked {
            let values = message.getattr(intern!(py, "arguments"))?.call0()?;
            let values = arguments_of(&values)?;
            let mut read = |out: &mut Vec<_>| out.extend(values.iter().map(Value::argument));
            found.clear();
            lock(py, &self.inner).receivers(&mut fields.input(&mut read), &mut found);
        }
        Ok(found)
    }

    /// The owner's rules, each as often as it was added.
    fn rules_of<'py>(&self, py: Python<'py>, owner: u64) -> PyResult<Vec<Bound<'py, PyAny>>> {
        let rules = lock(py, &self.inner).rules_of(owner);
        let mut values = Vec::new();
        for (rule, times) in rules {
            let value = value_of(py, rule)?;
            values.extend((0..times).map(|_| value.clone()));
        }
        Ok(values)
    }

    /// How many rules the owner has, each as often as it was added.
    fn count(&self, py: Python<'_>, owner: u64) -> u64 {
        lock(py, &self.inner).count(owner)
    }
}

/// The rule that a `MatchRule` or a text stands for.
fn rule_of(rule: &Bound<'_, PyAny>) -> PyResult<MatchRule> {
    let py = rule.py();
    if let Ok(text) = rule.cast::<PyString>() {
        let parsed = MatchRule::parse(text.to_str()?);
        return parsed.or_else(|_| {
            let value = py.import(MATCH)?.call_method1("parse", (text,))?;
            rule_of(&value)
        });
    }
    let arguments = rule.getattr(intern!(py, "arguments"))?;
    Ok(MatchRule {
        kind: rule.getattr(intern!(py, "type"))?.extract()?,
        sender: rule.getattr(intern!(py, "sender"))?.extract()?,
        interface: rule.getattr(intern!(py, "interface"))?.extract()?,
        member: rule.getattr(intern!(py, "member"))?.extract()?,
        path: rule.getattr(intern!(py, "path"))?.extract()?,
        path_namespace: rule.getattr(intern!(py, "path_namespace"))?.extract()?,
        destination: rule.getattr(intern!(py, "destination"))?.extract()?,
        eavesdrop: rule.getattr(intern!(py, "eavesdrop"))?.extract()?,
        arguments: arguments
            .try_iter()?
            .map(|argument| argument_match(&argument?))
            .collect::<PyResult<_>>()?,
    })
}

fn argument_match(argument: &Bound<'_, PyAny>) -> PyResult<ArgumentMatch> {
    let py = argument.py();
    let form: PyBackedStr = argument.getattr(intern!(py, "form"))?.extract()?;
    let index: u8 = argument.getattr(intern!(py, "index"))?.extract()?;
    let form = Form::of(&form).filter(|_| index < 64);
    Ok(ArgumentMatch {
        index,
        form: form.ok_or_else(|| PyValueError::new_err("no such argument of a rule"))?,
        value: argument.getattr(intern!(py, "value"))?.extract()?,
    })
}

/// The `MatchRule` of Python.
fn value_of(py: Python<'_>, rule: MatchRule) -> PyResult<Bound<'_, PyAny>> {
    let class = ARGUMENT_MATCH.import(py, MATCH, "ArgumentMatch")?;
    let arguments = rule
        .arguments
        .into_iter()
        .map(|argument| class.call1((argument.index, argument.form.suffix(), argument.value)));
    let arguments = PyTuple::new(py, arguments.collect::<PyResult<Vec<_>>>()?)?;
    MATCH_RULE.import(py, MATCH, "MatchRule")?.call1((
        rule.kind,
        rule.sender,
        rule.interface,
        rule.member,
        rule.path,
        rule.path_namespace,
        rule.destination,
        rule.eavesdrop,
        arguments,
    ))
}

/// A `MatchInput` of Python, but its arguments.
struct Fields {
    kind: u8,
    sender: PyBackedStr,
    sender_names: Vec<PyBackedStr>,
    path: Option<PyBackedStr>,
    interface: Option<PyBackedStr>,
    member: Option<PyBackedStr>,
    destination: Option<PyBackedStr>,
    destination_names: Vec<PyBackedStr>,
}

impl Fields {
    fn of(message: &Bound<'_, PyAny>) -> PyResult<Fields> {
        let py = message.py();
        Ok(Fields {
            kind: message.getattr(intern!(py, "type"))?.extract()?,
            sender: message.getattr(intern!(py, "sender"))?.extract()?,
            sender_names: names_of(&message.getattr(intern!(py, "sender_names"))?)?,
            path: message.getattr(intern!(py, "path"))?.extract()?,
            interface: message.getattr(intern!(py, "interface"))?.extract()?,
            member: message.getattr(intern!(py, "member"))?.extract()?,
            destination: message.getattr(intern!(py, "destination"))?.extract()?,
            destination_names: names_of(&message.getattr(intern!(py, "destination_names"))?)?,
        })
    }

    fn input<'m>(
        &'m self,
        arguments: &'m mut tables::probe::ReadArguments<'m>,
    ) -> MatchInput<'m, PyBackedStr> {
        MatchInput {
            kind: self.kind,
            sender: &self.sender,
            sender_names: &self.sender_names,
            path: self.path.as_deref(),
            interface: self.interface.as_deref(),
            member: self.member.as_deref(),
            destination: self.destination.as_deref(),
            destination_names: &self.destination_names,
            arguments,
        }
    }
}

/// Texts of any collection.
fn names_of(names: &Bound<'_, PyAny>) -> PyResult<Vec<PyBackedStr>> {
    names.try_iter()?.map(|name| name?.extract()).collect()
}

enum Value {
    Text(PyBackedStr),
    Path(PyBackedStr),
    Other,
}

impl Value {
    fn argument(&self) -> Argument<'_> {
        match self {
            Value::Text(text) => Argument::Text(text),
            Value::Path(path) => Argument::Path(path),
            Value::Other => Argument::Other,
        }
    }
}

/// As `walk.arguments` gives them.
fn arguments_of(values: &Bound<'_, PyAny>) -> PyResult<Vec<Value>> {
    let py = values.py();
    let path = OBJECT_PATH.import(py, "bus1_services.types", "ObjectPath")?;
    let of = |value: Bound<'_, PyAny>| -> PyResult<Value> {
        Ok(if value.is_none() {
            Value::Other
        } else if value.is_instance(path)? {
            Value::Path(value.extract()?)
        } else {
            Value::Text(value.extract()?)
        })
    };
    values.try_iter()?.map(|value| of(value?)).collect()
}

/// All open slots; peers are Core peers.
#[pyclass(frozen, module = "bus1._native")]
pub struct ReplyTable {
    inner: Arc<Mutex<tables::ReplyTable>>,
}

impl ReplyTable {
    /// For lanes.
    pub fn shared(&self) -> Arc<Mutex<tables::ReplyTable>> {
        self.inner.clone()
    }
}

#[pymethods]
impl ReplyTable {
    #[new]
    fn new() -> Self {
        ReplyTable { inner: Arc::default() }
    }

    /// Open a slot; NotUnique if the caller already awaits this serial from the callee.
    #[pyo3(signature = (caller, callee, serial, now=0.0))]
    fn add(&self, py: Python<'_>, caller: u64, callee: u64, serial: u32, now: f64) -> PyResult<()> {
        let added = lock(py, &self.inner).add(caller, callee, serial, now);
        added.map_err(|refused| {
            let text =
                format!("a call with serial {} to the same destination is outstanding", refused.serial);
            match NOT_UNIQUE.import(py, "bus1.errors", "NotUnique") {
                Ok(class) => PyErr::from_type(class.clone(), text),
                Err(error) => error,
            }
        })
    }

    /// Close the slot that this answer belongs to; False if there is none.
    fn take(&self, py: Python<'_>, caller: u64, callee: u64, serial: u32) -> bool {
        lock(py, &self.inner).take(caller, callee, serial)
    }

    /// Whether the slot is open.
    fn awaits(&self, py: Python<'_>, caller: u64, callee: u64, serial: u32) -> bool {
        lock(py, &self.inner).awaits(caller, callee, serial)
    }

    /// The peer is gone: close its slots; the calls it made, and those of others to it, the latest first.
    fn drop(&self, py: Python<'_>, peer: u64) -> tables::replies::Closed {
        lock(py, &self.inner).drop_peer(peer)
    }

    /// How many answers the caller waits for.
    fn outstanding(&self, py: Python<'_>, caller: u64) -> usize {
        lock(py, &self.inner).outstanding(caller)
    }

    /// How many answers others (or itself) wait for from the callee.
    fn awaited_from(&self, py: Python<'_>, callee: u64) -> usize {
        lock(py, &self.inner).awaited_from(callee)
    }

    /// (caller, callee, serial) of every slot that has been open for as long.
    fn overdue(&self, py: Python<'_>, now: f64, timeout: f64) -> Vec<(u64, u64, u32)> {
        lock(py, &self.inner).overdue(now, timeout)
    }

    /// When the oldest slot was opened.
    fn oldest(&self, py: Python<'_>) -> Option<f64> {
        lock(py, &self.inner).oldest()
    }
}
