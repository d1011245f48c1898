//! Random requests, and what each must be answered. Owns both; must not know the engine's state.

use std::sync::{Arc, Mutex};

use engine::{
    Event, FinishReason, History, LoopDetector, MaskError, Place, Reply, Request, Reuse, Sampler, Sampling, Thinking,
    ThinkingBudget, TokenMask, Usage,
};

use crate::world::{Rng, VOCAB, chain, logits_of};

pub(crate) const END: u32 = 0;
const CLOSE: u32 = 5;

/// Allows tokens whose parity changes with each token, and forces 8 and 9 after 7.
#[derive(Clone)]
pub(crate) struct Parity {
    last: Option<u32>,
    n: u32,
}

impl Parity {
    fn allows(&self, token: u32) -> bool {
        token == END || token % 2 == self.n % 2
    }
}

impl TokenMask for Parity {
    fn accept(&mut self, token: u32) -> Result<(), MaskError> {
        self.n += 1;
        self.last = Some(token);
        Ok(())
    }

    fn allowed(&mut self, bits: &mut [u32]) -> Result<bool, MaskError> {
        bits.fill(0);
        (0..VOCAB as u32).filter(|t| self.allows(*t)).for_each(|t| bits[t as usize / 32] |= 1 << (t % 32));
        Ok(true)
    }

    fn forced(&mut self, out: &mut Vec<u32>) {
        if self.last == Some(7) {
            out.extend([8, 9]);
        }
    }

    fn fork(&self) -> Box<dyn TokenMask> {
        Box::new(self.clone())
    }
}

/// What was asked for.
#[derive(Clone)]
pub(crate) struct Ask {
    pub(crate) prompt: Vec<u32>,
    pub(crate) max_tokens: usize,
    pub(crate) sampling: Sampling,
    pub(crate) n: usize,
    pub(crate) thinking: Option<ThinkingBudget>,
    pub(crate) masked: bool,
    pub(crate) speculates: bool,
    pub(crate) owner: u64,
    /// The sink stops a completion behind this many tokens, or leaves.
    pub(crate) stops_after: usize,
    pub(crate) leaves_after: usize,
}

impl Ask {
    /// Prompts share beginnings: each is cut from one of a few texts and may go on in its own way.
    pub(crate) fn random(rng: &mut Rng, n_context: usize, n_running: usize) -> Self {
        let mut text = Rng(rng.next() % 3);
        let n_shared = rng.below(n_context * 3 / 4);
        let mut prompt: Vec<u32> = (0..n_shared).map(|_| 1 + text.below(VOCAB - 1) as u32).collect();
        prompt.extend((0..1 + rng.below(20)).map(|_| 1 + rng.below(VOCAB - 1) as u32));
        let pick = |rng: &mut Rng, n: usize| rng.once_in(n);
        let masked = pick(rng, 6);
        let sampling = Sampling {
            temperature: if pick(rng, 2) { 0.0 } else { 0.8 },
            top_p: if pick(rng, 3) { 0.9 } else { 1.0 },
            repetition_penalty: if pick(rng, 5) { 1.2 } else { 1.0 },
            seed: rng.next(),
            min_tokens: if pick(rng, 8) { 6 } else { 0 },
            top_logprobs: if pick(rng, 8) { Some(2) } else { None },
            ..Sampling::GREEDY
        };
        let budget = ThinkingBudget {
            open_token: None,
            close_token: CLOSE,
            close: vec![4, CLOSE, 4],
            breaks: vec![10, 11],
            soft: rng.below(8),
            hard: 8 + rng.below(8),
        };
        Self {
            prompt,
            max_tokens: 1 + rng.below(40),
            sampling,
            n: if pick(rng, 6) { 1 + rng.below(n_running) } else { 1 },
            thinking: pick(rng, 5).then_some(budget),
            masked,
            speculates: !pick(rng, 3),
            owner: rng.next() % 3,
            stops_after: if pick(rng, 6) { 1 + rng.below(10) } else { usize::MAX },
            leaves_after: if pick(rng, 12) { 1 + rng.below(10) } else { usize::MAX },
        }
    }

    pub(crate) fn request(&self, heard: &Arc<Mutex<Heard>>) -> Request {
        let heard = heard.clone();
        let (stops_after, leaves_after) = (self.stops_after, self.leaves_after);
        Request {
            prompt: self.prompt.clone(),
            max_tokens: self.max_tokens,
            end_tokens: Arc::new([END]),
            sampling: self.sampling.clone(),
            n: self.n,
            thinking: self.thinking.clone().map(|budget| Thinking::new(budget, true).unwrap()),
            mask: self.masked.then(|| Box::new(Parity { last: None, n: 0 }) as Box<dyn TokenMask>),
            stops_loops: true,
            speculates: self.speculates,
            owner: self.owner,
            sink: Box::new(move |event| heard.lock().unwrap().hear(&event, stops_after, leaves_after)),
        }
    }

