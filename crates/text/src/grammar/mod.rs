//! Structured output: from what a request asks for (a JSON schema, a regular expression, a Lark grammar, a tool call)
//! to the set of tokens that may come next. Owns the specifications, their limits, and the states of generation.
//! Must not sample, and must not know logits, requests or wire formats.
//!
//! The parsing itself is `llguidance`'s. What is added here:
//! * **What is accepted is enforced.** Schemas are checked first (`schema`); a keyword that would be ignored is an
//!   error that names it and its place.
//! * **Limits.** Size, nesting and complexity of a specification, and the work per token, are bounded.
//! * **Special tokens stay out.** A grammar yields ordinary tokens, the end tokens where it may end, and for tool
//!   calls the markers of the model's own format; whatever a client's Lark grammar names.

mod armed;
mod conjunction;
mod pattern;
mod schema;
mod session;
mod tools;
mod vocabulary;

pub use armed::ArmedGrammar;
pub use session::Grammar;
pub use tools::{Tool, ToolChoice};

use std::sync::Arc;

use llguidance::api::{ParserLimits, TopLevelGrammar};
use llguidance::earley::SlicedBiasComputer;
use llguidance::toktrie::InferenceCapabilities;
use llguidance::{Matcher, ParserFactory};
use serde_json::Value;

use crate::error::GrammarError;
use crate::stream::ToolFormat;
use crate::tokenizer::Tokenizer;
use vocabulary::Vocabulary;

/// Most bytes of a regular expression or a Lark grammar, and how deep its brackets may nest.
const MAX_SOURCE_BYTES: usize = 64 * 1024;
const MAX_SOURCE_DEPTH: usize = 64;
/// Most `&` in a Lark grammar: it intersects terminals, which may take time exponential in their number.
const MAX_LARK_ANDS: usize = 8;
/// Stack for the library's compiler, which follows references and nesting by recursion: a base, and some for each
/// subschema or byte of source. Only the pages that are touched exist.
const STACK_BYTES: usize = 16 << 20;
const STACK_BYTES_PER_NODE: usize = 16 << 10;
const STACK_BYTES_PER_SOURCE_BYTE: usize = 1 << 10;

/// White space between the parts of a JSON text: a space, or a line break and an indentation. Bounded, since models
/// are known to fall into white space without end.
const WHITE_SPACE: &str = r"\x20?|\r?\n[\x20\t]{0,64}";

/// What a request's output must follow.
#[derive(Debug, Clone, PartialEq)]
pub enum GrammarSpec {
    /// One JSON value that is valid under this schema. Properties come in the schema's order.
    JsonSchema(Value),
    /// Any JSON object.
    JsonObject,
    /// A text that matches as a whole, in the syntax of Rust's `regex` crate without look-around.
    Regex(String),
    /// A Lark grammar in llguidance's dialect, with `start` as its first rule.
    Lark(String),
    /// One call or more of these tools, in the model's own format.
    ToolCalls {
        /// How the model writes calls.
        format: ToolFormat,
        /// The tools it may call.
        tools: Vec<Tool>,
        /// Which of them it must call.
        choice: ToolChoice,
        /// Whether it may call more than once.
        parallel: bool,
    },
}

/// Compiles grammars for one vocabulary. Built once per model; clones share everything.
#[derive(Clone)]
pub struct GrammarFactory {
    factory: Arc<ParserFactory>,
    vocabulary: Arc<Vocabulary>,
}

impl std::fmt::Debug for GrammarFactory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GrammarFactory").field("vocabulary", &self.vocabulary).finish_non_exhaustive()
    }
}

impl GrammarFactory {
    /// Prepares `tokenizer`'s vocabulary. `end_tokens` are those that end a text; at least one is needed.
    ///
    /// # Errors
    /// No end token, one outside the vocabulary, or more bytes of tokens than fit.
    pub fn new(tokenizer: &Arc<Tokenizer>, end_tokens: &[u32]) -> Result<Self, GrammarError> {
        let (env, vocabulary) = vocabulary::build(tokenizer, end_tokens)?;
        let capabilities = InferenceCapabilities { ff_tokens: true, ..InferenceCapabilities::default() };
        let slices = SlicedBiasComputer::json_slices();
        let mut factory = ParserFactory::new(&env, capabilities, &slices)
            .map_err(|error| GrammarError::Vocabulary(first_line(&error.to_string())))?;
        factory.quiet();
        *factory.limits_mut() = limits();
        Ok(Self { factory: Arc::new(factory), vocabulary: Arc::new(vocabulary) })
    }

