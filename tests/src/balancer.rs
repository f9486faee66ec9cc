//! A TCP load balancer as an operator would put before several nodes: it knows nothing of MQTT, gives new connections in
//! turn to the nodes that are ready by their own word, and carries bytes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::wait::eventually;

/// Time between two questions to a node whether it is ready.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(100);
/// A node that has not answered by then is not ready.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);

/// A running balancer; it ends with all its connections when dropped.
pub struct Balancer {
    mqtt: SocketAddr,
    http: SocketAddr,
    nodes: Arc<[Node]>,
    _tasks: JoinSet<()>,
}

/// One of the servers behind it.
#[derive(Debug)]
struct Node {
    mqtt: SocketAddr,
    http: SocketAddr,
    is_ready: AtomicBool,
}

/// Which of the two ports.
#[derive(Clone, Copy)]
enum Door {
    Mqtt,
    Http,
}

// === impl Balancer ===

impl Balancer {
    /// Opens one before nodes with these addresses for MQTT and HTTP.
    pub async fn before(nodes: impl IntoIterator<Item = (SocketAddr, SocketAddr)>) -> Result<Self> {
        let nodes: Arc<[Node]> = nodes
            .into_iter()
            .map(|(mqtt, http)| Node {
                mqtt,
                http,
                is_ready: AtomicBool::new(false),
            })
            .collect();
        let mut tasks = JoinSet::new();
        for place in 0..nodes.len() {
            tasks.spawn(watch(nodes.clone(), place));
        }
        let mut addresses = Vec::new();
        for door in [Door::Mqtt, Door::Http] {
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            addresses.push(listener.local_addr()?);
            tasks.spawn(balance(listener, nodes.clone(), door));
        }
        Ok(Balancer {
            mqtt: addresses[0],
            http: addresses[1],
            nodes,
            _tasks: tasks,
        })
    }

    /// Where MQTT is.
    pub fn mqtt(&self) -> SocketAddr {
        self.mqtt
    }

    /// Where the HTTP API is.
    pub fn http(&self) -> SocketAddr {
        self.http
    }

    /// Whether it gives connections to this node, counted from 0.
    pub fn is_using(&self, node: usize) -> bool {
        self.nodes[node].is_ready.load(Ordering::Relaxed)
    }

    /// Waits until it does, or does no longer.
    pub async fn until_using(&self, node: usize, wanted: bool) -> Result<()> {
        let what = format!("the balancer uses node {node}: {wanted}");
        eventually(&what, async || Ok(self.is_using(node) == wanted)).await
    }
}

impl Node {
    fn address(&self, door: Door) -> SocketAddr {
        match door {
            Door::Mqtt => self.mqtt,
            Door::Http => self.http,
        }
    }
}

/// Asks a node again and again.
async fn watch(nodes: Arc<[Node]>, place: usize) {
    let node = &nodes[place];
    loop {
        let answer = timeout(ANSWER_WITHIN, is_ready(node.http)).await;
        let is_ready = matches!(answer, Ok(Ok(true)));
        node.is_ready.store(is_ready, Ordering::Relaxed);
        sleep(ASK_AGAIN_AFTER).await;
    }
}

async fn is_ready(http: SocketAddr) -> Result<bool> {
    const OK: &[u8] = b"HTTP/1.1 200 ";
    let mut stream = TcpStream::connect(http).await?;
    let request = format!("GET /readyz HTTP/1.1\r\nhost: {http}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut status = [0; OK.len()];
    stream.read_exact(&mut status).await?;
    Ok(status == OK)
}

async fn balance(listener: TcpListener, nodes: Arc<[Node]>, door: Door) {
    let turn = Arc::new(AtomicUsize::new(0));
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        let (nodes, turn) = (nodes.clone(), turn.clone());
        connections.spawn(async move {
            // How it ends is for the client to see.
            let _ = carry(client, &nodes, door, &turn).await;
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn carry(
    mut client: TcpStream,
    nodes: &[Node],
    door: Door,
    turn: &AtomicUsize,
) -> Result<()> {
    client.set_nodelay(true)?;
    // A node that can't be reached is one that the balancer has not noticed yet: the next one, then.
    for _ in nodes {
        let place = next(nodes, turn).context("no node is ready")?;
        if let Ok(mut server) = TcpStream::connect(nodes[place].address(door)).await {
            server.set_nodelay(true)?;
            if copy_bidirectional(&mut client, &mut server).await.is_err() {
                client.set_zero_linger()?;
            }
            return Ok(());
        }
    }
    Ok(())
}

/// The next node in turn that is ready.
fn next(nodes: &[Node], turn: &AtomicUsize) -> Option<usize> {
    let first = turn.fetch_add(1, Ordering::Relaxed);
    let places = (0..nodes.len()).map(|step| (first + step) % nodes.len());
    let mut ready = places.filter(|place| nodes[*place].is_ready.load(Ordering::Relaxed));
    ready.next()
}
