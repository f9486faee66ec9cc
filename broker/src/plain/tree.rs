//! A map from topics or filters to values, level by level, so that the filters of a topic, and the topics of a filter,
//! are found without looking at all the others.
//!
//! Level names come from the network. Where a level has many of them they stand in a `HashMap` with its random keys, so
//! that nobody can choose names that collide. A call recurses once for each level of its argument or of a key, and
//! those have passed [`TopicLimits`](super::filter::TopicLimits).

use std::collections::HashMap;
use std::mem;
use std::str::Split;

/// Children that a node keeps in a list; that is smaller than a table, and at this length as fast.
const FEW: usize = 8;

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Tree<T> {
    root: Node<T>,
    /// Of the keys that begin with `$`. No wildcard is among its children, so that none in the first level matches such
    /// a topic [MQTT-4.7.2-1].
    hidden_root: Node<T>,
    len: usize,
}

#[derive(Debug)]
struct Node<T> {
    value: Option<T>,
    children: Children<T>,
}

/// The nodes one level below, by name.
#[derive(Debug)]
enum Children<T> {
    Few(Vec<(Box<str>, Node<T>)>),
    #[expect(
        clippy::box_collection,
        reason = "most nodes have few children, and should be small"
    )]
    Many(Box<HashMap<Box<str>, Node<T>>>),
}

impl<T> Default for Tree<T> {
    fn default() -> Self {
        Tree {
            root: Node::default(),
            hidden_root: Node::default(),
            len: 0,
        }
    }
}

impl<T> Tree<T> {
    /// Entries.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn get(&self, key: &str) -> Option<&T> {
        let mut levels = key.split('/');
        let node = levels.try_fold(self.root_of(key), |node, level| node.children.get(level))?;
        node.value.as_ref()
    }

    pub(crate) fn get_mut(&mut self, key: &str) -> Option<&mut T> {
        let mut levels = key.split('/');
        let root = self.root_of_mut(key);
        let node = levels.try_fold(root, |node, level| node.children.get_mut(level))?;
        node.value.as_mut()
    }

    pub(crate) fn get_or_insert_with(&mut self, key: &str, value: impl FnOnce() -> T) -> &mut T {
        if self.get(key).is_none() {
            self.len += 1;
        }
        let root = self.root_of_mut(key);
        let node = key
            .split('/')
            .fold(root, |node, level| node.children.get_or_insert(level));
        node.value.get_or_insert_with(value)
    }

    /// Takes an entry out, and all nodes that were there only for it.
    pub(crate) fn remove(&mut self, key: &str) -> Option<T> {
        let value = self.root_of_mut(key).remove(key.split('/'))?;
        self.len -= 1;
        Some(value)
    }

    /// Visits each of the filters that match the topic (4.7).
    pub(crate) fn for_each_matching(&self, topic: &str, mut visit: impl FnMut(&T)) {
        self.root_of(topic)
            .for_each_matching(topic.split('/'), &mut visit);
    }

    /// Visits each of the topics that the filter matches (4.7). Returns how many nodes had to be looked at.
    pub(crate) fn for_each_below(&self, filter: &str, mut visit: impl FnMut(&T)) -> u32 {
        let mut looked_at = 0;
        let root = self.root_of(filter);
        root.for_each_below(filter.split('/'), &mut visit, &mut looked_at);
        looked_at
    }

    /// Visits each entry.
    pub(crate) fn for_each(&self, mut visit: impl FnMut(&T)) {
        for root in [&self.root, &self.hidden_root] {
            root.for_each(&mut visit, &mut 0);
        }
    }

    fn root_of(&self, key: &str) -> &Node<T> {
        if key.starts_with('$') {
            &self.hidden_root
        } else {
            &self.root
        }
    }

    fn root_of_mut(&mut self, key: &str) -> &mut Node<T> {
        if key.starts_with('$') {
            &mut self.hidden_root
        } else {
            &mut self.root
        }
    }
}

impl<T> Default for Node<T> {
    fn default() -> Self {
        Node {
            value: None,
            children: Children::Few(Vec::new()),
        }
    }
}

impl<T> Node<T> {
    fn is_empty(&self) -> bool {
        self.value.is_none() && self.children.is_empty()
    }

    fn remove(&mut self, mut levels: Split<'_, char>) -> Option<T> {
        let Some(level) = levels.next() else {
            return self.value.take();
        };
        let child = self.children.get_mut(level)?;
        let value = child.remove(levels);
        if child.is_empty() {
            self.children.remove(level);
        }
        value
    }