    /// Compiles `spec`. Takes from under a millisecond to some tenths of a second for the largest schemas: not for the
    /// thread that generates.
    ///
    /// # Errors
    /// The specification is malformed, over a limit, contradicts itself, or asks for what cannot be enforced.
    pub fn compile(&self, spec: &GrammarSpec) -> Result<Grammar, GrammarError> {
        match spec {
            GrammarSpec::JsonSchema(value) => {
                let mut checked = schema::check(value)?;
                let stack = STACK_BYTES_PER_NODE * checked.n_nodes;
                schema::set_options(&mut checked.schema, WHITE_SPACE);
                let grammar = TopLevelGrammar::from_json_schema(checked.schema);
                self.build(grammar, stack, &[]).map_err(|error| checked.notes.explain(error))
            }
            GrammarSpec::JsonObject => self.compile(&GrammarSpec::JsonSchema(serde_json::json!({"type": "object"}))),
            GrammarSpec::Regex(source) => {
                check_source("regular expression", source)?;
                self.build(TopLevelGrammar::from_regex(source), STACK_BYTES_PER_SOURCE_BYTE * source.len(), &[])
            }
            GrammarSpec::Lark(source) => {
                check_source("Lark grammar", source)?;
                limit("& in a Lark grammar", source.matches('&').count(), MAX_LARK_ANDS)?;
                let grammar = TopLevelGrammar::from_lark(source.clone());
                self.build(grammar, STACK_BYTES_PER_SOURCE_BYTE * source.len(), &[])
            }
            GrammarSpec::ToolCalls { format, tools, choice, parallel } => {
                let source = tools::lark(*format, tools, choice, *parallel, self.vocabulary.tokenizer())?;
                let stack = STACK_BYTES_PER_NODE * source.n_nodes;
                let grammar = TopLevelGrammar::from_lark(source.lark);
                self.build(grammar, stack, &source.markers).map_err(|error| source.notes.explain(error))
            }
        }
    }

    /// Compiles on a thread of its own: the library recurses, and a panic there must not end more than the request.
    fn build(&self, grammar: TopLevelGrammar, stack: usize, markers: &[u32]) -> Result<Grammar, GrammarError> {
        let failed = |problem: String| GrammarError::Compile(problem);
        let parser = with_stack(stack, || {
            self.factory.create_parser(grammar).map_err(|error| failed(first_line(&format!("{error:#}"))))
        })?;
        let mut matcher = Matcher::new(Ok(parser));
        // A grammar that no text follows would otherwise show up only in the middle of generation.
        matcher.compute_mask_or_eos().map_err(|error| failed(first_line(&error.to_string())))?;
        Ok(Grammar::new(matcher, Arc::clone(&self.vocabulary), markers))
    }
}

/// Runs `work` on a thread with so much stack beyond the base.
///
/// # Errors
/// The system has no room for the stack, or the work panicked.
fn with_stack<T: Send>(stack: usize, work: impl FnOnce() -> Result<T, GrammarError> + Send) -> Result<T, GrammarError> {
    let failed = |problem: String| GrammarError::Compile(problem);
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("grammar".into()).stack_size(STACK_BYTES + stack);
        let thread = thread.spawn_scoped(scope, work).map_err(|error| failed(format!("no thread: {error}")))?;
        thread.join().unwrap_or_else(|_| Err(failed("the compiler panicked".into())))
    })
}

/// The library's limits. Steps are counted, not timed: about 14 lexer steps or 20 items take a microsecond, so a mask
/// ends within some 20 ms; a lexer state takes one or two kilobytes.
fn limits() -> ParserLimits {
    ParserLimits {
        max_items_in_row: 2_000,
        initial_lexer_fuel: 1_000_000,
        step_lexer_fuel: 200_000,
        step_max_items: 50_000,
        max_lexer_states: 50_000,
        max_grammar_size: 500_000,
        precompute_large_lexemes: true,
        verbose_errors: false,
    }
}

fn check_source(field: &'static str, source: &str) -> Result<(), GrammarError> {
    limit(field, source.len(), MAX_SOURCE_BYTES)?;
    let (mut depth, mut deepest) = (0usize, 0);
    for byte in source.bytes() {
        match byte {
            b'(' | b'[' | b'{' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    limit("nesting of brackets in a grammar", deepest, MAX_SOURCE_DEPTH)
}

fn limit(field: &'static str, found: usize, limit: usize) -> Result<(), GrammarError> {
    if found <= limit { Ok(()) } else { Err(GrammarError::TooLarge { field, found, limit }) }
}

/// The part of the library's message that is meant for people: no backtraces, no dumps of its state.
fn first_line(message: &str) -> String {
    let end = ["\n<state>", "\n<backtrace>", "\n<non-verbose/>"].iter().filter_map(|mark| message.find(mark)).min();
    let message = message[..end.unwrap_or(message.len())].trim();
    message.chars().take(500).collect()
}
