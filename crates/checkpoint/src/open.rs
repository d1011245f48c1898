//! A model on disk: one file or many, behind one list of tensors.
//!
//! Owns finding the files that belong together, and pairing FP8 weights with their scales. What is in a file is read
//! by `safetensors.rs` and `gguf.rs`. Must not open anything outside the folder that was named.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use ops::{WeightFormat, WeightMatrix};
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};

use crate::budget::{self, Budget};
use crate::error::{DAMAGED, clip};
use crate::index::{Duplicate, NameIndex};
use crate::json::check_strings;
use crate::{Dtype, Error, Tensor, gguf, map::map, safetensors};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// The most files that one model may name; the largest published has under 200.
const SHARDS_MAX: usize = 4096;
/// Weights per scale, where a configuration does not say otherwise.
const FP8_BLOCK: [usize; 2] = [128, 128];

/// Which kind of files a model lies in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the variants are the formats' names")]
pub enum Kind {
    Safetensors,
    Gguf,
}

/// An opened model: every tensor's name, type, shape and bytes.
#[derive(Debug)]
pub struct Checkpoint {
    path: Arc<Path>,
    kind: Kind,
    files: Vec<Arc<Path>>,
    n_bytes: u64,
    tensors: Vec<Tensor>,
    by_name: NameIndex,
    gguf: Option<gguf::Metadata>,
    texts: safetensors::Metadata,
}

