//! The resource types of all stored definitions.

use std::collections::HashMap;
use std::sync::Arc;

use crate::crd::definition::{self, STORAGE};
use crate::object;
use crate::resources::{Catalog, ResourceType};
use crate::store::Store;

/// The types of definitions as they were last read. Reading one compiles its rules, which takes
/// longer than everything else, so it is done once per change of its spec.
#[derive(Debug, Default)]
pub struct Known(HashMap<String, Read>);

#[derive(Debug)]
struct Read {
    uid: String,
    generation: i64,
    is_deleting: bool,
    types: Vec<Arc<ResourceType>>,
}

impl Known {
    /// The catalog that the stored definitions make.
    pub fn catalog(&mut self, store: &Store) -> Catalog {
        let list = store.list(STORAGE, None);
        self.0.retain(|name, _| list.objects.iter().any(|stored| stored.key.name == *name));
        for stored in &list.objects {
            let uid = object::uid(&stored.value);
            let generation = stored.value["metadata"]["generation"].as_i64().unwrap_or(0);
            let is_deleting = object::is_deleting(&stored.value);
            let is_known = self.0.get(&stored.key.name).is_some_and(|read| {
                read.uid == uid && read.generation == generation && read.is_deleting == is_deleting
            });
            if !is_known {
                let types = definition::types(&stored.value);
                let read = Read { uid: uid.to_owned(), generation, is_deleting, types };
                self.0.insert(stored.key.name.clone(), read);
            }
        }
        Catalog::new(
            list.objects
                .iter()
                .filter_map(|stored| self.0.get(&stored.key.name))
                .flat_map(|read| read.types.clone()),
        )
    }
}

/// Whether new objects may be made of a definition; those that go take none.
pub fn takes_objects(resource: &ResourceType) -> bool {
    resource.custom.as_ref().is_none_or(|custom| !custom.is_terminating)
}
