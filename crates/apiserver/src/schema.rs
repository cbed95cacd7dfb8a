//! What objects look like: field names, types and how lists and maps merge.
//!
//! One form serves built-in kinds (read from `data/builtin-types.txt`) and custom resources (read
//! from their definition). Pruning, strict decoding, strategic merge and server-side apply all
//! walk it.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, LazyLock};

mod builtin;
pub mod decode;
pub mod structural;

/// A node of a schema.
#[derive(Debug, Clone)]
pub struct Schema {
    pub kind: Kind,
    /// How a list merges. Meaningless for other kinds.
    pub list: ListType,
    /// A map or object that is replaced as a whole.
    pub atomic: bool,
    /// Strategic merge patch: how lists and maps of this field are patched.
    pub patch: PatchRule,
    /// A value that stands for an absent one, where merge keys need it.
    pub default: Option<serde_json::Value>,
    pub nullable: bool,
}

#[derive(Debug, Clone)]
pub enum Kind {
    /// Anything at all; never looked into.
    Any,
    String,
    Bytes,
    Boolean,
    /// 32 or 64 bits.
    Integer(u8),
    Number,
    Quantity,
    IntOrString,
    Time,
    MicroTime,
    Array(Arc<Schema>),
    Map(Arc<Schema>),
    Object(Object),
    /// A named built-in type; see [`Schema::resolve`].
    Named(&'static str),
}

/// An object with known fields.
#[derive(Debug, Clone, Default)]
pub struct Object {
    pub fields: BTreeMap<String, Field>,
    /// What unknown fields look like: absent = they are dropped.
    pub rest: Option<Arc<Schema>>,
    /// `metadata`, `apiVersion` and `kind` belong here although they are not listed.
    pub embedded: bool,
}

#[derive(Debug, Clone)]
pub struct Field {
    pub schema: Schema,
    pub required: bool,
    pub zero: Zero,
    /// Number in protobuf; several when the field's message is inlined in JSON.
    pub tag: Vec<u32>,
}

/// What Go writes for a field that holds nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Zero {
    /// Neither absent nor zero values are written.
    #[default]
    Omitted,
    /// A pointer: zero is a value like any other.
    Kept,
    /// Even an absent value is written, as zero.
    Written,
}

/// `x-kubernetes-list-type`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum ListType {
    #[default]
    Atomic,
    Set,
    Map(Vec<String>),
}

/// `x-kubernetes-patch-strategy` and `x-kubernetes-patch-merge-key`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PatchRule {
    pub merge: bool,
    pub retain_keys: bool,
    pub key: Option<String>,
}

impl Schema {
    pub fn of(kind: Kind) -> Self {
        Self {
            kind,
            list: ListType::Atomic,
            atomic: false,
            patch: PatchRule::default(),
            default: None,
            nullable: false,
        }
    }

    pub fn any() -> Self {
        Self::of(Kind::Any)
    }

    /// The type itself, if this node only names one.
    pub fn resolve(&self) -> &Self {
        match self.kind {
            Kind::Named(name) => TYPES.types.get(name).unwrap_or(self),
            _ => self,
        }
    }

    /// Whether the map or object is replaced as a whole, by the field's rule or its type's.
    pub fn is_atomic(&self) -> bool {
        self.atomic || self.resolve().atomic
    }

    /// What the field of this object or map looks like.
    pub fn field(&self, name: &str) -> Option<&Schema> {
        match &self.resolve().kind {
            Kind::Object(object) => object
                .fields
                .get(name)
                .map(|field| &field.schema)
                .or_else(|| if object.embedded { embedded(name) } else { None })
                .or(object.rest.as_deref()),
            Kind::Map(values) => Some(values),
            _ => None,
        }
    }

    /// What the elements of this list look like.
    pub fn element(&self) -> Option<&Schema> {
        match &self.resolve().kind {
            Kind::Array(element) => Some(element),
            _ => None,
        }
    }
}

fn embedded(name: &str) -> Option<&'static Schema> {
    static STRING: LazyLock<Schema> = LazyLock::new(|| Schema::of(Kind::String));
    match name {
        "apiVersion" | "kind" => Some(&STRING),
        "metadata" => Some(object_meta()),
        _ => None,
    }
}

/// `ObjectMeta`, the same for every kind.
pub fn object_meta() -> &'static Schema {
    static META: LazyLock<Schema> = LazyLock::new(|| Schema::of(Kind::Named("meta.v1.ObjectMeta")));
    &META
}

/// The schema of a built-in kind.
pub fn builtin(group: &str, version: &str, kind: &str) -> Option<Arc<Schema>> {
    TYPES.kinds.get(&format!("{group}/{version}/{kind}")).cloned()
}

/// A named built-in type, such as `core.v1.PodSpec`.
pub fn named(name: &str) -> Option<&'static Schema> {
    TYPES.types.get(name)
}

static TYPES: LazyLock<Types> = LazyLock::new(builtin::read);

#[derive(Debug, Default)]
struct Types {
    kinds: HashMap<String, Arc<Schema>>,
    types: HashMap<&'static str, Schema>,
}