    fn for_each_matching(&self, mut levels: Split<'_, char>, visit: &mut impl FnMut(&T)) {
        // 4.7.1.2: `#` matches its parent, too.
        let rest = self.children.get("#");
        if let Some(value) = rest.and_then(|rest| rest.value.as_ref()) {
            visit(value);
        }
        let Some(level) = levels.next() else {
            if let Some(value) = &self.value {
                visit(value);
            }
            return;
        };
        for name in [level, "+"] {
            if let Some(child) = self.children.get(name) {
                child.for_each_matching(levels.clone(), visit);
            }
        }
    }

    fn for_each_below(
        &self,
        mut levels: Split<'_, char>,
        visit: &mut impl FnMut(&T),
        looked_at: &mut u32,
    ) {
        *looked_at += 1;
        match levels.next() {
            None => self.value.iter().for_each(visit),
            Some("#") => self.for_each(visit, looked_at),
            Some("+") => self.children.for_each(|child| {
                child.for_each_below(levels.clone(), visit, looked_at);
            }),
            Some(level) => {
                if let Some(child) = self.children.get(level) {
                    child.for_each_below(levels, visit, looked_at);
                }
            }
        }
    }

    /// The node and all that is below.
    fn for_each(&self, visit: &mut impl FnMut(&T), looked_at: &mut u32) {
        *looked_at += 1;
        self.value.iter().for_each(&mut *visit);
        self.children
            .for_each(|child| child.for_each(visit, looked_at));
    }
}

impl<T> Children<T> {
    fn is_empty(&self) -> bool {
        match self {
            Children::Few(list) => list.is_empty(),
            Children::Many(table) => table.is_empty(),
        }
    }

    fn get(&self, name: &str) -> Option<&Node<T>> {
        match self {
            Children::Few(list) => list
                .iter()
                .find_map(|(other, node)| (**other == *name).then_some(node)),
            Children::Many(table) => table.get(name),
        }
    }

    fn get_mut(&mut self, name: &str) -> Option<&mut Node<T>> {
        match self {
            Children::Few(list) => list
                .iter_mut()
                .find_map(|(other, node)| (**other == *name).then_some(node)),
            Children::Many(table) => table.get_mut(name),
        }
    }

    fn get_or_insert(&mut self, name: &str) -> &mut Node<T> {
        if let Children::Few(list) = self
            && list.len() == FEW
            && list.iter().all(|(other, _)| **other != *name)
        {
            *self = Children::Many(Box::new(mem::take(list).into_iter().collect()));
        }
        match self {
            Children::Few(list) => {
                let known = list.iter().position(|(other, _)| **other == *name);
                let index = known.unwrap_or_else(|| {
                    list.reserve_exact(1); // Most nodes have one child for ever.
                    list.push((name.into(), Node::default()));
                    list.len() - 1
                });
                &mut list[index].1
            }
            Children::Many(table) => table.entry(name.into()).or_default(),
        }
    }

    /// Takes a node out and gives memory back, but not so eagerly that one that comes and goes costs a copy each time.
    fn remove(&mut self, name: &str) {
        match self {
            Children::Few(list) => {
                list.retain(|(other, _)| **other != *name);
                list.shrink_to_fit();
            }
            Children::Many(table) => {
                table.remove(name);
                if table.len() <= FEW / 2 {
                    *self = Children::Few(mem::take(&mut **table).into_iter().collect());
                } else if table.len() < table.capacity() / 4 {
                    table.shrink_to(table.len() * 2);
                }
            }
        }
    }

