//! One cluster followed, against an API server that is told what to answer.

use std::collections::BTreeMap;
use std::io;

use axum::body::Body;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use serde_json::{Value, json};
use tokio::sync::watch;
use tombolo_runtime::ready::Ready;

use super::*;

/// An API server that lists nothing, unless told otherwise, and whose watches say nothing.
#[derive(Clone)]
struct Server {
    /// Codes other than 200, by the end of the path and whether it is watched.
    codes: Arc<Mutex<BTreeMap<(&'static str, bool), u16>>>,
    /// Items of lists, by the end of the path.
    items: Arc<Mutex<BTreeMap<&'static str, Vec<Value>>>>,
    /// How often each path was listed.
    lists: Arc<Mutex<BTreeMap<String, usize>>>,
    /// Counts how often all watches were ended, and with what they end.
    ends: watch::Sender<(u64, &'static str)>,
}

impl Server {
    fn new() -> Self {
        let ends = watch::Sender::new((0, ""));
        Self { codes: Arc::default(), items: Arc::default(), lists: Arc::default(), ends }
    }

    fn client(&self) -> kube::Client {
        let server = self.clone();
        let answer = tower::service_fn(move |request: Request<kube::client::Body>| {
            let answer = server.answer(&request);
            async move { Ok::<_, io::Error>(answer) }
        });
        kube::Client::new(answer, "default")
    }

    fn says(&self, path: &'static str, watched: bool, code: u16) {
        self.codes.lock().insert((path, watched), code);
    }

    /// Ends all watches, with an event or without.
    fn end_watches(&self, with: &'static str) {
        self.ends.send_modify(|(count, event)| {
            *count += 1;
            *event = with;
        });
    }

    fn answer(&self, request: &Request<kube::client::Body>) -> Response<Body> {
        let path = request.uri().path();
        let watched = request.uri().query().is_some_and(|query| query.contains("watch=true"));
        let codes = self.codes.lock();
        let told =
            codes.iter().find(|((end, watches), _)| path.ends_with(end) && *watches == watched);
        let code = told.map_or(200, |(_, code)| *code);
        let whole = |value: Value| Body::from(value.to_string());
        let body = if code != 200 {
            whole(
                json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "no", "reason": "", "code": code}),
            )
        } else if watched {
            let mut ends = self.ends.subscribe();
            ends.mark_unchanged();
            let end = async move {
                let _ = ends.changed().await;
                let event = ends.borrow().1;
                Ok::<_, io::Error>(Bytes::from(event))
            };
            Body::from_stream(futures::stream::once(end))
        } else if path == "/version" {
            whole(
                json!({"major": "1", "minor": "33", "gitVersion": "v1.33.0", "gitCommit": "", "gitTreeState": "", "buildDate": "", "goVersion": "", "compiler": "", "platform": ""}),
            )
        } else {
            *self.lists.lock().entry(path.to_owned()).or_default() += 1;
            let items = self.items.lock();
            let items = items.iter().find(|(end, _)| path.ends_with(*end)).map(|(_, items)| items);
            let items = items.cloned().unwrap_or_default();
            whole(
                json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": items}),
            )
        };
        let mut response = Response::new(body);
        *response.status_mut() = StatusCode::from_u16(code).unwrap();
        response
    }
}

/// A connection, and all that it tells.
struct Followed {
    connection: Connection,
    clusters: Clusters,
    unseen: Ready,
    events: mpsc::Receiver<Event>,
    shutdown: Shutdown,
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.shutdown.draining_token().cancel();
    }
}

async fn follow(server: &Server, mesh: Option<ObjectName>) -> Followed {
    let (sender, events) = mpsc::channel(1024);
    let (cluster, client) = (ClusterId::new("cluster02"), server.client());
    let clusters = Clusters::new(cluster.clone(), client.clone());
    let (unseen, shutdown) = (Ready::default(), Shutdown::default());
    let connection = Connection::new(cluster, 0, client, sender, clusters.clone());
    let blocker = unseen.block("cluster");
    connection.start(&shutdown, blocker, mesh).await;
    Followed { connection, clusters, unseen, events, shutdown }
}

