//! Receive buffers, allocated per thread. Owns the free lists of blocks, and the window of unread bytes in a block.
//!
//! A connection holds a block only while it contains bytes, so ten thousand idle clients hold none, and a busy worker
//! keeps reusing the same few blocks, which stay in the CPU cache.

use std::cell::RefCell;

/// Size of a block for ordinary traffic, in bytes.
pub const SMALL_BLOCK_BYTES: usize = 16 * 1024;
/// Size of a block once reads fill the small one (COPY, large results), in bytes.
pub const LARGE_BLOCK_BYTES: usize = 256 * 1024;
/// Minimum size of a shrunk block, in bytes.
const MIN_SHRUNK_BYTES: usize = 64;
/// Maximum length of the free list of each size.
const MAX_FREE_SMALL: usize = 64;
const MAX_FREE_LARGE: usize = 8;

/// The blocks of one size.
struct FreeList {
    free: Vec<Box<[u8]>>,
    /// Blocks that were allocated and not released: those in use and those in the list. Counted where blocks come and
    /// go, not each time one is used.
    existing: usize,
}

impl FreeList {
    const fn new() -> Self {
        Self { free: Vec::new(), existing: 0 }
    }

    fn take(&mut self, bytes: usize) -> Box<[u8]> {
        self.free.pop().unwrap_or_else(|| self.allocate(bytes))
    }

    #[cold]
    fn allocate(&mut self, bytes: usize) -> Box<[u8]> {
        self.existing += 1;
        vec![0; bytes].into_boxed_slice()
    }

    fn put_back(&mut self, block: Box<[u8]>, max_free: usize) {
        if self.free.len() < max_free {
            self.free.push(block);
        } else {
            self.existing = self.existing.saturating_sub(1);
        }
    }

    fn count(&self, bytes: usize) -> BlockCount {
        let free = self.free.len();
        BlockCount { bytes, used: self.existing.saturating_sub(free), free }
    }
}

struct FreeLists {
    small: FreeList,
    large: FreeList,
}

/// The blocks of one size that this thread has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockCount {
    /// Size of a block, in bytes.
    pub bytes: usize,
    /// Blocks with data in them.
    pub used: usize,
    /// Blocks in the free list.
    pub free: usize,
}

/// The blocks of this thread, by size. A block that moved here from another thread counts there.
pub fn block_counts() -> [BlockCount; 2] {
    FREE_LISTS.with(|free| {
        let free = free.borrow();
        [free.small.count(SMALL_BLOCK_BYTES), free.large.count(LARGE_BLOCK_BYTES)]
    })
}

thread_local! {
    static FREE_LISTS: RefCell<FreeLists> =
        const { RefCell::new(FreeLists { small: FreeList::new(), large: FreeList::new() }) };
}

/// Takes a block of at least `bytes` bytes from the free list, or allocates one.
pub(super) fn allocate(bytes: usize) -> Box<[u8]> {
    FREE_LISTS.with(|free| {
        let mut free = free.borrow_mut();
        match bytes {
            n if n <= SMALL_BLOCK_BYTES => free.small.take(SMALL_BLOCK_BYTES),
            n if n <= LARGE_BLOCK_BYTES => free.large.take(LARGE_BLOCK_BYTES),
            more => vec![0; more.next_power_of_two()].into_boxed_slice(),
        }
    })
}

fn recycle(block: Box<[u8]>) {
    let _ = FREE_LISTS.try_with(|free| {
        let mut free = free.borrow_mut();
        match block.len() {
            SMALL_BLOCK_BYTES => free.small.put_back(block, MAX_FREE_SMALL),
            LARGE_BLOCK_BYTES => free.large.put_back(block, MAX_FREE_LARGE),
            _ => {}
        }
    });
}

