//! Topic names and topic filters (MQTT 4.7), and which of them include which.
//!
//! All questions are answered level by level on the texts themselves, so that nothing is allocated. A topic is a
//! filter that matches only itself; so one comparison, [`Level`] against level, serves matching and covering.

use std::sync::Arc;

use schema::topic::is_filter;

/// Begins the filter of a shared subscription, before the share's name (MQTT 5: 4.8.2).
const SHARE_PREFIX: &str = "$share/";

/// How long and how deep a topic or a filter may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TopicLimits {
    /// Bytes, the share's name included.
    pub(crate) length_max: usize,
    /// Levels, without those of the share's name.
    pub(crate) levels_max: usize,
}

/// Why nothing can be published to a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TopicError {
    /// Empty, or with a wildcard or U+0000 in it.
    #[error("the topic name is malformed")]
    Malformed,
    /// Longer than the operator allows.
    #[error("the topic name is too long")]
    TooLong,
    /// More levels than the operator allows.
    #[error("the topic name has too many levels")]
    TooDeep,
}

/// Why nobody can subscribe to a filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FilterError {
    /// Empty, with a wildcard where none may be, with U+0000, or a share without name or filter.
    #[error("the topic filter is malformed")]
    Malformed,
    /// Longer than the operator allows.
    #[error("the topic filter is too long")]
    TooLong,
    /// More levels than the operator allows.
    #[error("the topic filter has too many levels")]
    TooDeep,
}

/// Checks a topic that somebody publishes to.
pub(crate) fn check_topic(topic: &str, limits: TopicLimits) -> Result<(), TopicError> {
    if topic.len() > limits.length_max {
        return Err(TopicError::TooLong);
    }
    // [MQTT-4.7.3-1] At least one character; [MQTT-4.7.0-1] no wildcards; [MQTT-4.7.3-2] no U+0000.
    if topic.is_empty() || topic.contains(['+', '#', '\0']) {
        return Err(TopicError::Malformed);
    }
    if topic.split('/').count() > limits.levels_max {
        return Err(TopicError::TooDeep);
    }
    Ok(())
}

/// The topic filter of a subscription, checked, perhaps with a share's name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Filter {
    text: Arc<str>,
    /// Where in `text` the filter proper begins: 0 without a share.
    topics_at: usize,
}

impl Filter {
    /// Checks the filter of a SUBSCRIBE.
    pub(crate) fn parse(text: &str, limits: TopicLimits) -> Result<Self, FilterError> {
        if text.len() > limits.length_max {
            return Err(FilterError::TooLong);
        }
        let topics = match text.strip_prefix(SHARE_PREFIX) {
            Some(shared) => after_share_name(shared).ok_or(FilterError::Malformed)?,
            None => text,
        };
        if !is_filter(topics) {
            return Err(FilterError::Malformed);
        }
        if topics.split('/').count() > limits.levels_max {
            return Err(FilterError::TooDeep);
        }
        Ok(Filter {
            text: text.into(),
            topics_at: text.len() - topics.len(),
        })
    }

    /// The name of the share, if the subscription is a shared one.
    pub(crate) fn share(&self) -> Option<&str> {
        let prefix = &self.text[..self.topics_at];
        prefix.strip_prefix(SHARE_PREFIX)?.strip_suffix('/')
    }

    /// The filter without the share's name.
    pub(crate) fn topics(&self) -> &str {
        &self.text[self.topics_at..]
    }

    /// The filter as the client wrote it.
    pub(crate) fn as_str(&self) -> &str {
        &self.text
    }
}

/// The filter behind the name of a share and its slash.
fn after_share_name(shared: &str) -> Option<&str> {
    let (name, topics) = shared.split_once('/')?; // [MQTT-4.8.2-2]
    // [MQTT-4.8.2-1], [MQTT-4.8.2-2]
    let is_name = !name.is_empty() && !name.contains(['+', '#']);
    is_name.then_some(topics)
}

/// What one level of a filter stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level<'a> {
    /// Itself.
    Literal(&'a str),
    /// `+`: any single level.
    One,
    /// `#`: all further levels, and none at all.
    Rest,
    /// No level. No filter is written so; it is for patterns with a place that nothing can fill.
    Nothing,
}

impl<'a> Level<'a> {
    pub(crate) fn of(level: &'a str) -> Self {
        match level {
            "+" => Level::One,
            "#" => Level::Rest,
            literal => Level::Literal(literal),
        }
    }
}

fn levels(filter: &str) -> impl Iterator<Item = Level<'_>> {
    filter.split('/').map(Level::of)
}

/// Whether a message to the topic is one for the filter (4.7), as tests say it: a topic covers only itself.
#[cfg(test)]
pub(crate) fn matches(filter: &str, topic: &str) -> bool {
    covers(filter, topic)
}

