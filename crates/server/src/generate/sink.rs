//! The engine's events of one request, as text.
//!
//! Owns what happens on the engine's thread: detokenizing, splitting, stop strings. Must not block, and must not hold more
//! than a client is given time to read.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use engine::{Event, FinishReason, Reply, Sink, TokenLogprob, Usage};
use text::{Delta, Detokenizer, OutputStream, StopMatcher, Tokenizer};
use tokio::sync::mpsc::UnboundedSender;

use crate::error::ApiError;

/// Events that wait for a client. One that reads so slowly is taken to have left.
const WAITING_MAX: usize = 1 << 16;

/// What becomes of a request.
pub(crate) enum Output {
    /// A completion goes on, with `n_completion` tokens so far.
    Token { index: usize, n_completion: usize, deltas: Vec<Delta>, logprob: Option<LogProb> },
    /// A completion has ended.
    Finished { index: usize, deltas: Vec<Delta>, end: End },
    /// The request has failed after all.
    Failed(ApiError),
}

impl Output {
    /// Takes in what goes on the same text; gives back what does not.
    pub(crate) fn join(&mut self, next: Self) -> Option<Self> {
        match (self, next) {
            (
                Self::Token { index, n_completion, deltas, logprob: None },
                Self::Token { index: next_index, n_completion: n_next, deltas: more, logprob: None },
            ) if *index == next_index => {
                *n_completion = n_next;
                for delta in more {
                    let rest = match deltas.last_mut() {
                        Some(last) => last.join(delta),
                        None => Some(delta),
                    };
                    deltas.extend(rest);
                }
                None
            }
            (_, next) => Some(next),
        }
    }
}

/// How a completion ended.
#[derive(Clone, Debug)]
pub(crate) struct End {
    pub(crate) reason: FinishReason,
    /// The stop string that ended it.
    pub(crate) stopped_by: Option<String>,
    pub(crate) usage: Usage,
    pub(crate) n_reasoning: usize,
    pub(crate) n_calls: usize,
}

/// A token with its log-probability.
#[derive(Clone, Debug)]
pub(crate) struct LogProb {
    pub(crate) bytes: Vec<u8>,
    /// None where the token had to be.
    pub(crate) logprob: Option<f32>,
    pub(crate) top: Vec<TopLogProb>,
    /// Whether it belongs to the reasoning.
    pub(crate) in_reasoning: bool,
}

/// A token that could have come.
#[derive(Clone, Debug)]
pub(crate) struct TopLogProb {
    pub(crate) bytes: Vec<u8>,
    pub(crate) logprob: f32,
}

/// How tokens become what a client sees.
#[derive(Clone)]
pub(super) enum Stream {
    /// As a conversation's answer: reasoning, content, calls.
    Chat(Box<OutputStream>),
    /// As they stand.
    Raw(Detokenizer, StopMatcher),
}

impl Stream {
    fn push(&mut self, token: u32) -> Vec<Delta> {
        match self {
            Self::Chat(stream) => stream.push(token),
            Self::Raw(detokenizer, stop) => content(stop.push(&detokenizer.push(token))),
        }
    }

    fn finish(&mut self) -> Vec<Delta> {
        match self {
            Self::Chat(stream) => stream.finish(),
            Self::Raw(detokenizer, stop) => {
                let text = stop.push(&detokenizer.finish());
                content(text + &stop.finish())
            }
        }
    }

    fn stopped(&self) -> bool {
        match self {
            Self::Chat(stream) => stream.stopped(),
            Self::Raw(_, stop) => stop.stopped(),
        }
    }

    fn stopped_by(&self) -> Option<String> {
        let stop = match self {
            Self::Chat(stream) => stream.stopped_by(),
            Self::Raw(_, stop) => stop.stopped_by(),
        };
        stop.map(str::to_owned)
    }

    fn in_reasoning(&self) -> bool {
        matches!(self, Self::Chat(stream) if stream.in_reasoning())
    }

    fn n_calls(&self) -> usize {
        match self {
            Self::Chat(stream) => stream.n_tool_calls(),
            Self::Raw(..) => 0,
        }
    }
}

