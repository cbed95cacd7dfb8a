//! Sidecars and a gateway as processes in network namespaces, with real capture.
//!
//! Two networks that cannot reach each other, joined by one gateway: the client's application
//! calls a service address, nftables rules hand the connection to its sidecar, and every answer
//! comes from the right place by the right way. Configurations are the reviewed ones of the
//! control plane's tests; this program is the control plane, every sidecar and every application,
//! each in a process of its own.
//!
//! It needs root, `ip`, `nft`, `curl` and `tcpdump`. Without root it says so and does nothing,
//! unless `CI=true`, where it fails.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test that cannot go on has failed, and this one has no harness to print for it"
)]

mod actors;
mod control_plane;
mod world;

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    match arguments.next().as_deref() {
        Some("control-plane") => actors::control_plane(),
        Some("proxy") => actors::proxy(),
        Some("capture") => actors::capture(),
        Some("application") => actors::application(),
        _ => return scenario(),
    }
    ExitCode::SUCCESS
}

fn scenario() -> ExitCode {
    if !nix::unistd::Uid::effective().is_root() {
        let ci = std::env::var("CI").is_ok_and(|ci| ci == "true");
        eprintln!("namespaces: needs root{}", if ci { "" } else { ", not run" });
        return if ci { ExitCode::FAILURE } else { ExitCode::SUCCESS };
    }
    let world = world::World::new();
    world.start();
    for pod in ["sleep", "helloworld1", "gateway"] {
        let (own, file) = world.resident(pod);
        eprintln!("namespaces: idle {pod} has {own} KiB of its own and {file} KiB of program");
    }
    requests_are_answered_by_both_networks(&world);
    the_server_knows_the_client_across_the_gateway(&world);
    nothing_readable_crosses_between_the_networks(&world);
    plain_text_to_the_gateway_is_refused(&world);
    the_application_is_reached_in_the_clear_only_where_that_is_allowed(&world);
    a_proxy_that_is_asked_to_stop_drains_first(&world);
    eprintln!("namespaces: ok");
    ExitCode::SUCCESS
}

fn requests_are_answered_by_both_networks(world: &world::World) {
    let answers: Vec<String> = (0..40).map(|_| world.call("/hello")).collect();
    for version in ["v1", "v2"] {
        let count = answers.iter().filter(|answer| answer.starts_with(version)).count();
        assert!(count >= 8, "{version} answered {count} of 40: {answers:?}");
    }
    let strays: Vec<_> =
        answers.iter().filter(|a| !a.starts_with("v1") && !a.starts_with("v2")).collect();
    assert!(strays.is_empty(), "{strays:?}");
}

fn the_server_knows_the_client_across_the_gateway(world: &world::World) {
    let answer = world.call_until("/hello", |answer| answer.starts_with("v2"));
    let peer = "URI=spiffe://cluster.local/ns/sample/sa/sleep";
    assert!(answer.contains(peer), "{answer}");
}

fn nothing_readable_crosses_between_the_networks(world: &world::World) {
    let seen = world.sniff(|| {
        for _ in 0..10 {
            world.call_until("/canary", |answer| answer.starts_with("v2"));
        }
    });
    assert!(seen.contains(world::GATEWAY_SERVER_NAME), "the capture saw the server name");
    for secret in [world::CANARY, "/canary", "x-forwarded-proto"] {
        assert!(!seen.contains(secret), "`{secret}` crossed in the clear");
    }
}

fn plain_text_to_the_gateway_is_refused(world: &world::World) {
    let answer =
        world.curl_from("sleep", 1337, &["-s", "-m", "5", "http://172.18.12.1:15443/hello"]);
    assert_eq!(answer, "", "the gateway answered plain text");
}

fn the_application_is_reached_in_the_clear_only_where_that_is_allowed(world: &world::World) {
    // From outside the mesh, past every sidecar of the client: the server is permissive.
    let answer = world.curl_from("sleep", 1337, &["-s", "-m", "5", "http://10.10.0.20:5000/hello"]);
    assert!(answer.starts_with("v1 "), "{answer}");
    assert!(!answer.contains("URI="), "nobody was authenticated: {answer}");
}

fn a_proxy_that_is_asked_to_stop_drains_first(world: &world::World) {
    let ready = || {
        world.curl_from(
            "sleep",
            0,
            &[
                "-s",
                "-o",
                "/dev/null",
                "-w",
                "%{http_code}",
                "http://127.0.0.1:15021/healthz/ready",
            ],
        )
    };
    assert_eq!(ready(), "200");
    world.terminate("sleep");
    world.eventually("the sidecar is not ready", || (ready() == "503").then_some(()));
    assert!(world.call("/hello").starts_with('v'), "a draining sidecar still serves");
    world.eventually("the sidecar has ended", || world.has_ended("sleep").then_some(()));
}
