//! The `Base` component: Istio's custom resource definitions and the account by which other
//! clusters' control planes read this one.

use serde_json::{Value, json};

use super::{object, rbac, service_account};
use crate::object::Object;
use crate::operator::Operator;

/// One of Istio's kinds.
struct Kind {
    group: &'static str,
    kind: &'static str,
    plural: &'static str,
    short: &'static [&'static str],
    /// Served versions; the first is stored.
    versions: &'static [&'static str],
    columns: &'static [(&'static str, &'static str, &'static str)],
}

const AGE: (&str, &str, &str) = ("Age", "date", ".metadata.creationTimestamp");

const NETWORKING: &[&str] = &["v1", "v1beta1", "v1alpha3"];
const SECURITY: &[&str] = &["v1", "v1beta1"];

const KINDS: &[Kind] = &[
    Kind {
        group: "networking.istio.io",
        kind: "VirtualService",
        plural: "virtualservices",
        short: &["vs"],
        versions: NETWORKING,
        columns: &[
            ("Gateways", "string", ".spec.gateways"),
            ("Hosts", "string", ".spec.hosts"),
            AGE,
        ],
    },
    Kind {
        group: "networking.istio.io",
        kind: "DestinationRule",
        plural: "destinationrules",
        short: &["dr"],
        versions: NETWORKING,
        columns: &[("Host", "string", ".spec.host"), AGE],
    },
    Kind {
        group: "networking.istio.io",
        kind: "Gateway",
        plural: "gateways",
        short: &["gw"],
        versions: NETWORKING,
        columns: &[],
    },
    Kind {
        group: "networking.istio.io",
        kind: "ServiceEntry",
        plural: "serviceentries",
        short: &["se"],
        versions: NETWORKING,
        columns: &[
            ("Hosts", "string", ".spec.hosts"),
            ("Location", "string", ".spec.location"),
            ("Resolution", "string", ".spec.resolution"),
            AGE,
        ],
    },
    Kind {
        group: "networking.istio.io",
        kind: "Sidecar",
        plural: "sidecars",
        short: &[],
        versions: NETWORKING,
        columns: &[],
    },
    Kind {
        group: "networking.istio.io",
        kind: "WorkloadEntry",
        plural: "workloadentries",
        short: &["we"],
        versions: NETWORKING,
        columns: &[AGE, ("Address", "string", ".spec.address")],
    },
    Kind {
        group: "networking.istio.io",
        kind: "WorkloadGroup",
        plural: "workloadgroups",
        short: &["wg"],
        versions: NETWORKING,
        columns: &[AGE],
    },
    Kind {
        group: "networking.istio.io",
        kind: "EnvoyFilter",
        plural: "envoyfilters",
        short: &[],
        versions: &["v1alpha3"],
        columns: &[],
    },
    Kind {
        group: "networking.istio.io",
        kind: "ProxyConfig",
        plural: "proxyconfigs",
        short: &[],
        versions: &["v1beta1"],
        columns: &[],
    },
    Kind {
        group: "security.istio.io",
        kind: "AuthorizationPolicy",
        plural: "authorizationpolicies",
        short: &["ap"],
        versions: SECURITY,
        columns: &[("Action", "string", ".spec.action"), AGE],
    },
    Kind {
        group: "security.istio.io",
        kind: "PeerAuthentication",
        plural: "peerauthentications",
        short: &["pa"],
        versions: SECURITY,
        columns: &[("Mode", "string", ".spec.mtls.mode"), AGE],
    },
    Kind {
        group: "security.istio.io",
        kind: "RequestAuthentication",
        plural: "requestauthentications",
        short: &["ra"],
        versions: SECURITY,
        columns: &[],
    },
    Kind {
        group: "telemetry.istio.io",
        kind: "Telemetry",
        plural: "telemetries",
        short: &["telemetry"],
        versions: &["v1alpha1", "v1"],
        columns: &[AGE],
    },
    Kind {
        group: "extensions.istio.io",
        kind: "WasmPlugin",
        plural: "wasmplugins",
        short: &[],
        versions: &["v1alpha1"],
        columns: &[AGE],
    },
    Kind {
        group: "extensions.istio.io",
        kind: "TrafficExtension",
        plural: "trafficextensions",
        short: &[],
        versions: &["v1alpha1"],
        columns: &[AGE],
    },
];

/// The account whose token remote secrets carry.
pub const READER: &str = "istio-reader-service-account";

/// The objects of the component.
pub fn objects(operator: &Operator) -> Vec<Object> {
    let mut objects: Vec<Object> = KINDS.iter().map(definition).collect();
    objects.extend(reader(operator));
    objects
}

/// The reader's account, and what it may read.
pub(super) fn reader(operator: &Operator) -> Vec<Object> {
    let mut objects = vec![service_account(READER, operator.namespace(), "istio-reader")];
    objects.extend(rbac::reader(operator));
    objects
}

fn definition(kind: &Kind) -> Object {
    // Fields are checked by the validation webhook, which knows their meaning.
    let open = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let versions: Vec<Value> = kind
        .versions
        .iter()
        .enumerate()
        .map(|(i, version)| {
            let columns: Vec<Value> = kind
                .columns
                .iter()
                .map(|(name, kind, path)| json!({"name": name, "type": kind, "jsonPath": path}))
                .collect();
            json!({
                "name": version,
                "served": true,
                "storage": i == 0,
                "additionalPrinterColumns": columns,
                "subresources": {"status": {}},
                "schema": {"openAPIV3Schema": {
                    "type": "object",
                    "properties": {"spec": open, "status": open},
                }},
            })
        })
        .collect();
    let prefix = kind.group.split('.').next().unwrap_or_default();
    object(
        "apiextensions.k8s.io/v1",
        "CustomResourceDefinition",
        json!({
            "name": format!("{}.{}", kind.plural, kind.group),
            "labels": {"app": "istio-pilot", "istio": if prefix == "security" { "security" } else { prefix }, "release": "istio"},
            "annotations": {"helm.sh/resource-policy": "keep"},
        }),
        json!({"spec": {
            "group": kind.group,
            "scope": "Namespaced",
            "names": {
                "kind": kind.kind,
                "listKind": format!("{}List", kind.kind),
                "plural": kind.plural,
                "singular": kind.kind.to_lowercase(),
                "shortNames": kind.short,
                "categories": ["istio-io", format!("{prefix}-istio-io")],
            },
            "versions": versions,
        }}),
    )
}
