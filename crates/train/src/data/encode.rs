//! Text and conversations → marked tokens.
//!
//! Owns which tokens fine-tuning learns: what an assistant writes after the prompt that it is given when it serves, its
//! end token included. So the prompt is always rendered with the generation prompt, and what follows is encoded as the
//! model would have to write it, whatever the template makes of that turn once it is history.

use std::sync::Arc;

use text::{ChatTemplate, Message, RenderOptions, Role, Tokenizer, TokenizerConfig};

use super::{DataError, Document, Marked};
use crate::tasks::Instance;

/// The two names that published templates have for the switch of reasoning; others ignore them.
const THINKING_SWITCHES: [&str; 2] = ["thinking", "enable_thinking"];
const THINK_OPEN: &str = "<think>";
const THINK_CLOSE: &str = "</think>";

/// A tokenizer with its chat template.
#[derive(Debug)]
pub struct Encoder {
    tokenizer: Arc<Tokenizer>,
    template: Option<ChatTemplate>,
    bos: Option<u32>,
    eos: u32,
    fingerprint: String,
}

impl Encoder {
    /// An encoder from the contents of tokenizer.json and tokenizer_config.json.
    ///
    /// # Errors
    /// A file is malformed, or there is no end token
    pub fn new(tokenizer_json: &[u8], config_json: &[u8]) -> Result<Self, DataError> {
        let wrong = |what: &str, problem: String| DataError::Encoding { place: what.to_owned(), problem };
        let tokenizer = Tokenizer::from_json(tokenizer_json).map_err(|e| wrong("tokenizer.json", e.to_string()))?;
        let config = |problem| wrong("tokenizer_config.json", problem);
        let parsed = TokenizerConfig::from_json(config_json).map_err(|e| config(e.to_string()))?;
        let template = ChatTemplate::new(&parsed, &tokenizer).map_err(|e| config(e.to_string()))?;
        let eos = parsed.eos_id(&tokenizer);
        let eos =
            eos.ok_or_else(|| config("expected an eos_token that is among the added tokens, found none".into()))?;
        let bos = parsed.bos_id(&tokenizer);
        let fingerprint = crate::hash::hex(&[tokenizer_json, config_json]);
        Ok(Self { tokenizer: Arc::new(tokenizer), template, bos, eos, fingerprint })
    }

    /// The tokenizer.
    #[must_use]
    pub fn tokenizer(&self) -> &Arc<Tokenizer> {
        &self.tokenizer
    }

    /// The token that opens texts, if there is one.
    #[must_use]
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// The token that ends documents and turns; rows are filled up with it.
    #[must_use]
    pub fn eos(&self) -> u32 {
        self.eos
    }

    /// Names the vocabulary and template: equal fingerprints give equal tokens.
    #[must_use]
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// A text between the tokens that open and end one; all of it is learnt.
    ///
    /// # Errors
    /// The tokenizer gave up
    pub fn text(&self, text: &str, place: &str) -> Result<Document, DataError> {
        let ids = self.tokenizer.encode_plain(text).map_err(|e| encoding(place, &e))?;
        let ids = self.bos.into_iter().chain(ids).chain([self.eos]);
        Ok(Document { tokens: ids.map(|id| Marked::new(id, true)).collect(), may_split: true })
    }

    /// A question with its worked solution, as a conversation.
    ///
    /// # Errors
    /// There is no template, or it refuses
    pub fn instance(&self, instance: &Instance) -> Result<Document, DataError> {
        let answer = Message {
            reasoning_content: Some(instance.reasoning.clone()),
            ..Message::assistant(instance.answer.as_str())
        };
        let documents = self.chat(&[Message::user(instance.question.as_str()), answer], None, "a question")?;
        let none = || encoding("a question", &"the template gave no document");
        documents.into_iter().next().ok_or_else(none)
    }

    /// What serving gives a model that is to answer `messages` with reasoning, and whether that has been opened.
    ///
    /// # Errors
    /// There is no template, or it refuses
    pub fn prompt(&self, messages: &[Message], place: &str) -> Result<(Vec<u32>, bool), DataError> {
        let mut options = RenderOptions { add_generation_prompt: true, ..RenderOptions::default() };
        for name in THINKING_SWITCHES {
            options.extra.insert(name.into(), true.into());
        }
        self.render(messages, &options, place)
    }

