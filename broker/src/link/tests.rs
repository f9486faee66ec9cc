use std::convert::Infallible;
use std::fmt::Debug;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc;
use std::time::Duration;

use schema::link::{Answer, Gone, from_edge, to_edge};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::router::LOG_SEGMENT_BYTES;
use super::*;

fn gone(session: u64) -> FromEdge {
    FromEdge {
        item: Some(from_edge::Item::Gone(Gone { session })),
    }
}

fn answer(session: u64) -> ToEdge {
    let answer = Answer {
        session,
        ..Default::default()
    };
    ToEdge {
        item: Some(to_edge::Item::Answer(answer)),
    }
}

fn start() -> (EdgeLink, BridgeLink, RouterHealth) {
    let (edge, bridge, watch) = start_router().unwrap();
    let health = watch.health();
    tokio::spawn(watch.run());
    (edge, bridge, health)
}

/// Frames larger than a segment of the router's log.
#[tokio::test]
async fn large_frames_arrive() {
    let (edge, bridge, _) = start();
    let (mut edge_sender, mut edge_receiver) = (edge.sender, edge.receiver);
    let (mut sender, mut receiver) = (bridge.sender, bridge.receiver);
    let large = |number: u32| FromEdge {
        item: Some(from_edge::Item::Uplink(schema::link::Uplink {
            token: number,
            payload: vec![0; LOG_SEGMENT_BYTES + 1].into(),
            ..Default::default()
        })),
    };
    let send = async {
        for number in 0..40 {
            edge_sender.send(vec![large(number)]).await.unwrap();
        }
    };
    let receive = async {
        for expected in 0..40 {
            let (number, items) = receiver.recv().await.unwrap();
            assert!(items == [large(expected)]);
            sender.flow().done(number);
            sender.report().await.unwrap();
        }
    };
    let reports = async { while edge_receiver.recv().await.is_ok() {} };
    tokio::select! {
        _ = async { tokio::join!(send, receive) } => {}
        () = reports => {}
    }
}

/// The receiver is slow for far more frames than the window: all arrive, in order.
#[tokio::test]
async fn a_slow_receiver_misses_nothing() {
    let (edge, bridge, _) = start();
    let (mut edge_sender, mut edge_receiver) = (edge.sender, edge.receiver);
    let frames = 10 * WINDOW;
    let send = async {
        for session in 0..frames {
            edge_sender.send(vec![gone(session)]).await.unwrap();
        }
    };
    let (mut sender, mut receiver) = (bridge.sender, bridge.receiver);
    let receive = async {
        for expected in 0..frames {
            let (number, items) = receiver.recv().await.unwrap();
            assert_eq!(items, [gone(expected)]);
            sender.flow().done(number);
            sender.report().await.unwrap();
        }
    };
    let reports = async {
        loop {
            edge_receiver.recv().await.unwrap();
        }
    };
    tokio::select! {
        _ = async { tokio::join!(send, receive) } => {}
        () = reports => {}
    }
}

// === What a dead router must not do

/// A publish whose topic's first character is not ASCII: rumqttd's thread panics.
const DEADLY_TOPIC: &str = "é/1";

/// Blocks the thread that drops it, until the other end of the channel is gone.
struct Blocker(mpsc::Receiver<()>);

impl AsRef<[u8]> for Blocker {
    fn as_ref(&self) -> &[u8] {
        b"block"
    }
}

impl Drop for Blocker {
    fn drop(&mut self) {
        let _ = self.0.recv();
    }
}

/// Sends one item after another, each with the next number, and kills the router whenever asked.
async fn send_numbers<F: Frame>(
    mut sender: FrameSender<F>,
    item: fn(u64) -> F::Item,
    is_to_kill: Arc<AtomicBool>,
) -> Result<Infallible, LinkClosed> {
    for number in 0.. {
        if is_to_kill.swap(false, Ordering::AcqRel) {
            sender.lines.publish(DEADLY_TOPIC, Bytes::new());
        }
        sender.send(vec![item(number)]).await?;
        assert!(sender.ahead.len() as u64 <= WINDOW);
        // Lets the others run, and now and then pauses.
        match number % 64 {
            0 => sleep(Duration::from_millis(1)).await,
            _ => tokio::task::yield_now().await,
        }
    }
    unreachable!("there are more numbers than time")
}

