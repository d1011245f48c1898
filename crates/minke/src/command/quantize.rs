//! `minke quantize`: a model in another form, or with smaller weights.
//!
//! Owns the command's flags and which files the output has. Must not encode weights.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use model::export::{ExportFormat, GgufTokenizer, config_json, to_gguf, to_safetensors};
use model::plan::{PlannedTensor, plan};
use text::{GgufVocab, TokenizerConfig};

use crate::failure::{Failure, print};
use crate::memory::{bytes, memory};
use crate::source::Source;

/// Write a model in another form, or with smaller weights, for this program and others.
///
/// OUT decides the form: a name that ends in .gguf is a GGUF file, which llama.cpp and its relatives read; any other is a
/// folder with config.json, model.safetensors and the tokenizer, which transformers reads. Tokenizer and chat template go
/// with the weights in both. Nothing that is there already is overwritten.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    minke quantize -m runs/mine/merged mine.gguf --format q8_0\n  \
    minke quantize -m model.gguf folder --format bf16")]
pub(crate) struct Args {
    /// Model folder or .gguf file; `tiny` is the model inside this program.
    #[arg(short, long, default_value = "tiny")]
    model: String,
    /// File or folder to write
    out: PathBuf,
    /// How matrices are stored [default: q8_0 in a .gguf file, bf16 in a folder]
    #[arg(long, value_enum)]
    format: Option<Format>,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
#[value(rename_all = "snake_case")]
enum Format {
    /// 4 bytes a weight: exact
    F32,
    /// 2 bytes a weight
    F16,
    /// 2 bytes a weight, the range of f32
    Bf16,
    /// 8.5 bits a weight (.gguf)
    #[value(name = "q8_0")]
    Q8_0,
    /// 4.5 bits a weight (.gguf)
    #[value(name = "q4_0")]
    Q4_0,
}

impl Format {
    fn export(self) -> ExportFormat {
        match self {
            Self::F32 => ExportFormat::F32,
            Self::F16 => ExportFormat::F16,
            Self::Bf16 => ExportFormat::BF16,
            Self::Q8_0 => ExportFormat::Q8_0,
            Self::Q4_0 => ExportFormat::Q4_0,
        }
    }
}

impl From<train::pretrained::TextError> for Failure {
    fn from(error: train::pretrained::TextError) -> Self {
        Self::Input(error.into())
    }
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let out = &args.out;
    let is_gguf = out.extension().is_some_and(|extension| extension == "gguf");
    let format = args.format.map_or(if is_gguf { ExportFormat::Q8_0 } else { ExportFormat::BF16 }, Format::export);
    let is_used = if is_gguf { out.exists() } else { out.read_dir().is_ok_and(|mut found| found.next().is_some()) };
    if is_used || (!is_gguf && out.is_file()) {
        return Err(Failure::input(format!("{}: expected a name that is free, found something there", out.display())));
    }
    if !is_gguf && format.torch_dtype().is_none() {
        let message =
            format!("--format: a folder of safetensors takes f32, f16 or bf16; name a .gguf file for {format:?}");
        return Err(Failure::input(message));
    }
    let source = Source::open(&args.model)?;
    // Decoded weights, and what some are rearranged in.
    let needed = plan(&source.config).iter().fold(0u64, |n, tensor| n.saturating_add(tensor.numel())).saturating_mul(5);
    let available = memory().available;
    if needed > available {
        let (needed, available) = (bytes(needed), bytes(available));
        return Err(Failure::input(format!("the weights take {needed} in f32, found {available} free")));
    }
    let files = source.tokenizer_files()?;
    let (net, params) = train::load(source.config.clone(), source.weights()?)?;
    let values = |tensor: &PlannedTensor| net.layout.get(&tensor.name).map_or(&[][..], |p| &params[p.range.clone()]);
    if is_gguf {
        let config = TokenizerConfig::from_json(&files.config)?;
        let vocab = GgufVocab::from_files(&files.tokenizer, &config, net.config.vocab_size)?;
        to_gguf(out, &stem(out), &net.config, &tokenizer(vocab), format, values)?;
    } else {
        std::fs::create_dir_all(out)?;
        for (name, content) in [("tokenizer.json", &files.tokenizer), ("tokenizer_config.json", &files.config)] {
            checkpoint::write::atomically(&out.join(name).into(), |out| out.write_all(content))?;
        }
        to_safetensors(out, &config_json(&net.config)?, &net.config, format, values)?;
    }
    print(&format!("{}\n", out.display()))
}

fn stem(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

fn tokenizer(vocab: GgufVocab) -> GgufTokenizer {
    GgufTokenizer {
        pre: vocab.pre,
        token_types: vocab.token_types.unwrap_or_default(),
        tokens: vocab.tokens,
        merges: vocab.merges,
        bos_token_id: vocab.bos_token_id,
        eos_token_id: vocab.eos_token_id,
        add_bos_token: vocab.add_bos_token.unwrap_or(false),
        chat_template: vocab.chat_template,
    }
}
