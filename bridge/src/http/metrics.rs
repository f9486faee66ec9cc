//! `GET /metrics`: what the process has counted and how it is, for Prometheus.

use std::fmt;
use std::fs;
use std::net::IpAddr;
use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse as _, Response};
use broker::{BrokerHandle, Snapshot};
use ipnet::IpNet;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::TypedMetric;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use super::Api;
use super::bearer::Bearer;
use super::problem::{Problem, ProblemBody};
use super::remote::Remote;
use crate::cluster;
use crate::code::Code;
use crate::recent;
use crate::redis::{self, Redis};
use crate::service::archiver;

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Counters and gauges of the whole process.
#[utoipa::path(
    get, path = "/metrics", tag = "health",
    description = "For the networks of `http.metrics_from`, and for administrators with their bearer token.",
    responses(
        (status = 200, description = "They follow.", body = String, content_type = OPEN_METRICS),
        (status = 403, description = "Not for the caller.", body = ProblemBody),
    )
)]
pub(super) async fn show(
    State(api): State<Api>,
    remote: Option<Extension<Remote>>,
    bearer: Result<Bearer, Problem>,
) -> Result<Response, Problem> {
    let address = remote.map(|Extension(remote)| remote.address);
    let is_admin = bearer.is_ok_and(|Bearer(identity)| identity.admin);
    if !is_admin && !is_in(&api.metrics_from, address) {
        let detail = "http.metrics_from does not name your address, and you are no administrator";
        return Err(Problem::new(Code::PermissionDenied, detail));
    }
    let service = OfService {
        is_stalled: api.service.is_stalled(),
        jobs_waiting: api.service.jobs_waiting(),
        sessions: api.service.presence().count_here(),
        search_behind: api.service.search_behind(),
        archiver: api.service.archiver(),
        rate_limited: labelled(api.service.rates().refused()),
        words_found: labelled(api.service.words().counts()),
        redis: api.service.redis().map(Redis::figures),
        recent: api
            .store
            .recent()
            .map(|recent| [recent.messages.figures(), recent.lists.figures()]),
        bus: api.service.bus().figures(),
    };
    page(Figures {
        edge: api.edge.here().map(BrokerHandle::snapshot),
        is_joined: api.edge.is_joined(),
        service: Some(service),
        uptime: api.started_at.elapsed(),
        process: Process::now(),
    })
}

/// The same of a broker without a service, for the networks alone: who is an administrator only bridges know.
pub(super) fn show_broker(
    broker: &BrokerHandle,
    metrics_from: &[IpNet],
    address: Option<IpAddr>,
) -> Result<Response, Problem> {
    if !is_in(metrics_from, address) {
        let detail = "http.metrics_from does not name your address";
        return Err(Problem::new(Code::PermissionDenied, detail));
    }
    let edge = broker.snapshot();
    page(Figures {
        is_joined: None,
        service: None,
        uptime: edge.uptime,
        process: Process::now(),
        edge: Some(edge),
    })
}

fn page(figures: Figures) -> Result<Response, Problem> {
    let text = text(figures).map_err(|error| {
        tracing::error!(%error, "the metrics can't be written");
        Problem::new(Code::Internal, "the metrics can't be written")
    })?;
    Ok(([(CONTENT_TYPE, OPEN_METRICS)], text).into_response())
}

/// An address that is not known is nowhere.
fn is_in(networks: &[IpNet], address: Option<IpAddr>) -> bool {
    // A socket that listens on [::] tells IPv4 addresses as ::ffff:….
    let Some(address) = address.map(|address| address.to_canonical()) else {
        return false;
    };
    networks.iter().any(|network| network.contains(&address))
}

/// Everything that is told.
#[derive(Debug)]
struct Figures {
    edge: Option<Snapshot>,
    /// Whether the broker is there, where the edge is not here.
    is_joined: Option<bool>,
    service: Option<OfService>,
    uptime: Duration,
    process: Process,
}

/// What the chat service tells.
#[derive(Debug)]
struct OfService {
    is_stalled: bool,
    jobs_waiting: usize,
    /// Whose commands are executed here.
    sessions: usize,
    search_behind: Duration,
    archiver: archiver::Figures,
    /// By limit.
    rate_limited: Vec<(String, u64)>,
    /// By action.
    words_found: Vec<(String, u64)>,
    /// `None`: the node is alone.
    redis: Option<redis::Figures>,
    /// Pages of history, and lists of conversations; `None`: nothing is kept there.
    recent: Option<[recent::Figures; 2]>,
    bus: Option<cluster::Figures>,
}

