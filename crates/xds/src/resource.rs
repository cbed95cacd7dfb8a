//! Named, versioned resources and the snapshots they come in.

use std::collections::BTreeMap;
use std::sync::Arc;

use prost::{Message, Name};
use sha2::{Digest, Sha256};

use crate::proto::google::protobuf::Any;

/// One resource, encoded once and shared by everybody it is sent to.
#[derive(Clone, Debug, PartialEq)]
pub struct Resource {
    /// The name by which clients ask for it.
    pub name: Arc<str>,
    /// Changes when, and only when, the body does.
    pub version: Arc<str>,
    /// The encoded message with its type URL.
    pub body: Any,
}

/// All resources of one type by name.
pub type Resources = BTreeMap<Arc<str>, Resource>;

/// Everything a group of clients may ask for at one moment, by type URL. Types that did not
/// change between two snapshots should share their map, which makes following cheap.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    /// What is shown to clients as the version of a whole response.
    pub version: String,
    /// The resources by type URL.
    pub types: BTreeMap<&'static str, Arc<Resources>>,
}

/// Why an `Any` cannot be decoded.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// It holds something else.
    #[error("expected {expected}, found {found}")]
    Type {
        /// The type URL that was expected.
        expected: String,
        /// The type URL that is there.
        found: String,
    },
    /// The bytes are damaged.
    #[error("decode message")]
    Bytes(#[from] prost::DecodeError),
}

impl Resource {
    /// Encodes `message`. The version is derived from the bytes, so equal messages have equal
    /// versions in every process.
    pub fn encode<M: Message + Name>(name: impl Into<Arc<str>>, message: &M) -> Self {
        Self::from_any(name, Any { type_url: M::type_url(), value: message.encode_to_vec().into() })
    }

    /// Takes an encoded message; the version is derived from its bytes.
    pub fn from_any(name: impl Into<Arc<str>>, body: Any) -> Self {
        let digest = Sha256::digest(&body.value);
        let version: String = digest[..8].iter().map(|byte| format!("{byte:02x}")).collect();
        Self { name: name.into(), version: version.into(), body }
    }

    /// Decodes the body.
    ///
    /// # Errors
    /// When the body is of another type or damaged.
    pub fn decode<M: Message + Name + Default>(&self) -> Result<M, DecodeError> {
        decode(&self.body)
    }
}

/// Decodes an `Any` as `M`.
///
/// # Errors
/// When it holds another type or is damaged.
pub fn decode<M: Message + Name + Default>(any: &Any) -> Result<M, DecodeError> {
    if any.type_url != M::type_url() {
        return Err(DecodeError::Type { expected: M::type_url(), found: any.type_url.clone() });
    }
    Ok(M::decode(any.value.clone())?)
}

/// Packs a message into an `Any`.
pub fn pack<M: Message + Name>(message: &M) -> Any {
    Any { type_url: M::type_url(), value: message.encode_to_vec().into() }
}

impl Snapshot {
    /// Adds the resources of one type; they replace what was there.
    #[must_use]
    pub fn with(
        mut self,
        type_url: &'static str,
        resources: impl IntoIterator<Item = Resource>,
    ) -> Self {
        let map = resources.into_iter().map(|each| (each.name.clone(), each)).collect();
        self.types.insert(type_url, Arc::new(map));
        self
    }

    /// The resources of one type; none when the type is unknown.
    pub fn resources(&self, type_url: &str) -> Option<&Arc<Resources>> {
        self.types.get(type_url)
    }
}
