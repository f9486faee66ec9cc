//! Several nodes of `tidings serve` on one PostgreSQL and one Redis, behind a load balancer; with a hand on each wire.

use anyhow::{Context, Result};
use futures_util::future::try_join_all;
use serde_json::json;

use crate::balancer::Balancer;
use crate::client::Builder;
use crate::device;
use crate::http::Api;
use crate::postgres::{self, Postgres};
use crate::proxy::Proxy;
use crate::redis::Redis;
use crate::server::{Folder, Server, befriending, password_of};

/// What all nodes sign and check access tokens with.
const JWT_KEY: &str = "one key for all nodes of the cluster";
/// The database that they share.
const DATABASE: &str = "postgres";

/// A running cluster. A test ends with [`Cluster::finish`] or [`Cluster::stop`].
pub struct Cluster {
    nodes: Vec<Node>,
    /// What clients connect to.
    pub balancer: Balancer,
    /// The database of all nodes.
    pub postgres: Postgres,
    /// What they tell each other through.
    pub redis: Redis,
}

/// One server, and its ways to what it needs.
struct Node {
    server: Server,
    to_postgres: Option<Proxy>,
    to_redis: Option<Proxy>,
}

/// What a cluster is to be like.
#[derive(Clone, Debug)]
pub struct Plan {
    nodes: usize,
    has_proxies: bool,
    has_redis: bool,
    settings: Vec<Setting>,
    postgres: postgres::Options,
    /// What stands behind the `?` of the database's URL.
    database_query: String,
}

#[derive(Clone, Debug)]
struct Setting {
    name: String,
    value: String,
    /// `None`: of all.
    node: Option<usize>,
}

// === impl Plan ===

impl Plan {
    /// So many nodes, each with a proxy before PostgreSQL and Redis.
    pub fn of(nodes: usize) -> Self {
        Plan {
            nodes,
            has_proxies: true,
            has_redis: true,
            settings: Vec::new(),
            postgres: postgres::Options::default(),
            database_query: String::new(),
        }
    }

    /// One node that has PostgreSQL for itself, and is not told of the Redis that is there.
    pub fn alone() -> Self {
        Plan {
            has_redis: false,
            ..Self::of(1)
        }
    }

    /// Nodes that reach PostgreSQL and Redis directly.
    pub fn without_proxies(mut self) -> Self {
        self.has_proxies = false;
        self
    }

    /// A setting of every node, such as `TIDINGS__SHUTDOWN__TIMEOUT`.
    pub fn setting(self, name: &str, value: &str) -> Self {
        self.set(name, value, None)
    }

    /// A setting of one node only.
    pub fn setting_at(self, node: usize, name: &str, value: &str) -> Self {
        self.set(name, value, Some(node))
    }

    fn set(mut self, name: &str, value: &str, node: Option<usize>) -> Self {
        self.settings.push(Setting {
            name: name.into(),
            value: value.into(),
            node,
        });
        self
    }

    /// How PostgreSQL is to be.
    pub fn postgres(mut self, options: postgres::Options) -> Self {
        self.postgres = options;
        self
    }

    /// How the nodes speak to it, such as `sslmode=require`.
    pub fn database_query(mut self, query: &str) -> Self {
        self.database_query = query.into();
        self
    }

    /// Starts everything, and waits until the balancer uses every node.
    pub async fn start(self, uids: &[&str]) -> Result<Cluster> {
        let (postgres, redis) =
            tokio::try_join!(Postgres::start(self.postgres.clone()), Redis::start())?;
        self.start_with(postgres, redis, uids).await
    }

    /// The same on a PostgreSQL that the test has prepared.
    pub async fn start_on(self, postgres: Postgres, uids: &[&str]) -> Result<Cluster> {
        let redis = Redis::start().await?;
        self.start_with(postgres, redis, uids).await
    }

    async fn start_with(self, postgres: Postgres, redis: Redis, uids: &[&str]) -> Result<Cluster> {
        let start = |node| Node::start(&self, node, &postgres, &redis);
        let nodes = try_join_all((0..self.nodes).map(start)).await?;
        let addresses = nodes.iter().map(|node| &node.server);
        let addresses = addresses.map(|server| (server.mqtt(), server.http()));
        let cluster = Cluster {
            balancer: Balancer::before(addresses).await?,
            nodes,
            postgres,
            redis,
        };
        for node in 0..self.nodes {
            cluster.balancer.until_using(node, true).await?;
        }
        try_join_all(uids.iter().map(|uid| cluster.add_user(uid))).await?;
        Ok(cluster)
    }
}

// === impl Node ===

