//! Faults that are made on purpose, and answers to browsers that ask in advance.

use http::header::{self, HeaderValue};
use http::{HeaderMap, Method};
use rand::RngExt;

use crate::config::effects::{Abort, Effects};
use crate::http::entry::Entry;
use crate::http::head::Head;
use crate::http::reply::Reply;
use crate::observe::flags::Flags;

/// Applies what comes before routing; an answer if the request goes no further.
pub async fn before(
    effects: &Effects,
    entry: &mut Entry,
    head: &Head,
    headers: &HeaderMap,
) -> Option<Reply> {
    let hit = |per_million: u32| rand::rng().random_range(0..1_000_000) < per_million;
    if let Some(fault) = effects.fault.as_ref().filter(|fault| fault.concerns(head.view(headers))) {
        if let Some((length, _)) = fault.delay.filter(|(_, share)| hit(*share)) {
            entry.record.flags.add(Flags::DELAY_INJECTED);
            tokio::time::sleep(length).await;
        }
        if let Some((abort, _)) = fault.abort.filter(|(_, share)| hit(*share)) {
            return Some(aborted(abort));
        }
    }
    let cors = effects.cors.as_ref()?;
    let asks = head.method == Method::OPTIONS
        && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    let origin = cors.origin(headers).filter(|_| asks)?;
    let mut reply = Reply::new(200, "cors_response", Flags::NONE);
    reply.headers = cors.preflight(origin);
    Some(reply)
}

fn aborted(abort: Abort) -> Reply {
    match abort {
        Abort::Http(status) => Reply::new(status, "fault_filter_abort", Flags::FAULT_INJECTED)
            .text("fault filter abort"),
        Abort::Grpc(status) => {
            let mut reply = Reply::new(200, "fault_filter_abort", Flags::FAULT_INJECTED);
            let content_type = HeaderValue::from_static("application/grpc");
            reply.headers.insert(header::CONTENT_TYPE, content_type);
            reply.headers.insert("grpc-status", HeaderValue::from(status));
            let message = HeaderValue::from_static("fault filter abort");
            reply.headers.insert("grpc-message", message);
            reply.grpc_told = true;
            reply
        }
    }
}

/// Adds to an answer from an upstream what a browser wants to see.
pub fn after(effects: &Effects, request: &HeaderMap, answer: &mut HeaderMap) {
    if let Some(cors) = &effects.cors
        && let Some(origin) = cors.origin(request)
    {
        cors.answer(origin, answer);
    }
}