/// Checks that the numbers come in their order; notes how many.
async fn receive_numbers<F: Frame<Item: PartialEq + Debug>>(
    mut receiver: FrameReceiver<F>,
    item: fn(u64) -> F::Item,
    received: Arc<AtomicU64>,
) -> Result<Infallible, LinkClosed> {
    loop {
        let (number, items) = receiver.recv().await?;
        assert_eq!(items, [item(number - 1)]);
        receiver.flow.done(number);
        received.store(number, Ordering::Release);
    }
}

/// Frames flow both ways while routers die.
struct Traffic {
    tasks: JoinSet<Result<Infallible, LinkClosed>>,
    health: RouterHealth,
    is_edge_to_kill: Arc<AtomicBool>,
    is_bridge_to_kill: Arc<AtomicBool>,
    received: [Arc<AtomicU64>; 2],
}

impl Traffic {
    fn new() -> Self {
        let (edge, bridge, watch) = start_router().unwrap();
        let health = watch.health();
        let (is_edge_to_kill, is_bridge_to_kill) = (Arc::default(), Arc::default());
        let received: [Arc<AtomicU64>; 2] = Default::default();
        let mut tasks = JoinSet::new();
        tasks.spawn(async { Ok(watch.run().await) });
        tasks.spawn(send_numbers(
            edge.sender,
            gone,
            Arc::clone(&is_edge_to_kill),
        ));
        tasks.spawn(send_numbers(
            bridge.sender,
            answer,
            Arc::clone(&is_bridge_to_kill),
        ));
        tasks.spawn(receive_numbers(bridge.receiver, gone, received[0].clone()));
        tasks.spawn(receive_numbers(edge.receiver, answer, received[1].clone()));
        Traffic {
            tasks,
            health,
            is_edge_to_kill,
            is_bridge_to_kill,
            received,
        }
    }

