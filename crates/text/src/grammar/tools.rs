//! Tool calls that must happen: from a request's tools to a Lark grammar of the model's own call format. Owns the tools'
//! shape and that grammar. Must not parse output.

use serde_json::{Map, Value, json};

use super::schema::{self, Notes};
use super::{GrammarError, WHITE_SPACE, limit};
use crate::error::excerpt;
use crate::stream::ToolFormat;
use crate::tokenizer::Tokenizer;

/// Most tools of a request, as in DeepSeek's own service.
const MAX_TOOLS: usize = 128;
const MAX_NAME_BYTES: usize = 64;

/// A function the model may call.
#[derive(Debug, Clone, PartialEq)]
pub struct Tool {
    /// Its name: letters, digits, `_`, `-` and `.`, at most 64.
    pub name: String,
    /// JSON schema of its arguments, an object.
    pub parameters: Value,
}

impl Tool {
    /// Reads the tools of a request in OpenAI's form: `{"type": "function", "function": {name, parameters}}`.
    ///
    /// # Errors
    /// Another form, a name that is not one, the same name twice, or more than 128.
    pub fn from_openai(tools: &[Value]) -> Result<Vec<Self>, GrammarError> {
        limit("tools", tools.len(), MAX_TOOLS)?;
        let mut out: Vec<Self> = Vec::with_capacity(tools.len());
        for (at, tool) in tools.iter().enumerate() {
            let function = tool.get("function").and_then(Value::as_object);
            let Some(function) = function.filter(|_| tool["type"] == "function") else {
                return Err(GrammarError::Tools(format!("[{at}]: expected {{type: function, function: {{…}}}}")));
            };
            let name = function.get("name").and_then(Value::as_str).unwrap_or_default();
            let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
            if name.is_empty() || name.len() > MAX_NAME_BYTES || !name.chars().all(is_name) {
                let name = excerpt(name);
                let problem = format!("[{at}].function.name: expected 1 to 64 of a-z A-Z 0-9 _ - ., found {name:?}");
                return Err(GrammarError::Tools(problem));
            }
            if out.iter().any(|tool| tool.name == name) {
                return Err(GrammarError::Tools(format!("[{at}].function.name: {name:?} is there twice")));
            }
            let parameters = function.get("parameters").filter(|value| !value.is_null()).cloned();
            let parameters = parameters.unwrap_or_else(|| json!({"type": "object", "properties": {}}));
            out.push(Self { name: name.into(), parameters });
        }
        Ok(out)
    }
}

/// Which tool must be called. A request that leaves it to the model (`auto`) has no grammar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToolChoice {
    /// Any of them.
    Required,
    /// This one.
    Named(String),
}

/// A grammar in Lark, with what its compilation needs.
pub(super) struct Source {
    pub(super) lark: String,
    /// The special tokens it may yield.
    pub(super) markers: Vec<u32>,
    pub(super) n_nodes: usize,
    pub(super) notes: Notes,
}

/// The grammar of the calls.
///
/// # Errors
/// No tool of that name, or parameters that cannot be enforced.
pub(super) fn lark(
    format: ToolFormat,
    tools: &[Tool],
    choice: &ToolChoice,
    parallel: bool,
    tokenizer: &Tokenizer,
) -> Result<Source, GrammarError> {
    limit("tools", tools.len(), MAX_TOOLS)?;
    let chosen: Vec<&Tool> = match choice {
        ToolChoice::Required => tools.iter().collect(),
        ToolChoice::Named(name) => tools.iter().filter(|tool| tool.name == *name).collect(),
    };
    if chosen.is_empty() {
        let problem = match choice {
            ToolChoice::Required => "a call is required, but there are none".into(),
            ToolChoice::Named(name) => format!("there is none of the name {:?}", excerpt(name)),
        };
        return Err(GrammarError::Tools(problem));
    }
    let mut writer =
        Writer { tokenizer, markers: Vec::new(), rules: String::new(), n_nodes: 0, notes: Notes::default() };
    let mut calls = Vec::new();
    for (at, tool) in chosen.into_iter().enumerate() {
        let call = writer.call(format, at, tool)?;
        writer.rules.push_str(&format!("call_{at}: {call}\n"));
        calls.push(format!("call_{at}"));
    }
    let start = writer.start(format, parallel);
    let lark = format!("start: {start}\ncall: {}\n{}", calls.join(" | "), writer.rules);
    Ok(Source { lark, markers: writer.markers, n_nodes: writer.n_nodes, notes: writer.notes })
}

