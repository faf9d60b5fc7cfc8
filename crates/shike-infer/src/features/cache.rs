//! Features that were made before, on the disk.
//!
//! `features/<source>/<checksum>.rows` below the cache's folder: a folder for each [`FeatureSource`], by its hash, and
//! in it blocks of rows. A block is written whole beside its place and renamed, is named by what it holds, and never
//! changes: processes need no lock, and one that is killed leaves none. Numbers are little-endian:
//!
//! | bytes | what |
//! |---|---|
//! | 8 | `SHIKEROW` |
//! | 16 | the hash of the source |
//! | 4 | pictures |
//! | 4 | numbers of a row |
//! | 16 × pictures | hashes of the pictures' files |
//! | 16 | XXH3 with 128 bits of all before |
//! | 4 × numbers × pictures | rows in float32 |
//! | 16 | XXH3 with 128 bits of all before |

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use shike_data::write::write_bytes;
use xxhash_rust::xxh3::xxh3_128;

use super::{EmbedEvent, FeatureSource};

const MAGIC: &[u8; 8] = b"SHIKEROW";
const HEAD: usize = 32;
const HASH: usize = 16;

/// Numbers of a block, and how long it waits for them: what a process that is killed loses.
const BLOCK: usize = 2 << 20;
const WAIT: Duration = Duration::from_secs(10);

/// After this time a block that was never renamed is one of a process that was killed.
const LEFT_BEHIND: Duration = Duration::from_secs(3600);

/// A folder for features, and how much it may hold. What was not used for the longest time goes first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeatureCache {
    folder: PathBuf,
    limit: u64,
}

impl FeatureCache {
    /// A cache of at most `limit` bytes below a folder, which is made when something is kept.
    pub fn new(folder: &Path, limit: u64) -> Self {
        Self {
            folder: folder.join("features"),
            limit,
        }
    }

    /// The folder for what can be made again: `$SHIKE_CACHE`, else `$XDG_CACHE_HOME/shike`, else `~/.cache/shike`;
    /// `None` where there is no home folder.
    pub fn default_folder() -> Option<PathBuf> {
        let named = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let own = named("SHIKE_CACHE").map(PathBuf::from);
        let shared = || Some(PathBuf::from(named("XDG_CACHE_HOME")?).join("shike"));
        let home = || Some(std::env::home_dir()?.join(".cache").join("shike"));
        own.or_else(shared).or_else(home)
    }

    /// Blocks by when they were used last. What killed processes left half is removed.
    fn blocks(&self) -> Vec<Block> {
        let mut blocks = Vec::new();
        for folder in entries(&self.folder) {
            for path in entries(&folder) {
                let Ok(metadata) = fs::metadata(&path) else {
                    continue;
                };
                let used = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
                if is_block(&path) {
                    let bytes = metadata.len();
                    blocks.push(Block { used, path, bytes });
                } else if used.elapsed().is_ok_and(|age| age > LEFT_BEHIND) {
                    let _ = fs::remove_file(path);
                }
            }
        }
        blocks.sort();
        blocks
    }
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Block {
    used: SystemTime,
    path: PathBuf,
    bytes: u64,
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let found = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = found.map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

fn is_block(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending == "rows")
}

/// A cache's rows of one source, while pictures are embedded.
pub(super) struct Rows<'c> {
    cache: &'c FeatureCache,
    folder: PathBuf,
    source: u128,
    width: usize,
    /// Blocks that are not removed: those of this run.
    used: HashSet<PathBuf>,
    /// Pictures whose rows are not written yet.
    waiting: Vec<usize>,
    since: Instant,
    /// Whether it can be written to.
    open: bool,
}

impl<'c> Rows<'c> {
    pub fn new(cache: &'c FeatureCache, source: &FeatureSource) -> Self {
        // A source of plain fields is always JSON.
        let text = serde_json::to_string(source).unwrap_or_default();
        let hash = xxh3_128(text.as_bytes());
        Self {
            cache,
            folder: cache.folder.join(format!("{hash:032x}")),
            source: hash,
            width: source.width(),
            used: HashSet::new(),
            waiting: vec![],
            since: Instant::now(),
            open: true,
        }
    }

