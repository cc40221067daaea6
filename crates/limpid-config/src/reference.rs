//! The key reference of a config struct as Markdown, from its schema: one section per table, one
//! row per key.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde_json::Value as Json;

use crate::key::join;
use crate::schema::{
    Schema, array, choices, expectation, properties, tag, tag_value, to_toml, types,
};
use crate::show::inline;

/// The key reference of `T`: key, type, default and description for every table, with a table per
/// variant where a `kind` chooses.
pub fn reference_markdown<T: JsonSchema>(title: &str) -> String {
    let schema = Schema::of::<T>();
    let mut writer =
        Writer { schema: &schema, text: format!("# {title}\n"), seen: BTreeMap::new() };
    writer.description(&schema.root);
    writer.body(&schema.root, None, &mut Vec::new());
    writer.text
}

struct Writer<'a> {
    schema: &'a Schema,
    text: String,
    /// The definitions that have their section, with these defaults, and where: a struct that is
    /// used twice is written once.
    seen: BTreeMap<(String, String), String>,
}

impl Writer<'_> {
    /// The tables of one section, then the sections of the tables inside. The defaults of the
    /// table as a whole come before those of its keys.
    fn body(&mut self, schema: &Json, default: Option<&Json>, path: &mut Vec<String>) {
        let whole = self.schema;
        let schema = whole.resolve(schema);
        let branches = whole.branches(&schema);
        match (branches.as_slice(), tag(&branches)) {
            ([], _) => self.keys(&schema, None, default, path),
            ([one], _) => self.body(one, default, path),
            (many, Some(tag)) => {
                for branch in many {
                    let kind = tag_value(branch, tag);
                    let default = default.filter(|d| d.get(tag).is_some_and(|v| v == kind));
                    let note = if default.is_some() { " (default)" } else { "" };
                    self.text += &format!("\n### `{tag} = \"{kind}\"`{note}\n");
                    self.description(branch);
                    self.keys(branch, Some(tag), default, path);
                }
            }
            (many, None) => many.iter().for_each(|branch| self.keys(branch, None, None, path)),
        }
    }

    /// The rows of one table, without its tag, and then the sections below.
    fn keys(
        &mut self,
        schema: &Json,
        tag: Option<&str>,
        defaults: Option<&Json>,
        path: &mut Vec<String>,
    ) {
        let whole = self.schema;
        let rows: Vec<_> =
            properties(schema).filter(|(name, _)| Some(name.as_str()) != tag).collect();
        if rows.is_empty() {
            return;
        }
        self.text += "\n| key | type | default | description |\n|---|---|---|---|\n";
        let required: Vec<&str> = array(schema, "required").filter_map(Json::as_str).collect();
        let mut below = Vec::new();
        for (name, property) in rows {
            let inner = table_of(whole, property);
            let value = defaults.and_then(|d| d.get(name)).or_else(|| property.get("default"));
            let default = match (value, &inner) {
                (None, _) if required.contains(&name.as_str()) => "*required*".to_owned(),
                (Some(value), None) => {
                    to_toml(value).map_or("*unset*".to_owned(), |v| format!("`{}`", inline(&v)))
                }
                (Some(value), Some(_)) if value.is_null() => "*unset*".to_owned(),
                (None, _) => "*unset*".to_owned(),
                _ => String::new(),
            };
            let about = property.get("description").and_then(Json::as_str).unwrap_or_default();
            let resolved = whole.resolve(property);
            let own = resolved.get("description").and_then(Json::as_str).unwrap_or_default();
            let about = if about.is_empty() { own } else { about };
            let cells = [format!("`{name}`"), self.kind(property), default, about.to_owned()];
            let cells = cells
                .map(|c| c.replace('|', "\\|").split_whitespace().collect::<Vec<_>>().join(" "));
            self.text += &format!("| {} |\n", cells.join(" | "));
            // items of arrays and maps have only their own defaults
            let whole_default = value.filter(|v| v.is_object()).cloned();
            below.extend(inner.map(|(steps, schema)| {
                let default = whole_default.filter(|_| steps.is_empty());
                (name, steps, schema, default)
            }));
        }
        for (name, steps, inner, default) in below {
            let depth = path.len();
            path.push(name.clone());
            path.extend(steps.iter().map(|s| (*s).to_owned()));
            let place = join(path);
            self.text += &format!("\n## `[{place}]`\n");
            let known = whole.definition(&inner).map(|name| {
                let default = default.as_ref().map(Json::to_string).unwrap_or_default();
                (name.to_owned(), default)
            });
            match known.as_ref().and_then(|known| self.seen.get(known)) {
                Some(first) => self.text += &format!("\nThe same keys as `[{first}]`.\n"),
                None => {
                    self.seen.extend(known.map(|known| (known, place)));
                    self.description(&whole.resolve(&inner));
                    self.body(&inner, default.as_ref(), path);
                }
            }
            path.truncate(depth);
        }
    }

    /// What a value looks like, shorter than in an error.
    fn kind(&self, property: &Json) -> String {
        let text = expectation(self.schema, property);
        let text = text.strip_prefix("an ").or(text.strip_prefix("a ")).unwrap_or(&text);
        let part = self.schema.resolve(property);
        let some = self.schema.branches(&part);
        match some.first().is_some_and(|b| choices(b).is_empty()) && tag(&some).is_some() {
            true => "table".into(),
            false => text.replace(" or a ", " or ").replace(" or an ", " or "),
        }
    }

    fn description(&mut self, schema: &Json) {
        if let Some(text) = schema.get("description").and_then(Json::as_str) {
            self.text += &format!("\n{text}\n");
        }
    }
}

/// The schema of the table that a property holds, directly, as items of an array or as entries of
/// a map, with the path step that leads there.
fn table_of(schema: &Schema, property: &Json) -> Option<(Vec<&'static str>, Json)> {
    let resolved = schema.resolve(property);
    let branches = schema.branches(&resolved);
    match branches.as_slice() {
        [] => {}
        [one] => return table_of(schema, one).map(|(steps, _)| (steps, property.clone())),
        many if tag(many).is_some() => return Some((Vec::new(), property.clone())),
        many => return many.iter().find_map(|branch| table_of(schema, branch)),
    }
    match types(&resolved).as_slice() {
        ["object"] => match resolved.get("additionalProperties") {
            Some(items @ Json::Object(_)) => table_of(schema, items)
                .map(|(steps, inner)| ([vec!["NAME"], steps].concat(), inner)),
            _ => properties(&resolved).next().is_some().then(|| (Vec::new(), property.clone())),
        },
        ["array"] => {
            let (steps, inner) = table_of(schema, resolved.get("items")?)?;
            Some(([vec!["N"], steps].concat(), inner))
        }
        _ => None,
    }
}