/// Bytes received and not yet consumed, in a block that is held only while it contains any.
#[derive(Default)]
pub struct Inbound {
    block: Option<Box<[u8]>>,
    /// Position of the bytes in the block. Message lengths are 32 bits wide, and so are block sizes.
    start: u32,
    end: u32,
    /// The last read filled its block, so the next block is a large one.
    wants_large: bool,
}

impl Inbound {
    /// The first `n` bytes of a block that was filled elsewhere.
    pub(super) fn from_block(block: Box<[u8]>, n: usize) -> Self {
        let mut inbound = Self { block: Some(block), ..Self::default() };
        inbound.filled(n);
        inbound
    }

    /// Takes bytes that were received elsewhere: the whole block if this buffer is empty, otherwise as many as fit.
    /// Returns how many.
    pub(super) fn take_from(&mut self, other: &mut Self) -> usize {
        let n = other.len();
        if self.is_empty() {
            let wanted_large = self.wants_large;
            std::mem::swap(self, other);
            self.wants_large |= wanted_large && n > SMALL_BLOCK_BYTES;
            return n;
        }
        let spare = self.spare();
        let n = n.min(spare.len());
        spare[..n].copy_from_slice(&other.bytes()[..n]);
        let wanted_large = self.wants_large || other.wants_large;
        self.filled(n);
        self.wants_large |= wanted_large;
        other.consume(n);
        n
    }

    /// True if the last read filled its block, so that more data is probably available.
    pub fn wants_large_block(&self) -> bool {
        self.wants_large
    }

    /// The next block is a large one.
    pub fn want_large_block(&mut self) {
        self.wants_large = true;
    }

    /// The bytes received and not consumed.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        match &self.block {
            Some(block) => &block[self.start as usize..self.end as usize],
            None => &[],
        }
    }

    /// The same, mutable.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        match &mut self.block {
            Some(block) => &mut block[self.start as usize..self.end as usize],
            None => &mut [],
        }
    }

    /// Number of bytes received and not consumed.
    #[inline]
    pub fn len(&self) -> usize {
        (self.end - self.start) as usize
    }

    /// True if there are no bytes, in which case no block is held.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// True if a block is held and has no room left.
    #[inline]
    pub fn is_full(&self) -> bool {
        self.start == 0 && self.block.as_ref().is_some_and(|block| block.len() == self.end as usize)
    }

    /// Removes `n` bytes from the front; the block is recycled with the last of them.
    #[inline]
    pub fn consume(&mut self, n: usize) {
        self.start += (n as u32).min(self.end - self.start);
        self.release_if_empty();
    }

    /// Discards all bytes.
    pub fn clear(&mut self) {
        self.start = self.end;
        self.release_if_empty();
    }

    #[inline]
    fn release_if_empty(&mut self) {
        if self.start == self.end
            && let Some(block) = self.block.take()
        {
            recycle(block);
            self.start = 0;
            self.end = 0;
        }
    }

    /// Space to receive into, after the bytes: a new block, or the rest of the present one. Empty if the block is full;
    /// see [`Inbound::make_room`].
    #[inline]
    pub fn spare(&mut self) -> &mut [u8] {
        let size = if self.wants_large { LARGE_BLOCK_BYTES } else { SMALL_BLOCK_BYTES };
        let (start, end) = (self.start, self.end);
        let block = self.block.get_or_insert_with(|| allocate(size));
        if start > 0 {
            // The rest is the beginning of a message, nearly always a few bytes.
            block.copy_within(start as usize..end as usize, 0);
            self.start = 0;
            self.end = end - start;
        }
        &mut block[self.end as usize..]
    }

    /// Makes room for a total of `need` bytes, moving to a larger block if necessary. The caller bounds `need`.
    pub fn make_room(&mut self, need: usize) {
        let len = self.len();
        if self.block.as_ref().is_some_and(|block| block.len() >= need) {
            return;
        }
        let mut larger = allocate(need);
        larger[..len].copy_from_slice(self.bytes());
        if let Some(old) = self.block.replace(larger) {
            recycle(old);
        }
        self.start = 0;
        self.end = len as u32;
    }

    /// Moves bytes that may stay for long to a block of their own size. Callers make room before they receive more.
    pub fn shrink(&mut self) {
        let size = self.len().next_power_of_two().max(MIN_SHRUNK_BYTES);
        if self.block.as_ref().is_none_or(|block| block.len() <= size) {
            return;
        }
        let mut own = vec![0; size].into_boxed_slice();
        let len = self.len();
        own[..len].copy_from_slice(self.bytes());
        if let Some(old) = self.block.replace(own) {
            recycle(old);
        }
        self.start = 0;
        self.end = len as u32;
    }

    /// Records that `n` bytes were received into [`Inbound::spare`].
    #[inline]
    pub fn filled(&mut self, n: usize) {
        if let Some(block) = &self.block {
            self.end = (self.end as usize + n).min(block.len()) as u32;
            // A large block stays in use while reads fill at least a small one.
            self.wants_large =
                self.end as usize == block.len() || (self.wants_large && n > SMALL_BLOCK_BYTES);
        }
        self.release_if_empty();
    }

    /// Appends a copy of `data`.
    pub fn append(&mut self, data: &[u8]) {
        self.make_room(self.len() + data.len());
        let spare = self.spare();
        spare[..data.len()].copy_from_slice(data);
        self.filled(data.len());
    }
}