fn content(text: String) -> Vec<Delta> {
    if text.is_empty() { Vec::new() } else { vec![Delta::Content(text)] }
}

/// The text of one completion.
#[derive(Clone)]
struct Completion {
    stream: Stream,
    n_completion: usize,
    n_reasoning: usize,
    ended: bool,
}

/// What a sink needs to know.
pub(super) struct Hearing {
    pub(super) stream: Stream,
    pub(super) n: usize,
    pub(super) end_tokens: Arc<[u32]>,
    pub(super) tokenizer: Arc<Tokenizer>,
    pub(super) logprobs: bool,
    /// The first call ends the answer.
    pub(super) single_call: bool,
    pub(super) outputs: UnboundedSender<Output>,
    /// Outputs that have not been taken.
    pub(super) waiting: Arc<AtomicUsize>,
}

impl Hearing {
    pub(super) fn sink(self) -> Sink {
        let completion = Completion { stream: self.stream.clone(), n_completion: 0, n_reasoning: 0, ended: false };
        let mut completions = vec![completion; self.n];
        Box::new(move |event| self.hear(&event, &mut completions))
    }

    fn send(&self, output: Output, reply: Reply) -> Reply {
        let n_waiting = self.waiting.fetch_add(1, Ordering::Relaxed);
        match self.outputs.send(output) {
            Ok(()) if n_waiting < WAITING_MAX => reply,
            _ => Reply::Abort,
        }
    }

    fn hear(&self, event: &Event<'_>, completions: &mut [Completion]) -> Reply {
        match *event {
            Event::Started(_) | Event::Read { .. } => match self.outputs.is_closed() {
                true => Reply::Abort,
                false => Reply::Continue,
            },
            Event::Token { index, token, logprob, top, .. } => {
                let completion = &mut completions[index];
                if completion.ended {
                    return Reply::Stop;
                }
                self.token(index, completion, token, logprob, top)
            }
            Event::Finished { index, reason, usage } => {
                let Completion { stream, n_reasoning, .. } = &mut completions[index];
                let deltas = stream.finish();
                let n_calls = stream.n_calls();
                let end = End { reason, stopped_by: stream.stopped_by(), usage, n_reasoning: *n_reasoning, n_calls };
                self.send(Output::Finished { index, deltas, end }, Reply::Continue)
            }
        }
    }

    fn token(
        &self,
        index: usize,
        completion: &mut Completion,
        token: u32,
        logprob: Option<f32>,
        top: &[TokenLogprob],
    ) -> Reply {
        let stream = &mut completion.stream;
        let was_in_reasoning = stream.in_reasoning();
        let is_end = self.end_tokens.contains(&token);
        let deltas = if is_end { Vec::new() } else { stream.push(token) };
        let in_reasoning = was_in_reasoning || stream.in_reasoning();
        completion.n_completion += 1;
        completion.n_reasoning += usize::from(in_reasoning);
        let ends_call = |delta: &Delta| matches!(delta, Delta::ToolCallEnd { .. });
        completion.ended = stream.stopped() || (self.single_call && deltas.iter().any(ends_call));
        // Whoever continues a text wants to know of every token, as evaluations do, which count them.
        let tells = self.logprobs && (!is_end || matches!(stream, Stream::Raw(..)));
        let logprob = tells.then(|| self.log_prob(token, logprob, top, in_reasoning));
        let reply = if completion.ended { Reply::Stop } else { Reply::Continue };
        if deltas.is_empty() && logprob.is_none() && !self.outputs.is_closed() {
            return reply;
        }
        self.send(Output::Token { index, n_completion: completion.n_completion, deltas, logprob }, reply)
    }

    fn log_prob(&self, id: u32, logprob: Option<f32>, top: &[TokenLogprob], in_reasoning: bool) -> LogProb {
        let bytes = |id| self.tokenizer.token_bytes(id).unwrap_or_default().to_vec();
        let top = top.iter().map(|t| TopLogProb { bytes: bytes(t.token), logprob: t.logprob });
        LogProb { bytes: bytes(id), logprob, top: top.collect(), in_reasoning }
    }
}
