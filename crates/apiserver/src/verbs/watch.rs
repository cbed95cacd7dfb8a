//! Watching: a stream of changes, one JSON document per line.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, header};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use rand::RngExt;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::read::{self, Selection};
use crate::negotiate::{self, View};
use crate::object;
use crate::operation::Operation;
use crate::respond::{BodyError, Response};
use crate::status::{Cause, Status};
use crate::store::{Change, Event, Stored, Subscription};
use crate::table;
use crate::verbs::show;

/// How often bookmarks come when asked for.
const BOOKMARKS: Duration = Duration::from_secs(60);
/// The shortest time a watch lasts when the client names none; up to twice that.
const LASTS: u64 = 1800;

/// A running watch.
struct Watch {
    operation: Arc<Operation>,
    selection: Selection,
    subscription: Subscription,
    view: View,
    bookmarks: bool,
    queue: VecDeque<Bytes>,
    /// The client asked to be told when the initial objects are all sent.
    marks_end: bool,
    deadline: Instant,
    next_bookmark: Instant,
    is_first_row: bool,
    is_over: bool,
}

/// Answers a watch.
///
/// # Errors
/// The refusal that the client gets.
pub fn watch(operation: Operation) -> Result<Response, Status> {
    let query = &operation.call.query;
    let selection = Selection::read(&operation)?;
    let view = negotiate::format(&operation.call.parts.headers)?.view;
    let initial = query.get("sendInitialEvents").map(|value| value == "true");
    let rule = query.get("resourceVersionMatch").unwrap_or_default();
    check_initial(initial, rule)?;
    let bookmarks = query.flag("allowWatchBookmarks");
    let lasts = match query.number("timeoutSeconds")? {
        Some(seconds) if seconds > 0 => Duration::from_secs(seconds.unsigned_abs()),
        _ => Duration::from_secs(rand::rng().random_range(LASTS..2 * LASTS)),
    };
    let asked = read::version(&operation)?;
    let store = &operation.api.store;
    let storage = operation.resource.storage.clone();
    let now = Instant::now();
    let sends_state = initial.unwrap_or(matches!(asked, None | Some(0)));
    let snapshot = store.list(&storage, read::namespace(&operation));
    let from = match asked {
        _ if sends_state => snapshot.revision,
        None | Some(0) => snapshot.revision,
        Some(version) => version,
    };
    let subscription = match store.watch(&storage, from) {
        Ok(subscription) => subscription,
        Err(expired) => return Ok(only(&read::too_large(expired))),
    };
    let mut watch = Watch {
        operation: Arc::new(operation),
        selection,
        subscription,
        view,
        bookmarks,
        queue: VecDeque::new(),
        marks_end: initial == Some(true) && bookmarks,
        deadline: now + lasts,
        next_bookmark: now + BOOKMARKS,
        is_first_row: true,
        is_over: false,
    };
    if sends_state {
        for stored in &snapshot.objects {
            watch.show_if_selected("ADDED", stored, stored.revision);
        }
    }
    if watch.marks_end {
        watch.bookmark(snapshot.revision, true);
    }
    Ok(streamed(watch))
}

fn check_initial(initial: Option<bool>, rule: &str) -> Result<(), Status> {
    let message = match (initial, rule) {
        (Some(_), "NotOlderThan") | (None, "") => return Ok(()),
        (None, _) => {
            "Forbidden: resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided"
        }
        (Some(_), "") => {
            "Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"
        }
        (Some(_), _) => {
            "Forbidden: only resourceVersionMatch=NotOlderThan is supported when sendInitialEvents is provided"
        }
    };
    let field = "resourceVersionMatch".to_owned();
    let cause = Cause { reason: "FieldValueForbidden", message: message.to_owned(), field };
    Err(Status::invalid("meta.k8s.io", "ListOptions", "", vec![cause]))
}

