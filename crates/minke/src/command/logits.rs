//! `minke logits`: the numbers behind a model's choices, for tests and comparisons.
//!
//! Owns reading token ids and writing the file. Must not compute.

mod grad;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use checkpoint::Dtype;
use checkpoint::write::{Data, Item, safetensors};
use engine::{Session, SessionOptions, argmax};
use model::Form;
use ops::{Activations, Device, Reference, RowFormat, WeightFormat};
use text::Message;

use crate::device::cpu;
use crate::failure::{Failure, print};
use crate::memory::{bytes, memory};
use crate::progress::progress_bar;
use crate::source::{Source, read_file, utf8};

/// Tokens per forward pass, where the user leaves it to us.
const CHUNK: usize = 512;

/// The largest file of token ids that is read: far more ids than any context.
const TOKENS_BYTES_MAX: u64 = 1 << 30;

/// Arguments of `minke logits`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Model folder or .gguf file; `tiny` is the model inside this program.
    #[arg(short, long, default_value = "tiny")]
    model: String,
    #[command(flatten)]
    input: Input,
    /// Safetensors file to write: `token_ids` (T, i32) and `logits` (T × vocab, f32); with an MTP module `mtp_logits`
    /// (T-1 × vocab), row i being the distribution of token i+2; with --greedy `greedy_ids` (T+N, i32).
    #[arg(long, value_name = "X.safetensors", required_unless_present = "grad")]
    out: Option<PathBuf>,
    /// Safetensors file to write: `loss` (mean next-token cross-entropy of the tokens, f32) and its gradient with respect
    /// to every parameter, under its published name (f32).
    #[arg(long, value_name = "G.safetensors")]
    grad: Option<PathBuf>,
    /// Form of Multi-head Latent Attention.
    #[arg(long, value_enum, default_value = "auto")]
    form: FormArg,
    /// Tokens per forward pass; 0 leaves it to the program.
    #[arg(long, default_value_t = 0, value_name = "N")]
    chunk: usize,
    /// Also continue greedily by N tokens.
    #[arg(long, default_value_t = 0, value_name = "N")]
    greedy: usize,
    /// How cache rows are stored.
    #[arg(long, value_enum, default_value = "f32")]
    cache: CacheArg,
    /// What computes.
    #[arg(long, value_enum, default_value = "cpu")]
    device: DeviceArg,
    /// How the processor rounds activations before block-quantised weights: not at all, or to 8 bits as chat does.
    #[arg(long, value_enum, default_value = "f32")]
    activations: ActivationsArg,
    /// Report as JSON.
    #[arg(long)]
    json: bool,
}

impl Args {
    /// Tokens per forward pass.
    fn chunk(&self) -> usize {
        if self.chunk == 0 { CHUNK } else { self.chunk }
    }
}

/// The sequence, in one of four ways.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct Input {
    /// Token ids, separated by commas.
    #[arg(long, value_delimiter = ',')]
    tokens: Vec<u32>,
    /// File of token ids, separated by commas, blanks or new lines; a JSON array will do.
    #[arg(long, value_name = "FILE")]
    tokens_file: Option<PathBuf>,
    /// Text, encoded as it stands.
    #[arg(long)]
    text: Option<String>,
    /// A user's message, encoded through the model's chat template.
    #[arg(long, value_name = "MESSAGE")]
    chat: Option<String>,
}

impl Input {
    fn token_ids(&self, source: &Source) -> Result<Vec<u32>, Failure> {
        if let Some(file) = &self.tokens_file {
            return read_tokens(file);
        }
        if let Some(text) = &self.text {
            return source.text()?.encode_raw(text, &source.config);
        }
        if let Some(message) = &self.chat {
            let encoded = source.text()?.encode_chat(&[Message::user(message)], serde_json::Map::new())?;
            let missing = || Failure::input("--chat: expected a model with a chat template, found none; use --text");
            return Ok(encoded.ok_or_else(missing)?.0);
        }
        Ok(self.tokens.clone())
    }
}

