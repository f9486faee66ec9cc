use std::collections::HashMap;
use std::io::Write as _;
use std::time::Duration;

use super::*;

fn environment(variables: &[(&str, &str)]) -> Environment {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    let variables: HashMap<_, _> = variables.iter().map(owned).collect();
    super::environment().source(Some(variables))
}

fn load(variables: &[(&str, &str)]) -> Result<Settings, Error> {
    Settings::from_layers(None, environment(variables))
}

fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", chain(source)),
        None => error.to_string(),
    }
}

#[test]
fn the_defaults_are_usable() {
    let settings = Settings::defaults();
    assert_eq!(settings.mqtt.listen, ["127.0.0.1:1883".parse().unwrap()]);
    assert_eq!(settings.http.listen, ["127.0.0.1:8080".parse().unwrap()]);
    assert_eq!(settings.mqtt.max_packet_size, 256 * 1024);
    assert_eq!(settings.mqtt.keep_alive_max, None);
    assert_eq!(
        settings.auth.refresh_token_ttl,
        Duration::from_secs(30 * 24 * 3600)
    );
    assert_eq!(settings.database_url(), "sqlite://data/tidings.db");
    assert_eq!(
        settings.log_filter(),
        "info,rumqttd=off,sea_orm_migration=warn"
    );
}

#[test]
fn the_environment_sets_lists_numbers_and_yes_or_no() {
    let settings = load(&[
        ("TIDINGS__MQTT__LISTEN", "0.0.0.0:0, [::1]:1884"),
        ("TIDINGS__MQTT__RECEIVE_MAXIMUM", "7"),
        ("TIDINGS__MQTT__KEEP_ALIVE_MAX", "90s"),
        ("TIDINGS__MESSAGES__TEXT_MAX", "1024"),
        ("TIDINGS__AUTH__REGISTRATION", "false"),
        ("TIDINGS__HTTP__LISTEN", ""),
        ("TIDINGS__DATA_DIR", "/tmp/x"),
        ("TIDINGS__LOG", "debug,rumqttd=info"),
        ("OTHER__KEY", "1"),
    ])
    .unwrap();
    let listen: Vec<String> = settings
        .mqtt
        .listen
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(listen, ["0.0.0.0:0", "[::1]:1884"]);
    assert_eq!(settings.mqtt.receive_maximum, 7);
    assert_eq!(settings.mqtt.keep_alive_max, Some(Duration::from_secs(90)));
    assert_eq!(settings.messages.text_max, 1024);
    assert!(!settings.auth.registration);
    assert!(settings.http.listen.is_empty());
    assert_eq!(settings.database_url(), "sqlite:///tmp/x/tidings.db");
    assert_eq!(
        settings.log_filter(),
        "debug,rumqttd=info,sea_orm_migration=warn"
    );
}

#[test]
fn a_broker_has_a_name_and_a_port() {
    let broker = |text: &str| load(&[("TIDINGS__LINK__BROKER", text)]);
    let found = broker("mqtt://10.0.0.5:1884").unwrap().link;
    let expected = BrokerAddress {
        host: "10.0.0.5".to_owned(),
        port: 1884,
        is_tls: false,
    };
    assert_eq!(found.broker_address(), Some(expected));
    assert_eq!(Settings::defaults().link.broker_address(), None);
    for wrong in [
        "10.0.0.5:1884",
        "http://x:1",
        "mqtt://x",
        "mqtt://:1",
        "mqtt://x:y",
        "mqtts://x:1",
    ] {
        let error = broker(wrong).unwrap_err().to_string();
        assert!(error.contains("link."), "{wrong}: {error}");
    }
}

#[test]
fn a_links_secret_comes_from_one_place_and_is_long() {
    let short = load(&[("TIDINGS__LINK__SECRET", "short")]).unwrap_err();
    assert!(short.to_string().contains("link.secret"), "{short}");
    assert!(Settings::defaults().link.read_secret().is_err());
    let mut file = tempfile::NamedTempFile::new().unwrap();
    let secret = "0123456789abcdef0123456789abcdef";
    writeln!(file, "{secret}").unwrap();
    let path = file.path().to_str().unwrap();
    let link = load(&[("TIDINGS__LINK__SECRET_FILE", path)]).unwrap().link;
    assert_eq!(link.read_secret().unwrap().expose(), secret);
    let both = [
        ("TIDINGS__LINK__SECRET_FILE", path),
        ("TIDINGS__LINK__SECRET", secret),
    ];
    assert!(load(&both).is_err());
}

#[test]
fn the_file_lies_between_defaults_and_environment() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    writeln!(
        file,
        "[groups]\nmembers_max = 5\n[devices]\nper_user_max = 5"
    )
    .unwrap();
    let environment = environment(&[("TIDINGS__DEVICES__PER_USER_MAX", "6")]);
    let settings = Settings::from_layers(Some(file.path()), environment).unwrap();
    assert_eq!(settings.groups.members_max, 5);
    assert_eq!(settings.devices.per_user_max, 6);
}

#[test]
fn more_variables_count_as_well() {
    let variables = [("TIDINGS__MQTT__LISTEN", "127.0.0.1:7".to_owned())];
    let settings = Settings::load_with(None, &variables).unwrap();
    assert_eq!(settings.mqtt.listen, ["127.0.0.1:7".parse().unwrap()]);
}