impl Node {
    async fn start(plan: &Plan, number: usize, postgres: &Postgres, redis: &Redis) -> Result<Self> {
        let mut to_postgres = None;
        let mut to_redis = None;
        let mut ports = [postgres.port(), redis.port()];
        if plan.has_proxies {
            let proxy = async |port: u16| Proxy::to(([127, 0, 0, 1], port).into()).await;
            let proxies = [proxy(ports[0]).await?, proxy(ports[1]).await?];
            ports = [0, 1].map(|place| proxies[place].address().port());
            let [postgres, redis] = proxies;
            (to_postgres, to_redis) = (Some(postgres), Some(redis));
        }
        let [postgres, redis] = ports;
        let query = &plan.database_query;
        let postgres = format!("postgres://postgres@127.0.0.1:{postgres}/{DATABASE}?{query}");
        let redis = format!("redis://127.0.0.1:{redis}");
        let mut folder = Folder::new()?
            .with_own_ports()?
            .setting("TIDINGS__DATABASE__URL", &postgres)
            .setting("TIDINGS__AUTH__JWT_KEY", JWT_KEY);
        if plan.has_redis {
            folder = folder.setting("TIDINGS__REDIS__URL", &redis);
        }
        for setting in &plan.settings {
            if setting.node.is_none_or(|node| node == number) {
                folder = folder.setting(&setting.name, &setting.value);
            }
        }
        Ok(Node {
            server: Server::start_in(folder, &[]).await?,
            to_postgres,
            to_redis,
        })
    }
}

// === impl Cluster ===

impl Cluster {
    /// So many nodes, and users whose passwords are what [`password_of`] says.
    pub async fn with_users(nodes: usize, uids: &[&str]) -> Result<Self> {
        Plan::of(nodes).start(uids).await
    }

    /// How many nodes there are, dead ones included.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether it has no nodes.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// One node, counted from 0: for its own clients, its log, and signals.
    pub fn node(&self, node: usize) -> &Server {
        &self.nodes[node].server
    }

    /// One node, to be killed, shut down or restarted.
    pub fn node_mut(&mut self, node: usize) -> &mut Server {
        &mut self.nodes[node].server
    }

    /// A node's way to PostgreSQL.
    pub fn to_postgres(&self, node: usize) -> &Proxy {
        let proxy = self.nodes[node].to_postgres.as_ref();
        proxy.expect("this cluster has proxies")
    }

    /// A node's way to Redis.
    pub fn to_redis(&self, node: usize) -> &Proxy {
        let proxy = self.nodes[node].to_redis.as_ref();
        proxy.expect("this cluster has proxies")
    }

    /// A device of `uid` that connects to whichever node the balancer chooses.
    pub fn client(&self, uid: &str) -> Builder {
        Builder::new(self.balancer.mqtt(), uid)
    }

    /// The same for plain topics.
    pub fn device(&self, uid: &str) -> device::Builder {
        device::Builder::new(self.balancer.mqtt(), Some((uid, &password_of(uid))))
    }

    /// HTTP without a login, each request to whichever node the balancer chooses.
    pub fn api(&self) -> Api {
        Api::anonymous(self.balancer.http())
    }

    /// Logs a user in. The tokens are good at every node.
    pub async fn login(&self, uid: &str) -> Result<Api> {
        self.api().login(uid, &password_of(uid)).await
    }

    /// A user's access to one node.
    pub fn api_at(&self, node: usize, user: &Api) -> Api {
        user.at(self.node(node).http())
    }

    /// Registers one more user.
    pub async fn add_user(&self, uid: &str) -> Result<()> {
        let account = json!({ "uid": uid, "password": password_of(uid) });
        let answer = self.api().post("/v1/users", &account).await?;
        answer.expect(201).map(drop)
    }

    /// Executes SQL statements in the nodes' database, beside them; rows come back as lines.
    pub async fn sql(&self, statements: &str) -> Result<String> {
        self.postgres.sql(DATABASE, statements).await
    }

    /// Makes two users each other's contacts.
    pub async fn befriend(&self, one: &str, other: &str) -> Result<()> {
        self.sql(&befriending(one, other)).await.map(drop)
    }

    /// kill -9 of one node.
    pub async fn kill(&mut self, node: usize) -> Result<()> {
        self.node_mut(node).kill().await
    }

    /// Starts a node again, and waits until the balancer uses it.
    pub async fn restart(&mut self, node: usize) -> Result<()> {
        self.node_mut(node).restart().await?;
        self.balancer.until_using(node, true).await
    }

    /// Ends a test in which nothing should have gone wrong: all nodes stop well, and their logs hold no ERROR or panic.
    pub async fn finish(self) -> Result<()> {
        for (place, node) in self.nodes.into_iter().enumerate() {
            let finished = node.server.finish().await;
            finished.with_context(|| format!("node {place}"))?;
        }
        Ok(())
    }

    /// Ends a test, whatever stands in the logs.
    pub async fn stop(self) -> Result<()> {
        for (place, node) in self.nodes.into_iter().enumerate() {
            let stopped = node.server.stop().await;
            stopped.with_context(|| format!("node {place}"))?;
        }
        Ok(())
    }
}
