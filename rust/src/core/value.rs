//! Plain data: what a snapshot is made of.
//!
//! Theory. The nouns of JSON and bytes; dicts keep their order.
//!
//! Not here: how it becomes Python (`py::core`).

use bytes::Bytes;

/// Plain data.
#[derive(Clone, PartialEq, Debug)]
pub enum Value {
    None,
    Bool(bool),
    Int(i128),
    Text(&'static str),
    Bytes(Bytes),
    List(Vec<Value>),
    Dict(Vec<(Value, Value)>),
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Value::Bool(value)
    }
}

impl From<u64> for Value {
    fn from(value: u64) -> Self {
        Value::Int(value.into())
    }
}

impl From<u32> for Value {
    fn from(value: u32) -> Self {
        Value::Int(value.into())
    }
}

impl From<i64> for Value {
    fn from(value: i64) -> Self {
        Value::Int(value.into())
    }
}

impl From<i32> for Value {
    fn from(value: i32) -> Self {
        Value::Int(value.into())
    }
}

impl From<usize> for Value {
    fn from(value: usize) -> Self {
        Value::Int(value as i128)
    }
}

impl From<&'static str> for Value {
    fn from(value: &'static str) -> Self {
        Value::Text(value)
    }
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Value::None, Into::into)
    }
}

/// A list of what an iterator gives.
pub fn list<T: Into<Value>>(items: impl IntoIterator<Item = T>) -> Value {
    Value::List(items.into_iter().map(Into::into).collect())
}

/// A dict of what an iterator gives.
pub fn dict<K: Into<Value>, V: Into<Value>>(items: impl IntoIterator<Item = (K, V)>) -> Value {
    Value::Dict(items.into_iter().map(|(key, value)| (key.into(), value.into())).collect())
}
