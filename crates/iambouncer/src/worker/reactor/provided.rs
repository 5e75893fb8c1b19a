//! Blocks provided to the kernel, which picks one only when bytes arrive, so idle connections hold none. Owns the list
//! shared with the kernel (io_uring_register_buf_ring(3)) and the blocks while they are on it.

#![allow(unsafe_code, reason = "memory shared with the kernel")]

use crate::worker::buffer::{self, Inbound, SMALL_BLOCK_BYTES};
use io_uring::IoUring;
use io_uring::types::BufRingEntry;
use std::io;
use std::sync::atomic::{AtomicU16, Ordering};

/// Number of blocks; the kernel requires a power of two. When more sockets than this receive at the same time, the
/// others wait for the next turn.
pub(super) const BLOCKS: u16 = 128;
/// Identifies the list within the ring.
pub(super) const GROUP: u16 = 0;

const PAGE_BYTES: usize = 4096;
const ENTRY_BYTES: usize = size_of::<BufRingEntry>();

/// The list must be page-aligned.
#[repr(align(4096))]
struct AlignedPage {
    _bytes: [u8; PAGE_BYTES],
}

/// The list.
pub(super) struct BufferRing {
    /// From `Box::into_raw`, since the kernel writes to it concurrently. Never freed, as the kernel may still access it
    /// while it tears down the ring; a worker has one for its lifetime.
    list: *mut BufRingEntry,
    /// By block number; `None` while the block is off the list. From `Box::into_raw` for the same reason.
    blocks: Vec<Option<*mut [u8]>>,
    missing: Vec<u16>,
    tail: u16,
}

impl BufferRing {
    /// A full list of `count` blocks, a power of two up to [`BLOCKS`], registered with `ring`.
    pub(super) fn register(ring: &IoUring, count: u16) -> io::Result<Self> {
        const { assert!(BLOCKS as usize * ENTRY_BYTES <= PAGE_BYTES) };
        assert!(count.is_power_of_two() && count <= BLOCKS, "a power of two within the page");
        let list = Box::into_raw(Box::new(AlignedPage { _bytes: [0; PAGE_BYTES] })).cast::<BufRingEntry>();
        // SAFETY: the page is large enough for all entries, aligned, and never freed.
        unsafe { ring.submitter().register_buf_ring_with_flags(list as u64, count, GROUP, 0)? };
        let mut provided =
            Self { list, blocks: vec![None; count.into()], missing: (0..count).collect(), tail: 0 };
        provided.replenish();
        Ok(provided)
    }

    /// Takes the block that the kernel has filled with `n` bytes off the list.
    pub(super) fn take(&mut self, number: u16, n: usize) -> Option<Inbound> {
        let block = self.blocks.get_mut(usize::from(number))?.take()?;
        self.missing.push(number);
        // SAFETY: it came from `Box::into_raw`, and the kernel has returned it with this completion.
        let block = unsafe { Box::from_raw(block) };
        Some(Inbound::from_block(block, n))
    }

    /// Replaces blocks that were taken.
    pub(super) fn replenish(&mut self) {
        if self.missing.is_empty() {
            return;
        }
        let mask = self.blocks.len() - 1;
        for number in self.missing.drain(..) {
            let block = Box::into_raw(buffer::allocate(SMALL_BLOCK_BYTES));
            self.blocks[usize::from(number)] = Some(block);
            // SAFETY: within the page. The kernel reads entries only up to the published tail, and this one is after
            // it. `resv` of the first entry, which is the tail itself, is not touched.
            unsafe {
                let entry = &mut *self.list.add(usize::from(self.tail) & mask);
                entry.set_addr(block.cast::<u8>() as u64);
                entry.set_len(SMALL_BLOCK_BYTES as u32);
                entry.set_bid(number);
            }
            self.tail = self.tail.wrapping_add(1);
        }
        // SAFETY: the tail is within the page and aligned, and the kernel only reads it.
        let tail = unsafe { &*BufRingEntry::tail(self.list).cast::<AtomicU16>() };
        tail.store(self.tail, Ordering::Release);
    }
}
