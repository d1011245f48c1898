//! A model that says what it is told: the engine, tokenizer and template are real, the forward pass is a script.
//!
//! The script is in the last thing that the person said:
//! * `say: TEXT` is answered by TEXT, in which special tokens may be spelled,
//! * `count N` by the numbers from 1 to N,
//! * anything else by `You said: ` and the same again.
//!
//! Text without a conversation goes on with the alphabet. Where a grammar forbids what the script says, the shortest way
//! to its end is taken.
#![allow(clippy::unwrap_used, dead_code, reason = "a test fails where it unwraps, and not every test uses all of it")]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use engine::prefix::{BlockKey, Fingerprint};
use engine::{Engine, EngineThread, Limits, ThinkingBudget};
use server::ServedModel;
use testkit::scripted::{RowFormat, Scripted};
use text::{ChatTemplate, ThinkTokens, Tokenizer, TokenizerConfig};

/// In the manner of V3.1, in small: reasoning if asked for, tools in the instructions.
pub(crate) const TEMPLATE: &str = "{{ bos_token }}{% for m in messages if m.role == 'system' %}{{ m.content }}{% endfor %}\
{% if tools %}{{ tools | tojson }}{% endif %}\
{% for m in messages %}{% if m.role == 'user' %}{{ '<｜User｜>' + m.content }}\
{% elif m.role == 'assistant' %}{{ '<｜Assistant｜></think>' }}{% if m.content %}{{ m.content }}{% endif %}\
{% if m.tool_calls %}{{ '<｜tool▁calls▁begin｜>' }}{% for c in m.tool_calls %}\
{{ '<｜tool▁call▁begin｜>' + c.function.name + '<｜tool▁sep｜>' + c.function.arguments + '<｜tool▁call▁end｜>' }}\
{% endfor %}{{ '<｜tool▁calls▁end｜>' }}{% endif %}{{ '<｜end▁of▁sentence｜>' }}\
{% elif m.role == 'tool' %}{{ '<｜tool▁outputs▁begin｜>' + m.content + '<｜tool▁outputs▁end｜>' }}{% endif %}{% endfor %}\
{% if add_generation_prompt %}{{ '<｜Assistant｜>' }}{% if thinking %}{{ '<think>' }}{% else %}{{ '</think>' }}{% endif %}\
{% endif %}";

/// The tokenizer of a tiny DeepSeek-V3.
pub(crate) fn tokenizer() -> Arc<Tokenizer> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testkit/fixtures/oracles/dsv3");
    Arc::new(Tokenizer::from_json(&std::fs::read(folder.join("tokenizer.json")).unwrap()).unwrap())
}

/// How large a scripted server is.
#[derive(Clone, Copy)]
pub(crate) struct Size {
    pub(crate) n_context: usize,
    pub(crate) n_running: usize,
    pub(crate) n_queued: usize,
    /// Time that each step takes besides.
    pub(crate) step: Duration,
}

impl Default for Size {
    fn default() -> Self {
        Self { n_context: 2048, n_running: 8, n_queued: 256, step: Duration::ZERO }
    }
}

