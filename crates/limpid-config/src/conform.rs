//! Checks a merged configuration against the schema, and reports every unknown key, missing key
//! and wrong type with its place.

use std::borrow::Cow;

use serde_json::Value as Json;
use toml::Value;

use crate::error::Problem;
use crate::key::join;
use crate::node::{Data, Node, Origin, array_of};
use crate::schema::{
    Schema, array, choices, expectation, properties, tag, tag_value, types, variant,
};
use crate::suggest::nearest;

impl Schema {
    /// Everything in `root` that the schema does not allow. Texts from `--set` and the environment
    /// that only look like numbers become strings where the schema wants strings.
    pub(crate) fn check(&self, root: &mut Node) -> Vec<Problem> {
        let keys = self.every_key();
        let mut walk = Walk { schema: self, keys: &keys, path: Vec::new(), problems: Vec::new() };
        walk.node(&self.root, root);
        walk.problems
    }
}

/// What a bound is called, where it is, and what holds between a value and it.
type Bound = (&'static str, Option<f64>, fn(&f64, &f64) -> bool);

struct Walk<'a> {
    schema: &'a Schema,
    /// All keys there are, for suggestions.
    keys: &'a [(Vec<String>, Option<String>)],
    path: Vec<String>,
    problems: Vec<Problem>,
}

