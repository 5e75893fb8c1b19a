//! Tests of both engines: order of bytes, limits, and dropped sockets.

use super::*;
use crate::net::{SocketInTransit, Stream};
use crate::worker::reactor::EngineKind;
use crate::worker::{self, executor, timers};
use rustix::event::{PollFd, PollFlags, Timespec};
use std::cell::Cell;
use std::future::poll_fn;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

/// False if the kernel refuses a ring, which the test then does without.
fn has_ring() -> bool {
    let has_ring = reactor::probe_ring().is_ok();
    if !has_ring {
        eprintln!("io_uring is not available, not tested");
    }
    has_ring
}

/// Runs a test on a worker with each engine that the kernel supports.
fn on_every_engine<F: Future<Output = ()> + 'static>(test: fn(UnixStream) -> F, peer: fn(UnixStream)) {
    for engine in [EngineKind::Epoll, EngineKind::IoUring] {
        if engine == EngineKind::IoUring && !has_ring() {
            continue;
        }
        let (ours, theirs) = UnixStream::pair().unwrap();
        let peer = std::thread::spawn(move || peer(theirs));
        let worker = std::thread::spawn(move || worker::run(engine, test(ours)).unwrap());
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
        // A few bytes are left, like an incomplete message.
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

/// Bytes that depend on their position.
fn pattern(len: usize) -> Vec<u8> {
    (0..len as u32).flat_map(|i| i.wrapping_mul(2_654_435_761).to_be_bytes()).take(len).collect()
}

const LARGE: usize = 6_000_000;

/// What was sent before, while and after the client logs in arrives once and in order.
#[test]
fn a_client_that_has_logged_in_continues_on_the_engine_of_its_worker() {
    on_every_engine(
        |stream| async move {
            stream.set_nonblocking(true).unwrap();
            let mut socket = Socket::of_login(stream.into()).unwrap();
            let mut inbound = Inbound::default();
            assert_eq!(poll_fn(|cx| socket.poll_recv(cx, &mut inbound)).await.unwrap(), 1);
            send_all(&mut socket, b"?").await;
            // The rest may have arrived already.
            socket.use_engine();
            assert_eq!(
                matches!(socket.0, SocketBackend::Ring(_)),
                reactor::kind().unwrap() == EngineKind::IoUring
            );
            socket.use_engine();
            let mut rest = Vec::new();
            receive_all(&mut socket, |bytes| rest.extend_from_slice(bytes)).await;
            assert_eq!(rest, [pattern(100), pattern(LARGE)].concat());
        },
        |mut peer| {
            peer.write_all(b"!").unwrap();
            peer.read_exact(&mut [0]).unwrap();
            peer.write_all(&pattern(100)).unwrap();
            peer.write_all(&pattern(LARGE)).unwrap();
        },
    );
}

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
fn unread_bytes_wait_in_the_kernel_and_arrive_completely() {
    on_every_engine(
        |stream| async move {
            let mut socket = socket(stream);
            let mut inbound = Inbound::default();
            // Reads once, then pauses while the peer sends all it can.
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
fn accepted_bytes_are_sent_although_the_socket_is_dropped_at_once() {
    on_every_engine(
        |stream| async move {
            let mut socket = socket(stream);
            send_all(&mut socket, b"last bytes").await;
        },
        |mut peer| {
            let mut received = String::new();
            peer.read_to_string(&mut received).unwrap();
            assert_eq!(received, "last bytes");
        },
    );
}

#[test]
fn a_slow_reader_receives_everything_in_order() {
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
            // Bytes unsent when the socket was dropped may be lost, but none before them.
            assert!(all == pattern(LARGE)[..all.len()]);
            assert!(all.len() >= LARGE - 500_000, "{}", all.len());
        },
    );
}

/// Set by the peer when it has noticed the end.
static IS_GONE: AtomicBool = AtomicBool::new(false);

#[test]
fn a_peer_that_never_reads_does_not_keep_a_dropped_socket_open() {
    // Blocks that the kernel accepts as a whole or not at all, and blocks that it accepts in part.
    for block_bytes in [10_000, 250_000] {
        BLOCK_BYTES.store(block_bytes, Ordering::Release);
        on_every_engine(
            |stream| async move {
                IS_GONE.store(false, Ordering::Release);
                let mut socket = socket(stream);
                poll_fn(|cx| {
                    // Until no more bytes are accepted.
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
                // Notices the end without reading a byte.
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
fn a_socket_that_was_just_moved_can_move_again() {
    on_every_engine(
        |stream| async move {
            let mut fd = socket(stream).detach().await.unwrap();
            for _ in 0..3 {
                // With epoll, an unread socket counted as in use and was closed.
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
fn a_socket_with_unread_bytes_cannot_be_moved() {
    on_every_engine(
        |stream| async move {
            let mut socket = socket(stream);
            let mut inbound = Inbound::default();
            poll_fn(|cx| socket.poll_recv(cx, &mut inbound)).await.unwrap();
            // The remaining bytes and the end are reported soon.
            let limit = Duration::from_secs(20);
            let reported = timers::timeout(limit, async {
                while !socket.has_pending_input() {
                    timers::sleep(Duration::from_millis(1)).await;
                }
            });
            reported.await.unwrap();
            assert!(socket.detach().await.is_err());
        },
        |mut peer| peer.write_all(b"something").unwrap(),
    );
}

#[test]
fn an_idle_socket_notices_its_end_after_a_move() {
    on_every_engine(
        |stream| async move {
            let moving = SocketInTransit::pack(&mut Stream::Plain(socket(stream))).await.unwrap();
            let (mut stream, _) = moving.unpack().unwrap();
            stream.send_all(b"go").await.unwrap();
            // With io_uring, no receive was submitted before the first read.
            let noticed = timers::timeout(Duration::from_secs(20), async {
                while !stream.has_pending_input() {
                    timers::sleep(Duration::from_millis(1)).await;
                }
            });
            noticed.await.unwrap();
        },
        |mut peer| peer.read_exact(&mut [0; 2]).unwrap(),
    );
}

/// The completion of a send is not waited for with the next event, unless a task needs it.
#[test]
fn a_task_that_waits_for_room_needs_no_other_event() {
    on_every_engine(
        |stream| async move {
            let mut socket = socket(stream);
            for _ in 0..200 {
                send_all(&mut socket, b"some").await;
                // The peer answers only the last one: nothing else wakes this task.
                let settled = poll_fn(|_| socket.poll_settled());
                timers::timeout(Duration::from_secs(10), settled).await.expect("no wake-up").unwrap();
            }
            let mut inbound = Inbound::default();
            assert_eq!(poll_fn(|cx| socket.poll_recv(cx, &mut inbound)).await.unwrap(), 1);
        },
        |mut peer| {
            peer.read_exact(&mut [0; 800]).unwrap();
            peer.write_all(b"!").unwrap();
        },
    );
}

#[test]
fn a_socket_that_is_closed_after_a_send_is_closed_at_once() {
    on_every_engine(
        |stream| async move {
            let mut socket = socket(stream);
            send_all(&mut socket, b"last words").await;
            drop(socket);
            // The peer reads the end before this worker has another event.
            timers::sleep(Duration::from_secs(3)).await;
        },
        |mut peer| {
            let began = std::time::Instant::now();
            let mut text = String::new();
            peer.read_to_string(&mut text).unwrap();
            assert_eq!(text, "last words");
            assert!(began.elapsed() < Duration::from_secs(3), "closed with the next event only");
        },
    );
}

/// Bytes that the peer of a connection that moves sends at a time.
const CHUNK: usize = 50_000;

#[test]
fn a_connection_that_moves_keeps_its_order_of_bytes_in_both_directions() {
    on_every_engine(
        |stream| async move {
            let mut connection = Stream::Plain(socket(stream));
            let (mut all, mut answered) = (Vec::new(), 0);
            while all.len() < LARGE {
                let moved = SocketInTransit::pack_with_input(&mut connection).await.unwrap();
                let (stream, mut received) = moved.unpack().unwrap();
                connection = stream;
                if received.is_empty() {
                    poll_fn(|cx| connection.poll_recv(cx, &mut received)).await.unwrap();
                }
                all.extend_from_slice(received.bytes());
                // More answers than the peer reads would fill its socket, while it waits for room in ours.
                if all.len() / CHUNK > answered {
                    answered = all.len() / CHUNK;
                    connection.send_all(b"next").await.unwrap();
                }
            }
            assert!(all == pattern(LARGE));
        },
        |mut peer| {
            for chunk in pattern(LARGE).chunks(CHUNK) {
                peer.write_all(chunk).unwrap();
                peer.read_exact(&mut [0; 4]).unwrap();
            }
        },
    );
}

/// As [`on_every_engine`] over TCP, since the low-water mark is a feature of TCP.
fn over_tcp<F: Future<Output = ()> + 'static>(test: fn(Socket) -> F, peer: fn(TcpStream)) {
    for engine in [EngineKind::Epoll, EngineKind::IoUring] {
        if engine == EngineKind::IoUring && !has_ring() {
            continue;
        }
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (theirs, _) = listener.accept().unwrap();
        let peer = std::thread::spawn(move || peer(theirs));
        let worker = std::thread::spawn(move || {
            let run = async move {
                ours.set_nonblocking(true).unwrap();
                test(Socket::new(ours.into()).unwrap()).await;
            };
            worker::run(engine, run).unwrap();
        });
        worker.join().unwrap();
        peer.join().unwrap();
    }
}

async fn receive_in_time(socket: &mut Socket, into: &mut Inbound) -> usize {
    let receiving = poll_fn(|cx| socket.poll_recv(cx, into));
    timers::timeout(Duration::from_secs(10), receiving).await.expect("bytes that wait for more").unwrap()
}

#[test]
fn the_last_bytes_of_a_flow_do_not_wait_for_more() {
    over_tcp(
        |mut socket| async move {
            let mut all = Vec::new();
            let mut inbound = Inbound::default();
            while all.len() < LARGE {
                receive_in_time(&mut socket, &mut inbound).await;
                all.extend_from_slice(inbound.bytes());
                inbound.clear();
                socket.begin_flow();
            }
            assert!(all == pattern(LARGE));
            send_all(&mut socket, b"end").await;
        },
        |mut peer| {
            // It does not close the connection, whose end would be reported.
            for chunk in pattern(LARGE).chunks(8192) {
                peer.write_all(chunk).unwrap();
            }
            peer.read_exact(&mut [0; 3]).unwrap();
        },
    );
}

#[test]
fn a_flow_does_not_end_with_the_few_bytes_that_follow_a_receive() {
    const MUCH: usize = 100_000;
    const FEW: usize = 8192;
    over_tcp(
        |mut socket| async move {
            let (mut inbound, mut received) = (Inbound::default(), 0);
            while received < MUCH {
                socket.begin_flow();
                received += receive_in_time(&mut socket, &mut inbound).await;
                inbound.clear();
            }
            socket.begin_flow();
            // No turn of the worker from here: after a while it would have the socket read anyway.
            rustix::io::write(&socket, b"?").unwrap();
            while rustix::io::ioctl_fionread(&socket).unwrap() < FEW as u64 {
                std::thread::yield_now();
            }
            let once = poll_fn(|cx| Poll::Ready(socket.poll_recv(cx, &mut inbound).is_pending()));
            assert!(once.await && socket.0.has_flow());
            assert_eq!(receive_in_time(&mut socket, &mut inbound).await, FEW);
        },
        |mut peer| {
            peer.write_all(&[7; MUCH]).unwrap();
            peer.read_exact(&mut [0]).unwrap();
            peer.write_all(&[7; FEW]).unwrap();
        },
    );
}

#[test]
fn short_answers_after_a_flow_arrive_one_by_one() {
    over_tcp(
        |mut socket| async move {
            for turn in 0..100 {
                if turn % 3 == 0 {
                    socket.begin_flow();
                }
                send_all(&mut socket, b"?").await;
                let mut inbound = Inbound::default();
                assert_eq!(receive_in_time(&mut socket, &mut inbound).await, 6);
                assert_eq!(inbound.bytes(), b"answer");
                if turn % 2 == 0 {
                    socket.end_flow();
                }
            }
        },
        |mut peer| {
            for _ in 0..100 {
                peer.read_exact(&mut [0]).unwrap();
                peer.write_all(b"answer").unwrap();
            }
        },
    );
}

#[test]
fn the_end_of_the_stream_is_noticed_during_and_after_a_flow() {
    over_tcp(
        |mut socket| async move {
            let mut inbound = Inbound::default();
            assert!(receive_in_time(&mut socket, &mut inbound).await > 0);
            socket.begin_flow();
            let mut received = inbound.len();
            loop {
                let mut inbound = Inbound::default();
                match receive_in_time(&mut socket, &mut inbound).await {
                    0 => break,
                    n => received += n,
                }
            }
            assert_eq!(received, 100_000);
        },
        |mut peer| peer.write_all(&[7; 100_000]).unwrap(),
    );
}

/// Each test process may open as many files as the system allows.
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
}

/// More than the ring has blocks, and requests in its submission queue.
const MANY_SOCKETS: usize = 1500;

/// Regression test: a worker submitted the receives that had found no block again and again, within one wait.
#[test]
fn bytes_of_more_sockets_than_the_ring_has_requests_arrive() {
    if !has_ring() {
        return;
    }
    raise_file_limit();
    let (done, is_done) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let received = Rc::new(Cell::new(0));
        worker::run(EngineKind::IoUring, async move {
            let (mut peers, all) = (Vec::new(), Rc::new(worker::notify::Notify::default()));
            for _ in 0..MANY_SOCKETS {
                let (ours, mut theirs) = UnixStream::pair().unwrap();
                theirs.write_all(b"request").unwrap();
                peers.push(theirs);
                let (received, all) = (received.clone(), all.clone());
                executor::spawn(async move {
                    let (mut socket, mut inbound) = (socket(ours), Inbound::default());
                    while inbound.len() < b"request".len() {
                        assert!(poll_fn(|cx| socket.poll_recv(cx, &mut inbound)).await.unwrap() > 0);
                    }
                    received.set(received.get() + 1);
                    if received.get() == MANY_SOCKETS {
                        all.notify_all();
                    }
                });
            }
            all.wait().await;
        })
        .unwrap();
        done.send(()).unwrap();
    });
    is_done.recv_timeout(Duration::from_secs(60)).expect("all of them receive");
}

/// Sockets that receive at the same time.
const SOME_SOCKETS: usize = 400;

/// Regression test: the kernel reported 20 of them per wait, so that the last one was served twenty turns later.
#[test]
fn bytes_that_arrive_together_are_served_in_the_same_turn() {
    if !has_ring() {
        return;
    }
    raise_file_limit();
    let work = || async {
        let received = Rc::new(Cell::new(0));
        let mut peers = Vec::new();
        for _ in 0..SOME_SOCKETS {
            let (ours, theirs) = UnixStream::pair().unwrap();
            peers.push(theirs);
            let received = received.clone();
            executor::spawn(async move {
                let (mut socket, mut inbound) = (socket(ours), Inbound::default());
                assert!(poll_fn(|cx| socket.poll_recv(cx, &mut inbound)).await.unwrap() > 0);
                received.set(received.get() + 1);
            });
        }
        // They are submitted with the next wait.
        executor::yield_now().await;
        executor::yield_now().await;
        peers.iter_mut().for_each(|peer| peer.write_all(b"request").unwrap());
        let mut turns = 0;
        while received.get() < SOME_SOCKETS {
            executor::yield_now().await;
            turns += 1;
        }
        // A few more if the machine had no blocks in time.
        assert!(turns <= 5, "{turns} turns");
    };
    std::thread::spawn(move || worker::run(EngineKind::IoUring, work()).unwrap()).join().unwrap();
}
