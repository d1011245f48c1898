//! Chat templates: a conversation → text with special tokens in it. Owns messages, the Jinja engine's settings and
//! limits, and the promise about user text. Must not tokenize, and must not read the clock.
//!
//! **How user text is kept from becoming special tokens.** Not by cleaning the user's text, but by marking the
//! template's own: when a template is loaded, every added token that its author spelled (in printed text or in a
//! string literal) is replaced by one private-use character that occurs nowhere in this conversation, and so are
//! `bos_token` and `eos_token`. After rendering, those characters, and nothing else, become token ids; every other
//! character is encoded as plain text. User text is never changed, and gluing it to the template's (`<` + `think>`)
//! spells a token but does not make one.
//!
//! Two consequences, both wanted: a template that compares a user's text with a token's spelling finds no match (a
//! user who types `<tool_response>` has not produced a tool response), and a token that a template spells in
//! fragments (`'<|' + role + '|>'`) stays plain text. No template of this family does the latter.
//!
//! **The one exception.** The assistant's own `content` may hold `<think>` and `</think>` as tokens: clients send
//! back what the model wrote, and templates cut it at `</think>`. Only those two, and only in that role.

mod environment;
mod message;
mod python;
mod rendered;
mod source;

pub use message::{Message, Role};
pub use rendered::{Rendered, RenderedPiece};

use std::collections::{BTreeSet, HashMap};

use serde_json::{Map, Value};

use crate::error::TemplateError;
use crate::tokenizer::{Tokenizer, TokenizerConfig};
use source::SourcePart;

/// Most bytes of a template's source. The largest published ones have about 20 KB.
const MAX_SOURCE_BYTES: usize = 256 * 1024;
/// Most bytes a rendering may yield beyond the messages themselves, which templates may repeat a few times.
const MAX_OUTPUT_BASE: usize = 1 << 20;
const MAX_OUTPUT_FACTOR: usize = 8;
/// Engine steps for a rendering: a base for the template, and some for each message and
/// byte of input. One step is an
/// instruction or 64 bytes of data touched, so this bounds memory too.
const FUEL_BASE: u64 = 250_000;
const FUEL_PER_MESSAGE: u64 = 1_000;
const INPUT_BYTES_PER_FUEL: u64 = 4;
/// The private-use planes, from which marks are taken.
const MARKS: std::ops::RangeInclusive<char> = '\u{F0000}'..='\u{10FFFD}';
/// Tokens that an assistant's content may hold.
const THINK: [&str; 2] = ["<think>", "</think>"];

/// A compiled chat template, bound to the added tokens of one tokenizer.
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    parts: Vec<SourcePart>,
    /// Spellings of the tokens in `parts`, of BOS, EOS and the think tags, by id.
    spellings: HashMap<u32, String>,
    bos: Variable,
    eos: Variable,
    /// Private-use characters that the source itself uses.
    source_marks: BTreeSet<char>,
}

/// A token that templates see as a variable: marked where it is an added token, else plain text.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Variable {
    Absent,
    Plain(String),
    Token(u32),
}

/// What a rendering takes besides messages.
#[derive(Debug, Clone, Default)]
pub struct RenderOptions {
    /// Open the assistant's turn at the end.
    pub add_generation_prompt: bool,
    /// Tools the model may call, in OpenAI's form.
    pub tools: Option<Vec<Value>>,
    /// Documents for retrieval templates.
    pub documents: Option<Vec<Value>>,
    /// Further variables of the template, such as `thinking` or `enable_thinking`.
    pub extra: Map<String, Value>,
    /// The present, in seconds since 1970 (UTC), for templates that print the date.
    pub now_unix_s: Option<i64>,
}

