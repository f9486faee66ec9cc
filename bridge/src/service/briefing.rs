//! What an edge has to know before anything else: what users have granted each other, and what is retained.
//!
//! It is read between two rounds, so that whatever changes is told before it or after it, and not in the midst of it.

use std::time::SystemTime;

use schema::link::{self, Briefing, Ready, ToEdge, to_edge};

use super::announcer::Announcement;
use super::patience::Patience;
use super::pipeline::{Pipeline, Unheard};
use crate::clock;
use crate::store::grants::{self, Grant};
use crate::store::retained;

/// Read at once: small rows, and such as may each be as large as a packet.
const GRANTS: u32 = 1024;
pub(super) const RETAINED: u32 = 64;

impl Pipeline {
    /// Tells the edge all of it, however long the database is away.
    pub(super) async fn brief(&mut self) -> Result<(), Unheard> {
        let begin = to_edge::Item::Briefing(Briefing {
            has_others: !self.bus.is_alone(),
            only_retained: false,
        });
        self.tell(vec![ToEdge { item: Some(begin) }]).await?;
        self.tell_grants().await?;
        self.tell_retained().await?;
        let ready = to_edge::Item::Ready(Ready {});
        self.tell(vec![ToEdge { item: Some(ready) }]).await
    }

    async fn tell_grants(&mut self) -> Result<(), Unheard> {
        let mut last: Option<Grant> = None;
        let is_stalled = self.is_stalled.clone();
        loop {
            let mut patience = Patience::new(&is_stalled);
            let page = loop {
                let db = self.executor.store().reader();
                match grants::page(db, last.as_ref(), GRANTS).await {
                    Ok(page) => break page,
                    Err(error) => patience.wait_after(&error).await,
                }
            };
            patience.end();
            last = page.last().cloned();
            if last.is_none() {
                return Ok(());
            }
            self.tell(page.into_iter().map(grant).collect()).await?;
        }
    }

    async fn tell_retained(&mut self) -> Result<(), Unheard> {
        let now = clock::millis(SystemTime::now());
        let mut after = String::new();
        let is_stalled = self.is_stalled.clone();
        loop {
            let mut patience = Patience::new(&is_stalled);
            let page = loop {
                let db = self.executor.store().reader();
                match retained::page(db, &after, RETAINED, now).await {
                    Ok(page) => break page,
                    Err(error) => patience.wait_after(&error).await,
                }
            };
            patience.end();
            let items = page.messages.into_iter().map(|message| ToEdge {
                item: Some(to_edge::Item::Retained(message)),
            });
            self.tell(items.collect()).await?;
            match page.next {
                Some(next) => after = next,
                None => return Ok(()),
            }
        }
    }

    async fn tell(&self, last: Vec<ToEdge>) -> Result<(), Unheard> {
        self.hand_on(Announcement {
            last,
            ..Announcement::default()
        })
        .await
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
