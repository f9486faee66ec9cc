//! What the settings say, in the words of the parts that they are for.

use std::time::Duration;

use anyhow::Context as _;

use crate::service;
use crate::service::archiver::Ages;
use crate::service::rates::Rates;
use crate::service::words::Words;
use crate::settings::{self, Settings};

/// How long answers to commands other than sends are kept: longer than a phone is off between two tries.
const ANSWERS_KEPT: Duration = Duration::from_secs(7 * 24 * 3600);

/// What the settings say of the edge.
#[must_use]
pub fn broker_options(settings: &Settings) -> broker::Options {
    let (network, mqtt, topics) = (&settings.network, &settings.mqtt, &settings.topics);
    broker::Options {
        network: broker::NetworkOptions {
            proxy_from: network.proxy_from.clone(),
            trusted: network.trusted.clone(),
            connections_per_address: network.connections_per_address,
            connects_per_second: network.connects_per_second,
            connects_burst: network.connects_burst,
        },
        max_packet_size: mqtt.max_packet_size,
        connect_timeout: mqtt.connect_timeout,
        keep_alive_max_secs: mqtt
            .keep_alive_max
            .map_or(0, |max| u16::try_from(max.as_secs()).unwrap_or(u16::MAX)),
        receive_maximum: mqtt.receive_maximum,
        delivery_window: mqtt.delivery_window,
        session_queue: mqtt.session_queue,
        max_connections: mqtt.max_connections,
        connections_per_user_max: mqtt.connections_per_user_max,
        write_timeout: mqtt.write_timeout,
        session_expiry_max_secs: mqtt
            .session_expiry_max
            .map_or(0, |max| u32::try_from(max.as_secs()).unwrap_or(u32::MAX)),
        sessions_max: mqtt.sessions_max,
        sessions_per_user_max: mqtt.sessions_per_user_max,
        subscriptions_max: mqtt.subscriptions_max,
        topic_length_max: mqtt.topic_length_max,
        topic_levels_max: mqtt.topic_levels_max,
        topic_alias_max: mqtt.topic_alias_max,
        rate: broker::RateOptions {
            publishes: mqtt.publish_rate,
            bytes: mqtt.byte_rate,
            patience: mqtt.rate_patience,
        },
        anonymous: mqtt.anonymous,
        retained: broker::RetainedOptions {
            messages_max: topics.retained_max,
            bytes_max: topics.retained_bytes_max,
            per_user_max: topics.retained_per_user_max,
            bytes_per_user_max: topics.retained_bytes_per_user_max,
        },
        sys_interval: topics.sys_interval,
        elsewhere: broker::Elsewhere {
            reference: Some(settings.shutdown.server_reference.clone())
                .filter(|reference| !reference.is_empty()),
            is_for_good: settings.shutdown.moved,
        },
    }
}

/// The operator's rules, as the edge knows them.
///
/// # Errors
/// A rule that can't be used.
pub(crate) fn rules(settings: &Settings) -> anyhow::Result<broker::Rules> {
    use settings::{Action, Effect, Who};
    let rule = |rule: &settings::RuleOptions| broker::Rule {
        effect: match rule.effect {
            Effect::Allow => broker::Effect::Allow,
            Effect::Deny => broker::Effect::Deny,
        },
        action: match rule.action {
            Action::Publish => broker::Action::Publish,
            Action::Subscribe => broker::Action::Subscribe,
            Action::All => broker::Action::All,
        },
        who: match rule.who {
            Who::Users => broker::Who::Users,
            Who::Anonymous => broker::Who::Anonymous,
            Who::Administrators => broker::Who::Administrators,
            Who::Everyone => broker::Who::Everyone,
        },
        topics: rule.topics.clone(),
    };
    let rules = settings.topics.rules.iter().map(rule).collect();
    broker::Rules::compile(rules).context("topics.rules can't be used")
}

/// What the settings say of commands.
#[must_use]
pub fn limits(settings: &Settings) -> service::Limits {
    service::Limits {
        text_max: settings.messages.text_max,
        recall_within: settings.messages.recall_within,
        edit_within: settings.messages.edit_within,
        expires_max: settings.messages.expires_max,
        catch_up_max: settings.messages.catch_up_max,
        group_members_max: settings.groups.members_max,
        contacts_max: settings.contacts.per_user_max,
        contact_requests_max: settings.contacts.requests_max,
        devices_max: settings.devices.per_user_max,
        grants_max: settings.topics.grants_per_user_max,
        topic_length_max: settings.mqtt.topic_length_max,
        topic_levels_max: settings.mqtt.topic_levels_max,
        presence_interval: settings.presence.interval,
        presence_grace: settings.presence.grace,
        answers_kept: ANSWERS_KEPT,
        search: settings.search.enabled,
        ages: Ages {
            archive_after: settings.archive.after,
            keep: settings.messages.keep,
            interval: settings.archive.interval,
        },
        rates: Rates::new(&settings.rates),
        words: Words::of_file(&settings.words.file),
    }
}
