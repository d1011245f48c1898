//! Wire types that several dialects use.
//!
//! Owns them and their checks. Must not know which dialect asks.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, SeqAccess, Visitor};
use serde::{Deserialize as DeriveDeserialize, Serialize};
use serde_json::{Map, Value, json};
use text::GrammarSpec;
use utoipa::ToSchema;

use crate::error::ApiError;
use crate::generate::{Choose, End, LogProb};

/// Reads null as what stands where nothing is given: some clients send every field that they know.
pub(crate) fn null_is_default<'de, T: Default + Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// Reads a number of most probable tokens, of which clients of other servers say -1 where they want all.
pub(crate) fn top_k<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<usize>, D::Error> {
    let expected = |found: i64| D::Error::custom(format!("expected a number from -1 on, found {found}"));
    match Option::<i64>::deserialize(deserializer)? {
        None => Ok(None),
        Some(-1) => Ok(Some(0)),
        Some(found) => usize::try_from(found).map(Some).map_err(|_| expected(found)),
    }
}

/// One text, or a list of them.
#[derive(Clone, Debug, Default, DeriveDeserialize, Serialize, ToSchema)]
#[serde(untagged, from = "Option<TextOr<String>>")]
pub(crate) enum Texts {
    /// None.
    #[default]
    None,
    /// One.
    One(String),
    /// Several.
    Many(Vec<String>),
}

impl Texts {
    pub(crate) fn into_vec(self) -> Vec<String> {
        match self {
            Self::None => Vec::new(),
            Self::One(text) => vec![text],
            Self::Many(texts) => texts,
        }
    }
}

impl From<Option<TextOr<String>>> for Texts {
    fn from(texts: Option<TextOr<String>>) -> Self {
        match texts {
            None => Self::None,
            Some(TextOr::Text(text)) => Self::One(text),
            Some(TextOr::List(texts)) => Self::Many(texts),
        }
    }
}

/// The text of a message: a string, or parts of type `text`.
#[derive(Clone, Debug, DeriveDeserialize, Serialize, ToSchema)]
#[serde(untagged, from = "TextOr<ContentPart>")]
pub(crate) enum Content {
    /// As one.
    Text(String),
    /// In parts.
    Parts(Vec<ContentPart>),
}

/// A part of a message's text.
#[derive(Clone, Debug, DeriveDeserialize, Serialize, ToSchema)]
pub(crate) struct ContentPart {
    /// `text`; `input_text` and `output_text` in responses. This model reads nothing else.
    #[schema(example = "text")]
    pub(crate) r#type: String,
    /// The text.
    #[serde(default)]
    pub(crate) text: Option<String>,
}

impl From<TextOr<ContentPart>> for Content {
    fn from(content: TextOr<ContentPart>) -> Self {
        match content {
            TextOr::Text(text) => Self::Text(text),
            TextOr::List(parts) => Self::Parts(parts),
        }
    }
}

/// A string or a list, told apart by what comes, so that an error in the list still names its place.
pub(crate) enum TextOr<T> {
    Text(String),
    List(Vec<T>),
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for TextOr<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read<T>(std::marker::PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Read<T> {
            type Value = TextOr<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or a list")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(TextOr::Text(text.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let mut list = Vec::new();
                while let Some(item) = seq.next_element()? {
                    list.push(item);
                }
                Ok(TextOr::List(list))
            }
        }
        deserializer.deserialize_any(Read(std::marker::PhantomData))
    }
}

impl Content {
    /// The text; `field` is where the content stands.
    ///
    /// # Errors
    /// A part is no text
    pub(crate) fn into_text(self, field: &str) -> Result<String, ApiError> {
        let parts = match self {
            Self::Text(text) => return Ok(text),
            Self::Parts(parts) => parts,
        };
        let mut texts = Vec::with_capacity(parts.len());
        for (i, part) in parts.into_iter().enumerate() {
            match (part.r#type.as_str(), part.text) {
                ("text" | "input_text" | "output_text", Some(text)) => texts.push(text),
                ("text" | "input_text" | "output_text", None) => {
                    return Err(ApiError::field(format!("{field}[{i}].text"), "expected a string, found none"));
                }
                (other, _) => {
                    let problem = format!("expected text, which is all that this model reads, found {other:?}");
                    return Err(ApiError::field(format!("{field}[{i}].type"), problem));
                }
            }
        }
        Ok(texts.join("\n"))
    }
}

