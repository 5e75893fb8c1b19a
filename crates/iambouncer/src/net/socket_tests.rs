//! The same bytes over both engines: order, limits, and what becomes of a socket that is dropped.

use super::*;
use crate::net::{SocketInTransit, Stream};
use crate::worker::reactor::EngineKind;
use crate::worker::{self, timers};
use rustix::event::{PollFd, PollFlags, Timespec};
use std::future::poll_fn;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

/// Runs a test as a worker on every engine this machine has.
fn on_every_engine<F: Future<Output = ()> + 'static>(test: fn(UnixStream) -> F, peer: fn(UnixStream)) {
    for engine in [EngineKind::Epoll, EngineKind::IoUring] {
        if engine == EngineKind::IoUring && reactor::probe_ring().is_err() {
            eprintln!("io_uring is not possible here, not tested");
            continue;
        }
        let (ours, theirs) = UnixStream::pair().unwrap();
        let peer = std::thread::spawn(move || peer(theirs));
        let worker = std::thread::spawn(move || worker::run_alone(engine, test(ours)).unwrap());
        worker.join().unwrap();
        peer.join().unwrap();
    }
}

fn socket(stream: UnixStream) -> Socket {
    stream.set_nonblocking(true).unwrap();
    Socket::new(stream.into()).unwrap()
}

async fn receive_all(socket: &mut Socket, mut each: impl FnMut(&[u8])) {
    let mut inbound = Inbound::default();
    while poll_fn(|cx| socket.poll_recv(cx, &mut inbound)).await.unwrap() > 0 {
        // A few bytes stay behind, as the front of a message does.
        let n = inbound.len().saturating_sub(3);
        each(&inbound.bytes()[..n]);
        inbound.consume(n);
    }
    each(inbound.bytes());
}

async fn send_all(socket: &mut Socket, mut data: &[u8]) {
    while !data.is_empty() {
        let n = poll_fn(|cx| socket.poll_send(cx, data, &[])).await.unwrap();
        data = &data[n..];
    }
}

/// Bytes that tell where they stand.
fn pattern(len: usize) -> Vec<u8> {
    (0..len as u32).flat_map(|i| i.wrapping_mul(2_654_435_761).to_be_bytes()).take(len).collect()
}

const LARGE: usize = 6_000_000;

#[test]
fn many_bytes_arrive_in_order_in_small_and_large_blocks() {
    on_every_engine(
        |stream| async move {
            let mut socket = socket(stream);
            let mut all = Vec::new();
            receive_all(&mut socket, |bytes| all.extend_from_slice(bytes)).await;
            assert!(all == pattern(LARGE));
        },
        |mut peer| {
            let mut left = &pattern(LARGE)[..];
            for chunk in [1, 5, 100, 16_384, 16_385, 7, 300_000].into_iter().cycle() {
                let n = chunk.min(left.len());
                peer.write_all(&left[..n]).unwrap();
                left = &left[n..];
                if left.is_empty() {
                    return;
                }
            }
        },
    );
}

#[test]
fn what_nobody_reads_waits_in_the_kernel_and_comes_whole_later() {
    on_every_engine(
        |stream| async move {
            let mut socket = socket(stream);
            let mut inbound = Inbound::default();
            // Begins to receive, and then looks away while the other side sends all it can.
            let first = poll_fn(|cx| socket.poll_recv(cx, &mut inbound)).await.unwrap();
            assert!(first > 0);
            let mut all = inbound.bytes().to_vec();
            inbound.clear();
            timers::sleep(Duration::from_millis(50)).await;
            receive_all(&mut socket, |bytes| all.extend_from_slice(bytes)).await;
            assert!(all == pattern(LARGE));
        },
        |mut peer| peer.write_all(&pattern(LARGE)).unwrap(),
    );
}

#[test]
fn bytes_taken_to_be_sent_arrive_although_the_socket_is_dropped_at_once() {
    on_every_engine(
        |stream| async move {
            let mut socket = socket(stream);
            send_all(&mut socket, b"farewell").await;
        },
        |mut peer| {
            let mut said = String::new();
            peer.read_to_string(&mut said).unwrap();
            assert_eq!(said, "farewell");
        },
    );
}

