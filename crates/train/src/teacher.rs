//! A model that another one learns from token by token: frozen, loaded once.
//!
//! Owns its weights, its workspace and whether it can teach a student at all. Must not know what is made of its logits.

use std::path::{Path, PathBuf};

use ops::{DeviceError, Gemm, GemmLayout, TrainDevice, zeroed};

use crate::data::Encoder;
use crate::forward::Pass;
use crate::pretrained;
use crate::workspace::logit_rows;
use crate::{Batch, Net, Workspace};

/// Why a model cannot teach.
#[derive(Debug, thiserror::Error)]
pub enum TeacherError {
    /// It cannot be read or loaded.
    #[error("the teacher {}: {source}", path.display())]
    Refused {
        /// The teacher.
        path: PathBuf,
        /// What is the matter.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It speaks of other tokens than the student.
    #[error(
        "the teacher {}: expected the student's tokens, found {found}; a teacher with another tokenizer can write examples \
         to learn from (`teacher` of a source in [data])", path.display()
    )]
    Tokens {
        /// The teacher.
        path: PathBuf,
        /// The first difference.
        found: String,
    },
    /// Memory.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

fn refused(path: &Path, source: impl std::error::Error + Send + Sync + 'static) -> TeacherError {
    TeacherError::Refused { path: path.to_owned(), source: Box::new(source) }
}

/// A frozen model that reads what a student wrote.
pub struct Teacher {
    net: Net,
    params: Vec<f32>,
    ws: Workspace,
    /// `[n, vocab]` of the rows of a student's head
    logits: Vec<f32>,
    /// `[n, d]`
    rows: Vec<f32>,
}

impl std::fmt::Debug for Teacher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Teacher").field("n_params", &self.params.len()).finish_non_exhaustive()
    }
}

impl Teacher {
    /// The model at `path`, to read up to `n_rows` rows at a time of what a student of `student_vocab` tokens wrote.
    ///
    /// # Errors
    /// It cannot be read, or does not fit into memory
    pub fn load(path: &Path, student_vocab: usize, n_rows: usize) -> Result<Self, TeacherError> {
        let (mut net, _, params) = pretrained::load(path).map_err(|e| refused(path, e))?;
        // Only what the main model says is learnt from.
        net.mtp = None;
        let n = logit_rows(student_vocab);
        Ok(Self {
            ws: Workspace::new(&net, n_rows)?,
            logits: zeroed(n * net.config.vocab_size, "the teacher's logits")?,
            rows: zeroed(n * net.config.hidden_size, "the teacher's outputs")?,
            net,
            params,
        })
    }

    /// Whether the model at `path` has the tokens of a student, whose model knows `student_vocab` of them; read without
    /// its weights. Returns the bytes that it will take with `n_rows` rows.
    ///
    /// # Errors
    /// It cannot be read, or the tokens differ: the first that does
    pub fn check(path: &Path, student: &Encoder, student_vocab: usize, n_rows: usize) -> Result<u64, TeacherError> {
        let files = pretrained::tokenizer(path).map_err(|e| refused(path, e))?;
        let own = Encoder::new(&files.tokenizer, &files.config).map_err(|e| refused(path, e))?;
        let config = pretrained::config(path).map_err(|e| refused(path, e))?;
        let differs = |found: String| Err(TeacherError::Tokens { path: path.to_owned(), found });
        let (theirs, ours) = (own.tokenizer(), student.tokenizer());
        let name = |bytes: Option<&[u8]>| match bytes {
            Some(bytes) => format!("{:?}", String::from_utf8_lossy(bytes)),
            None => "nothing".to_owned(),
        };
        for id in 0..ours.vocab_size().max(theirs.vocab_size()) as u32 {
            let [our_bytes, their_bytes] = [ours, theirs].map(|t| (t.token_bytes(id), t.added_token(id).is_some()));
            if our_bytes != their_bytes {
                return differs(format!("{} for token {id}, {}", name(their_bytes.0), name(our_bytes.0)));
            }
        }
        if config.vocab_size < student_vocab {
            return differs(format!("a model of {} tokens for one of {student_vocab}", config.vocab_size));
        }
        let mut net = Net::new(config);
        net.mtp = None;
        let logits = logit_rows(student_vocab) * (net.config.vocab_size + net.config.hidden_size);
        Ok((4 * (net.layout.len() + logits) as u64).saturating_add(Workspace::n_bytes(&net, n_rows)))
    }

    /// Reads a batch: its outputs are kept for [`Teacher::logits`].
    pub(crate) fn read<D: TrainDevice>(&mut self, dev: &D, batch: &Batch) {
        Pass::new(dev, &self.net, &self.params, batch, &self.ws).main(batch, &mut self.ws);
    }

    /// Logits `[rows, vocab]` of some rows of the batch that was read, no more of them than a student's head takes at a
    /// time.
    pub(crate) fn logits<D: TrainDevice>(&mut self, dev: &D, rows: &[u32]) -> &[f32] {
        let (vocab, d) = (self.net.config.vocab_size, self.net.config.hidden_size);
        let head = &self.params[self.net.head.clone()];
        dev.gather_rows(&self.ws.h, rows, d, &mut self.rows);
        dev.gemm(&Gemm::new(GemmLayout::Nt, [rows.len(), vocab, d]), &self.rows, head, &mut self.logits);
        &self.logits[..rows.len() * vocab]
    }
}