impl Checkpoint {
    /// Opens a folder with `model.safetensors` or `model.safetensors.index.json`, a single `.safetensors`, an index,
    /// or a `.gguf`, of which any part stands for the whole if it is split.
    ///
    /// # Errors
    /// If a file is missing or unreadable, is not what its format says, or the files do not fit together
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path: Arc<Path> = path.as_ref().into();
        let about = std::fs::metadata(&path).map_err(|e| Error::io(&path, "find the model", e))?;
        if about.is_dir() {
            return Self::open_folder(&path);
        }
        if path.to_str().is_some_and(|name| name.ends_with(".safetensors.index.json")) {
            return Self::open_sharded(&path);
        }
        let bytes = map(&path)?;
        match Part::of(&path) {
            Some(part) if is_gguf(&bytes) => Self::open_split(&path, &part),
            _ => Self::from_bytes(&path, bytes),
        }
    }

    /// Reads a model that lies in memory, such as one that is part of the program; `file` is its name in errors.
    ///
    /// # Errors
    /// As [`Checkpoint::open`], for a single file
    pub fn from_bytes(file: impl AsRef<Path>, bytes: Bytes) -> Result<Self, Error> {
        let file: Arc<Path> = file.as_ref().into();
        let n_bytes = bytes.len() as u64;
        if !is_gguf(&bytes) {
            let (texts, tensors) = safetensors::parse(&file, &bytes)?;
            let whole = Self::assemble(file.clone(), Kind::Safetensors, vec![file], n_bytes, tensors)?;
            return Ok(Self { texts, ..whole });
        }
        let (metadata, tensors) = gguf::parse(&file, &bytes)?;
        let count = metadata.optional::<u32>(SPLIT_COUNT)?.unwrap_or(1);
        if count > 1 {
            let advice = "name the parts NAME-00001-of-0000N.gguf and keep them in one folder";
            return Err(Error::key(&file, SPLIT_COUNT, "a complete model", format!("one of {count} parts"), advice));
        }
        let whole = Self::assemble(file.clone(), Kind::Gguf, vec![file], n_bytes, tensors)?;
        Ok(Self { gguf: Some(metadata), ..whole })
    }

    /// Safetensors or GGUF.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The path that was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The tensor of this name, if there is one.
    pub fn tensor(&self, name: &str) -> Option<&Tensor> {
        self.by_name.find(&self.tensors, name, |t| &t.name)
    }

    /// The tensor of this name.
    ///
    /// # Errors
    /// If there is none
    pub fn require(&self, name: &str) -> Result<&Tensor, Error> {
        self.tensor(name).ok_or_else(|| {
            let found = format!("no such tensor among {}", self.tensors.len());
            let advice = "check that the files are complete and that the configuration belongs to them";
            Error::tensor(&self.path, name, "a tensor", found, advice)
        })
    }

    /// The tensor of this name as a matrix; FP8 weights with the scales stored beside them.
    ///
    /// FP8 scales are `X.weight_scale_inv` or, as in DeepSeek-V4, `X.scale` beside `X.weight`; both are multipliers.
    ///
    /// # Shapes   [rows, cols]; scales [ceil(rows / b), ceil(cols / c)] for `fp8_block` = `[b, c]`
    ///
    /// Without `fp8_block`, a scale belongs to 128 × 128 weights.
    ///
    /// # Errors
    /// If there is no such tensor or no scales, if their shape is not that of the blocks, or as
    /// [`Tensor::matrix`]
    pub fn matrix_of(&self, name: &str, fp8_block: Option<[usize; 2]>) -> Result<WeightMatrix, Error> {
        let tensor = self.require(name)?;
        if tensor.dtype != Dtype::Weight(WeightFormat::F8_E4M3) {
            return tensor.matrix();
        }
        let beside = name.strip_suffix(".weight").map(|stem| format!("{stem}.scale"));
        let scales = self.tensor(&format!("{name}_scale_inv")).or_else(|| self.tensor(&beside?));
        let Some(scales) = scales else {
            let advice = "check that all files of the model are there";
            return Err(tensor.unlike(format!("scales in {:?}", format!("{name}_scale_inv")), "none", advice));
        };
        tensor.fp8_matrix(scales, fp8_block.unwrap_or(FP8_BLOCK))
    }

    /// Every tensor, in the order of files and of bytes within them.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = &Tensor> {
        self.tensors.iter()
    }

    /// The metadata of a GGUF model (of the first part, if it is split).
    pub fn gguf(&self) -> Option<&gguf::Metadata> {
        self.gguf.as_ref()
    }

    /// The text that a single safetensors file keeps under `key` in its `__metadata__`.
    pub fn text(&self, key: &str) -> Option<&str> {
        self.texts.get(key).map(String::as_str)
    }

    /// The files that hold tensors.
    pub fn files(&self) -> &[Arc<Path>] {
        &self.files
    }

    /// Bytes of all files together.
    pub fn file_bytes(&self) -> u64 {
        self.n_bytes
    }

    fn open_folder(folder: &Arc<Path>) -> Result<Self, Error> {
        let single: Arc<Path> = folder.join(SINGLE).into();
        if single.is_file() {
            let bytes = map(&single)?;
            return Self::from_bytes(&single, bytes);
        }
        let index: Arc<Path> = folder.join(INDEX).into();
        if index.is_file() {
            return Self::open_sharded(&index);
        }
        let advice = "give a folder with a complete model, or the path of a .gguf or .safetensors file itself";
        Err(Error::file(folder, "contents", format!("{SINGLE} or {INDEX}"), "neither", advice))
    }

    fn open_sharded(index_file: &Arc<Path>) -> Result<Self, Error> {
        let index = ShardIndex::parse(index_file, &map(index_file)?)?;
        let folder = index_file.parent().unwrap_or(Path::new(""));
        let (mut files, mut tensors, mut n_bytes) = (Vec::new(), Vec::new(), 0);
        for name in index.shards.keys() {
            let file: Arc<Path> = folder.join(name).into();
            let bytes = map(&file)?;
            tensors.append(&mut safetensors::parse(&file, &bytes)?.1);
            n_bytes += bytes.len() as u64;
            files.push(file);
        }
        let whole = Self::assemble(index_file.clone(), Kind::Safetensors, files, n_bytes, tensors)?;
        let mut shard_names = vec![""; index.shards.len()];
        index.shards.iter().for_each(|(name, &i)| shard_names[i as usize] = name);
        for (name, shard) in &index.entries {
            let shard = shard_names[*shard as usize];
            let found = match whole.tensor(name) {
                Some(tensor) if tensor.file.file_name() == Some(shard.as_ref()) => continue,
                Some(tensor) => format!("it in {}", tensor.file.display()),
                None => "no such tensor in any file".into(),
            };
            let expected = format!("the tensor in {shard:?}");
            return Err(Error::tensor(index_file, name, expected, found, "get index and files from one source"));
        }
        Ok(whole)
    }

    fn open_split(path: &Arc<Path>, part: &Part) -> Result<Self, Error> {
        let (mut files, mut tensors, mut n_bytes, mut first) = (Vec::new(), Vec::new(), 0, None);
        for no in 0..part.count {
            let file: Arc<Path> = part.sibling(no).into();
            let bytes = map(&file)?;
            let (metadata, mut part_tensors) = gguf::parse(&file, &bytes)?;
            let expect = |key, expected: u32| match metadata.required::<u32>(key)? {
                found if found == expected => Ok(()),
                found => {
                    let advice = "the file's name must say which part it is: restore its published name";
                    Err(Error::key(&file, key, expected.to_string(), found.to_string(), advice))
                }
            };
            // A lone part may lack the keys: one file is the whole.
            if part.count > 1 || metadata.get(SPLIT_COUNT).is_some() {
                expect(SPLIT_COUNT, part.count)?;
                expect("split.no", no)?;
            }
            tensors.append(&mut part_tensors);
            n_bytes += bytes.len() as u64;
            files.push(file);
            first.get_or_insert(metadata);
        }
        let key = "split.tensors.count";
        let stated = first.as_ref().map_or(Ok(None), |metadata| metadata.optional::<usize>(key))?;
        if let Some(stated) = stated.filter(|&stated| stated != tensors.len()) {
            let expected = format!("{} as in all parts together", tensors.len());
            return Err(Error::key(path, key, expected, stated.to_string(), "get all parts from one source"));
        }
        let whole = Self::assemble(path.clone(), Kind::Gguf, files, n_bytes, tensors)?;
        Ok(Self { gguf: first, ..whole })
    }

    fn assemble(
        path: Arc<Path>,
        kind: Kind,
        files: Vec<Arc<Path>>,
        n_bytes: u64,
        tensors: Vec<Tensor>,
    ) -> Result<Self, Error> {
        let by_name = NameIndex::new(&tensors, |t| &t.name).map_err(|Duplicate(a, b)| {
            let found = format!("it also in {}", tensors[b].file.display());
            tensors[a].unlike("one tensor of this name", found, DAMAGED)
        })?;
        Ok(Self { path, kind, files, n_bytes, tensors, by_name, gguf: None, texts: BTreeMap::new() })
    }
}

