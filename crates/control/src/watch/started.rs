//! Tells a watch that goes on from one that does not.
//!
//! A watch that starts again after a failure says nothing until an object changes, which may be
//! days later. So the answers to its requests are heeded, too. The `kube` crate does not look at
//! their codes.

use http::Response;
use kube::client::Body;
use kube::core::Status;
use kube::runtime::watcher;
use tombolo_runtime::errors::chain;

/// `client`, but `started` is called whenever an API server begins to answer a watch.
pub(crate) fn heeding(
    client: &kube::Client,
    started: impl Fn() + Clone + Send + 'static,
) -> kube::Client {
    let namespace = client.default_namespace().to_owned();
    let client = client.clone();
    let service = tower::service_fn(move |request: http::Request<Body>| {
        let (client, started) = (client.clone(), started.clone());
        async move {
            let query = request.uri().query().unwrap_or_default();
            let is_watch = query.split('&').any(|parameter| parameter == "watch=true");
            let answer = client.send(request).await?;
            match (is_watch, answer.status().is_success()) {
                (true, true) => started(),
                (true, false) => return Err(refusal(answer).await),
                (false, _) => (),
            }
            Ok::<_, kube::Error>(answer)
        }
    });
    kube::Client::new(service, namespace)
}

/// What an answer that is none says.
async fn refusal(answer: Response<Body>) -> kube::Error {
    let code = answer.status();
    let text = match answer.into_body().collect_bytes().await {
        Ok(text) => text,
        Err(error) => return error,
    };
    let status = serde_json::from_slice::<Status>(&text).ok().filter(|status| status.code != 0);
    let status = status.unwrap_or_else(|| {
        Status::failure(&code.to_string(), "NotAnApiServer").with_code(code.as_u16())
    });
    kube::Error::Api(Box::new(status))
}

/// Why nothing is seen from now on. None when a watch that was going on has ended: that is usual,
/// and whether the next one starts is what counts.
pub(crate) fn failure(error: &watcher::Error) -> Option<String> {
    match error {
        watcher::Error::WatchError(_) | watcher::Error::WatchFailed(_) => None,
        error => Some(chain(error).to_string()),
    }
}
