//! A TCP port that leads to a server, and that can be cut, blocked and slowed down: the network between a node and what it
//! needs, in the hands of a test.

mod commits;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep_until};

use commits::{Commits, Tap};

/// Bytes that are read at once.
const CHUNK_BYTES: usize = 16 * 1024;
/// Chunks that may be under way in one direction of a connection.
const CHUNKS_MAX: usize = 64;

/// An open proxy; it ends with all its connections when dropped.
pub struct Proxy {
    address: SocketAddr,
    route: watch::Sender<Route>,
    commits: Arc<Commits>,
    task: JoinHandle<()>,
}

/// Where connections lead, and what becomes of their bytes.
#[derive(Clone, Copy, Debug)]
struct Route {
    target: SocketAddr,
    state: State,
    /// Grows with each reset: connections of an earlier one are reset.
    resets: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Bytes pass after this time.
    Open { latency: Duration },
    /// Nothing passes, and nobody is told.
    Stalled,
    /// Connections are reset.
    Cut,
}

// === impl Proxy ===

impl Proxy {
    /// Opens one to `target`.
    pub async fn to(target: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (route, routes) = watch::channel(Route {
            target,
            state: State::Open {
                latency: Duration::ZERO,
            },
            resets: 0,
        });
        let commits = Arc::new(Commits::default());
        let tap = commits.clone();
        let task = tokio::spawn(async move {
            // They end with this task.
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let tap = Tap::new(tap.clone());
                connections.spawn(carry(client, routes.clone(), tap));
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Proxy {
            address,
            route,
            commits,
            task,
        })
    }

    /// The entrance.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Resets all connections, and new ones until [`Proxy::heal`].
    pub fn cut(&self) {
        self.change(|route| {
            route.state = State::Cut;
            route.resets += 1;
        });
    }

    /// Resets all connections; new ones are let through.
    pub fn reset(&self) {
        self.change(|route| route.resets += 1);
    }

    /// A black hole: connections are accepted and stay, and nothing passes until [`Proxy::heal`].
    pub fn stall(&self) {
        self.change(|route| route.state = State::Stalled);
    }

    /// All that is said takes so long, each way.
    pub fn slow_down(&self, latency: Duration) {
        self.change(|route| route.state = State::Open { latency });
    }

    /// All is well again. What was stalled goes on where it was.
    pub fn heal(&self) {
        self.slow_down(Duration::ZERO);
    }

    /// New connections lead to another server; those that there are, are reset.
    pub fn lead_to(&self, target: SocketAddr) {
        self.change(|route| {
            route.target = target;
            route.resets += 1;
        });
    }

    /// Resets the connection with the next transaction in which PostgreSQL is told this word, when it has answered to the
    /// COMMIT; the answer is not passed on.
    pub fn swallow_commit_of(&self, word: &str) {
        self.commits.watch_for(word);
    }

    /// How often that has happened.
    pub fn commits_swallowed(&self) -> u32 {
        self.commits.swallowed()
    }

    fn change(&self, change: impl FnOnce(&mut Route)) {
        self.route.send_modify(change);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Carries one connection's bytes until both sides have ended, or it is reset.
async fn carry(mut client: TcpStream, mut route: watch::Receiver<Route>, tap: Tap) {
    let begun = *route.borrow_and_update();
    let mut server = None;
    let is_over = |route: &Route| route.resets > begun.resets || route.state == State::Cut;
    let carrying = carry_both_ways(&mut client, &mut server, route.clone(), &tap);
    let is_reset = tokio::select! {
        carried = carrying => carried.is_err(),
        _ = route.wait_for(is_over) => true,
    };
    if is_reset {
        for stream in [Some(client), server].into_iter().flatten() {
            let _ = stream.set_zero_linger();
        }
    }
}

/// `server` stays with the caller, who may want to reset it.
async fn carry_both_ways(
    client: &mut TcpStream,
    server: &mut Option<TcpStream>,
    mut route: watch::Receiver<Route>,
    tap: &Tap,
) -> Result<()> {
    client.set_nodelay(true)?;
    let target = route
        .wait_for(|route| route.state != State::Stalled)
        .await?
        .target;
    let server = server.insert(TcpStream::connect(target).await?);
    server.set_nodelay(true)?;
    let (from_client, to_client) = client.split();
    let (from_server, to_server) = server.split();
    tokio::try_join!(
        carry_one_way(from_client, to_server, route.clone(), |bytes| {
            tap.said(bytes);
            Ok(())
        }),
        carry_one_way(from_server, to_client, route, |_| tap.answered()),
    )?;
    Ok(())
}

async fn carry_one_way(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    mut route: watch::Receiver<Route>,
    tap: impl Fn(&[u8]) -> Result<()>,
) -> Result<()> {
    let (chunks, mut due) = mpsc::channel(CHUNKS_MAX);
    let reading = async move {
        let mut buffer = vec![0; CHUNK_BYTES];
        loop {
            let length = from.read(&mut buffer).await?;
            // An end is told like bytes, and in its turn.
            let _ = chunks
                .send((Instant::now(), buffer[..length].to_vec()))
                .await;
            if length == 0 {
                return anyhow::Ok(());
            }
        }
    };
    let writing = async {
        while let Some((read_at, chunk)) = due.recv().await {
            sleep_until(read_at + latency(&mut route).await?).await;
            latency(&mut route).await?;
            if chunk.is_empty() {
                break;
            }
            tap(&chunk)?;
            to.write_all(&chunk).await?;
        }
        Ok(to.shutdown().await?)
    };
    tokio::try_join!(reading, writing)?;
    Ok(())
}

/// How long bytes take; waits while nothing passes.
async fn latency(route: &mut watch::Receiver<Route>) -> Result<Duration> {
    loop {
        let open = |route: &Route| matches!(route.state, State::Open { .. });
        if let State::Open { latency } = route.wait_for(open).await?.state {
            return Ok(latency);
        }
    }
}

#[cfg(test)]
mod tests {
    use anyhow::ensure;
    use tokio::time::timeout;

    use super::*;

    /// Long enough for anything on the loopback to arrive.
    const MOMENT: Duration = Duration::from_millis(100);

    /// A server that says everything again.
    async fn echo() -> Result<SocketAddr> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = stream.split();
                    let _ = tokio::io::copy(&mut from, &mut to).await;
                });
            }
        });
        Ok(address)
    }

    async fn say(stream: &mut TcpStream) -> Result<()> {
        stream.write_all(b"x").await?;
        let mut answer = [0];
        stream.read_exact(&mut answer).await?;
        ensure!(answer == *b"x");
        Ok(())
    }

    #[tokio::test]
    async fn what_is_cut_is_reset_until_it_is_healed() {
        let proxy = Proxy::to(echo().await.unwrap()).await.unwrap();
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        say(&mut stream).await.unwrap();
        proxy.cut();
        say(&mut stream).await.unwrap_err();
        let mut refused = TcpStream::connect(proxy.address()).await.unwrap();
        say(&mut refused).await.unwrap_err();
        proxy.heal();
        let mut again = TcpStream::connect(proxy.address()).await.unwrap();
        say(&mut again).await.unwrap();
        proxy.reset();
        say(&mut again).await.unwrap_err();
    }

    #[tokio::test]
    async fn what_is_stalled_goes_on() {
        let proxy = Proxy::to(echo().await.unwrap()).await.unwrap();
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        say(&mut stream).await.unwrap();
        proxy.stall();
        let mut waiting = TcpStream::connect(proxy.address()).await.unwrap();
        stream.write_all(b"x").await.unwrap();
        waiting.write_all(b"x").await.unwrap();
        let mut answer = [0];
        for stream in [&mut stream, &mut waiting] {
            timeout(MOMENT, stream.read(&mut answer)).await.unwrap_err();
        }
        proxy.heal();
        for stream in [&mut stream, &mut waiting] {
            stream.read_exact(&mut answer).await.unwrap();
            assert_eq!(answer, *b"x");
        }
    }

    #[tokio::test]
    async fn what_is_slow_takes_its_time_each_way() {
        let proxy = Proxy::to(echo().await.unwrap()).await.unwrap();
        proxy.slow_down(MOMENT);
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        let started = Instant::now();
        say(&mut stream).await.unwrap();
        assert!(started.elapsed() >= MOMENT * 2);
    }

    #[tokio::test]
    async fn a_commit_has_no_answer() {
        let proxy = Proxy::to(echo().await.unwrap()).await.unwrap();
        proxy.swallow_commit_of("wanted");
        let mut other = TcpStream::connect(proxy.address()).await.unwrap();
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        let mut answer = [0; 64];
        for stream in [&mut other, &mut stream] {
            stream.write_all(b"COMMIT").await.unwrap();
            stream.read_exact(&mut answer[..6]).await.unwrap();
        }
        for part in [&b"insert wan"[..], b"ted", b"COM"] {
            stream.write_all(part).await.unwrap();
            stream.read_exact(&mut answer[..part.len()]).await.unwrap();
        }
        assert_eq!(proxy.commits_swallowed(), 0);
        stream.write_all(b"MIT").await.unwrap();
        stream.read_exact(&mut answer[..1]).await.unwrap_err();
        assert_eq!(proxy.commits_swallowed(), 1);
        // Only once.
        other.write_all(b"wanted COMMIT").await.unwrap();
        other.read_exact(&mut answer[..13]).await.unwrap();
    }

    #[tokio::test]
    async fn it_can_lead_elsewhere() {
        let nobody = SocketAddr::from(([127, 0, 0, 1], 1));
        let proxy = Proxy::to(nobody).await.unwrap();
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        say(&mut stream).await.unwrap_err();
        proxy.lead_to(echo().await.unwrap());
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        say(&mut stream).await.unwrap();
    }
}
