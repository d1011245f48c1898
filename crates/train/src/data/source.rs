//! Sources: what a recipe names, made ready so that a document is had by its number.
//!
//! Owns the cache: a token file's name is a hash of all that its content depends on (tokenizer, template, files with
//! their lengths and times, parameters), so a stale one is never read.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use super::files::{self, EXAMPLE, Example};
use super::token_file::{TokenFile, TokenWriter};
use super::{DataError, Document, Encoder};
use crate::external::{External, Limits, Verifier};
use crate::hash;
use crate::split::Split;
use crate::tasks::Questions;
use crate::traces::TeacherSpec;

/// What a source is made of.
#[derive(Clone, Debug, PartialEq)]
pub enum Definition {
    /// Text files.
    Text {
        /// Which.
        files: Vec<PathBuf>,
        /// What stands between documents; none: a file is one, cut where it is long.
        separator: Option<String>,
    },
    /// JSONL files of [`Example`]s.
    Chat {
        /// Which.
        files: Vec<PathBuf>,
        /// Who judges answers to them.
        verifier: Option<VerifierSpec>,
    },
    /// A procedural task, without end.
    Task {
        /// Its name.
        task: String,
        /// Its parameters.
        parameters: toml::Table,
    },
    /// A command that writes [`Example`]s.
    Command {
        /// The program and its arguments.
        command: Vec<String>,
        /// Where it runs.
        folder: PathBuf,
        /// Most examples that are taken.
        count: u64,
        /// What it may use.
        limits: Limits,
    },
    /// Questions that a teacher answers. `traces` makes a chat of it; until then there is nothing to read.
    Traces {
        /// A chat or task: where the questions come from.
        prompts: Box<Definition>,
        /// How many of them are asked; all where this is absent.
        count: Option<u64>,
        /// Who answers.
        teacher: TeacherSpec,
    },
}

/// A command that judges answers.
#[derive(Clone, Debug, PartialEq)]
pub struct VerifierSpec {
    /// The program and its arguments.
    pub command: Vec<String>,
    /// Where it runs.
    pub folder: PathBuf,
    /// What it may use.
    pub limits: Limits,
}

impl VerifierSpec {
    /// The verifier; its command is started when it is first asked.
    #[must_use]
    pub fn start(&self) -> Verifier {
        Verifier::new(self.command.clone(), self.folder.clone(), self.limits)
    }
}

/// A source that is ready: documents by their number.
#[derive(Debug)]
pub struct Source {
    name: String,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Tokens { file: TokenFile, may_split: bool, vocab_size: usize, path: PathBuf },
    Questions { questions: Questions, encoder: Arc<Encoder> },
}

/// Makes a source ready: tokenises what is not in the folder `cache` yet. The share `held_out` of its documents is never
/// trained on; `seed` names a task's questions and is handed to a command.
///
/// # Errors
/// A file or command is not as it should be, the cache cannot be written, or no document is left to train on
pub fn prepare(
    name: &str,
    definition: &Definition,
    encoder: &Arc<Encoder>,
    cache: &Path,
    seed: u64,
    held_out: f64,
) -> Result<Source, DataError> {
    if let Definition::Task { task, parameters } = definition {
        let questions = Questions::new(task, parameters, seed, held_out)?;
        // One question now rather than an error in the middle of a run.
        encoder.instance(&questions.get(Split::Train, 0)?)?;
        return Ok(Source { name: name.to_owned(), kind: Kind::Questions { questions, encoder: encoder.clone() } });
    }
    let path = cache.join(format!("{}.tokens", cache_key(definition, encoder, seed, held_out)?));
    let file = match TokenFile::open(&path) {
        Some(file) => file,
        None => {
            write(definition, encoder, &path, seed, held_out)?;
            let unreadable = || io::Error::other("it cannot be read back");
            TokenFile::open(&path).ok_or_else(unreadable).map_err(DataError::io(&path, "use the token file"))?
        }
    };
    if file.n_documents(Split::Train) == 0 {
        let advice = "give it content, or lower the share that is held out";
        return Err(DataError::Empty { name: name.to_owned(), side: "training", advice });
    }
    let may_split = matches!(definition, Definition::Text { .. });
    let vocab_size = encoder.tokenizer().vocab_size();
    Ok(Source { name: name.to_owned(), kind: Kind::Tokens { file, may_split, vocab_size, path } })
}

