//! The blocks of the cache: who holds them, and what those that nobody holds still contain.
//!
//! Owns reference counts, the index from contents to blocks, and the order in which contents give way. A block is free
//! (contains nothing), held (by sequences, counted), or kept (held by none, its contents can be found again until the
//! block is needed). Must not touch rows, files or requests.
//!
//! Full blocks are found by their key; among the blocks that follow a key, also partly filled ones, the one that shares
//! most tokens with a prompt is found by comparing tokens. Nothing here allocates after construction but a match.

use std::collections::HashMap;

use super::key::BlockKey;

/// No block.
const NIL: u32 = u32::MAX;

/// Keys of evicted blocks that are remembered, per block of the pool: they tell an eviction from news.
const N_GHOSTS_PER_BLOCK: usize = 4;

/// Two neighbours in a doubly linked list of blocks.
#[derive(Clone, Copy)]
struct Links {
    prev: u32,
    next: u32,
}

const UNLINKED: Links = Links { prev: NIL, next: NIL };

struct Block {
    n_refs: u32,
    /// What it contains: how many tokens behind which key; 0 tokens is nothing.
    n_tokens: usize,
    parent: BlockKey,
    /// Its own key, if it is full and the index knows it.
    key: Option<BlockKey>,
    /// Among the blocks that nobody holds, least recently used first.
    lru: Links,
    /// Among the blocks with the same parent.
    siblings: Links,
}

/// What is known of the beginning of a prompt. Every block in it is held for the caller.
#[derive(Debug, Default)]
pub(crate) struct Match {
    /// Full blocks, in order.
    pub(crate) blocks: Vec<u32>,
    /// Their keys.
    pub(crate) keys: Vec<BlockKey>,
    /// A block whose first tokens continue the prompt, and how many do: to be copied before anything is written.
    pub(crate) partial: Option<(u32, usize)>,
    /// The first block that was not found was seen once.
    pub(crate) was_evicted: bool,
    /// Something else than the next token was seen there.
    pub(crate) diverged: bool,
}

pub(crate) struct BlockPool {
    block_len: usize,
    blocks: Vec<Block>,
    /// `[n_blocks, block_len]` contents.
    tokens: Vec<u32>,
    free: Vec<u32>,
    by_key: HashMap<BlockKey, u32>,
    first_child: HashMap<BlockKey, u32>,
    /// Ends of the list of kept blocks.
    oldest: u32,
    newest: u32,
    n_kept: usize,
    /// A ring of keys, and the same as a set.
    ghosts: Vec<BlockKey>,
    ghost_next: usize,
    ghost_count: HashMap<BlockKey, u32>,
}

impl BlockPool {
    pub(crate) fn new(n_blocks: usize, block_len: usize) -> Self {
        let block = || Block {
            n_refs: 0,
            n_tokens: 0,
            parent: BlockKey::from([0; 32]),
            key: None,
            lru: UNLINKED,
            siblings: UNLINKED,
        };
        let n_ghosts = n_blocks * N_GHOSTS_PER_BLOCK;
        Self {
            block_len,
            blocks: (0..n_blocks).map(|_| block()).collect(),
            tokens: vec![0; n_blocks * block_len],
            free: (0..n_blocks as u32).rev().collect(),
            // A map grows at 7/8 of its buckets, and when tombstones fill it: twice the entries never make it.
            by_key: HashMap::with_capacity(2 * n_blocks),
            first_child: HashMap::with_capacity(2 * n_blocks),
            oldest: NIL,
            newest: NIL,
            n_kept: 0,
            ghosts: Vec::with_capacity(n_ghosts),
            ghost_next: 0,
            ghost_count: HashMap::with_capacity(2 * n_ghosts),
        }
    }

    /// Blocks that can be had: free and kept ones.
    pub(crate) fn n_available(&self) -> usize {
        self.free.len() + self.n_kept
    }

    pub(crate) fn n_kept(&self) -> usize {
        self.n_kept
    }

    pub(crate) fn n_blocks(&self) -> usize {
        self.blocks.len()
    }

    /// A block for new rows, held once; the contents of the least recently used one give way. None if all are held.
    pub(crate) fn alloc(&mut self) -> Option<u32> {
        let block = match self.free.pop() {
            Some(block) => block,
            None => self.evict()?,
        };
        self.blocks[block as usize].n_refs = 1;
        Some(block)
    }