struct Writer<'a> {
    tokenizer: &'a Tokenizer,
    markers: Vec<u32>,
    rules: String,
    n_nodes: usize,
    notes: Notes,
}

impl Writer<'_> {
    /// What surrounds the calls.
    fn start(&mut self, format: ToolFormat, parallel: bool) -> String {
        let (open, separator, close) = match format {
            ToolFormat::DeepSeekFenced => ("<｜tool▁calls▁begin｜>", "\n", "<｜tool▁calls▁end｜>"),
            ToolFormat::DeepSeek => ("<｜tool▁calls▁begin｜>", "", "<｜tool▁calls▁end｜>"),
            ToolFormat::DsmlFunctionCalls => ("\n\n<｜DSML｜function_calls>\n", "\n", "\n</｜DSML｜function_calls>"),
            ToolFormat::DsmlToolCalls => ("\n\n<｜DSML｜tool_calls>\n", "\n", "\n</｜DSML｜tool_calls>"),
            ToolFormat::DsmlCalls => ("\n\n<｜DSML｜ calls>\n", "\n", "\n</｜DSML｜ calls>"),
            ToolFormat::Hermes => ("", "\n", ""),
            // This format has one call to a message.
            ToolFormat::Llama => return "call".into(),
        };
        let (open, close) = (self.words(open), self.words(close));
        if parallel {
            format!("{open} call ({} call)* {close}", self.words(separator))
        } else {
            format!("{open} call {close}")
        }
    }

    /// One call of `tool`, whose rules are numbered `at`.
    fn call(&mut self, format: ToolFormat, at: usize, tool: &Tool) -> Result<String, GrammarError> {
        let name = &tool.name;
        if let Some(space) = format.dsml_space() {
            return self.dsml_call(space, at, tool);
        }
        let (before, after) = match format {
            ToolFormat::DeepSeekFenced => {
                (format!("<｜tool▁call▁begin｜>function<｜tool▁sep｜>{name}\n```json\n"), "\n```<｜tool▁call▁end｜>")
            }
            ToolFormat::DeepSeek => (format!("<｜tool▁call▁begin｜>{name}<｜tool▁sep｜>"), "<｜tool▁call▁end｜>"),
            ToolFormat::Hermes => (format!("<tool_call>\n{{\"name\": \"{name}\", \"arguments\": "), "}\n</tool_call>"),
            _ => (format!("{{\"name\": \"{name}\", \"parameters\": "), "}"),
        };
        let arguments = self.json(&tool.parameters, name)?;
        Ok(format!("{} {arguments} {}", self.words(&before), self.words(after)))
    }

    /// A call whose parameters stand one by one: `<parameter name="K" string="true|false">V</parameter>`.
    fn dsml_call(&mut self, space: &str, at: usize, tool: &Tool) -> Result<String, GrammarError> {
        let object = schema::check(&tool.parameters).map_err(|error| inside(&tool.name, error))?.schema;
        let mut parameters = String::new();
        let required: Vec<&str> =
            object["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let none = Map::new();
        let properties = object["properties"].as_object().unwrap_or(&none);
        if let Some(name) = required.iter().find(|name| !properties.contains_key(**name)) {
            let problem = format!("{}: {name:?} is required but is no property", tool.name);
            return Err(GrammarError::Tools(problem));
        }
        for (n, (name, schema)) in properties.iter().enumerate() {
            if name.contains(['"', '<', '>', '\n']) {
                return Err(GrammarError::Tools(format!(
                    "{}: the format cannot write a parameter {name:?}",
                    tool.name
                )));
            }
            let value = self.dsml_value(space, name, schema, &object, tool)?;
            self.rules.push_str(&format!("call_{at}_{n}: {value}\n"));
            let optional = if required.contains(&name.as_str()) { "" } else { "?" };
            parameters.push_str(&format!(" call_{at}_{n}{optional}"));
        }
        let open = self.words(&format!("<｜DSML｜{space}invoke name=\"{}\">\n", tool.name));
        let close = self.words(&format!("</｜DSML｜{space}invoke>"));
        Ok(format!("{open}{parameters} {close}"))
    }

    /// Raw text for a string without constraints, JSON for all else.
    fn dsml_value(
        &mut self,
        space: &str,
        name: &str,
        schema: &Value,
        object: &Value,
        tool: &Tool,
    ) -> Result<String, GrammarError> {
        const ANNOTATIONS: [&str; 6] = ["type", "title", "description", "default", "examples", "$comment"];
        let open = |is_string: bool| format!("<｜DSML｜{space}parameter name=\"{name}\" string=\"{is_string}\">");
        let close = format!("</｜DSML｜{space}parameter>\n");
        let is_raw = schema.as_object().is_some_and(|map| {
            map.get("type").is_some_and(|kind| kind == "string")
                && map.keys().all(|key| ANNOTATIONS.contains(&key.as_str()))
        });
        if !is_raw {
            let mut value = schema.clone();
            // References lead into the whole schema.
            if let Some(map) = value.as_object_mut() {
                for key in ["$defs", "definitions", "$schema"] {
                    if let Some(defs) = object.get(key) {
                        map.insert(key.into(), defs.clone());
                    }
                }
            }
            let json = self.json(&value, &tool.name)?;
            return Ok(format!("{} {json} {}", self.words(&open(false)), self.words(&close)));
        }
        // The text ends at the first closing tag. Where that tag begins with a special token, the text and `</` are
        // one lexeme, which the token ends.
        let open = self.words(&open(true));
        Ok(match close.strip_prefix("</").filter(|_| self.tokenizer.added_token_id("｜DSML｜").is_some()) {
            Some(after) => format!("{open} /(?s:.*)<\\// {}", self.words(after)),
            None => {
                let tag = close.trim_end();
                let rule = format!("raw_{}", self.rules.matches("\nraw_").count() + self.rules.len());
                self.rules.push_str(&format!("{rule}[suffix={}]: /(?s:.*)/\n", quoted(tag)));
                format!("{open} {rule} \"\\n\"")
            }
        })
    }

    /// A value that is valid under `schema`.
    fn json(&mut self, schema: &Value, tool: &str) -> Result<String, GrammarError> {
        let mut checked = schema::check(schema).map_err(|error| inside(tool, error))?;
        self.n_nodes += checked.n_nodes;
        self.notes.extend(&format!("tool {tool}: "), checked.notes);
        schema::set_options(&mut checked.schema, WHITE_SPACE);
        Ok(format!("%json {}", checked.schema))
    }

    /// `text` as Lark: its added tokens as tokens, the rest as literals.
    fn words(&mut self, text: &str) -> String {
        let mut out = String::new();
        let pieces: Vec<_> = self.tokenizer.split_added(text).collect();
        for piece in pieces {
            if !out.is_empty() {
                out.push(' ');
            }
            match piece {
                crate::tokenizer::Piece::Text(text) => out.push_str(&quoted(text)),
                crate::tokenizer::Piece::Token { id, .. } => {
                    if !self.markers.contains(&id) {
                        self.markers.push(id);
                    }
                    out.push_str(&format!("<[{id}]>"));
                }
            }
        }
        if out.is_empty() { "\"\"".into() } else { out }
    }
}

fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

/// Names the tool in an error about its schema.
fn inside(tool: &str, error: GrammarError) -> GrammarError {
    match error {
        GrammarError::Schema { path, problem } => {
            GrammarError::Schema { path: format!("tool {tool}: {path}"), problem }
        }
        other => other,
    }
}
