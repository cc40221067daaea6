//! The JSON Schema (draft 2020-12, made by schemars) of a config struct: for editors, for defaults,
//! and to find every unknown key and every wrong type at once where serde stops at the first.
//!
//! Only what schemars emits for serde structs and enums is understood; everything else passes here
//! and is left to serde.

use std::borrow::Cow;

use schemars::JsonSchema;
use serde_json::{Map, Value as Json, json};

use crate::load::EXTENDS;
use crate::node::{Data, Node};

/// The JSON Schema of a config file of `T`, with the `extends` key that every config file may have.
pub fn schema<T: JsonSchema>() -> Json {
    let mut root = Schema::of::<T>().root;
    if let Some(properties) = root.get_mut("properties").and_then(Json::as_object_mut) {
        let description = "Config file that this one builds on, relative to this file's directory.";
        properties.insert(EXTENDS.into(), json!({"type": "string", "description": description}));
    }
    root
}

/// A schema with its `$defs`.
pub(crate) struct Schema {
    pub(crate) root: Json,
}

impl Schema {
    pub(crate) fn of<T: JsonSchema>() -> Self {
        Self { root: schemars::schema_for!(T).to_value() }
    }

    /// The top-level defaults, which the schema knows from serde.
    pub(crate) fn defaults(&self) -> Node {
        let mut root = Node::empty();
        if let Data::Table(entries) = &mut root.data {
            for (name, property) in properties(&self.root) {
                if let Some(value) = property.get("default").and_then(to_toml) {
                    entries.insert(name.clone(), Node::from_value(value, None));
                }
            }
        }
        root
    }

    /// The schema behind a `$ref`, together with what stands beside the reference.
    pub(crate) fn resolve<'a>(&'a self, schema: &'a Json) -> Cow<'a, Json> {
        let mut parts: Vec<&Json> = Vec::new();
        if let Some(target) = self.target(schema) {
            parts.push(target);
        }
        parts.extend(array(schema, "allOf"));
        if parts.is_empty() {
            return Cow::Borrowed(schema);
        }
        let mut merged = match self.resolve(parts[0]) {
            one if parts.len() == 1 && schema.get("properties").is_none() => return one,
            one => one.into_owned(),
        };
        for part in &parts[1..] {
            merge(&mut merged, &self.resolve(part));
        }
        merge(&mut merged, schema);
        Cow::Owned(merged)
    }

    /// The name of the definition that a schema refers to, directly or as its only choice but null.
    pub(crate) fn definition<'a>(&self, schema: &'a Json) -> Option<&'a str> {
        if let Some(reference) = schema.get("$ref").and_then(Json::as_str) {
            return reference.strip_prefix("#/$defs/");
        }
        match array(schema, "anyOf").filter(|s| !is_null(s)).collect::<Vec<_>>().as_slice() {
            [one] => self.definition(one),
            _ => None,
        }
    }

    fn target(&self, schema: &Json) -> Option<&Json> {
        self.root.pointer(schema.get("$ref")?.as_str()?.strip_prefix('#')?)
    }

    /// The alternatives of a resolved `oneOf` or `anyOf`, without null; empty for anything else.
    pub(crate) fn branches<'a>(&'a self, schema: &'a Json) -> Vec<Cow<'a, Json>> {
        let shared = schema.get("properties").is_some();
        array(schema, "oneOf")
            .chain(array(schema, "anyOf"))
            .filter(|branch| !is_null(branch))
            .map(|branch| match self.resolve(branch) {
                branch if !shared => branch,
                branch => {
                    let mut branch = branch.into_owned();
                    merge(&mut branch, &json!({"properties": schema["properties"]}));
                    Cow::Owned(branch)
                }
            })
            .collect()
    }

    /// Every key of every table, as (path, tag such as `kind = "sgd"` when it belongs to a variant).
    pub(crate) fn every_key(&self) -> Vec<(Vec<String>, Option<String>)> {
        let mut found = Vec::new();
        self.keys_below(&self.root, &mut Vec::new(), &mut found);
        found
    }

    fn keys_below(
        &self,
        schema: &Json,
        path: &mut Vec<String>,
        found: &mut Vec<(Vec<String>, Option<String>)>,
    ) {
        // recursive types end here
        if path.len() > 6 {
            return;
        }
        let schema = self.resolve(schema);
        for branch in self.branches(&schema) {
            self.keys_below(&branch, path, found);
        }
        for (name, property) in properties(&schema) {
            path.push(name.clone());
            found.push((path.clone(), variant(&schema)));
            self.keys_below(property, path, found);
            path.pop();
        }
    }
}

/// The properties of a resolved object schema.
pub(crate) fn properties(schema: &Json) -> impl Iterator<Item = (&String, &Json)> {
    schema.get("properties").and_then(Json::as_object).into_iter().flatten()
}

/// The items of an array keyword; none when it is absent.
pub(crate) fn array<'a>(schema: &'a Json, keyword: &str) -> impl Iterator<Item = &'a Json> {
    schema.get(keyword).and_then(Json::as_array).into_iter().flatten()
}