    /// Holds a block once more.
    pub(crate) fn retain(&mut self, block: u32) {
        let entry = &mut self.blocks[block as usize];
        assert!(entry.n_refs > 0 || entry.n_tokens > 0, "block {block} is free");
        entry.n_refs += 1;
        if entry.n_refs == 1 {
            self.unlink_lru(block);
        }
    }

    /// Lets go of a block; held by none, it is kept if it contains something, else free.
    pub(crate) fn release(&mut self, block: u32) {
        let entry = &mut self.blocks[block as usize];
        assert!(entry.n_refs > 0, "block {block} is held by none");
        entry.n_refs -= 1;
        if entry.n_refs == 0 {
            match entry.n_tokens {
                0 => self.free.push(block),
                _ => self.link_lru(block),
            }
        }
    }

    /// Makes a held block's contents known: `tokens` behind `parent`. Returns the key of a full block.
    ///
    /// What is known already (the same block of another sequence, or one that begins with all of this) is not made known
    /// twice.
    pub(crate) fn publish(&mut self, block: u32, parent: BlockKey, tokens: &[u32]) -> Option<BlockKey> {
        let is_full = tokens.len() == self.block_len;
        assert!(!tokens.is_empty() && tokens.len() <= self.block_len, "contents of {} tokens", tokens.len());
        assert!(self.blocks[block as usize].n_refs > 0, "block {block} is held by none");
        let key = is_full.then(|| parent.child(tokens));
        let known = match key {
            Some(key) => self.by_key.contains_key(&key),
            None => self.longest_child(parent, tokens).is_some_and(|(_, n)| n == tokens.len()),
        };
        if self.blocks[block as usize].n_tokens > 0 {
            // The partly filled block has grown, or been overwritten from some token on.
            self.forget(block);
        }
        if known {
            return key;
        }
        let start = block as usize * self.block_len;
        self.tokens[start..start + tokens.len()].copy_from_slice(tokens);
        let next = self.first_child.insert(parent, block).unwrap_or(NIL);
        if next != NIL {
            self.blocks[next as usize].siblings.prev = block;
        }
        if let Some(key) = key {
            self.by_key.insert(key, block);
        }
        let entry = &mut self.blocks[block as usize];
        (entry.n_tokens, entry.parent, entry.key) = (tokens.len(), parent, key);
        entry.siblings = Links { prev: NIL, next };
        key
    }

    /// The longest beginning of `tokens` that is known, with its blocks held.
    pub(crate) fn find(&mut self, root: BlockKey, tokens: &[u32]) -> Match {
        let mut found = Match::default();
        let mut parent = root;
        for chunk in tokens.chunks_exact(self.block_len) {
            let key = parent.child(chunk);
            let Some(&block) = self.by_key.get(&key) else {
                found.was_evicted = self.ghost_count.contains_key(&key);
                break;
            };
            self.retain(block);
            found.blocks.push(block);
            found.keys.push(key);
            parent = key;
        }
        let rest = &tokens[found.blocks.len() * self.block_len..];
        found.diverged = !rest.is_empty() && self.first_child.contains_key(&parent);
        if let Some((block, n)) = self.longest_child(parent, rest) {
            self.retain(block);
            found.partial = Some((block, n));
        }
        found
    }

    /// Forgets all contents: the weights have changed. Blocks stay with their holders.
    pub(crate) fn clear(&mut self) {
        for block in 0..self.blocks.len() as u32 {
            if self.blocks[block as usize].n_tokens > 0 {
                self.forget(block);
                if self.blocks[block as usize].n_refs == 0 {
                    self.unlink_lru(block);
                    self.free.push(block);
                }
            }
        }
        self.ghosts.clear();
        self.ghost_count.clear();
        self.ghost_next = 0;
    }

    /// The child of `parent` that shares most tokens with `tokens`, if any shares one; the most recent of equals.
    fn longest_child(&self, parent: BlockKey, tokens: &[u32]) -> Option<(u32, usize)> {
        let mut best = None;
        let mut child = self.first_child.get(&parent).copied().unwrap_or(NIL);
        while child != NIL {
            let entry = &self.blocks[child as usize];
            let start = child as usize * self.block_len;
            let contents = &self.tokens[start..start + entry.n_tokens];
            let n = contents.iter().zip(tokens).take_while(|(a, b)| a == b).count();
            if n > best.map_or(0, |(_, n)| n) {
                best = Some((child, n));
            }
            child = entry.siblings.next;
        }
        best
    }

