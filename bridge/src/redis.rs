//! Redis: what nodes share beside the database, and can do without for a while.
//!
//! One connection carries the commands of all tasks: they are pipelined on it, so that a pool would only add round trips'
//! worth of sockets. Each command has a time limit, and where several in a row fail, or the connection is lost, the
//! circuit is opened: from then on commands fail at once, while the [`Keeper`] connects anew, and closes it again.
//!
//! Whoever asks must be able to go on without the answer. Redis is trusted: what it says is taken as another node's word.

mod breaker;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use redis::aio::{MultiplexedConnection, PubSubStream};
use redis::{
    AsyncConnectionConfig, Client, FromRedisValue, RedisError, RedisResult, Script, ToRedisArgs,
};
use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use crate::settings::RedisOptions;
use breaker::{Breaker, Failure};

/// How long a connection may take to come about, TLS and password included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How often it is looked whether Redis still answers when nobody else asks.
const PING_INTERVAL: Duration = Duration::from_secs(1);
/// Pauses between attempts to connect, while Redis is away.
pub(crate) const BACKOFF: (Duration, Duration) =
    (Duration::from_millis(50), Duration::from_secs(1));

/// See the module's documentation. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Redis {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    client: Client,
    prefix: String,
    timeout: Duration,
    breaker: Mutex<Breaker<MultiplexedConnection>>,
    /// The circuit was opened.
    opened: Notify,
    is_there: watch::Sender<bool>,
    failures: AtomicU64,
    openings: AtomicU64,
}

/// Why Redis did not answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The circuit is open: nothing was asked.
    #[error("Redis is away")]
    Away,
    /// The time limit has passed; what was asked may have been done.
    #[error("Redis did not answer in time")]
    Slow,
    /// It refused, or the connection was lost.
    #[error("Redis failed")]
    Failed(#[from] RedisError),
}

/// How it is with Redis, for who watches.
#[derive(Clone, Copy, Debug)]
pub struct Figures {
    /// The circuit is closed.
    pub is_there: bool,
    /// Commands that failed or took too long, those that were not even tried left out.
    pub failures: u64,
    /// How often the circuit was opened.
    pub openings: u64,
}

impl Redis {
    /// By the settings; nothing is asked before its keeper [runs](Keeper::run).
    ///
    /// # Errors
    /// That the URL is none.
    pub fn new(options: &RedisOptions) -> Result<(Self, Keeper), Error> {
        let redis = Redis {
            shared: Arc::new(Shared {
                client: Client::open(options.url.expose())?,
                prefix: options.prefix.clone(),
                timeout: options.timeout,
                breaker: Mutex::default(),
                opened: Notify::new(),
                is_there: watch::Sender::default(),
                failures: AtomicU64::new(0),
                openings: AtomicU64::new(0),
            }),
        };
        let keeper = Keeper {
            redis: redis.clone(),
        };
        Ok((redis, keeper))
    }

    /// Asks something within the time limit of the settings.
    ///
    /// # Errors
    /// [`Error`]; the caller goes on without.
    pub async fn run<T, F>(&self, ask: impl FnOnce(MultiplexedConnection) -> F) -> Result<T, Error>
    where
        F: Future<Output = RedisResult<T>>,
    {
        let shared = &self.shared;
        let current = shared.breaker.lock().current();
        let (generation, connection) = current.ok_or(Error::Away)?;
        let answer = match timeout(shared.timeout, ask(connection)).await {
            Ok(Ok(answer)) => {
                shared.breaker.lock().succeeded(generation);
                return Ok(answer);
            }
            Ok(Err(error)) => Error::Failed(error),
            Err(_) => Error::Slow,
        };
        shared.note_failure(generation, &answer);
        Err(answer)
    }

    /// Runs a script. All keys must have the same tag (see [`Redis::key`]).
    ///
    /// # Errors
    /// As of [`Redis::run`].
    pub async fn script<T: FromRedisValue>(
        &self,
        script: &Script,
        keys: &[String],
        arguments: impl ToRedisArgs,
    ) -> Result<T, Error> {
        let mut call = script.prepare_invoke();
        for key in keys {
            call.key(key);
        }
        call.arg(arguments);
        self.run(async |mut connection| call.invoke_async(&mut connection).await)
            .await
    }

    /// The key of what is kept of `kind` for `tag` (a user, a conversation). In Redis Cluster all keys of a tag are in the
    /// same place, so that one script can use them.
    #[must_use]
    pub fn key(&self, kind: &str, tag: &str) -> String {
        format!("{}:{kind}:{{{tag}}}", self.shared.prefix)
    }

    /// What channels and keys that belong to nobody are called.
    #[must_use]
    pub fn name(&self, kind: &str) -> String {
        format!("{}:{kind}", self.shared.prefix)
    }