/// An engine with the scripted model, and what the server knows of it.
pub(crate) fn scripted(size: Size) -> (EngineThread, ServedModel) {
    let tokenizer = tokenizer();
    let vocab = tokenizer.vocab_size();
    let token = |text: &str| tokenizer.added_token_id(text).unwrap();
    let limits = Limits {
        n_queued: size.n_queued,
        ..Limits::new(size.n_context, size.n_running, size.n_context * size.n_running, RowFormat::BF16)
    };
    let script = Script {
        tokenizer: tokenizer.clone(),
        assistant: token("<｜Assistant｜>"),
        end: token("<｜end▁of▁sentence｜>"),
    };
    let script = Box::new(move |tokens: &[u32], out: &mut [f32]| script.logits(tokens, out));
    let runner = Scripted::new(vocab, &limits, size.step, script);
    let engine = Engine::new(runner, limits, BlockKey::root(&Fingerprint::from([7; 32])), None).unwrap();
    let config = TokenizerConfig {
        bos_token: Some("<｜begin▁of▁sentence｜>".into()),
        eos_token: Some("<｜end▁of▁sentence｜>".into()),
        add_bos_token: Some(true),
        chat_template: Some(TEMPLATE.into()),
    };
    let think = ThinkTokens::of(&tokenizer).unwrap();
    let newline = tokenizer.encode_plain("\n").unwrap();
    let close = [newline.as_slice(), &[think.close], &newline].concat();
    let thinking = ThinkingBudget {
        open_token: Some(think.open),
        close_token: think.close,
        close,
        breaks: newline,
        soft: 0,
        hard: 0,
    };
    let model = ServedModel {
        name: "scripted".into(),
        created_s: 1_700_000_000,
        template: ChatTemplate::new(&config, &tokenizer).unwrap(),
        template_source: config.chat_template,
        generation: serde_json::json!({ "temperature": 0.0 }),
        bos_token: tokenizer.added_token_id("<｜begin▁of▁sentence｜>"),
        end_tokens: [token("<｜end▁of▁sentence｜>")].into(),
        thinking: Some(thinking),
        vocab,
        n_context: size.n_context,
        n_running: size.n_running,
        tokenizer,
    };
    (EngineThread::start(engine).unwrap(), model)
}

/// What the model would like to say.
struct Script {
    tokenizer: Arc<Tokenizer>,
    assistant: u32,
    end: u32,
}

impl Script {
    /// The token behind `tokens`; none where the answer has left the script.
    fn next(&self, tokens: &[u32]) -> Option<u32> {
        let Some(turn) = tokens.iter().rposition(|token| *token == self.assistant) else {
            return self.next_letter(tokens);
        };
        // The template opens or closes the reasoning behind the role.
        let said = &tokens[(turn + 2).min(tokens.len())..];
        let prompt = self.tokenizer.decode(&tokens[..turn], false).unwrap();
        let asked = prompt.rsplit("<｜User｜>").next().unwrap_or_default();
        let asked = asked.split("<｜tool▁outputs▁begin｜>").next().unwrap_or_default();
        let reply = self.tokenizer.encode(&reply(asked)).unwrap();
        if !reply.starts_with(&said[..said.len().min(reply.len())]) {
            return None;
        }
        Some(reply.get(said.len()).copied().unwrap_or(self.end))
    }

    fn next_letter(&self, tokens: &[u32]) -> Option<u32> {
        let last = self.tokenizer.decode(&tokens[tokens.len() - 1..], true).unwrap();
        match last.bytes().last() {
            Some(byte @ b'a'..=b'y') => {
                let letter = char::from(byte + 1).to_string();
                self.tokenizer.encode_plain(&letter).unwrap().first().copied()
            }
            _ => Some(self.end),
        }
    }

    fn logits(&self, tokens: &[u32], out: &mut [f32]) {
        out.iter_mut().enumerate().for_each(|(token, logit)| *logit = -1e-3 * token as f32);
        for (text, logit) in [("\"", 5.5), ("}", 5.0), ("]", 5.0)] {
            out[self.tokenizer.encode_plain(text).unwrap()[0] as usize] = logit;
        }
        out[self.end as usize] = 6.0;
        if let Some(token) = self.next(tokens) {
            out[token as usize] = 20.0;
        }
    }
}

fn reply(asked: &str) -> String {
    if let Some(text) = asked.strip_prefix("say: ") {
        return text.to_owned();
    }
    match asked.strip_prefix("count ").and_then(|n| n.trim().parse::<usize>().ok()) {
        Some(n) => (1..=n).map(|i| i.to_string()).collect::<Vec<_>>().join(" "),
        None => format!("You said: {asked}"),
    }
}
