use serde_json::{Value, json};

use super::*;

/// Every reference in a document leads to one of its schemas.
fn dangling(document: &Value, prefix: &str, pointer: &str) -> Vec<String> {
    fn walk(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(object) => {
                if let Some(Value::String(target)) = object.get("$ref") {
                    found.push(target.clone());
                }
                object.values().for_each(|value| walk(value, found));
            }
            Value::Array(list) => list.iter().for_each(|value| walk(value, found)),
            _ => {}
        }
    }
    let mut found = Vec::new();
    walk(document, &mut found);
    let schemas = document.pointer(pointer).unwrap();
    found.retain(|target| {
        target.strip_prefix(prefix).is_none_or(|name| schemas.get(name).is_none())
    });
    found.sort();
    found.dedup();
    found
}

#[test]
fn every_reference_of_every_document_leads_somewhere() {
    let catalog = Catalog::new([]);
    for (group, version) in group_versions(&catalog) {
        let document = document(&catalog, &group, &version).unwrap();
        let none: Vec<String> = Vec::new();
        let dangling = dangling(&document, "#/components/schemas/", "/components/schemas");
        assert_eq!(dangling, none, "{group}/{version}");
    }
    let v2 = v2_document(&catalog);
    assert_eq!(dangling(&v2, "#/definitions/", "/definitions"), Vec::<String>::new());
}

#[test]
fn every_builtin_kind_has_its_schema_and_says_which_kind_it_is() {
    let catalog = Catalog::new([]);
    for resource in catalog.types() {
        let document = document(&catalog, &resource.group, &resource.version).unwrap();
        let schema = &document["components"]["schemas"][schema_name(resource)];
        assert_eq!(
            schema["x-kubernetes-group-version-kind"],
            json!([kind_mark(&resource.group, &resource.version, &resource.kind)]),
            "{}",
            resource.kind
        );
    }
}

#[test]
fn fields_are_described_and_carry_their_merge_rules() {
    let document = document(&Catalog::new([]), "", "v1").unwrap();
    let schemas = &document["components"]["schemas"];
    let ports = &schemas["io.k8s.api.core.v1.ServiceSpec"]["properties"]["ports"];
    assert_eq!(
        json!({
            "strategy": ports["x-kubernetes-patch-strategy"],
            "key": ports["x-kubernetes-patch-merge-key"],
            "type": ports["x-kubernetes-list-type"],
            "keys": ports["x-kubernetes-list-map-keys"],
        }),
        json!({
            "strategy": "merge", "key": "port", "type": "map", "keys": ["port", "protocol"],
        })
    );
    assert!(ports["description"].as_str().unwrap().starts_with("The list of ports"));
    let pod = &document["paths"]["/api/v1/namespaces/{namespace}/pods/{name}"];
    let options: Vec<&str> = pod["patch"]["parameters"]
        .as_array()
        .unwrap()
        .iter()
        .map(|parameter| parameter["name"].as_str().unwrap())
        .collect();
    assert_eq!(options, ["dryRun", "fieldManager", "fieldValidation", "force"]);
}