    fn for_each(&self, mut visit: impl FnMut(&Node<T>)) {
        match self {
            Children::Few(list) => list.iter().for_each(|(_, node)| visit(node)),
            Children::Many(table) => table.values().for_each(visit),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::*;
    use crate::plain::filter;

    impl<T> Node<T> {
        fn count(&self) -> usize {
            let mut count = 1;
            self.children.for_each(|child| count += child.count());
            count
        }
    }

    impl<T> Tree<T> {
        /// Without the roots.
        fn nodes(&self) -> usize {
            self.root.count() + self.hidden_root.count() - 2
        }
    }

    fn matching(tree: &Tree<String>, topic: &str) -> Vec<String> {
        let mut found = Vec::new();
        tree.for_each_matching(topic, |filter| found.push(filter.clone()));
        found.sort();
        found
    }

    fn below(tree: &Tree<String>, filter: &str) -> Vec<String> {
        let mut found = Vec::new();
        tree.for_each_below(filter, |topic| found.push(topic.clone()));
        found.sort();
        found
    }

    #[test]
    fn a_node_of_many_children_grows_and_shrinks() {
        let mut tree = Tree::default();
        let key = |user: usize| format!("dev/u{user}/#");
        for user in 0..1000 {
            *tree.get_or_insert_with(&key(user), || 0) += user;
        }
        let root = |tree: &Tree<usize>| match tree.root.children.get("dev") {
            Some(Node {
                children: Children::Many(table),
                ..
            }) => table.capacity(),
            _ => 0,
        };
        assert!(root(&tree) >= 1000);
        for user in 0..980 {
            assert_eq!(tree.remove(&key(user)), Some(user));
        }
        assert_eq!((tree.len(), tree.nodes()), (20, 41));
        assert!(root(&tree) < 100, "{}", root(&tree));
        for user in 980..1000 {
            assert_eq!(tree.get(&key(user)), Some(&user));
            assert_eq!(tree.remove(&key(user)), Some(user));
        }
        assert_eq!((tree.len(), tree.nodes()), (0, 0));
    }

    #[test]
    fn a_visit_tells_what_it_has_looked_at() {
        let mut tree = Tree::default();
        for topic in ["a", "a/b", "a/b/c", "a/d"] {
            tree.get_or_insert_with(topic, || topic);
        }
        let looked_at = |filter: &str| tree.for_each_below(filter, |_| {});
        assert!(looked_at("a/#") > looked_at("a/b"));
        assert!(looked_at("a/+/x") >= 4, "found or not");
    }

    /// 50,000 users may each have a filter: what a node weighs matters.
    #[test]
    fn nodes_are_small() {
        assert!(size_of::<Node<Vec<u64>>>() <= 48);
    }

    fn key(levels: &[&'static str]) -> impl Strategy<Value = String> + use<> {
        let names = vec(select(levels.to_vec()), 1..5);
        names.prop_map(|levels| levels.join("/"))
    }

    proptest! {
        #[test]
        fn a_tree_is_a_map_that_knows_filters(
            changes in vec((any::<bool>(), key(&["", "a", "b", "$x", "+"]), any::<bool>()), 1..60),
            topics in vec(key(&["", "a", "b", "$x"]), 1..10),
        ) {
            let mut tree = Tree::default();
            let mut model = BTreeMap::new();
            for (add, mut key, all) in changes {
                if all {
                    key += "/#";
                }
                if add {
                    let made = tree.get_or_insert_with(&key, || key.clone()).clone();
                    prop_assert_eq!(&made, model.entry(key.clone()).or_insert(made.clone()));
                } else {
                    prop_assert_eq!(tree.remove(&key), model.remove(&key));
                }
                prop_assert_eq!(tree.get(&key), model.get(&key));
                prop_assert_eq!(tree.get_mut(&key), model.get_mut(&key));
            }
            prop_assert_eq!(tree.len(), model.len());
            let mut prefixes = BTreeSet::new();
            for key in model.keys() {
                prefixes.extend(key.match_indices('/').map(|(at, _)| &key[..at]));
                prefixes.insert(key);
            }
            prop_assert_eq!(tree.nodes(), prefixes.len());
            for topic in topics.iter().filter(|topic| !topic.is_empty()) {
                let expected = model.keys().filter(|filter| filter::matches(filter, topic));
                prop_assert_eq!(matching(&tree, topic), expected.cloned().collect::<Vec<_>>());
            }
        }

        #[test]
        fn topics_are_found_by_filter(
            topics in vec(key(&["", "a", "b", "$x"]), 1..40),
            filter in key(&["", "a", "b", "$x", "+"]),
            end in select(vec!["", "/#"]),
        ) {
            let mut tree = Tree::default();
            for topic in &topics {
                tree.get_or_insert_with(topic, || topic.clone());
            }
            for filter in [filter + end, "#".to_owned()] {
                let matching = topics.iter().filter(|topic| filter::matches(&filter, topic));
                let expected: BTreeSet<_> = matching.cloned().collect();
                prop_assert_eq!(below(&tree, &filter), expected.into_iter().collect::<Vec<_>>());
            }
        }
    }
}
