//! How asyncpg and psycopg listen, through the shared listener.

use super::{direct, run, shared, with_servers};
use crate::support::drivers::{libpq_environment, python};
use crate::support::program::to_end;
use std::thread;

/// Several listeners and a sender of each driver, more than the pool has servers. Each prints what it has received.
const PROGRAM: &str = r#"
import asyncio, asyncpg, psycopg, sys

async def main():
    received = []
    listeners = [await asyncpg.connect() for _ in range(4)]
    for connection in listeners:
        await connection.add_listener("driver_channel", lambda c, pid, channel, text: received.append(text))
    others = [psycopg.connect(autocommit=True) for _ in range(4)]
    for connection in others:
        connection.execute("LISTEN driver_channel")
    print("ready", flush=True)
    sys.stdin.readline()
    # In a transaction, as drivers send it, and by one that listens itself.
    with psycopg.connect() as connection:
        connection.execute("SELECT pg_notify(%s, %s)", ("driver_channel", "from psycopg"))
    await listeners[0].execute("SELECT pg_notify($1, $2)", "driver_channel", "from asyncpg")
    while len(received) < 8:
        await asyncio.sleep(0.01)
    for connection in others:
        texts = [n.payload for n in connection.notifies(timeout=10, stop_after=2)]
        assert texts == ["from psycopg", "from asyncpg"], texts
    assert received.count("from asyncpg") == 4, received
    assert await listeners[1].fetchval("SELECT 1") == 1
    for connection in listeners:
        await connection.reset()
    for connection in listeners:
        await connection.close()
    print("done", flush=True)

asyncio.run(main())
"#;

#[test]
fn asyncpg_and_psycopg_receive_notifications_while_idle() {
    let bouncer = with_servers(3, &["workers = 2"]);
    let mut command = python("python3");
    command.args(["-c", PROGRAM]).envs(libpq_environment(&bouncer, "secret"));
    let (reader, writer) = std::io::pipe().unwrap();
    command.stdin(reader);
    let program = thread::spawn(move || to_end(&mut command));
    shared(&bouncer);
    super::eventually("all listen", || bouncer.show("CLIENTS", "state").len() >= 9);
    shared(&bouncer);
    std::io::Write::write_all(&mut { writer }, b"go\n").unwrap();
    let output = program.join().unwrap();
    assert_eq!(output.code, Some(0), "{output:?}");
    // Its connections have left nothing.
    run(&mut direct(), &["NOTIFY driver_channel"]);
    assert_eq!(bouncer.client().value("SELECT count(*) FROM pg_listening_channels()"), "0");
}