/// Whether `pattern` matches every topic that `filter` matches.
pub(crate) fn covers(pattern: &str, filter: &str) -> bool {
    levels_cover(levels(pattern), filter)
}

/// [`covers`] for a pattern that is not one text.
pub(crate) fn levels_cover<'a>(pattern: impl Iterator<Item = Level<'a>>, filter: &str) -> bool {
    // Where the parent is no topic, `#` stands for one level at least; in this form, all that cover it are seen to.
    let filter = match filter {
        "#" => "+/#",
        "/#" => "/+/#",
        other => other,
    };
    let mut levels = levels(filter);
    for (index, wanted) in pattern.enumerate() {
        let is_wildcard = matches!(wanted, Level::One | Level::Rest);
        if index == 0 && is_wildcard && filter.starts_with('$') {
            return false; // [MQTT-4.7.2-1]
        }
        match (wanted, levels.next()) {
            (Level::Rest, _) => return true, // 4.7.1.2: The parent, too.
            (Level::One, Some(Level::One | Level::Literal(_))) => {}
            (Level::Literal(wanted), Some(Level::Literal(level))) if wanted == level => {}
            _ => return false,
        }
    }
    levels.next().is_none()
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::*;

    const LIMITS: TopicLimits = TopicLimits {
        length_max: 32,
        levels_max: 4,
    };

    #[test]
    fn topics_are_checked() {
        for good in ["a", "/", "a//b", "$SYS/x", "a b/é", "1/2/3/4", " "] {
            assert_eq!(check_topic(good, LIMITS), Ok(()), "{good}");
        }
        for bad in ["", "+", "a/+", "a#", "a/#", "a\0b"] {
            assert_eq!(check_topic(bad, LIMITS), Err(TopicError::Malformed));
        }
        let check = |topic: &str| check_topic(topic, LIMITS);
        assert_eq!(check("1/2/3/4/"), Err(TopicError::TooDeep));
        assert_eq!(check(&"x".repeat(32)), Ok(()));
        assert_eq!(check(&"x".repeat(33)), Err(TopicError::TooLong));
    }

    #[test]
    fn filters_are_parsed() {
        #[track_caller]
        fn check(text: &str, share: Option<&str>, topics: &str) {
            let filter = Filter::parse(text, LIMITS).unwrap();
            assert_eq!(
                (filter.share(), filter.topics(), filter.as_str()),
                (share, topics, text)
            );
        }
        for plain in ["a", "+", "#", "/", "+/+", "a/#", "/#", "$share", "a/+/b/#"] {
            check(plain, None, plain);
        }
        check("$share/g/a/#", Some("g"), "a/#");
        check("$share/g//", Some("g"), "/");
        check("$share/g/1/2/3/4", Some("g"), "1/2/3/4");
        check("$share/g/$share/g/a", Some("g"), "$share/g/a");
        for bad in [
            "",
            "a+",
            "+a",
            "a/b#",
            "#/a",
            "a/#/b",
            "##",
            "a\0",
            "$share/",
            "$share//a",
            "$share/g",
            "$share/g/",
            "$share/+/a",
            "$share/#",
            "$share/g#/a",
            "$share/g/a+",
        ] {
            let parsed = Filter::parse(bad, LIMITS);
            assert_eq!(parsed, Err(FilterError::Malformed), "{bad}");
        }
        let parse = |text: &str| Filter::parse(text, LIMITS);
        assert_eq!(parse("1/2/3/4/#"), Err(FilterError::TooDeep));
        assert_eq!(parse("$share/g/1/2/3/4/5"), Err(FilterError::TooDeep));
        assert_eq!(parse(&"x".repeat(33)), Err(FilterError::TooLong));
    }

    #[test]
    fn wildcards_match_as_the_specification_says() {
        for (filter, topic) in [
            ("sport/tennis/player1/#", "sport/tennis/player1"),
            ("sport/tennis/player1/#", "sport/tennis/player1/score/x"),
            ("sport/#", "sport"),
            ("sport/+", "sport/"),
            ("+/+", "/finance"),
            ("/+", "/finance"),
            ("#", "a"),
            ("$SYS/#", "$SYS"),
            ("$SYS/+", "$SYS/x"),
            ("a/#", "a/$x"),
            ("a/+", "a/$x"),
        ] {
            assert!(matches(filter, topic), "{filter} {topic}");
        }
        for (filter, topic) in [
            ("sport/+", "sport"),
            ("+", "/finance"),
            ("sport/tennis/+", "sport/tennis/player1/ranking"),
            ("#", "$SYS/x"),
            ("+/x", "$SYS/x"),
            ("+", "$x"),
            ("a/#", "ab"),
            ("A", "a"),
        ] {
            assert!(!matches(filter, topic), "{filter} {topic}");
        }
    }

    #[test]
    fn covering_is_exact() {
        for (pattern, filter) in [
            ("a/#", "a/#"),
            ("a/#", "a/+/b"),
            ("#", "+/x"),
            ("+/#", "#"),
            ("/+/#", "/#"),
            ("$SYS/+", "$SYS/x"),
        ] {
            assert!(covers(pattern, filter), "{pattern} {filter}");
        }
        for (pattern, filter) in [
            ("a/+", "a/#"),
            ("a/+/#", "a/#"),
            ("+/+/#", "#"),
            ("+/b", "+/+"),
            ("a/b", "+/b"),
            ("#", "$SYS/x"),
            ("+/#", "$SYS/#"),
        ] {
            assert!(!covers(pattern, filter), "{pattern} {filter}");
        }
    }

    #[test]
    fn nothing_covers_nothing() {
        let pattern = [Level::Nothing, Level::Rest];
        for filter in ["a", "+/a", "#", "$x"] {
            assert!(!levels_cover(pattern.into_iter(), filter), "{filter}");
        }
        // A value that looks like a wildcard, or like two levels, is neither.
        for value in ["+", "#", "a/b"] {
            for filter in ["+", "#", "a", "a/b", "+/+"] {
                assert!(!levels_cover([Level::Literal(value)].into_iter(), filter));
            }
        }
    }

    /// 4.7, word for word.
    fn matches_naively(filter: &[&str], topic: &[&str]) -> bool {
        fn rest_matches(filter: &[&str], topic: &[&str]) -> bool {
            match (filter, topic) {
                (["#"], _) | ([], []) => true,
                (["+", filter @ ..], [_, topic @ ..]) => rest_matches(filter, topic),
                ([a, filter @ ..], [b, topic @ ..]) => a == b && rest_matches(filter, topic),
                _ => false,
            }
        }
        let starts_with_wildcard = matches!(filter[0], "#" | "+");
        !(starts_with_wildcard && topic[0].starts_with('$')) && rest_matches(filter, topic)
    }

    /// All topics of up to four levels: deeper than the filters below, and with a level that none of them names.
    fn universe() -> Vec<String> {
        let mut topics = Vec::new();
        let mut longest = vec![String::new()];
        for depth in 0..4 {
            let extend = |topic: String| {
                let slash = if depth == 0 { "" } else { "/" };
                ["", "a", "$x", "z"].map(|level| format!("{topic}{slash}{level}"))
            };
            longest = longest.into_iter().flat_map(extend).collect();
            topics.extend(longest.iter().cloned());
        }
        topics.retain(|topic| !topic.is_empty());
        topics
    }

    /// A filter of up to three levels.
    fn short_filter() -> impl Strategy<Value = String> {
        let levels = vec(select(vec!["", "a", "$x", "+"]), 0..3);
        let last = select(vec!["", "a", "$x", "+", "#"]);
        (levels, last)
            .prop_map(|(mut levels, last)| {
                levels.push(last);
                levels.join("/")
            })
            .prop_filter("empty", |filter| !filter.is_empty())
    }

    proptest! {
        #[test]
        fn matching_and_covering_agree_with_the_model(pattern in short_filter(), filter in short_filter()) {
            prop_assert!(is_filter(&filter));
            let pattern_levels: Vec<_> = pattern.split('/').collect();
            let filter_levels: Vec<_> = filter.split('/').collect();
            let mut is_covered = true;
            for topic in universe() {
                let topic_levels: Vec<_> = topic.split('/').collect();
                let by_pattern = matches_naively(&pattern_levels, &topic_levels);
                let by_filter = matches_naively(&filter_levels, &topic_levels);
                prop_assert_eq!(matches(&pattern, &topic), by_pattern, "{} {}", pattern, topic);
                is_covered &= by_pattern || !by_filter;
            }
            prop_assert_eq!(covers(&pattern, &filter), is_covered);
        }

        #[test]
        fn hostile_texts_do_no_harm(text in "[$a+#/\0é]{0,12}|\\$share/[a+#/]{0,6}", other in "[a+#/$]{0,8}") {
            let limits = TopicLimits { length_max: 100, levels_max: 100 };
            if let Ok(filter) = Filter::parse(&text, limits) {
                let share = filter.share().map_or(String::new(), |name| format!("$share/{name}/"));
                prop_assert_eq!(share + filter.topics(), text.clone());
            }
            let _ = check_topic(&text, limits);
            matches(&text, &other);
            covers(&other, &text);
        }
    }
}
