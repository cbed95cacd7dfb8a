//! Finds fields of a protobuf message that nobody here understands.
//!
//! Decoding drops what it does not know and keeps what nobody reads. Both would mean to run with a
//! configuration other than the one that was sent. So every resource is first walked on the wire:
//! a field that is not in the table [`crate::config::understood`] is a problem, named by its path.
//!
//! The table holds names; [`Shapes`] turns it into numbers once, from the descriptors, and keeps
//! only what it needs: the descriptors themselves would take megabytes.

use std::collections::HashMap;
use std::sync::LazyLock;

use prost::Message;
use prost_types::field_descriptor_proto::Type;
use prost_types::{DescriptorProto, FileDescriptorSet};

use crate::config::problem::Problem;
use crate::config::understood::UNDERSTOOD;

/// No message that a control plane sends nests deeper than this.
const DEPTH: usize = 64;

/// What may follow the tag of an understood field.
#[derive(Debug)]
enum Content {
    /// A scalar, a string, or a message that is read as a whole (`google.protobuf.Struct`).
    Leaf,
    /// A message of the shape with this index.
    Message(usize),
    /// A `google.protobuf.Any`.
    Any,
}

/// The understood fields of one message type, by number.
#[derive(Debug)]
struct Shape {
    name: Box<str>,
    fields: HashMap<u32, (Box<str>, Content)>,
}

/// All understood message types.
#[derive(Debug)]
struct Shapes {
    shapes: Vec<Shape>,
    by_name: HashMap<Box<str>, usize>,
}

static SHAPES: LazyLock<Shapes> = LazyLock::new(|| Shapes::build(&descriptors()));

/// Checks that every field set in `bytes`, a message of the type `url`, is understood.
///
/// # Errors
/// The first field that is not, or a message that is cut short.
pub fn check(url: &str, bytes: &[u8]) -> Result<(), Problem> {
    let name = type_name(url);
    let Some(&shape) = SHAPES.by_name.get(name) else {
        return Err(Problem::new(format!("the type {name} is not supported")));
    };
    SHAPES.walk(shape, bytes, 0)
}

/// The message type of a type URL: what follows the last slash.
pub fn type_name(url: &str) -> &str {
    url.rsplit('/').next().unwrap_or(url)
}

fn descriptors() -> HashMap<String, DescriptorProto> {
    let set = FileDescriptorSet::decode(tombolo_xds::proto::DESCRIPTORS)
        .expect("the descriptors were written by the build");
    let mut all = HashMap::new();
    for file in set.file {
        let package = file.package().to_owned();
        for message in file.message_type {
            add(&mut all, &package, message);
        }
    }
    all
}

fn add(all: &mut HashMap<String, DescriptorProto>, prefix: &str, mut message: DescriptorProto) {
    let name = format!("{prefix}.{}", message.name());
    for nested in std::mem::take(&mut message.nested_type) {
        add(all, &name, nested);
    }
    all.insert(name, message);
}

impl Shapes {
    fn build(descriptors: &HashMap<String, DescriptorProto>) -> Self {
        let mut by_name: HashMap<Box<str>, usize> = HashMap::new();
        let mut wanted: Vec<(&str, Option<&str>)> = Vec::new();
        for (name, fields) in UNDERSTOOD {
            by_name.insert((*name).into(), wanted.len());
            wanted.push((name, Some(fields)));
        }
        // Entries of maps have generated types: key and value are always understood.
        for (name, message) in descriptors {
            if message.options.as_ref().is_some_and(|options| options.map_entry()) {
                by_name.insert(name.as_str().into(), wanted.len());
                wanted.push((name, None));
            }
        }
        let shape = |(name, fields): &(&str, Option<&str>)| {
            let mut shape = Shape { name: (*name).into(), fields: HashMap::new() };
            let known = |field: &str| {
                fields.is_none_or(|fields| {
                    fields.split_whitespace().any(|known| known.trim_start_matches('-') == field)
                })
            };
            let declared = descriptors.get(*name).map_or(&[][..], |message| &message.field);
            for field in declared.iter().filter(|field| known(field.name())) {
                let content = match (field.r#type(), field.type_name().trim_start_matches('.')) {
                    (Type::Message, "google.protobuf.Any") => Content::Any,
                    (Type::Message, name) if name.starts_with("google.protobuf.") => Content::Leaf,
                    // A message that is not in the table keeps its field out of the shape.
                    (Type::Message, name) => match by_name.get(name) {
                        Some(index) => Content::Message(*index),
                        None => continue,
                    },
                    _ => Content::Leaf,
                };
                let number = u32::try_from(field.number()).unwrap_or_default();
                shape.fields.insert(number, (field.name().into(), content));
            }
            shape
        };
        let shapes = wanted.iter().map(shape).collect();
        Self { shapes, by_name }
    }