impl ChatTemplate {
    /// Compiles the template of `config`; `None` when it has none, as base models do.
    ///
    /// # Errors
    /// The source is too long or is not Jinja.
    pub fn new(config: &TokenizerConfig, tokenizer: &Tokenizer) -> Result<Option<Self>, TemplateError> {
        let Some(source) = config.chat_template.as_deref() else { return Ok(None) };
        Self::compile(source, config, tokenizer).map(Some)
    }

    /// Compiles `source`, for instance the text of a chat_template.jinja, with the tokens of `config`.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn compile(source: &str, config: &TokenizerConfig, tokenizer: &Tokenizer) -> Result<Self, TemplateError> {
        limit("bytes of chat template", source.len(), MAX_SOURCE_BYTES)?;
        source::check_shape(source)?;
        let guarded = source::guard_sets(source);
        let parts = source::cut(&guarded, |text| tokenizer.split_added(text));
        let variable = |token: &Option<String>| match token {
            None => Variable::Absent,
            Some(text) => tokenizer.added_token_id(text).map_or(Variable::Plain(text.clone()), Variable::Token),
        };
        let (bos, eos) = (variable(&config.bos_token), variable(&config.eos_token));
        let in_parts = parts.iter().filter_map(|part| match part {
            SourcePart::Token(id) => Some(*id),
            SourcePart::Text(_) => None,
        });
        let in_variables = [&bos, &eos].into_iter().filter_map(|variable| match variable {
            Variable::Token(id) => Some(*id),
            _ => None,
        });
        let think = THINK.iter().filter_map(|text| tokenizer.added_token_id(text));
        let spellings = (in_parts.chain(in_variables).chain(think))
            .filter_map(|id| Some((id, tokenizer.added_token(id)?.to_owned())))
            .collect();
        let mut source_marks = BTreeSet::new();
        collect_marks(source, &mut source_marks);
        let template = Self { parts, spellings, bos, eos, source_marks };
        let marks = template.choose_marks(&BTreeSet::new())?;
        environment::check_syntax(&template.marked_source(&marks))?;
        Ok(template)
    }

    /// Renders a conversation.
    ///
    /// # Errors
    /// The template refuses the conversation, fails on it, or does more work than its budget.
    pub fn render(&self, messages: &[Message], options: &RenderOptions) -> Result<Rendered, TemplateError> {
        let mut context = Map::new();
        let n_messages = messages.len();
        let messages =
            serde_json::to_value(messages).map_err(|source| TemplateError::Json { what: "messages", source })?;
        context.insert("messages".into(), messages);
        context.insert("tools".into(), options.tools.clone().map_or(Value::Null, Value::Array));
        context.insert("documents".into(), options.documents.clone().map_or(Value::Null, Value::Array));
        context.insert("add_generation_prompt".into(), options.add_generation_prompt.into());
        context.extend(options.extra.clone());

        let mut used = BTreeSet::new();
        let mut n_bytes = 0;
        walk_strings(&context, &mut |text| {
            n_bytes += text.len();
            collect_marks(text, &mut used);
        });
        let marks = self.choose_marks(&used)?;
        self.mark_think(&mut context, &marks);
        for (name, variable) in [("bos_token", &self.bos), ("eos_token", &self.eos)] {
            match variable {
                Variable::Absent => {}
                Variable::Plain(text) => drop(context.insert(name.into(), text.as_str().into())),
                Variable::Token(id) => drop(context.insert(name.into(), marks.char_of(*id).to_string().into())),
            }
        }
        let source = self.marked_source(&marks);
        let run = environment::Run {
            fuel: FUEL_BASE
                + FUEL_PER_MESSAGE * n_messages as u64
                + (n_bytes + source.len()) as u64 / INPUT_BYTES_PER_FUEL,
            max_output_bytes: MAX_OUTPUT_BASE + MAX_OUTPUT_FACTOR * n_bytes,
            now_unix_s: options.now_unix_s,
        };
        let text = run.render(&source, &context)?;
        Ok(Rendered::new(self.unmark(&text, &marks)))
    }

    /// Assigns a private-use character to each token, avoiding `used` and the source's own.
    fn choose_marks(&self, used: &BTreeSet<char>) -> Result<Marks, TemplateError> {
        let mut ids: Vec<u32> = self.spellings.keys().copied().collect();
        ids.sort_unstable();
        let free = MARKS.filter(|c| !used.contains(c) && !self.source_marks.contains(c));
        let by_char: HashMap<char, u32> = free.zip(ids.iter().copied()).collect();
        if by_char.len() < ids.len() {
            return Err(TemplateError::NoSentinel);
        }
        let by_id = by_char.iter().map(|(&c, &id)| (id, c)).collect();
        Ok(Marks { by_char, by_id })
    }

    fn marked_source(&self, marks: &Marks) -> String {
        let mut source = String::new();
        for part in &self.parts {
            match part {
                SourcePart::Text(text) => source.push_str(text),
                SourcePart::Token(id) => source.push(marks.char_of(*id)),
            }
        }
        source
    }

    /// Marks the think tags in the assistant's content.
    fn mark_think(&self, context: &mut Map<String, Value>, marks: &Marks) {
        let tags: Vec<(&str, String)> = (self.spellings.iter())
            .filter(|(_, text)| THINK.contains(&text.as_str()))
            .map(|(&id, text)| (text.as_str(), marks.char_of(id).to_string()))
            .collect();
        let Some(Value::Array(messages)) = context.get_mut("messages") else { return };
        for message in messages {
            if message.get("role").and_then(Value::as_str) != Some("assistant") {
                continue;
            }
            if let Some(Value::String(content)) = message.get_mut("content") {
                for (tag, mark) in &tags {
                    *content = content.replace(tag, mark);
                }
            }
        }
    }

    /// Turns marks back into tokens.
    fn unmark(&self, text: &str, marks: &Marks) -> Vec<RenderedPiece> {
        let mut pieces = Vec::new();
        let mut done = 0;
        for (at, c) in text.char_indices() {
            let Some(&id) = marks.by_char.get(&c) else { continue };
            if done < at {
                pieces.push(RenderedPiece::Text(text[done..at].to_owned()));
            }
            pieces.push(RenderedPiece::Token { id, text: self.spellings[&id].clone() });
            done = at + c.len_utf8();
        }
        if done < text.len() {
            pieces.push(RenderedPiece::Text(text[done..].to_owned()));
        }
        pieces
    }
}

