//! Sets of field paths, as `fieldsV1` writes them.
//!
//! A path is a chain of elements: `f:name` for fields, `k:{...}` for list items by key, `v:...`
//! for set items. A node that stands for a member of the set has `member`; its children are paths
//! below it.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// A set of field paths; the root node is the empty path.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Set {
    pub member: bool,
    pub children: BTreeMap<String, Set>,
}

impl Set {
    /// Whether the set holds nothing.
    pub fn is_empty(&self) -> bool {
        !self.member && self.children.values().all(Self::is_empty)
    }

    /// The node at an element, made if absent.
    pub fn at(&mut self, element: &str) -> &mut Self {
        self.children.entry(element.to_owned()).or_default()
    }

    pub fn get(&self, element: &str) -> Option<&Self> {
        self.children.get(element)
    }

    /// Adds all paths of another set.
    pub fn add(&mut self, other: &Self) {
        self.member |= other.member;
        for (element, child) in &other.children {
            self.at(element).add(child);
        }
    }

    /// Takes away all paths of another set; paths below those stay.
    pub fn subtract(&mut self, other: &Self) {
        self.member &= !other.member;
        for (element, child) in &other.children {
            if let Some(own) = self.children.get_mut(element) {
                own.subtract(child);
                if own.is_empty() {
                    self.children.remove(element);
                }
            }
        }
    }

    /// The paths that both sets hold.
    pub fn intersection(&self, other: &Self) -> Self {
        let mut both = Self { member: self.member && other.member, children: BTreeMap::new() };
        for (element, child) in &self.children {
            if let Some(theirs) = other.children.get(element) {
                let shared = child.intersection(theirs);
                if !shared.is_empty() {
                    both.children.insert(element.clone(), shared);
                }
            }
        }
        both
    }

    /// Forgets a path and all below it.
    pub fn remove_below(&mut self, path: &[&str]) {
        match path {
            [] => (),
            [last] => drop(self.children.remove(*last)),
            [first, rest @ ..] => {
                if let Some(child) = self.children.get_mut(*first) {
                    child.remove_below(rest);
                    if child.is_empty() {
                        self.children.remove(*first);
                    }
                }
            }
        }
    }

    /// All paths, as people read them: `.spec.containers[name="a"].image`.
    pub fn paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        self.collect("", &mut paths);
        paths
    }

    fn collect(&self, prefix: &str, paths: &mut Vec<String>) {
        if self.member && !prefix.is_empty() {
            paths.push(prefix.to_owned());
        }
        for (element, child) in &self.children {
            child.collect(&format!("{prefix}{}", shown(element)), paths);
        }
    }

    /// `fieldsV1`.
    pub fn to_value(&self) -> Value {
        let mut map = Map::new();
        if self.member && !self.children.is_empty() {
            map.insert(".".to_owned(), Value::Object(Map::new()));
        }
        for (element, child) in &self.children {
            map.insert(element.clone(), child.to_value());
        }
        Value::Object(map)
    }

    /// Reads `fieldsV1`.
    pub fn from_value(value: &Value) -> Self {
        let mut set = Self::node(value);
        set.member = false;
        set
    }

    fn node(value: &Value) -> Self {
        let map = value.as_object();
        let mut node = Self { member: map.is_none_or(Map::is_empty), children: BTreeMap::new() };
        for (element, child) in map.into_iter().flatten() {
            if element == "." {
                node.member = true;
            } else {
                node.children.insert(element.clone(), Self::node(child));
            }
        }
        node
    }
}

fn shown(element: &str) -> String {
    let (kind, rest) = element.split_once(':').unwrap_or(("f", element));
    match kind {
        "k" => {
            let keys: Map<String, Value> = serde_json::from_str(rest).unwrap_or_default();
            let keys: Vec<String> =
                keys.iter().map(|(key, value)| format!("{key}={value}")).collect();
            format!("[{}]", keys.join(","))
        }
        "v" => format!("[={rest}]"),
        "i" => format!("[{rest}]"),
        _ => format!(".{rest}"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn sets_read_and_write_fields_v1() {
        let fields = json!({
            "f:metadata": {"f:labels": {".": {}, "f:app": {}}},
            "f:spec": {"f:containers": {"k:{\"name\":\"a\"}": {".": {}, "f:image": {}}}},
        });
        let set = Set::from_value(&fields);
        assert_eq!(set.to_value(), fields);
        let paths = [
            ".metadata.labels",
            ".metadata.labels.app",
            ".spec.containers[name=\"a\"]",
            ".spec.containers[name=\"a\"].image",
        ];
        assert_eq!(set.paths(), paths);
        let mut rest = set.clone();
        rest.subtract(&Set::from_value(&json!({"f:metadata": {"f:labels": {"f:app": {}}}})));
        assert_eq!(rest.paths()[0], ".metadata.labels");
        assert_eq!(set.intersection(&rest), rest);
    }
}