impl Drop for Inbound {
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_held_only_while_bytes_are_in_it() {
        let mut inbound = Inbound::default();
        inbound.append(b"hello");
        assert!(inbound.block.is_some());
        inbound.consume(2);
        assert_eq!(inbound.bytes(), b"llo");
        inbound.consume(3);
        assert!(inbound.block.is_none());
        inbound.spare();
        inbound.filled(0);
        assert!(inbound.block.is_none());
    }

    #[test]
    fn blocks_in_use_and_free_blocks_are_counted() {
        let [before, _] = block_counts();
        let mut inbound = Inbound::default();
        inbound.append(b"hello");
        assert_eq!(block_counts()[0].used, before.used + 1);
        inbound.clear();
        assert_eq!((block_counts()[0].used, block_counts()[0].free), (before.used, before.free.max(1)));
    }

    #[test]
    fn the_rest_of_a_message_moves_to_the_front() {
        let mut inbound = Inbound::default();
        inbound.append(&[1; SMALL_BLOCK_BYTES]);
        assert!(inbound.spare().is_empty());
        inbound.consume(SMALL_BLOCK_BYTES - 3);
        assert_eq!(inbound.spare().len(), SMALL_BLOCK_BYTES - 3);
        assert_eq!(inbound.bytes(), [1; 3]);
        inbound.make_room(100_000);
        assert_eq!(inbound.bytes(), [1; 3]);
        assert!(inbound.spare().len() >= 100_000 - 3);
    }

    #[test]
    fn a_shrunk_buffer_holds_a_small_block() {
        let mut inbound = Inbound::default();
        inbound.append(b"hello");
        inbound.consume(1);
        inbound.shrink();
        assert_eq!(
            (inbound.bytes(), inbound.block.as_ref().unwrap().len()),
            (&b"ello"[..], MIN_SHRUNK_BYTES)
        );
        inbound.make_room(SMALL_BLOCK_BYTES);
        assert_eq!(inbound.spare().len(), SMALL_BLOCK_BYTES - 4);
        inbound.clear();
        inbound.shrink();
        assert!(inbound.block.is_none());
    }

    #[test]
    fn full_reads_switch_to_large_blocks_and_short_reads_back() {
        let mut inbound = Inbound::default();
        let n = inbound.spare().len();
        inbound.filled(n);
        inbound.clear();
        assert_eq!(inbound.spare().len(), LARGE_BLOCK_BYTES);
        inbound.filled(10);
        inbound.clear();
        assert_eq!(inbound.spare().len(), SMALL_BLOCK_BYTES);
    }
}