fn labelled<const N: usize>(counts: [(&str, u64); N]) -> Vec<(String, u64)> {
    let counts = counts.into_iter();
    counts
        .map(|(label, count)| (label.to_owned(), count))
        .collect()
}

/// What the system knows of us; `None` where it does not say.
#[derive(Debug)]
struct Process {
    resident_bytes: Option<u64>,
    open_fds: Option<u64>,
}

impl Process {
    fn now() -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        // The number of entries, since Linux 6.2; 0 before.
        let folder = fs::metadata("/proc/self/fd").ok();
        Process {
            resident_bytes: resident_bytes(&status),
            open_fds: folder.map(|folder| folder.len()).filter(|fds| *fds > 0),
        }
    }
}

/// Found in `/proc/self/status`, which needs no page size to be understood.
fn resident_bytes(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

fn text(figures: Figures) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(figures));
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

impl Collector for Figures {
    fn encode(&self, encoder: DescriptorEncoder) -> fmt::Result {
        let mut page = Page(encoder);
        if let Some(edge) = &self.edge {
            clients(&mut page, edge)?;
            traffic(&mut page, edge)?;
            kept(&mut page, edge)?;
            link(&mut page, edge)?;
        }
        if let Some(is_joined) = self.is_joined {
            page.one(
                "tidings_broker_joined",
                "1 if this bridge is joined to its broker.",
                ConstGauge::new(u64::from(is_joined)),
            )?;
        }
        if let Some(service) = &self.service {
            inside(&mut page, service)?;
            old(&mut page, service.archiver)?;
        }
        process(&mut page, self)
    }
}

fn clients(page: &mut Page, edge: &Snapshot) -> fmt::Result {
    page.each(
        "tidings_connections",
        "Clients that are connected.",
        ConstGauge::new,
        ("listener", &edge.connections),
    )?;
    page.each(
        "tidings_connections_opened",
        "Clients that were let in.",
        ConstCounter::new,
        ("listener", &edge.opened),
    )?;
    page.each(
        "tidings_connections_closed",
        "Clients that were let in and have gone.",
        ConstCounter::new,
        ("reason", &edge.closed),
    )?;
    page.each(
        "tidings_connections_refused",
        "Clients that were refused by CONNACK.",
        ConstCounter::new,
        ("reason", &edge.refused),
    )?;
    page.one(
        "tidings_connections_turned_away",
        "Connections that were closed without a word: too many, or not MQTT.",
        ConstCounter::new(edge.turned_away),
    )
}

fn traffic(page: &mut Page, edge: &Snapshot) -> fmt::Result {
    let families = [
        (
            "tidings_received_packets",
            "MQTT packets from clients.",
            &edge.packets_received,
        ),
        (
            "tidings_received_bytes",
            "Bytes of the MQTT packets from clients.",
            &edge.bytes_received,
        ),
        (
            "tidings_sent_packets",
            "MQTT packets to clients.",
            &edge.packets_sent,
        ),
        (
            "tidings_sent_bytes",
            "Bytes of the MQTT packets to clients.",
            &edge.bytes_sent,
        ),
    ];
    for (name, help, counts) in families {
        page.each(name, help, ConstCounter::new, ("type", counts))?;
    }
    page.one(
        "tidings_publishes_refused",
        "Publishes that their clients were not allowed.",
        ConstCounter::new(edge.publishes_refused),
    )?;
    page.one(
        "tidings_subscriptions_refused",
        "Subscriptions that their clients were not allowed.",
        ConstCounter::new(edge.subscriptions_refused),
    )?;
    page.each(
        "tidings_messages_dropped",
        "Messages at QoS 0 that full queues had no room for.",
        ConstCounter::new,
        ("kind", &edge.dropped),
    )?;
    page.one(
        "tidings_sessions_throttled",
        "Times that a session was slowed down for sending too fast.",
        ConstCounter::new(edge.throttled),
    )
}

fn kept(page: &mut Page, edge: &Snapshot) -> fmt::Result {
    let sessions = [
        ("connected".to_owned(), edge.sessions_connected),
        ("parked".to_owned(), edge.sessions_parked),
    ];
    page.each(
        "tidings_sessions",
        "Sessions, with a connection or waiting for their client to come back.",
        ConstGauge::new,
        ("state", &sessions),
    )?;
    page.one(
        "tidings_subscriptions",
        "Subscriptions of all sessions.",
        ConstGauge::new(edge.subscriptions),
    )?;
    page.one(
        "tidings_retained_messages",
        "Retained messages.",
        ConstGauge::new(edge.retained_messages),
    )?;
    page.one(
        "tidings_retained_bytes",
        "Bytes of the retained messages.",
        ConstGauge::new(edge.retained_bytes),
    )
}