/// `--form`
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(crate) enum FormArg {
    /// The cheaper one for each chunk.
    Auto,
    /// Queries move into the latent space.
    Absorbed,
    /// Latents are expanded to keys and values.
    Expanded,
}

/// `--device`
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum DeviceArg {
    /// Vector instructions on all cores.
    Cpu,
    /// Plain scalar code that defines every operation: slow, for comparison.
    Reference,
}

/// `--cache`
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(crate) enum CacheArg {
    /// 4 bytes per value.
    F32,
    /// 2 bytes per value.
    Bf16,
    /// 1 byte per value, with a scale per latent (or per 32 values of a dense model).
    Q8,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum ActivationsArg {
    F32,
    Int8,
}

impl From<ActivationsArg> for Activations {
    fn from(arg: ActivationsArg) -> Self {
        match arg {
            ActivationsArg::F32 => Self::F32,
            ActivationsArg::Int8 => Self::Int8,
        }
    }
}

impl CacheArg {
    pub(crate) fn row_format(self) -> RowFormat {
        match self {
            Self::F32 => RowFormat::F32,
            Self::Bf16 => RowFormat::BF16,
            Self::Q8 => RowFormat::Q8,
        }
    }
}

struct Outputs {
    logits: Vec<f32>,
    mtp_logits: Vec<f32>,
    ids: Vec<u32>,
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let source = Source::open(&args.model)?;
    let tokens = args.input.token_ids(&source)?;
    check(args, &tokens, &source)?;
    let mut report = serde_json::Map::new();
    let mut lines = String::new();
    if let Some(out) = &args.out {
        let (tensors, greedy) = write_logits(args, out, &source, &tokens)?;
        let shapes: Vec<String> = tensors.iter().map(|(name, shape)| format!("{name} {shape:?}")).collect();
        lines += &format!("{}: {}\n", out.display(), shapes.join(", "));
        let tensors = tensors.into_iter().map(|(name, shape)| (name.to_owned(), shape.into()));
        report.insert("out".into(), serde_json::json!(out));
        report.insert("tensors".into(), serde_json::Value::Object(tensors.collect()));
        report.insert("greedy".into(), greedy.into());
    }
    if let Some(out) = &args.grad {
        let loss = grad::write(out, &source, &tokens)?;
        lines += &format!("{}: loss {loss}, gradients\n", out.display());
        report.insert("grad".into(), serde_json::json!(out));
        report.insert("loss".into(), loss.into());
    }
    print(&if args.json { format!("{}\n", serde_json::Value::Object(report)) } else { lines })
}

/// Names and shapes of the tensors written, and the tokens found greedily.
type Written = (Vec<(&'static str, Vec<usize>)>, Vec<u32>);

fn write_logits(args: &Args, out: &Path, source: &Source, tokens: &[u32]) -> Result<Written, Failure> {
    let (vocab, n) = (source.config.vocab_size, tokens.len());
    let found = match args.device {
        DeviceArg::Cpu => compute(args, &cpu(None)?.with_activations(args.activations.into()), source, tokens)?,
        DeviceArg::Reference => compute(args, &Reference, source, tokens)?,
    };
    let f32s = Dtype::Weight(WeightFormat::F32);
    let ids: Vec<u8> = found.ids.iter().flat_map(|id| id.to_le_bytes()).collect();
    let mut tensors = vec![
        ("token_ids", Dtype::I32, vec![n], Data::Bytes(&ids[..4 * n])),
        ("logits", f32s.clone(), vec![n, vocab], Data::F32(&found.logits)),
    ];
    if source.config.num_nextn_predict_layers > 0 {
        tensors.push(("mtp_logits", f32s, vec![n - 1, vocab], Data::F32(&found.mtp_logits)));
    }
    if args.greedy > 0 {
        tensors.push(("greedy_ids", Dtype::I32, vec![found.ids.len()], Data::Bytes(&ids)));
    }
    let items =
        tensors.iter().map(|(name, dtype, shape, data)| Item { name, dtype: dtype.clone(), shape, data: *data });
    safetensors(out, &BTreeMap::new(), &items.collect::<Vec<_>>())?;
    let shapes = tensors.into_iter().map(|(name, _, shape, _)| (name, shape)).collect();
    Ok((shapes, found.ids[n..].to_vec()))
}

fn compute<D: Device>(args: &Args, dev: &D, source: &Source, tokens: &[u32]) -> Result<Outputs, Failure> {
    let model = model::load(dev, source.config.clone(), source.weights()?)?;
    let form = match args.form {
        FormArg::Auto => Form::Auto,
        FormArg::Absorbed => Form::Absorbed,
        FormArg::Expanded => Form::Expanded,
    };
    let options = SessionOptions {
        n_context: tokens.len() + args.greedy,
        chunk: args.chunk(),
        form,
        row_format: args.cache.row_format(),
    };
    let mut session = Session::new(dev, &model, options)?;
    let vocab = model.config.vocab_size;
    let mut logits = Vec::with_capacity(tokens.len() * vocab);
    let mut mtp_logits = Vec::new();
    let progress = progress_bar((tokens.len() + args.greedy) as u64);
    session.push_all(
        tokens,
        |row| {
            logits.extend_from_slice(row);
            progress.inc(1);
        },
        |row| mtp_logits.extend_from_slice(row),
    )?;
    let mut ids = tokens.to_vec();
    if args.greedy > 0 {
        ids.push(argmax(&logits[(tokens.len() - 1) * vocab..]));
    }
    while ids.len() < tokens.len() + args.greedy {
        let next = argmax(session.push(&ids[ids.len() - 1..])?);
        ids.push(next);
        progress.inc(1);
    }
    progress.finish_and_clear();
    Ok(Outputs { logits, mtp_logits, ids })
}

fn check(args: &Args, tokens: &[u32], source: &Source) -> Result<(), Failure> {
    let (vocab, context) = (source.config.vocab_size, source.config.max_position_embeddings);
    if tokens.is_empty() {
        return Err(Failure::input("--tokens: expected one or more token ids, found none"));
    }
    if let Some(id) = tokens.iter().find(|id| **id as usize >= vocab) {
        return Err(Failure::input(format!(
            "--tokens: expected ids below {vocab}, this model's vocabulary, found {id}"
        )));
    }
    let total = tokens.len() + args.greedy;
    if total > context {
        let limit = format!("expected at most {context} tokens, this model's context, found {total}");
        return Err(Failure::input(format!("--tokens: {limit}")));
    }
    if args.out.is_none() {
        return Ok(());
    }
    let n_mtp = source.config.num_nextn_predict_layers;
    // All rows are kept until they are written; those of the current chunk stand in two more places.
    let n_rows = tokens.len() * (1 + n_mtp) + 2 * args.chunk().min(tokens.len());
    let needed = n_rows as u64 * vocab as u64 * 4;
    let available = memory().available;
    if needed > available / 2 {
        let (needed, available) = (bytes(needed), bytes(available));
        let message = format!("--tokens: {total} × {vocab} logits take {needed}, expected at most half of {available}");
        return Err(Failure::input(message));
    }
    Ok(())
}

fn read_tokens(file: &Path) -> Result<Vec<u32>, Failure> {
    let text = utf8(read_file(file, TOKENS_BYTES_MAX)?, &file.display().to_string())?;
    let inner = text.trim();
    let inner = inner.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(inner);
    let ids = inner.split(|c: char| c == ',' || c.is_whitespace()).filter(|part| !part.is_empty());
    ids.map(|id| {
        let message = || format!("{}: expected token ids, found {id:.40?}", file.display());
        id.parse().map_err(|_| Failure::input(message()))
    })
    .collect()
}
