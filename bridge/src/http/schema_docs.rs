//! The wire contract's messages in `/openapi.json`: those of [`schema::openapi`], under their names.
//!
//! The types here only name them for the routes' documentation. What is read and written are the types of
//! [`schema::v1`], as canonical protobuf JSON: fields that are empty or 0 are left out there.

use std::borrow::Cow;

use serde_json::{Map, Value, json};
use utoipa::openapi::schema::{Object, Schema};
use utoipa::openapi::{OpenApi, RefOr};
use utoipa::{PartialSchema, ToSchema};

/// Where references to schemas point.
const SCHEMAS: &str = "#/components/schemas/";

macro_rules! named {
    ($($type:ident = $name:literal),* $(,)?) => {
        $(
            #[doc = concat!("The message `", $name, "`.")]
            pub(super) struct $type;

            impl PartialSchema for $type {
                fn schema() -> RefOr<Schema> {
                    // A place for what `complete` puts there.
                    Object::new().into()
                }
            }

            impl ToSchema for $type {
                fn name() -> Cow<'static, str> {
                    $name.into()
                }
            }
        )*

        /// The messages that routes name.
        const NAMED: &[&str] = &[$($name),*];
    };
}

named! {
    UpDoc = "Up",
    ReplyDoc = "Reply",
    MessageDoc = "Message",
    ContactDoc = "Contact",
    ContactListDoc = "ContactList",
    DeleteMessagesDoc = "DeleteMessages",
    ProfileDoc = "Profile",
    RevisionListDoc = "RevisionList",
    ScheduledListDoc = "ScheduledList",
    UserDoc = "User",
    UserListDoc = "UserList",
}

/// The description of the routes with all messages. Where a route has a view of its own under a message's name, the
/// message's is `Wire…`.
pub(super) fn complete(document: &OpenApi) -> Result<Value, serde_json::Error> {
    let mut document = serde_json::to_value(document)?;
    let schemas = &mut document["components"]["schemas"];
    let mut messages = schema::openapi::SCHEMAS.to_owned();
    let has_view = |name: &String| schemas.get(name).is_some() && !NAMED.contains(&name.as_str());
    let taken: Vec<String> = parse(&messages)?
        .into_iter()
        .map(|(name, _)| name)
        .filter(has_view)
        .collect();
    for name in &taken {
        let old = format!("\"{SCHEMAS}{name}\"");
        let new = format!("\"{SCHEMAS}Wire{name}\"");
        messages = messages.replace(&old, &new);
    }
    for (name, message) in parse(&messages)? {
        let wire = if taken.contains(&name) { "Wire" } else { "" };
        schemas[format!("{wire}{name}")] = message;
    }
    schemas["Up"]["example"] =
        json!({ "clientMsgId": "m1", "send": { "to": { "user": "bob" }, "text": "hi" } });
    Ok(document)
}

fn parse(messages: &str) -> Result<Map<String, Value>, serde_json::Error> {
    serde_json::from_str(messages)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn references(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(fields) => {
                found.extend(
                    fields
                        .get("$ref")
                        .and_then(Value::as_str)
                        .map(str::to_owned),
                );
                fields.values().for_each(|value| references(value, found));
            }
            Value::Array(values) => values.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }

    /// Everything that is pointed to is there, and no view of a route's own is replaced.
    #[test]
    fn the_document_is_complete() {
        let view = json!({ "type": "object", "description": "a route's own" });
        let routes = json!({
            "openapi": "3.1.0", "info": { "title": "", "version": "" }, "paths": {},
            "components": { "schemas": { "Group": view, "Up": { "type": "object" } } }
        });
        let routes: OpenApi = serde_json::from_value(routes).unwrap();
        let document = complete(&routes).unwrap();
        let schemas = &document["components"]["schemas"];
        let mut found = Vec::new();
        references(&document, &mut found);
        assert!(found.len() > 100, "{} references", found.len());
        for reference in found {
            let name = reference.strip_prefix(SCHEMAS).unwrap();
            assert!(schemas[name].is_object(), "{reference}");
        }
        assert_eq!(schemas["Group"]["description"], "a route's own");
        let group = &schemas["Ok"]["properties"]["group"]["$ref"];
        assert_eq!(*group, format!("{SCHEMAS}WireGroup"));
        let message = &schemas["Message"]["properties"];
        assert_eq!(message["msgId"]["type"], "string");
        assert_eq!(message["sentAt"]["format"], "date-time");
        assert_eq!(message["body"]["contentEncoding"], "base64");
        assert_eq!(
            message["reactions"]["items"]["$ref"],
            format!("{SCHEMAS}Reaction")
        );
        let up = schemas["Up"]["description"].as_str().unwrap();
        assert!(up.contains("`send`, `ack`"), "{up}");
    }
}