/// Which private-use character stands for which token in one rendering.
struct Marks {
    by_char: HashMap<char, u32>,
    by_id: HashMap<u32, char>,
}

impl Marks {
    fn char_of(&self, id: u32) -> char {
        // Every id of the template has a mark; a missing one would print as a replacement character.
        self.by_id.get(&id).copied().unwrap_or(char::REPLACEMENT_CHARACTER)
    }
}

fn collect_marks(text: &str, found: &mut BTreeSet<char>) {
    // Only these lead bytes begin characters from U+C0000 on; almost every text has none.
    if text.bytes().any(|byte| byte >= 0xF3) {
        found.extend(text.chars().filter(|c| MARKS.contains(c)));
    }
}

/// Visits every string below `map`, keys included.
fn walk_strings(map: &Map<String, Value>, visit: &mut impl FnMut(&str)) {
    let mut stack: Vec<&Value> = Vec::new();
    for (key, value) in map {
        visit(key);
        stack.push(value);
    }
    while let Some(value) = stack.pop() {
        match value {
            Value::String(text) => visit(text),
            Value::Array(items) => stack.extend(items),
            Value::Object(map) => {
                for (key, value) in map {
                    visit(key);
                    stack.push(value);
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }
}

fn limit(field: &'static str, found: usize, limit: usize) -> Result<(), TemplateError> {
    if found <= limit { Ok(()) } else { Err(TemplateError::TooLarge { field, found, limit }) }
}
