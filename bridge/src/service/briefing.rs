//! What the edge is told before anything else: what users have granted each other, and what is retained.

use std::time::SystemTime;

use broker::link::FrameSender;
use schema::link::{self, Briefing, DownFrame, Ready, ToEdge, to_edge};

use super::Error;
use crate::clock;
use crate::store::grants::{self, Grant};
use crate::store::{Store, retained};

/// Read at once: small rows, and such as may each be as large as a packet.
const GRANTS: u32 = 1024;
pub(super) const RETAINED: u32 = 64;

/// Sends all of it. The edge must be read from meanwhile, or its reports of what it has taken would not arrive.
pub(super) async fn send(
    store: &Store,
    sender: &mut FrameSender<DownFrame>,
    has_others: bool,
) -> Result<(), Error> {
    let begin = to_edge::Item::Briefing(Briefing {
        has_others,
        only_retained: false,
    });
    sender.send(vec![ToEdge { item: Some(begin) }]).await?;
    send_grants(store, sender).await?;
    send_retained(store, sender).await?;
    let ready = to_edge::Item::Ready(Ready {});
    sender.send(vec![ToEdge { item: Some(ready) }]).await?;
    Ok(())
}

async fn send_grants(store: &Store, sender: &mut FrameSender<DownFrame>) -> Result<(), Error> {
    let mut last: Option<Grant> = None;
    loop {
        let page = grants::page(store.reader(), last.as_ref(), GRANTS).await?;
        last = page.last().cloned();
        if last.is_none() {
            return Ok(());
        }
        sender.send(page.into_iter().map(grant).collect()).await?;
    }
}

async fn send_retained(store: &Store, sender: &mut FrameSender<DownFrame>) -> Result<(), Error> {
    let now = clock::millis(SystemTime::now());
    let mut after = String::new();
    loop {
        let page = retained::page(store.reader(), &after, RETAINED, now).await?;
        let items = page.messages.into_iter().map(|message| ToEdge {
            item: Some(to_edge::Item::Retained(message)),
        });
        sender.send(items.collect()).await?;
        match page.next {
            Some(next) => after = next,
            None => return Ok(()),
        }
    }
}

/// Tells the edge of a grant.
pub(super) fn grant(grant: Grant) -> ToEdge {
    ToEdge {
        item: Some(to_edge::Item::Grant(link_grant(grant))),
    }
}

/// A grant as edges and nodes know it.
pub(super) fn link_grant(grant: Grant) -> link::Grant {
    link::Grant {
        owner: grant.owner.to_string(),
        user: grant.user.to_string(),
        filter: grant.filter,
        read: grant.read,
        write: grant.write,
    }
}