/// Texts of the training side from which a tokenizer can learn, up to about `bytes_max` bytes.
///
/// # Errors
/// As [`prepare`]
pub fn texts(definition: &Definition, seed: u64, held_out: f64, bytes_max: usize) -> Result<Vec<String>, DataError> {
    let mut found = Vec::new();
    let mut n_bytes = 0;
    // Reading goes on when there is enough, so that an error in a file is found whatever the limit.
    let mut take = |text: String| {
        if n_bytes < bytes_max && Split::of(text.as_bytes(), held_out) == Split::Train {
            n_bytes += text.len();
            found.push(text);
        }
    };
    match definition {
        Definition::Task { task, parameters } => {
            let questions = Questions::new(task, parameters, seed, held_out)?;
            let mut left = bytes_max;
            for index in 0.. {
                let instance = questions.get(Split::Train, index)?;
                let text = format!("{}\n{}\n{}", instance.question, instance.reasoning, instance.answer);
                let Some(rest) = left.checked_sub(text.len()) else { break };
                left = rest;
                found.push(text);
            }
        }
        _ => read(definition, seed, &mut |item, _| {
            match item {
                Item::Text(text) => take(text.to_owned()),
                Item::Example(example) => {
                    let said = example.messages.into_iter().flatten();
                    let parts = said.flat_map(|message| [message.reasoning_content, message.content]);
                    let texts: Vec<String> = parts.chain([example.text]).flatten().collect();
                    take(texts.join("\n"));
                }
            }
            Ok(())
        })?,
    }
    Ok(found)
}

enum Item<'a> {
    Text(&'a str),
    Example(Example),
}

type Each<'a> = &'a mut dyn FnMut(Item<'_>, &str) -> Result<(), DataError>;

/// Calls `each` with everything that a source holds, and its place for errors.
fn read(definition: &Definition, seed: u64, each: Each<'_>) -> Result<(), DataError> {
    match definition {
        Definition::Text { files, separator } => files.iter().try_for_each(|path| {
            let place = path.display().to_string();
            files::documents(path, separator.as_deref(), &mut |text| each(Item::Text(text), &place))
        }),
        Definition::Chat { files, .. } => files
            .iter()
            .try_for_each(|path| files::examples(path, &mut |example, place| each(Item::Example(example), place))),
        Definition::Task { .. } | Definition::Traces { .. } => Ok(()),
        Definition::Command { command, folder, count, limits } => {
            let mut external = External::start(command, folder, &[("MINKE_SEED", seed.to_string())], *limits)?;
            external.close_input();
            for number in 1..=*count {
                let Some(example) = external.next::<Example>(EXAMPLE)? else { break };
                each(Item::Example(example), &format!("{}, example {number}", command.join(" ")))?;
            }
            Ok(())
        }
    }
}

fn write(definition: &Definition, encoder: &Encoder, path: &Path, seed: u64, held_out: f64) -> Result<(), DataError> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(DataError::io(folder, "create the cache folder"))?;
    }
    // The writer speaks of input and output alone; what went wrong with a source is kept beside it.
    let mut failed = None;
    let written = checkpoint::write::atomically(&path.into(), |out| {
        let mut writer = TokenWriter::new(out)?;
        let outcome = read(definition, seed, &mut |item, place| {
            let (content, documents) = encode(item, encoder, place)?;
            let side = Split::of(content.as_bytes(), held_out);
            let pushed = documents.iter().try_for_each(|document| writer.push(side, &document.tokens));
            pushed.map_err(DataError::io(path, "write"))
        });
        match outcome {
            Ok(()) => writer.finish(),
            Err(error) => {
                failed = Some(error);
                Err(io::Error::other("its source failed"))
            }
        }
    });
    match failed {
        Some(error) => Err(error),
        None => Ok(written?),
    }
}