    /// Copies what is there of the pictures `wanted`, whose contents all differ, into their rows, and gives those that
    /// are missing.
    pub fn fill(
        &mut self,
        wanted: Vec<usize>,
        contents: &[u128],
        rows: &mut [f32],
        tell: &mut dyn FnMut(EmbedEvent),
    ) -> Vec<usize> {
        let mut missing: HashMap<u128, usize> = wanted.iter().map(|&i| (contents[i], i)).collect();
        for path in entries(&self.folder).into_iter().filter(|p| is_block(p)) {
            match self.take(&path, &mut missing, rows) {
                Ok(false) => {}
                Ok(true) => {
                    // Where it cannot be touched it is among the first that go.
                    let file = File::options().append(true).open(&path);
                    let _ = file.and_then(|file| file.set_modified(SystemTime::now()));
                    self.used.insert(path);
                }
                // Another process has removed it.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => {
                    if error.kind() == ErrorKind::InvalidData {
                        let _ = fs::remove_file(&path);
                    }
                    tell(EmbedEvent::Warning(format!(
                        "{}: {error}; its pictures are embedded again",
                        path.display()
                    )));
                }
            }
        }
        let is_missing = |image: &usize| missing.contains_key(&contents[*image]);
        wanted.into_iter().filter(is_missing).collect()
    }

    /// How many of these pictures have no row in a block that looks whole.
    pub fn missing(&self, mut contents: HashSet<u128>) -> usize {
        for path in entries(&self.folder).into_iter().filter(|p| is_block(p)) {
            if let Ok(block) = self.open_block(&path) {
                for hash in block.hashes() {
                    contents.remove(&hash);
                }
            }
        }
        contents.len()
    }

    /// The beginning of a block, up to the checksum of what it holds rows of.
    fn open_block(&self, path: &Path) -> io::Result<Opened> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        let mut bytes = Vec::new();
        file.by_ref().take(HEAD as u64).read_to_end(&mut bytes)?;
        let number = |at: usize| bytes.get(at..at + 4).map(le_u32);
        let (Some(pictures), Some(width)) = (number(24), number(28)) else {
            return Err(damaged("is cut off"));
        };
        if &bytes[..8] != MAGIC || bytes[8..24] != self.source.to_le_bytes() {
            return Err(damaged("is no block of this cache"));
        }
        if width != self.width {
            return Err(damaged("is damaged: its rows are of another width"));
        }
        let table = HEAD + HASH * pictures;
        let all = 4 * width * pictures + table + 2 * HASH;
        if length != all as u64 {
            let problem = format!("is damaged: it has {length} bytes, and should have {all}");
            return Err(damaged(&problem));
        }
        let rest = (table + HASH - HEAD) as u64;
        file.by_ref().take(rest).read_to_end(&mut bytes)?;
        checked(&bytes)?;
        Ok(Opened { file, bytes, table })
    }

    /// Takes the rows of a block that are missing; whether there was one.
    fn take(
        &self,
        path: &Path,
        missing: &mut HashMap<u128, usize>,
        rows: &mut [f32],
    ) -> io::Result<bool> {
        let mut block = self.open_block(path)?;
        let hashes: Vec<u128> = block.hashes().collect();
        if !hashes.iter().any(|hash| missing.contains_key(hash)) {
            return Ok(false);
        }
        let width = self.width;
        let Opened { file, bytes, table } = &mut block;
        file.read_to_end(bytes)?;
        checked(bytes)?;
        let held = bytes[*table + HASH..].chunks_exact(4 * width);
        for (hash, held) in hashes.iter().zip(held) {
            let Some(image) = missing.remove(hash) else {
                continue;
            };
            let row = rows[image * width..][..width].iter_mut();
            for (value, bytes) in row.zip(held.chunks_exact(4)) {
                *value = f32::from_bits(le_u32(bytes) as u32);
            }
        }
        Ok(true)
    }

    /// Keeps the rows of some pictures, now or with others that follow.
    pub fn keep(
        &mut self,
        images: &[usize],
        contents: &[u128],
        rows: &[f32],
        tell: &mut dyn FnMut(EmbedEvent),
    ) {
        self.waiting.extend_from_slice(images);
        if self.waiting.len() * self.width >= BLOCK || self.since.elapsed() > WAIT {
            self.write(contents, rows, tell);
        }
    }

    /// Writes what waits. A cache that cannot be written is told of once, and left alone from then on.
    pub fn write(&mut self, contents: &[u128], rows: &[f32], tell: &mut dyn FnMut(EmbedEvent)) {
        let images = std::mem::take(&mut self.waiting);
        self.since = Instant::now();
        if images.is_empty() || !self.open {
            return;
        }
        if let Err(problem) = self.write_block(&images, contents, rows) {
            self.open = false;
            tell(EmbedEvent::Warning(format!(
                "{problem}; the features that follow are not kept for the next run"
            )));
        }
    }

    fn write_block(
        &mut self,
        images: &[usize],
        contents: &[u128],
        rows: &[f32],
    ) -> Result<(), String> {
        let mut bytes = Vec::with_capacity(HEAD + images.len() * (HASH + 4 * self.width));
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&self.source.to_le_bytes());
        bytes.extend_from_slice(&(images.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&(self.width as u32).to_le_bytes());
        for &image in images {
            bytes.extend_from_slice(&contents[image].to_le_bytes());
        }
        bytes.extend_from_slice(&xxh3_128(&bytes).to_le_bytes());
        for &image in images {
            let row = &rows[image * self.width..][..self.width];
            bytes.extend(row.iter().flat_map(|value| value.to_le_bytes()));
        }
        let hash = xxh3_128(&bytes);
        bytes.extend_from_slice(&hash.to_le_bytes());
        self.make_room(bytes.len() as u64)?;
        let path = self.folder.join(format!("{hash:032x}.rows"));
        // Two threads would write the same block under one temporary name.
        static WRITING: Mutex<()> = Mutex::new(());
        let _alone = WRITING.lock().unwrap_or_else(PoisonError::into_inner);
        fs::create_dir_all(&self.folder)
            .map_err(|error| format!("cannot make {}: {error}", self.folder.display()))?;
        write_bytes(&path, &bytes).map_err(|error| error.to_string())?;
        self.used.insert(path);
        Ok(())
    }

    /// Removes blocks until `bytes` more are within the limit.
    fn make_room(&self, bytes: u64) -> Result<(), String> {
        let blocks = self.cache.blocks();
        let mut held: u64 = blocks.iter().map(|block| block.bytes).sum();
        for block in blocks {
            if held + bytes <= self.cache.limit {
                break;
            }
            if !self.used.contains(&block.path) && fs::remove_file(&block.path).is_ok() {
                held -= block.bytes;
            }
        }
        match held + bytes <= self.cache.limit {
            true => Ok(()),
            false => Err(format!(
                "{}: the features of this run alone take more than the cache's limit of {} bytes",
                self.cache.folder.display(),
                self.cache.limit
            )),
        }
    }
}

/// The beginning of a block, and the rest of its file.
struct Opened {
    file: File,
    bytes: Vec<u8>,
    /// Where the hashes of its pictures end.
    table: usize,
}

impl Opened {
    fn hashes(&self) -> impl Iterator<Item = u128> + '_ {
        self.bytes[HEAD..self.table].chunks_exact(HASH).map(le_u128)
    }
}

fn damaged(what: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what.to_owned())
}

/// Compares what was read so far with the checksum at its end.
fn checked(bytes: &[u8]) -> io::Result<()> {
    let (data, hash) = bytes.split_at(bytes.len().saturating_sub(HASH));
    match le_u128(hash) == xxh3_128(data) {
        true => Ok(()),
        false => Err(damaged("is damaged: its checksum is of other content")),
    }
}

fn le_u32(bytes: &[u8]) -> usize {
    bytes.iter().rev().fold(0, |n, &b| n << 8 | usize::from(b))
}

fn le_u128(bytes: &[u8]) -> u128 {
    bytes.iter().rev().fold(0, |n, &b| n << 8 | u128::from(b))
}
