//! JSON schemas of what is printed, as they are published in `docs/`.

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;

/// The schema (draft 2020-12) of a type as it is written, with a line's end.
pub fn schema_of<T: JsonSchema>() -> String {
    let settings = SchemaSettings::draft2020_12().for_serialize();
    let schema = settings.into_generator().into_root_schema_for::<T>();
    let mut text = serde_json::to_string_pretty(&schema).unwrap_or_default();
    text.push('\n');
    text
}