/// A function that may be called.
#[derive(Clone, Debug, DeriveDeserialize, Serialize, ToSchema)]
pub(crate) struct FunctionTool {
    /// Always `function`.
    #[schema(example = "function")]
    pub(crate) r#type: String,
    /// The function.
    pub(crate) function: FunctionSpec,
}

/// What is known of a function.
#[derive(Clone, Debug, DeriveDeserialize, Serialize, ToSchema)]
pub(crate) struct FunctionSpec {
    /// 1 to 64 of `a-z A-Z 0-9 _ - .`
    pub(crate) name: String,
    /// When and how to call it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) description: Option<String>,
    /// JSON schema of its arguments.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) parameters: Option<Map<String, Value>>,
    /// Calls must follow the schema to the letter; one that cannot be enforced is an error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) strict: Option<bool>,
}

/// Tools in the form that templates want.
///
/// # Errors
/// A tool is no function, or its name is none
pub(crate) fn tools(list: &[FunctionTool]) -> Result<Vec<Value>, ApiError> {
    for (i, tool) in list.iter().enumerate() {
        if tool.r#type != "function" {
            let problem = format!("expected function, found {:?}", tool.r#type);
            return Err(ApiError::field(format!("tools[{i}].type"), problem));
        }
    }
    let list: Vec<Value> = list.iter().filter_map(|tool| serde_json::to_value(tool).ok()).collect();
    text::Tool::from_openai(&list).map_err(|error| {
        let message = error.to_string();
        let place = message.strip_prefix("tools: ").and_then(|rest| rest.split_once(": "));
        match place {
            Some((place, problem)) if place.starts_with('[') => ApiError::field(format!("tools{place}"), problem),
            _ => ApiError::field("tools", message),
        }
    })?;
    Ok(list)
}

/// Reads `auto`, `none`, `required` or `{"type": "function", "function": {"name": …}}`, also with the name at the top.
///
/// # Errors
/// It is something else, or there are no such tools
pub(crate) fn tool_choice(choice: Option<&Value>, tools: &[Value]) -> Result<Choose, ApiError> {
    let expected = "expected auto, none, required, or {type: function, function: {name}}";
    let choice = match choice {
        None | Some(Value::Null) => return Ok(Choose::Auto),
        Some(Value::String(word)) => match word.as_str() {
            "auto" => Choose::Auto,
            "none" => Choose::None,
            "required" | "any" => Choose::Required,
            other => return Err(ApiError::field("tool_choice", format!("{expected}, found {other:?}"))),
        },
        Some(value) => {
            let name = value["function"]["name"].as_str().or_else(|| value["name"].as_str());
            match name.filter(|_| value["type"] == "function") {
                Some(name) => Choose::Named(name.to_owned()),
                None => return Err(ApiError::field("tool_choice", expected)),
            }
        }
    };
    check_choice(choice, tools)
}

/// Holds a choice against the tools that there are.
///
/// # Errors
/// It asks for one that there is not
pub(crate) fn check_choice(choice: Choose, tools: &[Value]) -> Result<Choose, ApiError> {
    match &choice {
        Choose::Named(name) if !tools.iter().any(|tool| tool["function"]["name"] == name.as_str()) => {
            Err(ApiError::field("tool_choice", format!("expected the name of one of the tools, found {name:?}")))
        }
        Choose::Required if tools.is_empty() => {
            Err(ApiError::field("tool_choice", "a call is required, but there are no tools"))
        }
        _ => Ok(choice),
    }
}

/// What an answer must follow.
#[derive(Clone, Debug, DeriveDeserialize, ToSchema)]
pub(crate) struct ResponseFormat {
    /// `text`, `json_object`, `json_schema`, or beyond OpenAI's: `regex`, `lark`.
    #[schema(example = "json_object")]
    pub(crate) r#type: String,
    /// The schema, for `json_schema`.
    #[serde(default)]
    pub(crate) json_schema: Option<JsonSchema>,
    /// The expression, for `regex`.
    #[serde(default)]
    pub(crate) regex: Option<String>,
    /// The grammar, for `lark`.
    #[serde(default)]
    pub(crate) lark: Option<String>,
}