    /// Waits, but no longer than 5 s, and only while nothing has failed.
    async fn wait_until(&mut self, what: &str, condition: impl Fn(&RouterHealth) -> bool) {
        let health = &self.health;
        let wait = async {
            while !condition(health) {
                sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::select! {
            waited = timeout(Duration::from_secs(5), wait) => waited.expect(what),
            failed = self.tasks.join_next() => panic!("{failed:?}"),
        }
    }

    async fn wait_for_frames(&mut self) {
        for received in self.received.clone() {
            let enough = received.load(Ordering::Acquire) + 3 * WINDOW;
            let has_enough = |_: &_| received.load(Ordering::Acquire) >= enough;
            self.wait_until("frames", has_enough).await;
        }
    }
}

async fn check_router_killed_again_and_again() {
    let mut traffic = Traffic::new();
    for restarts in 1..=6 {
        traffic.wait_for_frames().await;
        assert!(traffic.health.is_healthy());
        let is_to_kill = if restarts % 2 == 0 {
            &traffic.is_edge_to_kill
        } else {
            &traffic.is_bridge_to_kill
        };
        is_to_kill.store(true, Ordering::Release);
        let is_noticed = |health: &RouterHealth| health.restarts() == restarts;
        let noticing = traffic.wait_until("the death is noticed", is_noticed);
        timeout(Duration::from_secs(1), noticing).await.unwrap();
        assert!(!traffic.health.is_healthy());
        // Frames need not wait until the new router is trusted.
        traffic.wait_for_frames().await;
        traffic
            .wait_until("another router answers", RouterHealth::is_healthy)
            .await;
    }
    assert_eq!(traffic.health.restarts(), 6);
}

#[tokio::test]
async fn no_frame_is_lost_or_doubled_when_routers_die() {
    check_router_killed_again_and_again().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_frame_is_lost_or_doubled_when_routers_die_in_parallel() {
    check_router_killed_again_and_again().await;
}

/// A router that lives, holds what it was sent, and does nothing.
#[tokio::test]
async fn a_router_that_hangs_is_replaced() {
    let (mut edge, mut bridge, health) = start();
    edge.sender.send(vec![gone(1)]).await.unwrap();
    assert_eq!(bridge.receiver.recv().await.unwrap().1, [gone(1)]);

    let (release, blocked) = mpsc::channel();
    let blocker = Bytes::from_owner(Blocker(blocked));
    edge.sender.lines.publish("nobody/listens", blocker);
    for session in 2..10 {
        edge.sender.send(vec![gone(session)]).await.unwrap();
    }
    let send_again = async {
        loop {
            edge.sender.flow.woken().await;
            edge.sender.report().await.unwrap();
        }
    };
    let receive = async {
        let (number, items) = bridge.receiver.recv().await.unwrap();
        assert_eq!((number, items), (2, vec![gone(2)]));
        assert_eq!(health.restarts(), 1);
        // The old router comes back, with the same frames; nobody hears it.
        drop(release);
        for session in 3..10 {
            assert_eq!(bridge.receiver.recv().await.unwrap().1, [gone(session)]);
        }
        while !health.is_healthy() {
            sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::select! {
        received = timeout(Duration::from_secs(5), receive) => received.unwrap(),
        () = send_again => {}
    }
}

/// A peer that has been told nothing new since is told again how far we are.
#[tokio::test]
async fn a_report_that_dies_with_the_router_is_repeated() {
    let (mut edge, mut bridge, _) = start();
    for session in 1..=WINDOW {
        edge.sender.send(vec![gone(session)]).await.unwrap();
    }
    for _ in 0..WINDOW {
        let (number, _) = bridge.receiver.recv().await.unwrap();
        bridge.sender.flow.done(number);
    }
    bridge.sender.lines.publish(DEADLY_TOPIC, Bytes::new());
    bridge.sender.report().await.unwrap();
    assert!(!bridge.sender.flow.is_report_due());

    let bridge_sends = async {
        loop {
            bridge.sender.flow.woken().await;
            bridge.sender.report().await.unwrap();
        }
    };
    let edge_receives = async { edge.receiver.recv().await.map(drop) };
    let one_more = timeout(Duration::from_secs(5), edge.sender.send(vec![gone(0)]));
    tokio::select! {
        sent = one_more => sent.unwrap().unwrap(),
        () = bridge_sends => {}
        received = edge_receives => received.unwrap(),
    }
}

#[tokio::test]
async fn without_its_watch_the_link_ends() {
    let (mut edge, bridge, watch) = start_router().unwrap();
    let running = tokio::spawn(watch.run());
    running.abort();
    let mut receiver = bridge.receiver;
    let ended = timeout(Duration::from_secs(5), receiver.recv()).await;
    assert!(matches!(ended.unwrap(), Err(LinkClosed::Ended)));
    let ended = edge.sender.send(vec![gone(1)]).await;
    assert!(matches!(ended, Err(LinkClosed::Ended)));
}

/// A peer that is done with a single frame says so only when it is urged.
#[tokio::test]
async fn an_urged_peer_says_that_it_is_done() {
    let (edge, bridge, _) = start();
    let (mut edge_sender, mut edge_receiver) = (edge.sender, edge.receiver);
    let (mut sender, mut receiver) = (bridge.sender, bridge.receiver);
    let flow = sender.flow().clone();
    sender.send(vec![ToEdge::default()]).await.unwrap();
    let number = sender.urge().await.unwrap();
    let edge = async {
        let flow = edge_sender.flow().clone();
        loop {
            let (number, _) = edge_receiver.recv().await.unwrap();
            flow.done(number);
            edge_sender.report().await.unwrap();
        }
    };
    let told = async {
        while flow.peer_done() < number {
            flow.woken().await;
        }
    };
    tokio::select! {
        () = told => {}
        () = edge => {}
        _ = receiver.recv() => {}
    }
    assert!(flow.peer_done() >= number && number > 0);
}