impl Walk<'_> {
    fn node(&mut self, schema: &Json, node: &mut Node) {
        let whole = self.schema;
        let schema = whole.resolve(schema);
        let branches = whole.branches(&schema);
        match branches.as_slice() {
            [] => {}
            [one] => return self.node(one, node),
            many => return self.any_of(many, node),
        }
        let allowed = choices(&schema);
        if !allowed.is_empty() {
            return self.choice(&allowed, node);
        }
        let types = types(&schema);
        if types == ["string"] {
            self.keep_text(node);
        }
        if !types.is_empty() && !types.iter().any(|t| fits(t, node)) {
            return self.mistyped(&expectation(whole, &schema), node);
        }
        match &mut node.data {
            Data::Table(_) => self.table(&schema, node),
            Data::Array(_) => self.array(&schema, node),
            Data::Scalar(_) => self.range(&schema, node),
        }
    }

    fn table(&mut self, schema: &Json, node: &mut Node) {
        let spot = node.spot.clone();
        let Data::Table(entries) = &mut node.data else { return };
        for (name, child) in entries.iter_mut() {
            self.path.push(name.clone());
            let known = schema.get("properties").and_then(|p| p.get(name));
            match known.or_else(|| schema.get("additionalProperties")) {
                Some(property) if *property != Json::Bool(false) => self.node(property, child),
                _ => {
                    let problem = self.unknown_key(schema, name);
                    self.problems.push(at_key(problem, child));
                }
            }
            self.path.pop();
        }
        for name in array(schema, "required").filter_map(Json::as_str) {
            if !entries.contains_key(name) {
                let path = join(&[&self.path[..], &[name.to_owned()]].concat());
                let about = schema["properties"][name].get("description").and_then(Json::as_str);
                let about = about.map_or(String::new(), |d| format!(" ({})", first_sentence(d)));
                let problem = Problem::new(format!("missing key `{name}`{}", self.place()))
                    .hint(format!("set it in the config or with `--set {path}=VALUE`{about}"));
                self.problems.push(match &spot {
                    Some(spot) => problem.at(&spot.source, spot.key.clone()),
                    None => problem,
                });
            }
        }
    }

    fn array(&mut self, schema: &Json, node: &mut Node) {
        let Data::Array(items) = &mut node.data else { return };
        let len = items.len();
        let prefix: Vec<&Json> = array(schema, "prefixItems").collect();
        for (i, item) in items.iter_mut().enumerate() {
            self.path.push(i.to_string());
            if let Some(schema) = prefix.get(i).copied().or_else(|| schema.get("items")) {
                self.node(schema, item);
            }
            self.path.pop();
        }
        let bound = |keyword: &str| schema.get(keyword).and_then(Json::as_u64);
        let (least, most) = (bound("minItems"), bound("maxItems"));
        let wanted = match (least, most) {
            (Some(a), Some(b)) if a == b => format!("exactly {a}"),
            (Some(a), _) if (len as u64) < a => format!("at least {a}"),
            (_, Some(b)) => format!("at most {b}"),
            _ => return,
        };
        if least.is_some_and(|a| (len as u64) < a) || most.is_some_and(|b| (len as u64) > b) {
            self.report(format!("must have {wanted} items, got {}", array_of(len)), None, node);
        }
    }

    fn range(&mut self, schema: &Json, node: &Node) {
        let Data::Scalar(value) = &node.data else { return };
        let (Some(x), shown) = (as_number(value), value.to_string()) else { return };
        let format = schema.get("format").and_then(Json::as_str).and_then(width);
        let bound = |keyword: &str| schema.get(keyword).and_then(Json::as_f64);
        let least = bound("minimum").or(format.map(|f| f.0));
        let most = bound("maximum").or(format.map(|f| f.1));
        let bounds: [Bound; 4] = [
            ("at least", least, f64::ge),
            ("at most", most, f64::le),
            ("more than", bound("exclusiveMinimum"), f64::gt),
            ("less than", bound("exclusiveMaximum"), f64::lt),
        ];
        for (words, bound, holds) in bounds {
            if let Some(bound) = bound.filter(|bound| !holds(&x, bound)) {
                return self.report(format!("must be {words} {bound}, got {shown}"), None, node);
            }
        }
    }

    fn choice(&mut self, allowed: &[&str], node: &mut Node) {
        self.keep_text(node);
        let Data::Scalar(Value::String(text)) = &node.data else {
            return self.mistyped(&format!("one of {}", allowed.join(", ")), node);
        };
        if !allowed.contains(&text.as_str()) {
            let hint =
                nearest(text, allowed.iter().copied()).map(|n| format!("did you mean `{n}`?"));
            let wanted = match allowed {
                [one] => format!("`{one}`"),
                many => format!("one of {}", many.join(", ")),
            };
            self.report(format!("must be {wanted}, got `{text}`"), hint, node);
        }
    }

    fn any_of(&mut self, branches: &[Cow<'_, Json>], node: &mut Node) {
        let allowed: Vec<&str> = branches.iter().flat_map(|b| choices(b)).collect();
        if branches.iter().all(|b| !choices(b).is_empty()) {
            return self.choice(&allowed, node);
        }
        if let Some(tag) = tag(branches) {
            return self.tagged(tag, branches, node);
        }
        let mut attempts = Vec::new();
        for branch in branches {
            let mut copy = node.clone();
            let path = self.path.clone();
            let mut walk = Walk { path, problems: Vec::new(), ..*self };
            walk.node(branch, &mut copy);
            if walk.problems.is_empty() {
                *node = copy;
                return;
            }
            if types(branch).iter().any(|t| fits(t, node)) && choices(branch).is_empty() {
                attempts.push(walk.problems);
            }
        }
        match attempts.len() {
            1 => self.problems.extend(attempts.into_iter().flatten()),
            _ => {
                let each: Vec<String> =
                    branches.iter().map(|b| expectation(self.schema, b)).collect();
                self.mistyped(&each.join(" or "), node);
            }
        }
    }

    /// A table whose `tag` key says which of the branches it is.
    fn tagged(&mut self, tag: &str, branches: &[Cow<'_, Json>], node: &mut Node) {
        let known: Vec<&str> = branches.iter().map(|b| tag_value(b, tag)).collect();
        let list = format!("known {tag}s: {}", known.join(", "));
        let Data::Table(entries) = &node.data else {
            let hint = match &node.data {
                Data::Scalar(Value::String(s)) if known.contains(&s.as_str()) => {
                    format!("write `{}.{tag} = \"{s}\"`", join(&self.path))
                }
                _ => list,
            };
            return self.report(
                format!("must be a table with a `{tag}`, got {}", describe(node)),
                Some(hint),
                node,
            );
        };
        let Some(value) = entries.get(tag) else {
            let problem = Problem::new(format!("missing `{tag}`{}", self.place())).hint(list);
            self.problems.push(at_key(problem, node));
            return;
        };
        let found = match &value.data {
            Data::Scalar(Value::String(text)) => {
                branches.iter().find(|b| tag_value(b, tag) == text).ok_or(format!("`{text}`"))
            }
            _ => Err(describe(value)),
        };
        match found {
            Ok(branch) => self.node(branch, node),
            Err(got) => {
                let near = nearest(got.trim_matches('`'), known.iter().copied());
                let hint = near.map_or(list.clone(), |n| format!("did you mean `{n}`? {list}"));
                let problem =
                    Problem::new(format!("unknown {tag} {got}{}", self.place())).hint(hint);
                self.problems.push(at_value(problem, value));
            }
        }
    }

    /// The problem of a key that `schema` does not have; `self.path` ends with it.
    fn unknown_key(&self, schema: &Json, name: &str) -> Problem {
        let known: Vec<&str> = properties(schema).map(|(name, _)| name.as_str()).collect();
        let table = &self.path[..self.path.len() - 1];
        let place = if table.is_empty() { " at the top level".into() } else { place(table) };
        let near = nearest(name, known.iter().copied()).map(|n| format!("did you mean `{n}`?"));
        let elsewhere = || {
            let (path, tag) =
                self.keys.iter().find(|(path, _)| path.last().is_some_and(|n| n == name))?;
            Some(match tag {
                Some(tag) if path[..path.len() - 1] == *table => {
                    format!("`{name}` belongs to {tag};")
                }
                _ => format!("did you mean `{}`?", join(path)),
            })
        };
        let list = match (known.is_empty(), variant(schema)) {
            (true, _) => "this table has no keys".to_owned(),
            (false, Some(tag)) => format!("known keys with {tag}: {}", known.join(", ")),
            (false, None) => format!("known keys: {}", known.join(", ")),
        };
        let hint = match near.or_else(elsewhere) {
            Some(suggestion) => format!("{suggestion} {list}"),
            None => list,
        };
        Problem::new(format!("unknown key `{name}`{place}")).hint(hint)
    }

    fn mistyped(&mut self, wanted: &str, node: &Node) {
        let hint = match &node.data {
            Data::Scalar(Value::Float(x)) if wanted == "an integer" && x.fract() == 0.0 => {
                Some(format!("write {x:.0}"))
            }
            Data::Scalar(Value::String(s))
                if s.parse::<f64>().is_ok() && ["an integer", "a number"].contains(&wanted) =>
            {
                Some("numbers stand without quotes".to_owned())
            }
            _ => None,
        };
        self.report(format!("must be {wanted}, got {}", describe(node)), hint, node);
    }

    /// Reports a problem of the value at the current path.
    fn report(&mut self, rest: String, hint: Option<String>, node: &Node) {
        let subject = match self.path.is_empty() {
            true => "the configuration".to_owned(),
            false => format!("`{}`", join(&self.path)),
        };
        let problem = Problem { hint, ..Problem::new(format!("{subject} {rest}")) };
        self.problems.push(at_value(problem, node));
    }

    /// Takes back the text of a scalar from `--set` or the environment, where types are guessed.
    fn keep_text(&self, node: &mut Node) {
        if let (Data::Scalar(value), Some(spot)) = (&mut node.data, &node.spot)
            && !value.is_str()
            && matches!(spot.source.origin, Origin::Set(_) | Origin::Env(_))
        {
            *value = Value::String(spot.source.text[spot.value.clone()].to_owned());
        }
    }

    fn place(&self) -> String {
        place(&self.path)
    }
}

/// ` in [optimizer]`, or nothing at the top level.
fn place(table: &[String]) -> String {
    if table.is_empty() { String::new() } else { format!(" in [{}]", join(table)) }
}

fn at_key(problem: Problem, node: &Node) -> Problem {
    match &node.spot {
        Some(spot) => problem.at(&spot.source, spot.key.clone()),
        None => problem,
    }
}

fn at_value(problem: Problem, node: &Node) -> Problem {
    match &node.spot {
        Some(spot) => problem.at(&spot.source, spot.value.clone()),
        None => problem,
    }
}

/// Whether a value is of a JSON Schema type; an integer is a number too, a date is a string.
fn fits(kind: &str, node: &Node) -> bool {
    match (kind, &node.data) {
        ("object", Data::Table(_)) | ("array", Data::Array(_)) => true,
        (_, Data::Table(_) | Data::Array(_)) => false,
        (kind, Data::Scalar(value)) => match value {
            Value::Integer(_) => matches!(kind, "integer" | "number"),
            Value::Float(_) => kind == "number",
            Value::String(_) => kind == "string",
            Value::Boolean(_) => kind == "boolean",
            _ => false,
        },
    }
}

/// A value in a few words: `the string "fast"`, `an array of 2 items`.
fn describe(node: &Node) -> String {
    match &node.data {
        Data::Table(_) => "a table".into(),
        Data::Array(items) => array_of(items.len()),
        Data::Scalar(value) => match value {
            Value::String(text) if text.chars().count() > 40 => "a long string".into(),
            Value::String(_) => format!("the string {value}"),
            Value::Integer(_) => format!("the integer {value}"),
            Value::Float(_) => format!("the number {value}"),
            Value::Boolean(_) => format!("{value}"),
            _ => "a date".into(),
        },
    }
}

fn as_number(value: &Value) -> Option<f64> {
    match value {
        Value::Integer(n) => Some(*n as f64),
        Value::Float(x) => Some(*x),
        _ => None,
    }
}

/// The range of an integer format that serde would refuse to leave.
fn width(format: &str) -> Option<(f64, f64)> {
    Some(match format {
        "uint8" => (0.0, f64::from(u8::MAX)),
        "uint16" => (0.0, f64::from(u16::MAX)),
        "uint32" => (0.0, f64::from(u32::MAX)),
        "int8" => (f64::from(i8::MIN), f64::from(i8::MAX)),
        "int16" => (f64::from(i16::MIN), f64::from(i16::MAX)),
        "int32" => (f64::from(i32::MIN), f64::from(i32::MAX)),
        _ => return None,
    })
}

fn first_sentence(text: &str) -> String {
    let line = text.lines().take_while(|l| !l.is_empty()).collect::<Vec<_>>().join(" ");
    let end = line.find(". ").unwrap_or(line.len());
    line[..end].trim_end_matches('.').to_owned()
}