impl Followed {
    async fn until(&self, what: &str, mut holds: impl FnMut(&Self) -> bool) {
        let wait = async {
            while !holds(self) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(30), wait).await;
        assert!(waited.is_ok(), "{what}: {:?}, {:?}", self.clusters, self.unseen.pending());
    }

    fn sync(&self) -> Sync {
        self.clusters.all()[0].sync
    }
}

#[tokio::test]
async fn an_api_server_that_does_not_know_us_or_is_not_there_does_not_answer() {
    let server = Server::new();
    let followed = follow(&server, None).await;
    followed.until("synced", |it| it.sync() == Sync::Synced).await;
    for (code, want) in
        [(401, Sync::Stale), (403, Sync::Synced), (503, Sync::Stale), (404, Sync::Synced)]
    {
        server.says("/version", false, code);
        followed.connection.ask().await;
        assert_eq!(followed.sync(), want, "{code}");
    }
}

#[tokio::test]
async fn what_cannot_be_listed_is_named_until_it_can_be() {
    let server = Server::new();
    server.says("/pods", false, 403);
    let followed = follow(&server, None).await;
    let want = ["cluster cluster02: Pod (fails, see the log)"];
    followed.until("named", |it| it.unseen.pending() == want).await;
    assert_eq!(followed.sync(), Sync::Syncing);
    server.says("/pods", false, 200);
    followed.until("synced", |it| it.sync() == Sync::Synced).await;
    assert_eq!(followed.unseen.pending(), Vec::<String>::new());
}

#[tokio::test]
async fn a_watch_that_does_not_start_again_makes_the_cluster_stale_until_it_does() {
    let server = Server::new();
    let followed = follow(&server, None).await;
    followed.until("synced", |it| it.sync() == Sync::Synced).await;
    server.says("/nodes", true, 401);
    server.end_watches("");
    followed.until("stale", |it| it.sync() == Sync::Stale).await;
    // Nothing changes, so the watch itself says nothing when it goes on.
    server.says("/nodes", true, 200);
    followed.until("synced again", |it| it.sync() == Sync::Synced).await;
}

#[tokio::test]
async fn settings_that_were_deleted_hold_after_the_next_list_too() {
    const GONE: &str = "{\"type\": \"ERROR\", \"object\": {\"kind\": \"Status\", \"apiVersion\": \"v1\", \"status\": \"Failure\", \"message\": \"too old\", \"reason\": \"Expired\", \"code\": 410}}\n";
    let map = |domain: &str| {
        json!({
            "metadata": {"name": "istio", "namespace": "istio-system", "resourceVersion": "1"},
            "data": {"mesh": format!("trustDomain: {domain}\n")},
        })
    };
    let server = Server::new();
    server.items.lock().insert("/configmaps", vec![map("one.example")]);
    let mut followed = follow(&server, Some(ObjectName::new("istio-system", "istio"))).await;
    followed.until("synced", |it| it.sync() == Sync::Synced).await;
    let lists = |server: &Server| server.lists.lock()["/api/v1/namespaces/istio-system/configmaps"];
    for items in [vec![], vec![map("two.example")]] {
        let before = lists(&server);
        server.items.lock().insert("/configmaps", items);
        server.end_watches(GONE);
        followed.until("listed again", |_| lists(&server) > before).await;
    }
    let mut domains = Vec::new();
    while domains.last().is_none_or(|domain| domain != "two.example") {
        let event = tokio::time::timeout(Duration::from_secs(30), followed.events.recv()).await;
        if let Change::Mesh(settings) = event.expect("in time").expect("open").change {
            domains.push(settings.config.trust_domain.clone());
        }
    }
    assert_eq!(domains, ["one.example", "two.example"]);
}
