//! Rows as PostgreSQL takes them best: an array for each column.
//!
//! The text is then the same for any number of rows, and the planner sees a handful of parameters instead of thousands.

use sea_orm::Value;

use super::Chunk;

/// The values of a column, one for each row.
#[derive(Debug, Default)]
struct Column {
    values: Vec<Value>,
    /// Whether the row's value is null, which an array's elements can't be here. Empty: none is.
    nulls: Vec<bool>,
}

/// # Errors
/// The rows as they were, where a value has a type that no array was needed for so far.
pub(super) fn transpose(columns: usize, rows: Vec<Value>) -> Result<Chunk, Vec<Value>> {
    let first = rows.iter().take(columns);
    let Some(types) = first.map(type_name).collect::<Option<Vec<_>>>() else {
        return Err(rows);
    };
    let count = rows.len() / columns;
    let mut table: Vec<Column> = types.iter().map(|_| Column::default()).collect();
    for (index, value) in rows.into_iter().enumerate() {
        table[index % columns].push(value, count);
    }
    let has_nulls = table.iter().any(|column| !column.nulls.is_empty());
    let select = if has_nulls {
        select_with_nulls(&types, &table)
    } else {
        format!("SELECT * FROM {}", unnest(&types))
    };
    let any = match &types[..] {
        [one] if !has_nulls => format!("= ANY (?::{one}[])"),
        _ => format!("IN ({select})"),
    };
    let mut values = Vec::with_capacity(columns);
    let mut nulls = Vec::new();
    for column in table {
        values.push(array(column.values));
        if !column.nulls.is_empty() {
            nulls.push(array(column.nulls.into_iter().map(Value::from).collect()));
        }
    }
    values.append(&mut nulls);
    Ok(Chunk {
        table: select,
        any: Some(any),
        values,
    })
}

impl Column {
    fn push(&mut self, value: Value, count: usize) {
        let is_null = value == value.as_null();
        if is_null && self.nulls.is_empty() {
            self.nulls = vec![false; self.values.len()];
            self.nulls.reserve(count - self.values.len());
        }
        if is_null || !self.nulls.is_empty() {
            self.nulls.push(is_null);
        }
        self.values.push(match is_null {
            true => value.dummy_value(),
            false => value,
        });
    }
}

/// Columns that have nulls are followed by one that says where, at the end.
fn select_with_nulls(types: &[&str], table: &[Column]) -> String {
    let (mut names, mut nulls) = (Vec::new(), Vec::new());
    let mut selected = Vec::new();
    for (index, column) in table.iter().enumerate() {
        names.push(format!("c{index}"));
        if column.nulls.is_empty() {
            selected.push(format!("c{index}"));
        } else {
            nulls.push(format!("n{index}"));
            selected.push(format!("CASE WHEN n{index} THEN NULL ELSE c{index} END"));
        }
    }
    let mut types = types.to_vec();
    types.resize(table.len() + nulls.len(), "boolean");
    names.append(&mut nulls);
    let (selected, names) = (selected.join(","), names.join(","));
    format!("SELECT {selected} FROM {} AS u({names})", unnest(&types))
}

fn unnest(types: &[&str]) -> String {
    let arrays: Vec<String> = types.iter().map(|name| format!("?::{name}[]")).collect();
    format!("unnest({})", arrays.join(","))
}

fn type_name(value: &Value) -> Option<&'static str> {
    match value {
        Value::Bool(_) => Some("boolean"),
        Value::Int(_) => Some("integer"),
        Value::BigInt(_) => Some("bigint"),
        Value::String(_) => Some("text"),
        Value::Bytes(_) => Some("bytea"),
        _ => None,
    }
}

fn array(values: Vec<Value>) -> Value {
    let kind = values
        .first()
        .map_or_else(|| Value::Bool(None).array_type(), Value::array_type);
    Value::Array(kind, Some(Box::new(values)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nulls_are_told_beside_their_column() {
        let name = |name: Option<&str>| Value::from(name);
        let rows = vec![1_i64.into(), name(Some("a")), 2_i64.into(), name(None)];
        let chunk = transpose(2, rows).ok().unwrap();
        let expected = "SELECT c0,CASE WHEN n1 THEN NULL ELSE c1 END
            FROM unnest(?::bigint[],?::text[],?::boolean[]) AS u(c0,c1,n1)";
        let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(chunk.table, words(expected));
        let strings = vec![name(Some("a")), name(Some(""))];
        let nulls = vec![false.into(), true.into()];
        assert_eq!(chunk.values[1..], [array(strings), array(nulls)]);
    }

    #[test]
    fn a_column_is_compared_with_an_array() {
        let rows = vec![1_i64.into(), 2_i64.into()];
        let chunk = transpose(1, rows).ok().unwrap();
        assert_eq!(chunk.any.as_deref(), Some("= ANY (?::bigint[])"));
        assert_eq!(chunk.values.len(), 1);
    }
}