impl Watch {
    /// The next line, when there is one; none when the watch is over.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(line) = self.queue.pop_front() {
                return Some(line);
            }
            if self.is_over {
                return None;
            }
            let shutdown = self.operation.api.shutdown.clone();
            tokio::select! {
                biased;
                () = shutdown.draining() => return None,
                events = self.subscription.next() => match events {
                    Ok(events) => events.iter().for_each(|event| self.take(event)),
                    Err(expired) => {
                        self.queue.push_back(line("ERROR", &read::too_large(expired).to_value()));
                        self.is_over = true;
                    }
                },
                () = tokio::time::sleep_until(self.deadline) => self.is_over = true,
                () = tokio::time::sleep_until(self.next_bookmark), if self.bookmarks => {
                    self.next_bookmark += BOOKMARKS;
                    self.bookmark(self.subscription.cursor(), false);
                }
            }
        }
    }

    /// Queues what an event means to this watch: an object may enter or leave its selection.
    fn take(&mut self, event: &Event) {
        let is_here = read::namespace(&self.operation)
            .is_none_or(|namespace| event.object.key.namespace == namespace);
        if !is_here {
            return;
        }
        let matches = |stored: &Arc<Stored>| {
            let value = show::in_version(&self.operation.resource, &stored.value);
            self.selection.matches(&value)
        };
        let before = event.previous.as_ref().filter(|stored| matches(stored));
        let is_after = event.change != Change::Deleted && matches(&event.object);
        match (before, is_after) {
            (None, true) => self.show("ADDED", &event.object, event.revision),
            (Some(_), true) => self.show("MODIFIED", &event.object, event.revision),
            (Some(_), false) if event.change == Change::Deleted => {
                self.show("DELETED", &event.object, event.revision);
            }
            (Some(before), false) => self.show("DELETED", before, event.revision),
            (None, false) => (),
        }
    }

    fn show_if_selected(&mut self, kind: &str, stored: &Arc<Stored>, revision: u64) {
        let value = show::in_version(&self.operation.resource, &stored.value);
        if self.selection.matches(&value) {
            self.show(kind, stored, revision);
        }
    }

    fn show(&mut self, kind: &str, stored: &Arc<Stored>, revision: u64) {
        let resource = &self.operation.resource;
        let value = show::in_version(resource, &stored.value);
        let is_plain = matches!(value, std::borrow::Cow::Borrowed(_));
        if self.view == View::Object && is_plain && stored.revision == revision {
            let json = stored.json();
            let mut line = Vec::with_capacity(json.len() + 40);
            line.extend_from_slice(b"{\"type\":\"");
            line.extend_from_slice(kind.as_bytes());
            line.extend_from_slice(b"\",\"object\":");
            line.extend_from_slice(&json);
            line.extend_from_slice(b"}\n");
            return self.queue.push_back(line.into());
        }
        let mut value = value.into_owned();
        object::set_meta(&mut value, "resourceVersion", revision.to_string());
        let shown = match self.view {
            View::Object => value,
            View::Metadata => table::partial(&value),
            View::Table => {
                let include = self.operation.call.query.get("includeObject").unwrap_or_default();
                let metadata = json!({"resourceVersion": revision.to_string()});
                let mut table = table::render(resource, &[&value], include, metadata);
                if !self.is_first_row {
                    table["columnDefinitions"] = Value::Null;
                }
                self.is_first_row = false;
                table
            }
        };
        self.queue.push_back(line(kind, &shown));
    }

    fn bookmark(&mut self, revision: u64, is_end: bool) {
        let resource = &self.operation.resource;
        let (kind, version) = match self.view {
            View::Object => (resource.kind.clone(), resource.api_version()),
            View::Metadata => ("PartialObjectMetadata".to_owned(), "meta.k8s.io/v1".to_owned()),
            View::Table => ("Table".to_owned(), "meta.k8s.io/v1".to_owned()),
        };
        let mut metadata = json!({"resourceVersion": revision.to_string()});
        if is_end {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let object = json!({"kind": kind, "apiVersion": version, "metadata": metadata});
        self.queue.push_back(line("BOOKMARK", &object));
    }
}

fn line(kind: &str, object: &Value) -> Bytes {
    let mut text = json!({"type": kind, "object": object}).to_string();
    text.push('\n');
    text.into()
}

/// A watch that ends at once with an error, as for versions that are gone.
fn only(status: &Status) -> Response {
    let mut response = Response::new(crate::respond::full(line("ERROR", &status.to_value())));
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn streamed(watch: Watch) -> Response {
    let lines = futures::stream::unfold(watch, async |mut watch| {
        let line = watch.next().await?;
        Some((Ok::<_, BodyError>(Frame::data(line)), watch))
    });
    let mut response = Response::new(StreamBody::new(Box::pin(lines)).boxed_unsync());
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