fn link(page: &mut Page, edge: &Snapshot) -> fmt::Result {
    page.one(
        "tidings_bridges",
        "Bridges that have joined; in one process with the broker there is always one.",
        ConstGauge::new(edge.bridges),
    )?;
    page.one(
        "tidings_uplink_queue_bytes",
        "Bytes of all sessions that wait for their way to a bridge.",
        ConstGauge::new(edge.uplink_queue_bytes),
    )?;
    page.one(
        "tidings_uplink_frames_ahead",
        "Frames that bridges are not done with, of all bridges together.",
        ConstGauge::new(edge.frames_ahead),
    )?;
    if let Some(router) = edge.router {
        page.one(
            "tidings_router_healthy",
            "1 if the router works, 0 while it is replaced.",
            ConstGauge::new(u64::from(router.is_healthy)),
        )?;
        page.one(
            "tidings_router_restarts",
            "Routers that had to be replaced.",
            ConstCounter::new(router.restarts),
        )?;
    }
    Ok(())
}

fn inside(page: &mut Page, figures: &OfService) -> fmt::Result {
    page.one(
        "tidings_pipeline_stalled",
        "1 while the database does not take what is to be stored.",
        ConstGauge::new(u64::from(figures.is_stalled)),
    )?;
    page.one(
        "tidings_pipeline_jobs_waiting",
        "Commands from HTTP that wait for the pipeline.",
        ConstGauge::new(figures.jobs_waiting as u64),
    )?;
    page.one(
        "tidings_sessions_served",
        "Sessions whose commands are executed here, wherever their clients are connected.",
        ConstGauge::new(figures.sessions as u64),
    )?;
    page.each(
        "tidings_commands_rate_limited",
        "Commands that were refused since their users gave too many.",
        ConstCounter::new,
        ("limit", &figures.rate_limited),
    )?;
    page.each(
        "tidings_words_found",
        "Commands in which a word of the operator's list was found.",
        ConstCounter::new,
        ("action", &figures.words_found),
    )?;
    page.one(
        "tidings_search_behind_seconds",
        "Age of the oldest message that search does not find yet.",
        ConstGauge::new(figures.search_behind.as_secs_f64()),
    )?;
    figures.redis.map_or(Ok(()), |redis| shared(page, redis))?;
    figures
        .recent
        .map_or(Ok(()), |recent| kept_in_redis(page, recent))?;
    figures.bus.map_or(Ok(()), |bus| told(page, bus))
}

fn process(page: &mut Page, figures: &Figures) -> fmt::Result {
    let process = &figures.process;
    page.one(
        "tidings_uptime_seconds",
        "Time since the start.",
        ConstGauge::new(figures.uptime.as_secs_f64()),
    )?;
    // The names that all Prometheus clients use.
    if let Some(bytes) = process.resident_bytes {
        page.one(
            "process_resident_memory_bytes",
            "Resident memory size in bytes.",
            ConstGauge::new(bytes),
        )?;
    }
    if let Some(fds) = process.open_fds {
        page.one(
            "process_open_fds",
            "Number of open file descriptors.",
            ConstGauge::new(fds),
        )?;
    }
    Ok(())
}

/// One node at a time does it.
fn old(page: &mut Page, archiver: archiver::Figures) -> fmt::Result {
    let messages = [
        ("moved".to_owned(), archiver.moved),
        ("deleted".to_owned(), archiver.dropped),
    ];
    page.each(
        "tidings_archive_messages",
        "Messages that this node has moved to files, or deleted for their age.",
        ConstCounter::new,
        ("what", &messages),
    )?;
    let files = [
        ("written".to_owned(), archiver.written),
        ("deleted".to_owned(), archiver.removed),
    ];
    page.each(
        "tidings_archive_files",
        "Files of messages that this node has written, or deleted since nobody needs them.",
        ConstCounter::new,
        ("what", &files),
    )?;
    page.one(
        "tidings_archive_written_bytes",
        "Bytes of the files that this node has written.",
        ConstCounter::new(archiver.bytes),
    )?;
    page.one(
        "tidings_archive_failures",
        "Times that the database or the object store has kept this node from it.",
        ConstCounter::new(archiver.failures),
    )?;
    if let Some(walked_at) = archiver.walked_at {
        page.one(
            "tidings_archive_last_run_timestamp_seconds",
            "When this node had looked at all conversations last.",
            ConstGauge::new(walked_at.as_secs()),
        )?;
    }
    Ok(())
}