/// An item's content, by which its side is chosen, and its documents.
fn encode(item: Item<'_>, encoder: &Encoder, place: &str) -> Result<(String, Vec<Document>), DataError> {
    let example = match item {
        Item::Text(text) => return Ok((text.to_owned(), vec![encoder.text(text, place)?])),
        Item::Example(example) => example,
    };
    match (example.messages, example.text) {
        (Some(messages), _) => {
            let content: Vec<&str> = messages.iter().filter_map(|message| message.content.as_deref()).collect();
            let content = content.join("\n");
            Ok((content, encoder.chat(&messages, example.tools, place)?))
        }
        (None, Some(text)) => {
            let document = encoder.text(&text, place)?;
            Ok((text, vec![Document { may_split: false, ..document }]))
        }
        (None, None) => Err(DataError::Content {
            path: place.into(),
            place: String::new(),
            expected: EXAMPLE.to_owned(),
            found: "neither".to_owned(),
        }),
    }
}

/// A name for the files' content: places, lengths and times.
pub(crate) fn stamps<'p>(paths: impl IntoIterator<Item = &'p PathBuf>) -> Result<String, DataError> {
    let stamp = |path: &PathBuf| -> Result<String, DataError> {
        let about = std::fs::metadata(path).map_err(DataError::io(path, "find"))?;
        let time = about.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
        Ok(format!("{}\0{}\0{}\0", path.display(), about.len(), time.as_nanos()))
    };
    paths.into_iter().map(stamp).collect()
}

/// A name for a command. Arguments that are files, such as a script, count with their time.
pub(crate) fn command_stamp(command: &[String], folder: &Path) -> Result<String, DataError> {
    let scripts = command.iter().map(|argument| folder.join(argument)).filter(|path| path.is_file());
    Ok(format!("{command:?}\0{}", stamps(&scripts.collect::<Vec<_>>())?))
}

/// A name for all that the tokens depend on.
fn cache_key(definition: &Definition, encoder: &Encoder, seed: u64, held_out: f64) -> Result<String, DataError> {
    let content = match definition {
        Definition::Text { files, separator } => format!("text\0{separator:?}\0{}", stamps(files)?),
        Definition::Chat { files, .. } => format!("chat\0{}", stamps(files)?),
        Definition::Task { .. } | Definition::Traces { .. } => String::new(),
        Definition::Command { command, folder, count, .. } => {
            format!("command\0{count}\0{seed}\0{}", command_stamp(command, folder)?)
        }
    };
    Ok(hash::hex(&[b"tokens 1", encoder.fingerprint().as_bytes(), content.as_bytes(), &held_out.to_le_bytes()]))
}

impl Source {
    /// Its name in the recipe.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How many documents a side has; none for a source without end.
    #[must_use]
    pub fn n_documents(&self, side: Split) -> Option<u64> {
        match &self.kind {
            Kind::Tokens { file, .. } => Some(file.n_documents(side)),
            Kind::Questions { .. } => None,
        }
    }

    /// Tokens of both sides; none for a source without end.
    #[must_use]
    pub fn n_tokens(&self) -> Option<u64> {
        match &self.kind {
            Kind::Tokens { file, .. } => Some(file.n_tokens()),
            Kind::Questions { .. } => None,
        }
    }

    /// The questions of a procedural task, which evaluation and reinforcement learning ask.
    #[must_use]
    pub fn questions(&self) -> Option<&Questions> {
        match &self.kind {
            Kind::Tokens { .. } => None,
            Kind::Questions { questions, .. } => Some(questions),
        }
    }

    /// Document `index` of a side.
    ///
    /// # Errors
    /// The token file is damaged or gone, or a task has no such question
    pub fn document(&self, side: Split, index: u64) -> Result<Document, DataError> {
        match &self.kind {
            Kind::Questions { questions, encoder } => encoder.instance(&questions.get(side, index)?),
            Kind::Tokens { file, may_split, vocab_size, path } => {
                let tokens = file.document(side, index).map_err(DataError::io(path, "read"))?;
                match tokens.iter().find(|token| token.id() as usize >= *vocab_size) {
                    None => Ok(Document { tokens, may_split: *may_split }),
                    Some(token) => Err(DataError::Content {
                        path: path.clone(),
                        place: format!(", document {index}"),
                        expected: format!("tokens below {vocab_size}; remove the file, it is made again"),
                        found: token.id().to_string(),
                    }),
                }
            }
        }
    }
}