/// A schema and its name.
#[derive(Clone, Debug, DeriveDeserialize, ToSchema)]
pub(crate) struct JsonSchema {
    /// JSON schema of the answer.
    #[serde(default)]
    pub(crate) schema: Option<Map<String, Value>>,
}

impl ResponseFormat {
    /// As a grammar; `None` for text.
    ///
    /// # Errors
    /// An unknown type, or its details are missing
    pub(crate) fn into_spec(self) -> Result<Option<GrammarSpec>, ApiError> {
        let missing =
            |field: &str| ApiError::field(format!("response_format.{field}"), "expected this field, found none");
        Ok(Some(match self.r#type.as_str() {
            "text" => return Ok(None),
            "json_object" => GrammarSpec::JsonObject,
            "json_schema" => {
                let schema = self.json_schema.ok_or_else(|| missing("json_schema"))?.schema;
                GrammarSpec::JsonSchema(Value::Object(schema.ok_or_else(|| missing("json_schema.schema"))?))
            }
            "regex" => GrammarSpec::Regex(self.regex.ok_or_else(|| missing("regex"))?),
            "lark" => GrammarSpec::Lark(self.lark.ok_or_else(|| missing("lark"))?),
            other => {
                let problem = format!("expected text, json_object, json_schema, regex or lark, found {other:?}");
                return Err(ApiError::field("response_format.type", problem));
            }
        }))
    }
}

/// Reads biases of tokens, whose ids are JSON's keys.
///
/// # Errors
/// A key is no id
pub(crate) fn logit_bias(biases: Option<BTreeMap<String, f32>>) -> Result<Vec<(u32, f32)>, ApiError> {
    let read = |(token, bias): (String, f32)| match token.parse() {
        Ok(token) => Ok((token, bias)),
        Err(_) => Err(ApiError::field("logit_bias", format!("expected token ids as keys, found {token:?}"))),
    };
    biases.unwrap_or_default().into_iter().map(read).collect()
}

/// What a request took, in OpenAI's form with DeepSeek's additions.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
pub(crate) struct Usage {
    /// Tokens of the prompt.
    pub(crate) prompt_tokens: usize,
    /// Tokens of the completions.
    pub(crate) completion_tokens: usize,
    /// Both.
    pub(crate) total_tokens: usize,
    /// Tokens of the prompt that did not have to be computed.
    pub(crate) prompt_cache_hit_tokens: usize,
    /// Tokens of the prompt that had to.
    pub(crate) prompt_cache_miss_tokens: usize,
    pub(crate) prompt_tokens_details: PromptTokensDetails,
    pub(crate) completion_tokens_details: CompletionTokensDetails,
}

/// More about the prompt.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
pub(crate) struct PromptTokensDetails {
    /// Tokens of the prompt that did not have to be computed.
    pub(crate) cached_tokens: usize,
}

/// More about the completions.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
pub(crate) struct CompletionTokensDetails {
    /// Tokens that were reasoning.
    pub(crate) reasoning_tokens: usize,
    /// Tokens that were drafted and were right.
    pub(crate) accepted_prediction_tokens: usize,
    /// Tokens that were drafted and were wrong.
    pub(crate) rejected_prediction_tokens: usize,
}

/// What a stream holds besides the answer.
#[derive(Clone, Debug, DeriveDeserialize, ToSchema)]
pub(crate) struct StreamOptions {
    /// Send what the request took in a last chunk.
    #[serde(default)]
    pub(crate) include_usage: Option<bool>,
    /// Send what it has taken so far in every chunk, too: one may hold several tokens.
    #[serde(default)]
    pub(crate) continuous_usage_stats: Option<bool>,
}

/// Which chunks of a stream tell what the request took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TellsUsage {
    Never,
    AtTheEnd,
    Always,
}

impl TellsUsage {
    pub(crate) fn of(options: Option<&StreamOptions>) -> Self {
        match options {
            Some(StreamOptions { include_usage: Some(true), continuous_usage_stats: Some(true) }) => Self::Always,
            Some(StreamOptions { include_usage: Some(true), .. }) => Self::AtTheEnd,
            _ => Self::Never,
        }
    }
}

/// What a stream has taken so far, and who is told.
pub(crate) struct RunningUsage {
    tells: TellsUsage,
    n_prompt: usize,
    /// Tokens of each completion.
    written: Vec<usize>,
    ended: Usage,
}