fn shared(page: &mut Page, redis: redis::Figures) -> fmt::Result {
    page.one(
        "tidings_redis_available",
        "1 if Redis answers, 0 while this node does without it.",
        ConstGauge::new(u64::from(redis.is_there)),
    )?;
    page.one(
        "tidings_redis_failures",
        "Commands to Redis that failed or took too long.",
        ConstCounter::new(redis.failures),
    )?;
    page.one(
        "tidings_redis_openings",
        "Times that this node has stopped asking Redis.",
        ConstCounter::new(redis.openings),
    )
}

fn kept_in_redis(page: &mut Page, [pages, lists]: [recent::Figures; 2]) -> fmt::Result {
    for (name, help, figures) in [
        (
            "tidings_recent_pages",
            "Pages of history that were looked for in Redis, by what came of it.",
            pages,
        ),
        (
            "tidings_recent_lists",
            "Lists of conversations that were looked for in Redis, by what came of it.",
            lists,
        ),
    ] {
        let outcomes = labelled([
            ("hit", figures.hits),
            ("miss", figures.misses),
            ("ignored", figures.ignored),
            ("unanswered", figures.unanswered),
        ]);
        page.each(name, help, ConstCounter::new, ("outcome", &outcomes))?;
    }
    let kept = labelled([("pages", pages.kept), ("lists", lists.kept)]);
    page.each(
        "tidings_recent_kept",
        "What was put into Redis for them.",
        ConstCounter::new,
        ("what", &kept),
    )
}

fn told(page: &mut Page, bus: cluster::Figures) -> fmt::Result {
    page.one(
        "tidings_bus_up",
        "1 if this node hears what it says to others, 0 while the database is asked instead.",
        ConstGauge::new(u64::from(bus.is_up)),
    )?;
    page.one(
        "tidings_bus_nodes",
        "Other nodes that are heard.",
        ConstGauge::new(bus.nodes),
    )?;
    page.one(
        "tidings_bus_lag_seconds",
        "How long a frame takes to come back to the node that says it.",
        ConstGauge::new(bus.lag.as_secs_f64()),
    )?;
    let frames = [
        ("sent".to_owned(), bus.frames_sent),
        ("heard".to_owned(), bus.frames_heard),
        ("garbage".to_owned(), bus.garbage),
    ];
    page.each(
        "tidings_bus_frames",
        "Frames that nodes have said to each other, heartbeats included; garbage was said by nobody.",
        ConstCounter::new,
        ("what", &frames),
    )?;
    let notices = [
        ("told".to_owned(), bus.told),
        ("untold".to_owned(), bus.untold),
        ("heard".to_owned(), bus.heard),
        ("unheard".to_owned(), bus.unheard),
    ];
    page.each(
        "tidings_bus_notices",
        "What nodes have told each other; for what is untold, or unheard, there was no room.",
        ConstCounter::new,
        ("what", &notices),
    )?;
    page.one(
        "tidings_bus_missed",
        "Times that something which others have told may not have arrived.",
        ConstCounter::new(bus.missed),
    )?;
    page.one(
        "tidings_bus_put_behind",
        "Times that a user's sessions had to catch up with a message that was not heard in time.",
        ConstCounter::new(bus.put_behind),
    )
}

/// Takes one metric after another. Counters get their `_total` from the encoder.
struct Page<'a>(DescriptorEncoder<'a>);

