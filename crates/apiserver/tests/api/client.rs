//! kube-rs as a client: typed and dynamic objects, and watchers.

use futures::StreamExt;
use k8s_openapi::api::core::v1::{ConfigMap, Service};
use kube::api::{ApiResource, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, ResourceExt};
use serde_json::json;

use crate::harness::{Cluster, eventually};

fn config_map(name: &str, value: &str) -> ConfigMap {
    serde_json::from_value(json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": name}, "data": {"value": value},
    }))
    .unwrap()
}

#[tokio::test]
async fn typed_objects_are_created_replaced_patched_and_listed() {
    let cluster = Cluster::start().await;
    let maps: Api<ConfigMap> = Api::namespaced(cluster.client("admin").await, "default");
    let mut made = maps.create(&PostParams::default(), &config_map("a", "1")).await.unwrap();
    made.data.as_mut().unwrap().insert("value".to_owned(), "2".to_owned());
    let replaced = maps.replace("a", &PostParams::default(), &made).await.unwrap();
    assert_ne!(replaced.resource_version(), made.resource_version());
    let stale = maps.replace("a", &PostParams::default(), &made).await.unwrap_err();
    let kube::Error::Api(status) = stale else { panic!("{stale}") };
    assert_eq!((status.code, status.reason.as_str()), (409, "Conflict"));
    let patch = Patch::Apply(json!({
        "apiVersion": "v1", "kind": "ConfigMap", "data": {"more": "3"},
    }));
    let patched = maps.patch("a", &PatchParams::apply("test"), &patch).await.unwrap();
    assert_eq!(patched.data.unwrap().len(), 2);
    let listed = maps.list(&ListParams::default().fields("metadata.name=a")).await.unwrap();
    assert_eq!(listed.items.len(), 1);
}

#[tokio::test]
async fn dynamic_objects_and_metadata_are_read() {
    let cluster = Cluster::start().await;
    let client = cluster.client("admin").await;
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "default");
    maps.create(&PostParams::default(), &config_map("a", "1")).await.unwrap();
    let resource = ApiResource::erase::<ConfigMap>(&());
    let dynamic: Api<DynamicObject> = Api::namespaced_with(client, "default", &resource);
    assert_eq!(dynamic.get("a").await.unwrap().data["data"], json!({"value": "1"}));
    let metadata = maps.get_metadata("a").await.unwrap();
    assert_eq!(metadata.name_any(), "a");
}

#[tokio::test]
async fn watchers_see_what_was_there_and_every_change() {
    let cluster = Cluster::start().await;
    let services: Api<Service> = Api::namespaced(cluster.client("admin").await, "default");
    let service = |name: &str| -> Service {
        serde_json::from_value(json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
            "spec": {"ports": [{"port": 80}]},
        }))
        .unwrap()
    };
    services.create(&PostParams::default(), &service("first")).await.unwrap();
    for config in [watcher::Config::default(), watcher::Config::default().streaming_lists()] {
        let name = if config == watcher::Config::default() { "listed" } else { "streamed" };
        let mut seen =
            watcher(services.clone(), config).default_backoff().applied_objects().boxed();
        eventually("the first service is seen", async || {
            seen.next().await.unwrap().unwrap().name_any() == "first"
        })
        .await;
        services.create(&PostParams::default(), &service(name)).await.unwrap();
        eventually("the new service is seen", async || {
            seen.next().await.unwrap().unwrap().name_any() == name
        })
        .await;
    }
}