    /// What completion `index` must be in a context of `n_context`, token by token, and why it ends.
    pub(crate) fn answer(&self, index: usize, n_context: usize) -> (Vec<u32>, FinishReason) {
        let mut tokens = self.prompt.clone();
        let n_total = (tokens.len() + self.max_tokens).min(n_context);
        let mut hash = tokens.iter().fold(0, |hash, token| chain(hash, *token));
        let mut sampler = Sampler::new(VOCAB);
        let mut history = if self.sampling.penalizes() { History::with_capacity(n_total) } else { History::NONE };
        history.restart(&self.sampling);
        history.push_prompt(&tokens);
        let mut thinking = self.thinking.clone().map(|budget| Thinking::new(budget, true).unwrap());
        let mut mask = self.masked.then_some(Parity { last: None, n: 0 });
        let mut loops = LoopDetector::default();
        let mut forced: Vec<u32> = thinking.as_mut().and_then(|t| t.start().map(<[u32]>::to_vec)).unwrap_or_default();
        loop {
            let n_completion = tokens.len() - self.prompt.len();
            if let Some(mask) = mask.as_mut().filter(|_| forced.is_empty()) {
                mask.forced(&mut forced);
            }
            let was_forced = !forced.is_empty();
            let token = if was_forced {
                forced.remove(0)
            } else {
                let mut logits = [0.0; VOCAB];
                logits_of(hash, tokens[tokens.len() - 1], &mut logits);
                let mut bits = [0; VOCAB.div_ceil(32)];
                let allowed = mask.as_mut().map(|mask| mask.allowed(&mut bits).unwrap());
                let place = Place { sequence: index as u64, position: tokens.len() as u64 };
                let banned = self.sampling.banned(n_completion, &[END]);
                let bits = allowed.map(|_| &bits[..]);
                match sampler.choose(&logits, &self.sampling, &history, bits, banned, place) {
                    Ok(choice) => choice.token,
                    Err(_) => return (tokens.split_off(self.prompt.len()), FinishReason::Mask),
                }
            };
            tokens.push(token);
            hash = chain(hash, token);
            history.push(token);
            let repeats = loops.push(token).is_some();
            mask.iter_mut().for_each(|mask| mask.accept(token).unwrap());
            if let Some(more) = thinking.as_mut().and_then(|t| t.on_token(token).map(<[u32]>::to_vec))
                && !was_forced
            {
                forced = more;
            }
            let reason = match n_completion + 1 {
                n if n >= self.leaves_after => FinishReason::Aborted,
                n if n >= self.stops_after => FinishReason::Stop,
                _ if token == END => FinishReason::Stop,
                _ if repeats => FinishReason::Loop,
                _ if tokens.len() == n_total => FinishReason::Length,
                _ => continue,
            };
            return (tokens.split_off(self.prompt.len()), reason);
        }
    }
}

/// What a sink heard.
#[derive(Default)]
pub(crate) struct Heard {
    pub(crate) started: Option<Reuse>,
    pub(crate) completions: Vec<Vec<u32>>,
    pub(crate) ends: Vec<Option<(FinishReason, Usage)>>,
}

impl Heard {
    pub(crate) fn new(n: usize) -> Arc<Mutex<Self>> {
        Arc::new(Mutex::new(Self { started: None, completions: vec![Vec::new(); n], ends: vec![None; n] }))
    }

    fn hear(&mut self, event: &Event<'_>, stops_after: usize, leaves_after: usize) -> Reply {
        match *event {
            Event::Started(reuse) => {
                assert!(self.started.replace(reuse).is_none(), "started twice");
                assert!(reuse.n_cached() < reuse.n_prompt);
            }
            Event::Read { n_read, n_prompt } => assert!(self.started.is_some() && n_read <= n_prompt),
            Event::Token { index, token, forced, logprob, .. } => {
                assert!(
                    self.started.is_some() && self.ends[index].is_none(),
                    "a token before the start or behind the end"
                );
                assert!(!(forced && logprob.is_some()));
                self.completions[index].push(token);
                let n = self.completions[index].len();
                if n >= leaves_after {
                    return Reply::Abort;
                }
                if n >= stops_after {
                    return Reply::Stop;
                }
            }
            Event::Finished { index, reason, usage } => {
                assert!(self.ends[index].replace((reason, usage)).is_none(), "ended twice");
            }
        }
        Reply::Continue
    }
}
