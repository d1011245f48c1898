//! The hook for grammars: which tokens may come next.
//!
//! Owns the trait and the thread that computes masks beside the forward pass. Must not know grammars.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What a completion may say, token by token.
pub trait TokenMask: Send {
    /// Takes the token that was chosen or forced.
    ///
    /// # Errors
    /// The token was not allowed
    fn accept(&mut self, token: u32) -> Result<(), MaskError>;

    /// Sets bit `t % 32` of word `t / 32` for each token t that may come next; false if all may.
    ///
    /// # Errors
    /// A limit of the grammar is exceeded
    fn allowed(&mut self, bits: &mut [u32]) -> Result<bool, MaskError>;

    /// Appends the tokens that must come next, if that is certain. They have not been accepted yet.
    fn forced(&mut self, out: &mut Vec<u32>);

    /// The same state for another completion of the same prompt.
    fn fork(&self) -> Box<dyn TokenMask>;
}

/// A mask cannot go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct MaskError(pub String);

/// A mask, the bits it last allowed, and the tokens it forces.
pub(crate) struct Masked {
    mask: Box<dyn TokenMask>,
    bits: Vec<u32>,
    restricts: bool,
    forced: Vec<u32>,
    broken: bool,
}

impl Masked {
    pub(crate) fn new(mask: Box<dyn TokenMask>, vocab: usize) -> Self {
        let bits = vec![0; vocab.div_ceil(32)];
        Self { mask, bits, restricts: false, forced: Vec::new(), broken: false }
    }

    pub(crate) fn fork(&self) -> Self {
        Self {
            mask: self.mask.fork(),
            bits: self.bits.clone(),
            restricts: self.restricts,
            forced: self.forced.clone(),
            broken: self.broken,
        }
    }

    /// The bits that restrict the next token, if any do.
    pub(crate) fn bits(&self) -> Option<&[u32]> {
        self.restricts.then_some(&self.bits)
    }

    pub(crate) fn forced(&self) -> &[u32] {
        &self.forced
    }

    /// Whether the mask failed, so that no further token can be vouched for.
    pub(crate) fn is_broken(&self) -> bool {
        self.broken
    }

    /// Accepts `tokens` and works out what may follow.
    fn advance(&mut self, tokens: &[u32]) {
        self.forced.clear();
        let accepted = tokens.iter().try_for_each(|token| self.mask.accept(*token));
        let allowed = accepted.and_then(|()| {
            self.mask.forced(&mut self.forced);
            match self.forced.is_empty() {
                true => self.mask.allowed(&mut self.bits),
                false => Ok(false),
            }
        });
        self.restricts = *allowed.as_ref().unwrap_or(&false);
        self.broken = allowed.is_err();
    }
}

/// Time that masks took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MaskTimes {
    /// Masks that were computed.
    pub n: u64,
    /// All of them together, on their own thread.
    pub computed: Duration,
    /// The longest.
    pub computed_max: Duration,
    /// What the engine waited for them, all together: what was not hidden behind the forward pass.
    pub waited: Duration,
}

/// A sequence's mask: here, or being computed.
pub(crate) enum MaskState {
    Here(Masked),
    Away,
}

type Job = (u64, Masked, Vec<u32>);
type Done = (u64, Masked, Duration);

/// Computes masks while the device computes logits.
pub(crate) struct MaskWorker {
    jobs: Option<Sender<Job>>,
    done: Receiver<Done>,
    /// Came back while another was waited for.
    early: Vec<(u64, Masked)>,
    thread: Option<JoinHandle<()>>,
    times: MaskTimes,
}

impl MaskWorker {
    pub(crate) fn new() -> std::io::Result<Self> {
        let (jobs, inbox) = channel::<Job>();
        let (outbox, done) = channel();
        let work = move || {
            for (key, mut masked, tokens) in inbox {
                let start = Instant::now();
                // A mask is a library's code on a client's grammar: a panic there ends that request alone.
                let advanced = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| masked.advance(&tokens)));
                masked.broken |= advanced.is_err();
                if outbox.send((key, masked, start.elapsed())).is_err() {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name("mask".into()).spawn(work)?;
        Ok(Self { jobs: Some(jobs), done, early: Vec::new(), thread: Some(thread), times: MaskTimes::default() })
    }

    /// Sends a mask away to accept `tokens`; `key` is unique among those away.
    pub(crate) fn advance(&self, key: u64, state: &mut MaskState, tokens: &[u32]) {
        if let MaskState::Here(masked) = std::mem::replace(state, MaskState::Away)
            && let Some(jobs) = &self.jobs
        {
            // The worker ends only with this struct; were it gone, `wait` would find the mask missing.
            let _ = jobs.send((key, masked, tokens.to_vec()));
        }
    }

    /// Waits until the mask is back; none if the worker is gone.
    pub(crate) fn wait<'a>(&mut self, key: u64, state: &'a mut MaskState) -> Option<&'a mut Masked> {
        while matches!(state, MaskState::Away) {
            if let Some(i) = self.early.iter().position(|(other, _)| *other == key) {
                *state = MaskState::Here(self.early.swap_remove(i).1);
                break;
            }
            let start = Instant::now();
            let (done, masked, computed) = self.done.recv().ok()?;
            let times = &mut self.times;
            times.n += 1;
            times.computed += computed;
            times.computed_max = times.computed_max.max(computed);
            times.waited += start.elapsed();
            self.early.push((done, masked));
        }
        match state {
            MaskState::Here(masked) => Some(masked),
            MaskState::Away => None,
        }
    }

    pub(crate) fn times(&self) -> MaskTimes {
        self.times
    }

    /// Forgets a mask that nobody will wait for.
    pub(crate) fn forget(&mut self, key: u64, state: &mut MaskState) {
        self.wait(key, state);
    }
}

impl Drop for MaskWorker {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            // It catches panics of masks, so it has nothing to report.
            let _ = thread.join();
        }
    }
}
