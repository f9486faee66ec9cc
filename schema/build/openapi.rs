//! The messages of the public package as schemas of OpenAPI 3.1, with their comments: how they look as canonical
//! protobuf JSON.

use std::collections::HashMap;
use std::io::{Error, Result};

use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, FieldDescriptorProto, FileDescriptorProto};
use serde_json::{Map, Value, json};

/// Field numbers in `descriptor.proto`, of which a comment's path is made.
const MESSAGES: i32 = 4;
const FIELDS: i32 = 2;

/// One schema for each message of the file, by name.
pub fn schemas(file: &FileDescriptorProto) -> Result<Value> {
    let comments = Comments::of(file);
    let mut schemas = Map::new();
    for (index, message) in (0..).zip(&file.message_type) {
        let schema = message_schema(message, &comments, index)?;
        schemas.insert(message.name().to_owned(), schema);
    }
    Ok(Value::Object(schemas))
}

fn message_schema(message: &DescriptorProto, comments: &Comments, index: i32) -> Result<Value> {
    let mut properties = Map::new();
    for (number, field) in (0..).zip(&message.field) {
        let mut schema = field_schema(field)?;
        if let Some(comment) = comments.at(&[MESSAGES, index, FIELDS, number]) {
            schema["description"] = comment.into();
        }
        properties.insert(field.json_name().to_owned(), schema);
    }
    let mut description = comments.at(&[MESSAGES, index]).unwrap_or_default();
    for choice in choices(message) {
        let one = format!("At most one of these is set: {choice}.");
        description = format!("{description} {one}").trim().to_owned();
    }
    let mut schema = json!({ "type": "object", "properties": properties });
    if !description.is_empty() {
        schema["description"] = description.into();
    }
    Ok(schema)
}

/// The fields of each `oneof`, as a list for people.
fn choices(message: &DescriptorProto) -> Vec<String> {
    let oneofs = (0..).zip(&message.oneof_decl);
    let fields = |index: i32| {
        let fields = message.field.iter();
        let fields = fields.filter(move |field| {
            // A field that is `optional` is a choice of its own.
            field.oneof_index == Some(index) && !field.proto3_optional()
        });
        let names: Vec<String> = fields
            .map(|field| format!("`{}`", field.json_name()))
            .collect();
        names.join(", ")
    };
    let lists = oneofs.map(|(index, _)| fields(index));
    lists.filter(|list| !list.is_empty()).collect()
}

fn field_schema(field: &FieldDescriptorProto) -> Result<Value> {
    let one = match field.r#type() {
        Type::String => json!({ "type": "string" }),
        Type::Bytes => json!({ "type": "string", "contentEncoding": "base64" }),
        Type::Bool => json!({ "type": "boolean" }),
        Type::Uint32 => json!({ "type": "integer", "minimum": 0, "maximum": u32::MAX }),
        Type::Uint64 => json!({ "type": "string", "format": "uint64" }),
        Type::Double => json!({ "type": "number", "format": "double" }),
        Type::Message if field.type_name() == ".google.protobuf.Timestamp" => {
            json!({ "type": "string", "format": "date-time" })
        }
        Type::Message => {
            let name = field.type_name().rsplit('.').next().unwrap_or_default();
            json!({ "$ref": format!("#/components/schemas/{name}") })
        }
        other => {
            let reason = format!("{}: {other:?} has no schema yet", field.name());
            return Err(Error::other(reason));
        }
    };
    Ok(match field.label() {
        Label::Repeated => json!({ "type": "array", "items": one }),
        Label::Optional | Label::Required => one,
    })
}

/// The comments of a file, by what they stand before.
struct Comments(HashMap<Vec<i32>, String>);

impl Comments {
    fn of(file: &FileDescriptorProto) -> Self {
        let info = file.source_code_info.clone().unwrap_or_default();
        let commented = info.location.into_iter().filter_map(|location| {
            let comment = location.leading_comments?;
            let lines: Vec<&str> = comment.lines().map(str::trim).collect();
            Some((location.path, lines.join(" ").trim().to_owned()))
        });
        Comments(commented.collect())
    }

    fn at(&self, path: &[i32]) -> Option<String> {
        self.0.get(path).cloned()
    }
}