impl RunningUsage {
    /// Of `n` completions.
    pub(crate) fn new(tells: TellsUsage, n_prompt: usize, n: usize) -> Self {
        Self { tells, n_prompt, written: vec![0; n], ended: Usage::default() }
    }

    /// Completion `index` has this many tokens now.
    pub(crate) fn wrote(&mut self, index: usize, n_completion: usize) {
        self.written[index] = n_completion;
    }

    /// Completion `index` has ended.
    pub(crate) fn ended(&mut self, index: usize, end: &End) {
        self.written[index] = end.usage.n_completion;
        self.ended.add(end);
    }

    /// For a chunk on the way: the numbers of tokens, of which it is not yet known how many were cached.
    pub(crate) fn now(&self) -> Option<Usage> {
        (self.tells == TellsUsage::Always).then(|| {
            let completion_tokens = self.written.iter().sum();
            let total_tokens = self.n_prompt + completion_tokens;
            Usage { prompt_tokens: self.n_prompt, completion_tokens, total_tokens, ..Usage::default() }
        })
    }

    /// For the last chunk.
    pub(crate) fn last(&self) -> Option<Usage> {
        (self.tells != TellsUsage::Never).then(|| self.ended.clone())
    }
}

impl Usage {
    /// Adds a completion of a prompt that is counted already, or, the first time, with it.
    pub(crate) fn add(&mut self, end: &End) {
        if self.prompt_tokens == 0 {
            self.add_prompt(end);
        }
        let usage = &end.usage;
        self.completion_tokens += usage.n_completion;
        self.total_tokens = self.prompt_tokens + self.completion_tokens;
        let details = &mut self.completion_tokens_details;
        details.reasoning_tokens += end.n_reasoning;
        details.accepted_prediction_tokens += usage.n_accepted;
        details.rejected_prediction_tokens += usage.n_drafted - usage.n_accepted.min(usage.n_drafted);
    }

    /// Adds a prompt.
    pub(crate) fn add_prompt(&mut self, end: &End) {
        let (n_prompt, n_cached) = (end.usage.n_prompt, end.usage.n_cached);
        self.prompt_tokens += n_prompt;
        self.prompt_cache_hit_tokens += n_cached;
        self.prompt_cache_miss_tokens += n_prompt - n_cached.min(n_prompt);
        self.prompt_tokens_details.cached_tokens += n_cached;
        self.total_tokens = self.prompt_tokens + self.completion_tokens;
    }
}

/// A token with its log-probability.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct TokenLogprob {
    /// Its text; what is not UTF-8 on its own is U+FFFD here.
    pub(crate) token: String,
    /// Of the model's own distribution.
    pub(crate) logprob: f32,
    /// Its text as bytes.
    pub(crate) bytes: Vec<u8>,
    /// The most probable tokens in its place; none unless asked for.
    pub(crate) top_logprobs: Vec<TopLogprob>,
}

/// A token that could have come.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct TopLogprob {
    /// Its text.
    pub(crate) token: String,
    /// Of the model's own distribution.
    pub(crate) logprob: f32,
    /// Its text as bytes.
    pub(crate) bytes: Vec<u8>,
}

/// Stands for a token that had to come, whatever its probability: what OpenAI says of those it does not know.
pub(crate) const NO_LOGPROB: f32 = -9999.0;

pub(crate) fn text_of(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A token's text as a name that no other token has: bytes that are no UTF-8 on their own are spelled, as OpenAI's
/// completions do it.
pub(crate) fn name_of(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes.iter().fold("bytes:".to_owned(), |name, byte| format!("{name}\\x{byte:02x}")),
    }
}

impl From<&LogProb> for TokenLogprob {
    fn from(token: &LogProb) -> Self {
        let top = token.top.iter();
        let top = top.map(|t| TopLogprob { token: text_of(&t.bytes), logprob: t.logprob, bytes: t.bytes.clone() });
        Self {
            token: text_of(&token.bytes),
            logprob: token.logprob.unwrap_or(NO_LOGPROB),
            bytes: token.bytes.clone(),
            top_logprobs: top.collect(),
        }
    }
}

/// A call in an assistant's message, as templates want it.
pub(crate) fn call_value(id: &str, name: &str, arguments: &str) -> Value {
    json!({ "id": id, "type": "function", "function": { "name": name, "arguments": arguments } })
}
