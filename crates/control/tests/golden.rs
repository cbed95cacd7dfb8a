//! A folder of YAML in, xDS as JSON out.
//!
//! Every folder of `golden/` is a scenario: see `golden_support/scenario.rs`. Single rules are
//! tested with a few objects each: see `golden_support/views.rs`.

#![cfg(test)]

#[path = "golden_support/scenario.rs"]
mod scenario;
#[path = "golden_support/views.rs"]
mod views;

use serde_json::{Map, Value, json};
use tombolo_control::compile::resource::ResourceType;
use tombolo_control::compile::{Compiled, compile, own};
use tombolo_control::index::picture::Picture;
use tombolo_control::proxy::Proxy;

type Compile = fn(&Picture, &Proxy, ResourceType) -> Compiled;

fn only_own(picture: &Picture, proxy: &Proxy, kind: ResourceType) -> Compiled {
    Compiled { resources: own(picture, proxy, kind), ..Compiled::default() }
}

/// What is compiled for a proxy, as JSON.
fn compiled(picture: &Picture, proxy: &Proxy, compile: Compile) -> Value {
    let mut all = Map::new();
    let mut diagnostics: Vec<String> = Vec::new();
    for kind in ResourceType::ALL {
        let compiled = compile(picture, proxy, kind);
        let resources = compiled.resources.iter().map(|(name, resource)| {
            let mut value = tombolo_xds::json::any_to_value(&resource.body).unwrap();
            if let Some(fields) = value.as_object_mut() {
                fields.remove("@type");
            }
            (name.clone(), value)
        });
        all.insert(format!("{kind:?}"), Value::Object(resources.collect()));
        diagnostics.extend(compiled.diagnostics.iter().map(ToString::to_string));
    }
    diagnostics.extend(picture.diagnostics.iter().map(ToString::to_string));
    diagnostics.sort();
    diagnostics.dedup();
    all.insert(String::from("diagnostics"), json!(diagnostics));
    Value::Object(all)
}

#[test]
fn every_scenario_compiles_to_what_was_reviewed() {
    for name in scenario::all() {
        let (picture, proxies) = scenario::load(&name);
        for (proxy_name, (proxy, _)) in &proxies {
            // Servers see what clients see, and what they receive; only that is shown.
            let is_server = proxy_name.ends_with("-helloworld");
            let compile: Compile = if is_server { only_own } else { compile };
            insta::assert_json_snapshot!(
                format!("{name}__{proxy_name}"),
                compiled(&picture, proxy, compile)
            );
        }
    }
}

#[test]
fn equal_inputs_give_equal_bytes() {
    for name in scenario::all() {
        let ((once, proxies), (again, _)) = (scenario::load(&name), scenario::load(&name));
        for (proxy, _) in proxies.values() {
            for kind in ResourceType::ALL {
                assert_eq!(compile(&once, proxy, kind), compile(&again, proxy, kind));
            }
        }
    }
}