impl Page<'_> {
    fn one<M: EncodeMetric>(&mut self, name: &str, help: &str, metric: M) -> fmt::Result {
        let kind = metric.metric_type();
        metric.encode(self.0.encode_descriptor(name, help, None, kind)?)
    }

    /// A metric for each value of a label.
    fn each<M: EncodeMetric + TypedMetric>(
        &mut self,
        name: &str,
        help: &str,
        metric: fn(u64) -> M,
        (label, counts): (&'static str, &[(String, u64)]),
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, M::TYPE)?;
        for (value, count) in counts {
            let labels = [(label, value.as_str())];
            metric(*count).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_networks_that_are_named_are_let_in() {
        let networks: Vec<IpNet> = ["10.0.0.0/8", "::1/128"]
            .map(|network| network.parse().unwrap())
            .to_vec();
        for (address, expected) in [
            ("10.1.2.3", true),
            ("::ffff:10.1.2.3", true),
            ("::1", true),
            ("11.0.0.1", false),
            ("127.0.0.1", false),
            ("::2", false),
        ] {
            let address = address.parse().unwrap();
            assert_eq!(is_in(&networks, Some(address)), expected, "{address}");
            assert!(!is_in(&[], Some(address)));
        }
        let everywhere = ["0.0.0.0/0".parse().unwrap(), "::/0".parse().unwrap()];
        assert!(!is_in(&everywhere, None));
    }

    #[test]
    fn the_system_tells_our_memory() {
        let resident = Process::now().resident_bytes.unwrap();
        assert!(resident > 100 * 1024);
        for broken in ["", "VmRSS:", "VmRSS: many kB", "VmRSS: 1 MB"] {
            assert_eq!(resident_bytes(broken), None, "{broken}");
        }
    }

    #[test]
    fn the_page_has_a_line_for_each_number() {
        let edge = Snapshot {
            connections: vec![("mqtt".to_owned(), 2), ("wss".to_owned(), 0)],
            closed: vec![("by_client".to_owned(), 7)],
            packets_received: vec![("publish".to_owned(), 9)],
            bytes_sent: vec![("publish".to_owned(), 1000)],
            sessions_parked: 3,
            bridges: 2,
            router: Some(broker::RouterState {
                is_healthy: true,
                restarts: 0,
            }),
            ..Snapshot::default()
        };
        let text = text(Figures {
            edge: Some(edge),
            is_joined: Some(true),
            uptime: Duration::from_millis(1500),
            service: Some(OfService {
                is_stalled: true,
                jobs_waiting: 4,
                sessions: 8,
                search_behind: Duration::from_millis(2500),
                archiver: archiver::Figures {
                    moved: 1000,
                    walked_at: Some(Duration::from_secs(86_400)),
                    ..archiver::Figures::default()
                },
                rate_limited: labelled([("expensive", 5)]),
                words_found: labelled([("mask", 6)]),
                redis: Some(redis::Figures {
                    is_there: false,
                    failures: 7,
                    openings: 1,
                }),
                recent: Some([(9, 0), (0, 2)].map(|(hits, kept)| recent::Figures {
                    hits,
                    kept,
                    ..recent::Figures::default()
                })),
                bus: Some(cluster::Figures {
                    is_up: true,
                    untold: 3,
                    lag: Duration::from_micros(500),
                    ..cluster::Figures::default()
                }),
            }),
            process: Process {
                resident_bytes: Some(4096),
                open_fds: None,
            },
        });
        let text = text.unwrap();
        for line in [
            "# HELP tidings_connections Clients that are connected.",
            "# TYPE tidings_connections gauge",
            "tidings_connections{listener=\"mqtt\"} 2",
            "tidings_connections{listener=\"wss\"} 0",
            "# TYPE tidings_connections_closed counter",
            "tidings_connections_closed_total{reason=\"by_client\"} 7",
            "tidings_received_packets_total{type=\"publish\"} 9",
            "tidings_sent_bytes_total{type=\"publish\"} 1000",
            "tidings_sessions{state=\"parked\"} 3",
            "tidings_bridges 2",
            "tidings_broker_joined 1",
            "tidings_router_healthy 1",
            "tidings_router_restarts_total 0",
            "tidings_pipeline_stalled 1",
            "tidings_pipeline_jobs_waiting 4",
            "tidings_sessions_served 8",
            "tidings_search_behind_seconds 2.5",
            "tidings_archive_messages_total{what=\"moved\"} 1000",
            "tidings_archive_files_total{what=\"deleted\"} 0",
            "tidings_archive_last_run_timestamp_seconds 86400",
            "tidings_commands_rate_limited_total{limit=\"expensive\"} 5",
            "tidings_words_found_total{action=\"mask\"} 6",
            "tidings_redis_available 0",
            "tidings_redis_failures_total 7",
            "tidings_redis_openings_total 1",
            "tidings_recent_pages_total{outcome=\"hit\"} 9",
            "tidings_recent_lists_total{outcome=\"hit\"} 0",
            "tidings_recent_kept_total{what=\"lists\"} 2",
            "tidings_bus_up 1",
            "tidings_bus_lag_seconds 0.0005",
            "tidings_bus_notices_total{what=\"untold\"} 3",
            "tidings_uptime_seconds 1.5",
            "process_resident_memory_bytes 4096",
            "# EOF",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}:\n{text}");
        }
        assert!(!text.contains("process_open_fds"));
    }
}