    /// Whether the circuit is closed.
    #[must_use]
    pub fn is_there(&self) -> bool {
        *self.shared.is_there.borrow()
    }

    /// Returns once the circuit is closed.
    pub async fn until_there(&self) {
        let mut is_there = self.shared.is_there.subscribe();
        // Its sender is here.
        let _ = is_there.wait_for(|is_there| *is_there).await;
    }

    /// A connection that hears what is published to a channel.
    ///
    /// # Errors
    /// That Redis can't be reached.
    pub async fn subscribe(&self, channel: &str) -> Result<PubSubStream, Error> {
        let subscribing = async {
            let (mut sink, stream) = self.shared.client.get_async_pubsub().await?.split();
            sink.subscribe(channel).await?;
            Ok(stream)
        };
        let subscribed = timeout(CONNECT_TIMEOUT, subscribing).await;
        subscribed.unwrap_or(Err(Error::Slow))
    }

    /// How it is.
    #[must_use]
    pub fn figures(&self) -> Figures {
        Figures {
            is_there: self.is_there(),
            failures: self.shared.failures.load(Ordering::Relaxed),
            openings: self.shared.openings.load(Ordering::Relaxed),
        }
    }

    async fn connect(&self) -> Result<MultiplexedConnection, Error> {
        // The time limit of a command is ours.
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(None);
        let client = &self.shared.client;
        let connected = client.get_multiplexed_async_connection_with_config(&config);
        let mut connection = connected.await?;
        match timeout(self.shared.timeout, ping(&mut connection)).await {
            Ok(answered) => Ok(answered.map(|()| connection)?),
            Err(_) => Err(Error::Slow),
        }
    }
}

async fn ping(connection: &mut MultiplexedConnection) -> RedisResult<()> {
    redis::cmd("PING").exec_async(connection).await
}

impl Shared {
    fn note_failure(&self, generation: u64, error: &Error) {
        let failure = match error {
            Error::Failed(error) if error.is_unrecoverable_error() => Failure::Lost,
            Error::Failed(error) if !is_for_all(error) => Failure::OfCommand,
            Error::Failed(_) | Error::Slow | Error::Away => Failure::Passing,
        };
        self.failures.fetch_add(1, Ordering::Relaxed);
        if self.breaker.lock().failed(generation, failure) {
            self.openings.fetch_add(1, Ordering::Relaxed);
            self.opened.notify_one();
        }
    }
}

/// Whether other commands would fare no better.
fn is_for_all(error: &RedisError) -> bool {
    use redis::{ErrorKind, ServerErrorKind};
    matches!(
        error.kind(),
        ErrorKind::Io
            | ErrorKind::AuthenticationFailed
            | ErrorKind::Server(
                ServerErrorKind::BusyLoading
                    | ServerErrorKind::ReadOnly
                    | ServerErrorKind::MasterDown
                    | ServerErrorKind::ClusterDown
            )
    )
}

/// Connects, looks whether Redis answers, and connects anew when the circuit was opened.
#[derive(Debug)]
pub struct Keeper {
    redis: Redis,
}

impl Keeper {
    /// As long as it is polled.
    pub async fn run(self) {
        let shared = &self.redis.shared;
        let mut is_first = true;
        loop {
            let connection = self.connect_at_last(is_first).await;
            shared.breaker.lock().close(connection);
            shared.is_there.send_replace(true);
            info!("Redis is there");
            self.watch().await;
            shared.is_there.send_replace(false);
            warn!("Redis is away: nodes do without until it is back");
            is_first = false;
        }
    }

    /// With growing pauses.
    async fn connect_at_last(&self, is_first: bool) -> MultiplexedConnection {
        let (mut pause, longest) = BACKOFF;
        let mut is_told = !is_first;
        loop {
            match self.redis.connect().await {
                Ok(connection) => return connection,
                Err(error) if is_told => {
                    tracing::debug!(error = %crate::store::chain(&error), "Redis is still away");
                }
                Err(error) => {
                    is_told = true;
                    warn!(error = %crate::store::chain(&error), "Redis is away: this node does without until it is there");
                }
            }
            sleep(about(pause)).await;
            pause = (pause * 2).min(longest);
        }
    }

    /// Until the circuit is opened.
    async fn watch(&self) {
        let opened = self.redis.shared.opened.notified();
        let asking = async {
            loop {
                sleep(PING_INTERVAL).await;
                // What comes of it is counted.
                let _ = self
                    .redis
                    .run(async |mut connection| ping(&mut connection).await)
                    .await;
            }
        };
        tokio::select! {
            () = opened => {}
            () = asking => {}
        }
    }
}

/// About so long: not all nodes come at once.
pub(crate) fn about(pause: Duration) -> Duration {
    let random = getrandom::u32().unwrap_or(u32::MAX / 2);
    pause.mul_f64(0.75 + 0.5 * f64::from(random) / f64::from(u32::MAX))
}