    /// A conversation. Each assistant's turn is learnt after the very prompt that serving would give; turns whose prompts
    /// continue each other share a document, and where the template rewrites history (it drops old reasoning) a new one
    /// begins.
    ///
    /// # Errors
    /// There is no template, it refuses, or no turn is an assistant's
    pub fn chat(
        &self,
        messages: &[Message],
        tools: Option<Vec<serde_json::Value>>,
        place: &str,
    ) -> Result<Vec<Document>, DataError> {
        let mut documents: Vec<Vec<Marked>> = Vec::new();
        for (at, message) in messages.iter().enumerate().filter(|(_, message)| message.role == Role::Assistant) {
            let (prompt, answer) = self.turn(&messages[..at], message, tools.clone(), place)?;
            let continued = documents.last_mut().filter(|last| {
                last.len() <= prompt.len() && last.iter().zip(&prompt).all(|(token, id)| token.id() == *id)
            });
            let document = match continued {
                Some(last) => last,
                None => {
                    documents.push(Vec::new());
                    let last = documents.len() - 1;
                    &mut documents[last]
                }
            };
            let fresh = prompt[document.len()..].iter().map(|id| Marked::new(*id, false));
            let fresh: Vec<Marked> = fresh.chain(answer.into_iter().map(|id| Marked::new(id, true))).collect();
            document.extend(fresh);
        }
        if documents.is_empty() {
            return Err(encoding(place, &"expected a message of the assistant, found none"));
        }
        Ok(documents.into_iter().map(|tokens| Document { tokens, may_split: false }).collect())
    }

    /// The prompt that serving gives before `message`, and what the model has to write then.
    fn turn(
        &self,
        before: &[Message],
        message: &Message,
        tools: Option<Vec<serde_json::Value>>,
        place: &str,
    ) -> Result<(Vec<u32>, Vec<u32>), DataError> {
        let content = message.content.as_deref().unwrap_or_default();
        let (reasoning, answer) = match (&message.reasoning_content, content.split_once(THINK_CLOSE)) {
            (Some(reasoning), _) => (Some(reasoning.as_str()), content),
            (None, Some((reasoning, answer))) => {
                let reasoning = reasoning.trim_start();
                (Some(reasoning.strip_prefix(THINK_OPEN).unwrap_or(reasoning)), answer)
            }
            (None, None) => (None, content),
        };
        let mut options = RenderOptions { add_generation_prompt: true, tools, ..RenderOptions::default() };
        for name in THINKING_SWITCHES {
            options.extra.insert(name.into(), reasoning.is_some().into());
        }
        let (prompt, opened) = self.render(before, &options, place)?;
        if message.tool_calls.is_some() {
            let all: Vec<Message> = before.iter().chain([message]).cloned().collect();
            let (whole, _) = self.render(&all, &RenderOptions { add_generation_prompt: false, ..options }, place)?;
            let rest = whole.strip_prefix(prompt.as_slice());
            let rest =
                rest.ok_or_else(|| encoding(place, &"the template writes this tool call otherwise than it prompts"))?;
            return Ok((prompt, rest.to_vec()));
        }
        let mut ids = Vec::new();
        if let Some(reasoning) = reasoning {
            if !opened {
                self.tag(THINK_OPEN, &mut ids, place)?;
            }
            ids.extend(self.plain(reasoning, place)?);
            self.tag(THINK_CLOSE, &mut ids, place)?;
        } else if opened {
            // The template reasons whatever it is told: then briefly.
            self.tag(THINK_CLOSE, &mut ids, place)?;
        }
        ids.extend(self.plain(answer, place)?);
        ids.push(self.eos);
        Ok((prompt, ids))
    }

    fn render(
        &self,
        messages: &[Message],
        options: &RenderOptions,
        place: &str,
    ) -> Result<(Vec<u32>, bool), DataError> {
        let missing = "the tokenizer has no chat template; add chat_template to its tokenizer_config.json";
        let template = self.template.as_ref().ok_or_else(|| encoding(place, &missing))?;
        let rendered = template.render(messages, options).map_err(|e| encoding(place, &e))?;
        let ids = self.tokenizer.encode_rendered(&rendered).map_err(|e| encoding(place, &e))?;
        Ok((ids, rendered.starts_in_reasoning()))
    }

    fn plain(&self, text: &str, place: &str) -> Result<Vec<u32>, DataError> {
        self.tokenizer.encode_plain(text).map_err(|e| encoding(place, &e))
    }

    /// A think tag: one token where the vocabulary has it, else its letters.
    fn tag(&self, tag: &str, ids: &mut Vec<u32>, place: &str) -> Result<(), DataError> {
        match self.tokenizer.added_token_id(tag) {
            Some(id) => ids.push(id),
            None => ids.extend(self.plain(tag, place)?),
        }
        Ok(())
    }
}

fn encoding(place: &str, problem: &dyn std::fmt::Display) -> DataError {
    DataError::Encoding { place: place.to_owned(), problem: problem.to_string() }
}