/// The types a schema allows, without null; empty when it does not say.
pub(crate) fn types(schema: &Json) -> Vec<&str> {
    let one = schema.get("type").and_then(Json::as_str);
    let many = array(schema, "type").filter_map(Json::as_str);
    one.into_iter().chain(many).filter(|&t| t != "null").collect()
}

/// The strings a schema allows, when it allows only these.
pub(crate) fn choices(schema: &Json) -> Vec<&str> {
    let one = schema.get("const").and_then(Json::as_str);
    one.into_iter().chain(array(schema, "enum").filter_map(Json::as_str)).collect()
}

/// The key whose constant value tells these variants apart.
pub(crate) fn tag<'a>(branches: &'a [Cow<'_, Json>]) -> Option<&'a str> {
    let tagged = |branch: &Json, name: &str| {
        branch.pointer(&format!("/properties/{name}/const")).is_some_and(Json::is_string)
    };
    properties(branches.first()?)
        .map(|(name, _)| name.as_str())
        .find(|name| branches.iter().all(|branch| tagged(branch, name)))
}

/// The value of the tag of one variant.
pub(crate) fn tag_value<'a>(branch: &'a Json, tag: &str) -> &'a str {
    branch["properties"][tag]["const"].as_str().unwrap_or_default()
}

/// `kind = "sgd"` when the schema is that variant of an enum.
pub(crate) fn variant(schema: &Json) -> Option<String> {
    properties(schema)
        .find_map(|(name, property)| Some((name, property.get("const")?.as_str()?)))
        .map(|(name, value)| format!("{name} = \"{value}\""))
}

/// What a schema expects, in words: `an integer`, `one of a, b`, `an array of numbers`.
pub(crate) fn expectation(schema: &Schema, part: &Json) -> String {
    let part = schema.resolve(part);
    let branches = schema.branches(&part);
    if !branches.is_empty() {
        let choices: Vec<&str> = branches.iter().flat_map(|b| choices(b)).collect();
        if choices.len() == branches.len() {
            return format!("one of {}", choices.join(", "));
        }
        let mut each: Vec<String> = branches.iter().map(|b| expectation(schema, b)).collect();
        each.dedup();
        return each.join(" or ");
    }
    match choices(&part).as_slice() {
        [] => {}
        [one] => return format!("\"{one}\""),
        many => return format!("one of {}", many.join(", ")),
    }
    let name = |kind: &&str| match *kind {
        "integer" => "an integer".to_owned(),
        "number" => "a number".to_owned(),
        "string" => "a string".to_owned(),
        "boolean" => "true or false".to_owned(),
        "object" => "a table".to_owned(),
        "array" => {
            let items = part.get("items").map(|items| schema.resolve(items));
            let plural = |kind: &str| match kind {
                "object" => "tables".to_owned(),
                "boolean" => "true or false".to_owned(),
                other => format!("{other}s"),
            };
            let tagged = |items: &Json| tag(&schema.branches(items)).is_some();
            match items.as_deref().map(types).as_deref() {
                Some([one]) => format!("an array of {}", plural(one)),
                _ if items.as_deref().is_some_and(tagged) => "an array of tables".to_owned(),
                _ => "an array".to_owned(),
            }
        }
        other => other.to_owned(),
    };
    match types(&part).as_slice() {
        [] => "another value".into(),
        kinds => kinds.iter().map(name).collect::<Vec<_>>().join(" or "),
    }
}

/// A JSON default as TOML, which has no null: `None` for null, and absent inside tables.
pub(crate) fn to_toml(value: &Json) -> Option<toml::Value> {
    Some(match value {
        Json::Null => return None,
        Json::Bool(b) => toml::Value::Boolean(*b),
        Json::Number(n) => match n.as_i64() {
            Some(n) => toml::Value::Integer(n),
            None => toml::Value::Float(n.as_f64()?),
        },
        Json::String(s) => toml::Value::String(s.clone()),
        Json::Array(items) => toml::Value::Array(items.iter().map(to_toml).collect::<Option<_>>()?),
        Json::Object(entries) => toml::Value::Table(
            entries.iter().filter_map(|(k, v)| Some((k.clone(), to_toml(v)?))).collect(),
        ),
    })
}

fn is_null(schema: &Json) -> bool {
    schema.get("type").and_then(Json::as_str) == Some("null")
}

/// Adds the properties and required keys of `other`; for other keywords `into` has its way.
fn merge(into: &mut Json, other: &Json) {
    let (Some(into), Some(other)) = (into.as_object_mut(), other.as_object()) else { return };
    for (keyword, value) in other {
        match (into.get_mut(keyword), value) {
            (Some(Json::Object(a)), Json::Object(b)) if keyword == "properties" => {
                a.extend(b.clone().into_iter().collect::<Map<_, _>>());
            }
            (Some(Json::Array(a)), Json::Array(b)) if keyword == "required" => {
                a.extend(b.iter().cloned());
            }
            (None, _) if keyword != "$ref" && keyword != "allOf" => {
                into.insert(keyword.clone(), value.clone());
            }
            _ => {}
        }
    }
}