    fn walk(&self, shape: usize, bytes: &[u8], depth: usize) -> Result<(), Problem> {
        if depth > DEPTH {
            return Err(Problem::new("is nested too deeply"));
        }
        let Shape { name, fields } = &self.shapes[shape];
        let mut counts: HashMap<u32, usize> = HashMap::new();
        let mut rest = bytes;
        while !rest.is_empty() {
            let (number, wire, value, after) = next_field(rest).ok_or_else(|| cut_short(name))?;
            rest = after;
            let Some((field, content)) = fields.get(&number) else {
                return Err(not_understood(name, number));
            };
            let index = counts.entry(number).and_modify(|count| *count += 1).or_insert(0);
            let inner = match content {
                Content::Leaf => continue,
                _ if wire != 2 => Err(cut_short(name)),
                Content::Message(shape) => self.walk(*shape, value, depth + 1),
                Content::Any => self.walk_any(value, depth + 1),
            };
            inner.map_err(|problem| {
                // Most repeated fields are messages; the index helps even where it is always 0.
                let several = *index > 0 || starts_with_field(rest, number);
                if several {
                    problem.inside(format_args!("{field}[{index}]"))
                } else {
                    problem.inside(field)
                }
            })?;
        }
        Ok(())
    }

    fn walk_any(&self, bytes: &[u8], depth: usize) -> Result<(), Problem> {
        let any = tombolo_xds::proto::google::protobuf::Any::decode(bytes)
            .map_err(|_| cut_short("google.protobuf.Any"))?;
        let name = type_name(&any.type_url);
        // Istio's own filters have no published types here; the reader knows them by name.
        if name.starts_with("istio.")
            || name.starts_with("udpa.type.")
            || name.starts_with("xds.type.v3.TypedStruct")
        {
            return Ok(());
        }
        match self.by_name.get(name) {
            Some(&shape) => self.walk(shape, &any.value, depth),
            None => Err(Problem::new(format!("the type {name} is not supported"))),
        }
    }
}

fn starts_with_field(bytes: &[u8], number: u32) -> bool {
    next_field(bytes).is_some_and(|(next, ..)| next == number)
}

fn cut_short(name: &str) -> Problem {
    Problem::new(format!("is not a valid {name} message"))
}

/// Reading the descriptors again is slow; it happens only for a rejection.
fn not_understood(message: &str, number: u32) -> Problem {
    let descriptors = descriptors();
    let field = descriptors
        .get(message)
        .and_then(|message| message.field.iter().find(|f| u32::try_from(f.number()) == Ok(number)))
        .map(|field| field.name().to_owned())
        .unwrap_or_else(|| format!("field number {number}"));
    Problem::new("is not supported").inside(field)
}

/// Splits the first field off: number, wire type, content (of length-delimited ones), rest.
fn next_field(bytes: &[u8]) -> Option<(u32, u8, &[u8], &[u8])> {
    let (tag, rest) = varint(bytes)?;
    let number = u32::try_from(tag >> 3).ok()?;
    let wire = u8::try_from(tag & 7).ok()?;
    let (value, rest) = match wire {
        0 => (&[][..], varint(rest)?.1),
        1 => (&[][..], rest.get(8..)?),
        2 => {
            let (length, rest) = varint(rest)?;
            rest.split_at_checked(usize::try_from(length).ok()?)?
        }
        5 => (&[][..], rest.get(4..)?),
        _ => return None,
    };
    Some((number, wire, value, rest))
}

fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0_u64;
    for (index, byte) in bytes.iter().take(10).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Some((value, &bytes[index + 1..]));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use tombolo_xds::proto::envoy::config::listener::v3::{
        FilterChain, FilterChainMatch, Listener,
    };

    use super::*;

    const LISTENER: &str = "type.googleapis.com/envoy.config.listener.v3.Listener";

    #[test]
    fn every_name_in_the_table_exists() {
        let descriptors = descriptors();
        for (message, fields) in UNDERSTOOD {
            let declared = descriptors.get(*message).unwrap_or_else(|| panic!("no {message}"));
            for field in fields.split_whitespace() {
                let field = field.trim_start_matches('-');
                assert!(declared.field.iter().any(|f| f.name() == field), "no {message}.{field}");
            }
        }
    }

    #[test]
    fn every_understood_field_has_an_understood_type() {
        let mut missing = Vec::new();
        for (message, fields) in UNDERSTOOD {
            let shape = &SHAPES.shapes[SHAPES.by_name[*message]];
            for field in fields.split_whitespace() {
                let field = field.trim_start_matches('-');
                let known = shape.fields.values().any(|(name, _)| &**name == field);
                if !known {
                    missing.push(format!("{message}.{field}"));
                }
            }
        }
        assert_eq!(missing, Vec::<String>::new());
    }

    #[test]
    fn a_field_that_nobody_reads_is_named_by_its_path() {
        let suffix = FilterChainMatch { address_suffix: "x".to_owned(), ..Default::default() };
        let chain = FilterChain { filter_chain_match: Some(suffix), ..Default::default() };
        let listener =
            Listener { filter_chains: vec![FilterChain::default(), chain], ..Default::default() };
        let problem = check(LISTENER, &listener.encode_to_vec()).unwrap_err();
        let want = "filter_chains[1].filter_chain_match.address_suffix: is not supported";
        assert_eq!(problem.to_string(), want);
    }

    #[test]
    fn bytes_that_end_in_the_middle_of_a_field_are_refused() {
        let problem = check(LISTENER, &[0x0a, 9, b'x']).unwrap_err();
        let want = "is not a valid envoy.config.listener.v3.Listener message";
        assert_eq!(problem.to_string(), want);
    }
}