    /// Takes the least recently used block's contents away.
    fn evict(&mut self) -> Option<u32> {
        let block = self.oldest;
        if block == NIL {
            return None;
        }
        self.unlink_lru(block);
        if let Some(key) = self.blocks[block as usize].key {
            self.remember(key);
        }
        self.forget(block);
        Some(block)
    }

    fn remember(&mut self, key: BlockKey) {
        if self.ghosts.len() < self.ghosts.capacity() {
            self.ghosts.push(key);
        } else {
            let old = std::mem::replace(&mut self.ghosts[self.ghost_next], key);
            self.ghost_next = (self.ghost_next + 1) % self.ghosts.len();
            if let Some(count) = self.ghost_count.get_mut(&old) {
                *count -= 1;
                if *count == 0 {
                    self.ghost_count.remove(&old);
                }
            }
        }
        *self.ghost_count.entry(key).or_insert(0) += 1;
    }

    /// Takes a block's contents out of the index.
    fn forget(&mut self, block: u32) {
        let entry = &mut self.blocks[block as usize];
        let (parent, Links { prev, next }) = (entry.parent, entry.siblings);
        entry.n_tokens = 0;
        entry.siblings = UNLINKED;
        if let Some(key) = entry.key.take() {
            self.by_key.remove(&key);
        }
        if next != NIL {
            self.blocks[next as usize].siblings.prev = prev;
        }
        match (prev, next) {
            (NIL, NIL) => drop(self.first_child.remove(&parent)),
            (NIL, next) => drop(self.first_child.insert(parent, next)),
            (prev, next) => self.blocks[prev as usize].siblings.next = next,
        }
    }

    fn link_lru(&mut self, block: u32) {
        let prev = std::mem::replace(&mut self.newest, block);
        self.blocks[block as usize].lru = Links { prev, next: NIL };
        match prev {
            NIL => self.oldest = block,
            prev => self.blocks[prev as usize].lru.next = block,
        }
        self.n_kept += 1;
    }

    fn unlink_lru(&mut self, block: u32) {
        let Links { prev, next } = std::mem::replace(&mut self.blocks[block as usize].lru, UNLINKED);
        match prev {
            NIL => self.oldest = next,
            prev => self.blocks[prev as usize].lru.next = next,
        }
        match next {
            NIL => self.newest = prev,
            next => self.blocks[next as usize].lru.prev = prev,
        }
        self.n_kept -= 1;
    }

    /// Checks every invariant against what the holders say: `n_refs[block]` is how often each is held.
    ///
    /// # Panics
    /// If one is broken
    pub(crate) fn check(&self, n_refs: &[u32]) {
        let mut n_kept = 0;
        for (block, entry) in self.blocks.iter().enumerate() {
            assert_eq!(entry.n_refs, n_refs[block], "references of block {block}");
            n_kept += usize::from(entry.n_refs == 0 && entry.n_tokens > 0);
            assert_eq!(entry.key.is_some(), entry.n_tokens == self.block_len, "key of block {block}");
            if let Some(key) = entry.key {
                assert_eq!(self.by_key.get(&key), Some(&(block as u32)), "index of block {block}");
            }
        }
        assert_eq!(self.n_kept, n_kept, "kept blocks");
        let n_held = n_refs.iter().filter(|n| **n > 0).count();
        assert_eq!(self.free.len() + n_kept + n_held, self.blocks.len(), "free, kept and held blocks");
        let n_keys = self.blocks.iter().filter(|entry| entry.key.is_some()).count();
        assert_eq!(self.by_key.len(), n_keys, "entries of the index");
        let mut n_listed = 0;
        let mut block = self.oldest;
        while block != NIL {
            assert_eq!(self.blocks[block as usize].n_refs, 0, "a kept block {block} that is held");
            n_listed += 1;
            block = self.blocks[block as usize].lru.next;
        }
        assert_eq!(n_listed, n_kept, "blocks in the order of use");
    }
}
