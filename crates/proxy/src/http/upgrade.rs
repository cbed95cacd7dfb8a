//! Connections that leave HTTP behind, such as WebSockets.

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;

use crate::http::entry::Entry;
use crate::observe::flags::Flags;
use crate::stream::relay::{End, relay};

/// Joins both sides once the answer that agrees to the upgrade has been sent.
pub fn join(mut entry: Box<Entry>, downstream: OnUpgrade, upstream: OnUpgrade) {
    let shutdown = entry.connection.proxy.shutdown.clone();
    let idle = Entry::settings(&entry.connection).and_then(|settings| settings.stream_idle);
    shutdown.spawn("downstream upgraded connection", async move {
        match tokio::try_join!(downstream, upstream) {
            Ok((downstream, upstream)) => {
                let relayed = relay(TokioIo::new(downstream), TokioIo::new(upstream), idle).await;
                entry.record.bytes_received += relayed.received;
                entry.record.bytes_sent += relayed.sent;
                match relayed.end {
                    End::Finished => {}
                    End::Idle => entry.record.flags.add(Flags::STREAM_IDLE),
                    End::Downstream(_) => entry.record.flags.add(Flags::DOWNSTREAM_TERMINATION),
                    End::Upstream(_) => entry.record.flags.add(Flags::UPSTREAM_TERMINATION),
                }
            }
            Err(error) => {
                tracing::debug!(%error, "upgrade failed");
                entry.record.flags.add(Flags::UPSTREAM_TERMINATION);
            }
        }
        entry.complete();
    });
}