#[test]
fn a_slow_reader_gets_everything_in_order() {
    on_every_engine(
        |stream| async move {
            let mut socket = socket(stream);
            let data = pattern(LARGE);
            let mut left = &data[..];
            for chunk in [3, 20_000, 100, 16_384, 400_000].into_iter().cycle() {
                let n = chunk.min(left.len());
                let mut block = Inbound::default();
                block.append(&left[..n]);
                while !block.is_empty() {
                    let ready = block.len();
                    poll_fn(|cx| socket.poll_send_front(cx, &[], &mut block, ready)).await.unwrap();
                }
                left = &left[n..];
                if left.is_empty() {
                    return;
                }
            }
        },
        |mut peer| {
            let mut all = Vec::new();
            let mut some = [0; 10_007];
            while let n @ 1.. = peer.read(&mut some).unwrap() {
                all.extend_from_slice(&some[..n]);
            }
            // What was still unsent when the socket was dropped may be lost, but nothing before it.
            assert!(all == pattern(LARGE)[..all.len()]);
            assert!(all.len() >= LARGE - 500_000, "{}", all.len());
        },
    );
}

/// Set by the peer when it has seen the end.
static IS_GONE: AtomicBool = AtomicBool::new(false);

#[test]
fn a_reader_that_never_reads_does_not_keep_a_dropped_socket() {
    // Blocks that the kernel takes whole or not at all, and blocks of which it takes a part.
    for block_bytes in [10_000, 250_000] {
        BLOCK_BYTES.store(block_bytes, Ordering::Release);
        on_every_engine(
            |stream| async move {
                IS_GONE.store(false, Ordering::Release);
                let mut socket = socket(stream);
                poll_fn(|cx| {
                    // Until nothing more is taken.
                    loop {
                        let mut block = Inbound::default();
                        block.append(&pattern(BLOCK_BYTES.load(Ordering::Acquire)));
                        let ready = block.len();
                        if socket.poll_send_front(cx, &[], &mut block, ready)?.is_pending() {
                            return Poll::Ready(std::io::Result::Ok(()));
                        }
                    }
                })
                .await
                .unwrap();
                drop(socket);
                let seen = timers::timeout(Duration::from_secs(20), async {
                    while !IS_GONE.load(Ordering::Acquire) {
                        timers::sleep(Duration::from_millis(1)).await;
                    }
                });
                seen.await.unwrap();
            },
            |peer| {
                // Hears of the end without reading a byte.
                let mut polled = [PollFd::new(&peer, PollFlags::empty())];
                let limit = Timespec { tv_sec: 20, tv_nsec: 0 };
                assert_eq!(rustix::event::poll(&mut polled, Some(&limit)), Ok(1));
                IS_GONE.store(true, Ordering::Release);
            },
        );
    }
}

static BLOCK_BYTES: AtomicUsize = AtomicUsize::new(0);

#[test]
fn a_socket_that_has_just_come_can_go_on_to_another_worker() {
    on_every_engine(
        |stream| async move {
            let mut fd = socket(stream).detach().await.unwrap();
            for _ in 0..3 {
                // With epoll one that nobody had read from counted as in use, and was closed.
                fd = Socket::new(fd).unwrap().detach().await.unwrap();
            }
            send_all(&mut Socket::new(fd).unwrap(), b"here").await;
        },
        |mut peer| {
            let mut text = String::new();
            peer.read_to_string(&mut text).unwrap();
            assert_eq!(text, "here");
        },
    );
}

#[test]
fn a_socket_with_something_to_read_does_not_go() {
    on_every_engine(
        |stream| async move {
            let mut socket = socket(stream);
            let mut inbound = Inbound::default();
            poll_fn(|cx| socket.poll_recv(cx, &mut inbound)).await.unwrap();
            // The rest, and the end, are told within the next turns.
            let limit = Duration::from_secs(20);
            let told = timers::timeout(limit, async {
                while !socket.has_pending_input() {
                    timers::sleep(Duration::from_millis(1)).await;
                }
            });
            told.await.unwrap();
            assert!(socket.detach().await.is_err());
        },
        |mut peer| peer.write_all(b"something").unwrap(),
    );
}

#[test]
fn a_socket_that_lies_idle_after_a_move_hears_of_its_end() {
    on_every_engine(
        |stream| async move {
            let moving = SocketInTransit::pack(Stream::Plain(socket(stream))).await.unwrap();
            let mut stream = moving.unpack().unwrap();
            stream.send_all(b"go").await.unwrap();
            // On a ring nobody received before the first read.
            let told = timers::timeout(Duration::from_secs(20), async {
                while !stream.has_pending_input() {
                    timers::sleep(Duration::from_millis(1)).await;
                }
            });
            told.await.unwrap();
        },
        |mut peer| peer.read_exact(&mut [0; 2]).unwrap(),
    );
}
