//! MetalLB's own objects, as far as addresses depend on them.

use std::borrow::Cow;
use std::collections::BTreeMap;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::core::{ObjectMeta, Selector, SelectorExt};
use kube::{CustomResource, Resource, ResourceExt};
use serde::{Deserialize, Serialize};

use crate::controllers::loadbalancer::addresses::{Pool, Range, RangeError};

/// The definition that must exist before pools can be watched.
pub(crate) const POOL_CRD: &str = "ipaddresspools.metallb.io";
/// The definition that must exist before advertisements can be watched.
pub(crate) const ADVERTISEMENT_CRD: &str = "l2advertisements.metallb.io";

/// Addresses that Services may have.
#[derive(CustomResource, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[kube(
    group = "metallb.io",
    version = "v1beta1",
    kind = "IPAddressPool",
    plural = "ipaddresspools",
    namespaced,
    schema = "disabled"
)]
#[serde(rename_all = "camelCase")]
pub(crate) struct IPAddressPoolSpec {
    #[serde(default)]
    pub(crate) addresses: Vec<String>,
    pub(crate) auto_assign: Option<bool>,
    #[serde(rename = "avoidBuggyIPs")]
    pub(crate) avoid_buggy_ips: Option<bool>,
    pub(crate) service_allocation: Option<ServiceAllocation>,
}

/// For whom a pool is.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ServiceAllocation {
    pub(crate) priority: Option<i32>,
    #[serde(default)]
    pub(crate) namespaces: Vec<String>,
    #[serde(default)]
    pub(crate) namespace_selectors: Vec<LabelSelector>,
    #[serde(default)]
    pub(crate) service_selectors: Vec<LabelSelector>,
}

/// Pools whose addresses are announced on the local network. Its specification may be missing,
/// which means all pools; the derived kinds cannot say that.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
pub(crate) struct L2Advertisement {
    pub(crate) metadata: ObjectMeta,
    #[serde(default)]
    pub(crate) spec: L2AdvertisementSpec,
}

/// What an [`L2Advertisement`] asks for.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub(crate) struct L2AdvertisementSpec {
    #[serde(default)]
    pub(crate) ip_address_pools: Vec<String>,
    #[serde(default)]
    pub(crate) ip_address_pool_selectors: Vec<LabelSelector>,
    #[serde(default)]
    pub(crate) node_selectors: Vec<LabelSelector>,
}

impl Resource for L2Advertisement {
    type DynamicType = ();
    type Scope = NamespaceResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        "L2Advertisement".into()
    }

    fn group((): &()) -> Cow<'_, str> {
        "metallb.io".into()
    }

    fn version((): &()) -> Cow<'_, str> {
        "v1beta1".into()
    }

    fn plural((): &()) -> Cow<'_, str> {
        "l2advertisements".into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

pub(crate) fn any_selects(selectors: &[LabelSelector], labels: &BTreeMap<String, String>) -> bool {
    selectors
        .iter()
        .any(|selector| Selector::try_from(selector.clone()).is_ok_and(|s| s.matches(labels)))
}

/// The pool that the object describes, as a Service with `labels` in `namespace` sees it.
pub(crate) fn pool(
    object: &IPAddressPool,
    namespace: &Namespace,
    labels: &BTreeMap<String, String>,
) -> Result<Pool, RangeError> {
    let spec = &object.spec;
    let ranges: Result<Vec<Range>, _> = spec.addresses.iter().map(|text| text.parse()).collect();
    let reserved = spec.service_allocation.as_ref().and_then(|allocation| {
        let by_namespace =
            !allocation.namespaces.is_empty() || !allocation.namespace_selectors.is_empty();
        let by_service = !allocation.service_selectors.is_empty();
        if !by_namespace && !by_service {
            return None;
        }
        let name = namespace.name_any();
        let here = !by_namespace
            || allocation.namespaces.contains(&name)
            || any_selects(&allocation.namespace_selectors, namespace.labels());
        let this = !by_service || any_selects(&allocation.service_selectors, labels);
        Some(here && this)
    });
    Ok(Pool {
        name: object.name_any(),
        ranges: ranges?,
        auto_assign: spec.auto_assign.unwrap_or(true),
        avoid_buggy: spec.avoid_buggy_ips.unwrap_or(false),
        priority: spec.service_allocation.as_ref().and_then(|a| a.priority).filter(|p| *p > 0),
        reserved,
    })
}