#[test]
fn what_makes_no_sense_is_refused_with_its_name() {
    for (name, value, reason) in [
        ("TIDINGS__MQTT__LISTENER", "x", "listener"),
        ("TIDINGS__MQTX__LISTEN", "x", "mqtx"),
        (
            "TIDINGS__MQTT__LISTEN",
            "localhost",
            "an IP address with a port",
        ),
        ("TIDINGS__MQTT__LISTEN", "127.0.0.1:x", "mqtt.listen"),
        ("TIDINGS__MQTT__CONNECT_TIMEOUT", "10", "a duration like"),
        ("TIDINGS__MQTT__MAX_PACKET_SIZE", "64 apples", "a size like"),
        (
            "TIDINGS__MQTT__RECEIVE_MAXIMUM",
            "0",
            "mqtt.receive_maximum",
        ),
        (
            "TIDINGS__MQTT__RECEIVE_MAXIMUM",
            "70000",
            "mqtt.receive_maximum",
        ),
        (
            "TIDINGS__HTTP__MAX_CONNECTIONS",
            "0",
            "http.max_connections",
        ),
        ("TIDINGS__MESSAGES__TEXT_MAX", "1 MiB", "messages.text_max"),
        ("TIDINGS__AUTH__REGISTRATION", "maybe", "auth.registration"),
        (
            "TIDINGS__AUTH__ACCESS_TOKEN_TTL",
            "90d",
            "auth.access_token_ttl",
        ),
        ("TIDINGS__AUTH__JWT_KEY", "short", "auth.jwt_key"),
        ("TIDINGS__DATABASE__URL", "oracle://x", "database.url"),
        (
            "TIDINGS__DATABASE__WRITE_CONNECTIONS",
            "1",
            "write_connections",
        ),
        (
            "TIDINGS__DATABASE__LOCK_TIMEOUT",
            "10s",
            "not shorter than database.statement_timeout",
        ),
        (
            "TIDINGS__DATABASE__STATEMENT_TIMEOUT",
            "15s",
            "database.statement_timeout is 15 s",
        ),
        ("TIDINGS__MQTTS__LISTEN", "0.0.0.0:8883", "mqtts.listen"),
        ("TIDINGS__REDIS__URL", "localhost:6379", "redis.url begins"),
        ("TIDINGS__REDIS__URL", "redis://x", "not SQLite"),
        ("TIDINGS__REDIS__PREFIX", "a{b}", "redis.prefix"),
        ("TIDINGS__REDIS__TIMEOUT", "0s", "redis.timeout"),
        ("TIDINGS__LOG", "info,,=?", "log"),
        ("TIDINGS__MESSAGES__KEEP", "23h", "messages.keep"),
        ("TIDINGS__ARCHIVE__AFTER", "6d", "archive.after"),
        ("TIDINGS__ARCHIVE__INTERVAL", "10ms", "archive.interval"),
        ("TIDINGS__ARCHIVE__TIMEOUT", "0s", "archive.timeout"),
        ("TIDINGS__ARCHIVE__URL", "gs://x", "neither a folder nor"),
        ("TIDINGS__ARCHIVE__URL", "s3://", "needs a bucket"),
        ("TIDINGS__ARCHIVE__URL", "s3://x", "archive.access_key_id"),
        (
            "TIDINGS__ARCHIVE__ENDPOINT",
            "minio:9000",
            "archive.endpoint",
        ),
        ("TIDINGS__ARCHIVE__CACHE", "much", "a size like"),
    ] {
        let error = load(&[(name, value)]).expect_err(name);
        let text = chain(&error);
        assert!(text.contains(reason), "{name}={value}: {text}");
    }
}

#[test]
fn nodes_that_know_of_each_other_need_the_same_key() {
    let key = "0123456789abcdef0123456789abcdef";
    let settings = [
        ("TIDINGS__DATABASE__URL", "postgres://h/d"),
        ("TIDINGS__REDIS__URL", "redis://h"),
        ("TIDINGS__AUTH__JWT_KEY", key),
    ];
    load(&settings).unwrap();
    let text = chain(&load(&settings[..2]).unwrap_err());
    assert!(text.contains("auth.jwt_key"), "{text}");
}

#[test]
fn a_bucket_is_named_with_or_without_a_prefix() {
    let key = "0123456789abcdef0123456789abcdef";
    let with = |url| {
        load(&[
            ("TIDINGS__ARCHIVE__AFTER", "30d"),
            ("TIDINGS__MESSAGES__KEEP", "31d"),
            ("TIDINGS__ARCHIVE__URL", url),
            ("TIDINGS__ARCHIVE__ACCESS_KEY_ID", "id"),
            ("TIDINGS__ARCHIVE__SECRET_ACCESS_KEY", key),
        ])
    };
    for (url, expected) in [
        ("", None),
        ("/var/lib/tidings/old", None),
        ("s3://bucket", Some(("bucket", ""))),
        ("s3://bucket/a/b", Some(("bucket", "a/b"))),
    ] {
        let settings = with(url).unwrap();
        assert_eq!(settings.archive.bucket(), expected, "{url}");
        assert!(!format!("{settings:?}").contains(key));
    }
    let never_archived = load(&[
        ("TIDINGS__ARCHIVE__AFTER", "30d"),
        ("TIDINGS__MESSAGES__KEEP", "30d"),
    ]);
    let text = chain(&never_archived.unwrap_err());
    assert!(text.contains("nothing would be archived"), "{text}");
}

#[test]
fn secrets_are_not_shown() {
    let key = "0123456789abcdef0123456789abcdef";
    let (database, redis) = (format!("mysql://u:{key}@h/d"), format!("redis://:{key}@h"));
    let settings = load(&[
        ("TIDINGS__AUTH__JWT_KEY", key),
        ("TIDINGS__DATABASE__URL", &database),
        ("TIDINGS__REDIS__URL", &redis),
    ])
    .unwrap();
    assert!(!format!("{settings:?}").contains(key));
}
