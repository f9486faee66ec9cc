//! The servers on the database.

use axum::extract::State;
use axum::response::Response;
use schema::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use super::super::problem::{Problem, ProblemBody};
use super::super::{Api, private};
use super::Admin;
use super::log::timestamp;
use crate::store::nodes;

/// The servers on the database, by number; those that are gone, too, until another one has their number.
#[derive(Serialize, ToSchema)]
#[schema(as = Nodes)]
pub(crate) struct NodesView {
    nodes: Vec<NodeView>,
}

/// A server on the database.
#[derive(Serialize, ToSchema)]
#[schema(as = Node)]
struct NodeView {
    /// Part of the ids of the messages that it takes.
    number: u32,
    /// Its machine and process.
    name: String,
    /// Since when it has the number.
    #[schema(value_type = String, format = DateTime)]
    since: Timestamp,
    /// Whether it has reached the database of late.
    alive: bool,
}

/// The servers on the database.
#[utoipa::path(
    get, path = "/v1/admin/nodes", tag = "admin", security(("bearer" = [])),
    responses(
        (status = 200, description = "The servers.", body = NodesView),
        (status = "default", description = "Refused.", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn list(State(api): State<Api>, _: Admin) -> Result<Response, Problem> {
    let node = api.service.node();
    let nodes = match api.store.is_shared() {
        true => nodes::list(api.store.reader()).await?,
        false => vec![node.listed()],
    };
    let nodes = nodes.into_iter().map(|node| NodeView {
        number: node.number,
        name: node.name,
        since: timestamp(node.since),
        alive: node.is_alive,
    });
    Ok(private(NodesView {
        nodes: nodes.collect(),
    }))
}
