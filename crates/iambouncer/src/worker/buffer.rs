//! Receive buffers, lent by the thread. Owns the stock of blocks and the window of unread bytes in one of them.
//!
//! A connection holds a block only while bytes are in it, so ten thousand idle clients hold none, and a busy
//! worker keeps using the same few blocks, which stay in the cache.

use std::cell::RefCell;

/// Size of a block for ordinary traffic, in bytes.
pub const SMALL_BLOCK_BYTES: usize = 16 * 1024;
/// Size of a block once reads fill the small one (COPY, large results), in bytes.
pub const LARGE_BLOCK_BYTES: usize = 256 * 1024;
/// Size of the smallest block that a few bytes are moved to, in bytes.
const MIN_SHRUNK_BYTES: usize = 64;
/// Blocks of each size kept for the next one who needs one.
const MAX_KEPT_SMALL: usize = 64;
const MAX_KEPT_LARGE: usize = 8;

struct Stock {
    small: Vec<Box<[u8]>>,
    large: Vec<Box<[u8]>>,
}

thread_local! {
    static STOCK: RefCell<Stock> = const { RefCell::new(Stock { small: Vec::new(), large: Vec::new() }) };
}

/// A block of at least `bytes` bytes, from the stock if it has one.
pub(super) fn lend(bytes: usize) -> Box<[u8]> {
    let kept = STOCK.with(|stock| {
        let mut stock = stock.borrow_mut();
        match bytes {
            n if n <= SMALL_BLOCK_BYTES => stock.small.pop(),
            n if n <= LARGE_BLOCK_BYTES => stock.large.pop(),
            _ => None,
        }
    });
    kept.unwrap_or_else(|| {
        let size = match bytes {
            n if n <= SMALL_BLOCK_BYTES => SMALL_BLOCK_BYTES,
            n if n <= LARGE_BLOCK_BYTES => LARGE_BLOCK_BYTES,
            more => more.next_power_of_two(),
        };
        vec![0; size].into_boxed_slice()
    })
}

fn give_back(block: Box<[u8]>) {
    let _ = STOCK.try_with(|stock| {
        let mut stock = stock.borrow_mut();
        match block.len() {
            SMALL_BLOCK_BYTES if stock.small.len() < MAX_KEPT_SMALL => stock.small.push(block),
            LARGE_BLOCK_BYTES if stock.large.len() < MAX_KEPT_LARGE => stock.large.push(block),
            _ => {}
        }
    });
}

/// Bytes received and not yet consumed, in a block that exists only while there are some.
#[derive(Default)]
pub struct Inbound {
    block: Option<Box<[u8]>>,
    /// Where the bytes are in the block. Lengths of messages are 32 bits wide, and so is every block.
    start: u32,
    end: u32,
    /// The last read filled its block: lend a large one next time.
    hungry: bool,
}

impl Inbound {
    /// The first `n` bytes of a block that was lent and filled elsewhere.
    pub(super) fn of_block(block: Box<[u8]>, n: usize) -> Self {
        let mut inbound = Self { block: Some(block), ..Self::default() };
        inbound.filled(n);
        inbound
    }

    /// Takes bytes that were received elsewhere: the whole block if this one is empty, else what fits behind what is
    /// there. Returns how many.
    pub(super) fn take_from(&mut self, other: &mut Self) -> usize {
        let n = other.len();
        if self.is_empty() {
            let was_hungry = self.hungry;
            std::mem::swap(self, other);
            self.hungry |= was_hungry && n > SMALL_BLOCK_BYTES;
            return n;
        }
        let spare = self.spare();
        let n = n.min(spare.len());
        spare[..n].copy_from_slice(&other.bytes()[..n]);
        let was_hungry = self.hungry || other.hungry;
        self.filled(n);
        self.hungry |= was_hungry;
        other.consume(n);
        n
    }

    /// The last bytes filled their block: more are likely to be there already.
    pub fn is_hungry(&self) -> bool {
        self.hungry
    }

    /// What has been received and not consumed.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        match &self.block {
            Some(block) => &block[self.start as usize..self.end as usize],
            None => &[],
        }
    }

    /// The same, to be changed in place.
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

    /// Nothing is there, and no block is held.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// True when a block is held and there is no room left in it.
    #[inline]
    pub fn is_full(&self) -> bool {
        self.start == 0 && self.block.as_ref().is_some_and(|block| block.len() == self.end as usize)
    }

    /// Takes `n` bytes off the front; the block goes back to the thread with the last of them.
    #[inline]
    pub fn consume(&mut self, n: usize) {
        self.start += (n as u32).min(self.end - self.start);
        self.release_if_empty();
    }

    /// Throws away all bytes.
    pub fn clear(&mut self) {
        self.start = self.end;
        self.release_if_empty();
    }

    #[inline]
    fn release_if_empty(&mut self) {
        if self.start == self.end
            && let Some(block) = self.block.take()
        {
            give_back(block);
            self.start = 0;
            self.end = 0;
        }
    }

    /// Room behind the bytes to receive into: a fresh block, or the rest of the present one. May be empty when a
    /// block is full; [`Inbound::make_room`] then helps.
    #[inline]
    pub fn spare(&mut self) -> &mut [u8] {
        let size = if self.hungry { LARGE_BLOCK_BYTES } else { SMALL_BLOCK_BYTES };
        let (start, end) = (self.start, self.end);
        let block = self.block.get_or_insert_with(|| lend(size));
        if start > 0 {
            // What is left is the front of a message: nearly always a few bytes.
            block.copy_within(start as usize..end as usize, 0);
            self.start = 0;
            self.end = end - start;
        }
        &mut block[self.end as usize..]
    }

    /// Sees to it that `need` bytes, those that are there included, fit: moves to a larger block if it must. The
    /// caller bounds `need`.
    pub fn make_room(&mut self, need: usize) {
        let here = self.len();
        if self.block.as_ref().is_some_and(|block| block.len() >= need) {
            return;
        }
        let mut larger = lend(need);
        larger[..here].copy_from_slice(self.bytes());
        if let Some(old) = self.block.replace(larger) {
            give_back(old);
        }
        self.start = 0;
        self.end = here as u32;
    }

    /// Bytes that may lie here for long move to a block of their own size. Whoever receives behind them makes room first.
    pub fn shrink(&mut self) {
        let size = self.len().next_power_of_two().max(MIN_SHRUNK_BYTES);
        if self.block.as_ref().is_none_or(|block| block.len() <= size) {
            return;
        }
        let mut own = vec![0; size].into_boxed_slice();
        let here = self.len();
        own[..here].copy_from_slice(self.bytes());
        if let Some(old) = self.block.replace(own) {
            give_back(old);
        }
        self.start = 0;
        self.end = here as u32;
    }

    /// Tells that `n` bytes were received into [`Inbound::spare`].
    #[inline]
    pub fn filled(&mut self, n: usize) {
        if let Some(block) = &self.block {
            self.end = (self.end as usize + n).min(block.len()) as u32;
            // A large block is kept in use while reads fill at least a small one.
            self.hungry = self.end as usize == block.len() || (self.hungry && n > SMALL_BLOCK_BYTES);
        }
        self.release_if_empty();
    }

    /// Copies `data` behind what is there.
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
    fn a_few_bytes_that_wait_hold_a_few_bytes() {
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
    fn full_reads_bring_large_blocks_and_short_ones_small_blocks_again() {
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
