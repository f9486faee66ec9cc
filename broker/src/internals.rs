//! Inner parts of the edge whose speed is watched by itself. For the `guard` package alone, which asks for the feature.

use schema::Uid;
use schema::link::Grant;

use crate::plain::policy::{Client, Policy, Rules};
use crate::plain::tree::Tree;

/// The filters of all subscriptions, as the exchange keeps them.
#[derive(Debug, Default)]
pub struct Filters(Tree<()>);

impl Filters {
    /// Adds a filter.
    pub fn add(&mut self, filter: &str) {
        self.0.get_or_insert_with(filter, || ());
    }

    /// How many of them match the topic.
    #[must_use]
    pub fn count_matching(&self, topic: &str) -> usize {
        let mut count = 0;
        self.0.for_each_matching(topic, |()| count += 1);
        count
    }
}

/// Who may do what on plain topics.
#[derive(Debug)]
pub struct Rights(Policy);

impl Rights {
    /// Rights by an operator's rules alone.
    #[must_use]
    pub fn new(rules: Rules) -> Self {
        Rights(Policy::new(rules))
    }

    /// Adds what one user lets another do.
    pub fn grant(&self, owner: &Uid, user: &Uid, grant: &Grant) {
        self.0
            .set_grant(owner, user, &grant.filter, grant.read, grant.write);
    }

    /// Whether the user's device may publish to the topic.
    #[must_use]
    pub fn may_publish(&self, uid: &Uid, device: &str, topic: &str) -> bool {
        self.0.may_publish(client(uid, device), topic)
    }

    /// Whether the user's device may have a message of the topic.
    #[must_use]
    pub fn may_receive(&self, uid: &Uid, device: &str, topic: &str) -> bool {
        self.0.may_receive(client(uid, device), topic)
    }
}

fn client<'a>(uid: &'a Uid, device: &'a str) -> Client<'a> {
    Client {
        uid,
        client_id: device,
        is_admin: false,
    }
}