fn is_gguf(bytes: &[u8]) -> bool {
    bytes.starts_with(&gguf::MAGIC)
}

const SPLIT_COUNT: &str = "split.count";

/// A file name of the form `NAME-00002-of-00005.gguf`.
struct Part {
    stem: PathBuf,
    count: u32,
}

impl Part {
    fn of(path: &Path) -> Option<Self> {
        let stem = path.file_name()?.to_str()?.strip_suffix(".gguf")?;
        let (stem, count) = stem.rsplit_once("-of-")?;
        let (stem, no) = stem.rsplit_once('-')?;
        let number = |text: &str| match text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit()) {
            true => text.parse::<u32>().ok(),
            false => None,
        };
        let (no, count) = (number(no)?, number(count)?);
        (1..=count).contains(&no).then(|| Self { stem: path.with_file_name(stem), count })
    }

    /// The path of part `no`, counted from 0 as in the files' metadata.
    fn sibling(&self, no: u32) -> PathBuf {
        let mut name = self.stem.clone().into_os_string();
        name.push(format!("-{:05}-of-{:05}.gguf", no + 1, self.count));
        name.into()
    }
}

/// `model.safetensors.index.json`: which tensor lies in which file.
struct ShardIndex {
    /// Tensor and number of its file.
    entries: Vec<(String, u32)>,
    shards: BTreeMap<String, u32>,
    budget: Budget,
}

impl ShardIndex {
    fn parse(file: &Arc<Path>, bytes: &Bytes) -> Result<Self, Error> {
        let budget = Budget::for_file(bytes.len());
        let mut index = Self { entries: Vec::new(), shards: BTreeMap::new(), budget };
        let mut json = serde_json::Deserializer::from_slice(bytes);
        let parsed = check_strings(bytes, bytes.len()).and_then(|()| {
            let parsed = json.deserialize_map(TopLevel(&mut index)).and_then(|()| json.end());
            parsed.map_err(|e| e.to_string())
        });
        let expected = "tensor names with file names";
        parsed.map_err(|found| Error::file(file, "weight_map", expected, clip(&found), DAMAGED))?;
        if index.shards.is_empty() {
            return Err(Error::file(file, "weight_map", expected, "none", DAMAGED));
        }
        match index.shards.keys().find(|name| !is_plain_file_name(name)) {
            None => Ok(index),
            Some(name) => {
                let found = format!("{:?}", clip(name));
                let advice = "do not trust this model: its index points outside its folder";
                Err(Error::file(file, "weight_map", "names of files in the same folder", found, advice))
            }
        }
    }

    fn push(&mut self, name: String, shard: String) -> Result<(), String> {
        if name.len() + shard.len() > usize::from(u16::MAX) {
            return Err("a name of more than 65535 bytes".into());
        }
        let next = self.shards.len() as u32;
        let heap = name.len();
        let shard = *self.shards.entry(shard).or_insert(next);
        if self.shards.len() > SHARDS_MAX {
            return Err(format!("more than {SHARDS_MAX} files"));
        }
        self.budget
            .take::<(String, u32)>(heap)
            .map_err(|_| format!("more names than fit: expected {}", budget::EXPECTED))?;
        self.entries.push((name, shard));
        Ok(())
    }
}

/// Whether `name` is a file name and nothing else: no folder, no drive, no `..`.
fn is_plain_file_name(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    let plain = matches!((parts.next(), parts.next()), (Some(Component::Normal(part)), None) if part == name);
    plain && !name.contains(['/', '\\', '\0', ':'])
}

/// Reads `weight_map` and skips everything else.
struct TopLevel<'a>(&'a mut ShardIndex);

impl<'de> Visitor<'de> for TopLevel<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with weight_map")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "weight_map" => map.next_value_seed(WeightMap(self.0))?,
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
    }
}

struct WeightMap<'a>(&'a mut ShardIndex);

impl<'de> DeserializeSeed<'de> for WeightMap<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for WeightMap<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of file names")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some((name, shard)) = map.next_entry::<String, String>()? {
            self.0.push(name, shard).map_err(A::Error::custom)?;
        }
        Ok(())
    }
}
