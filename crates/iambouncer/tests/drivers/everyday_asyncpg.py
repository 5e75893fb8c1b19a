# Everyday use of asyncpg, with its defaults; PG* variables give the server. Prints the results as one line.

import asyncio
import io
import json

import asyncpg

from everyday import BATCH, CLIENTS, COPIED, EXECUTIONS, LARGE, SLEEP, TABLE, TOGETHER, large, print_results

# A query with a time limit is cancelled by the driver.
SLEEP_SECONDS = 0.5


async def prepared(connection, client, servers):
    total = 0
    for number in range(EXECUTIONS):
        # Each query is prepared and kept in the driver's cache.
        server, value = await connection.fetchrow(f"SELECT pg_backend_pid(), $1::int + {client}", number)
        servers.add(server)
        total += value
    return total


async def types(connection):
    values = (None, True, 9007199254740993, "Grüße €", b"\x00\xff", [1, None, 3])
    row = await connection.fetchrow(
        "SELECT $1::int, $2::bool, $3::bigint, $4::text, $5::bytea, $6::int[], 1.50::numeric,"
        " '2024-02-29 12:34:56+00'::timestamptz, 2.5::float8, '{\"a\": [1, null]}'::jsonb",
        *values,
    )
    fields = [*row[:2], str(row[2]), row[3], row[4].hex(), row[5], str(row[6]), int(row[7].timestamp()), row[8]]
    # The driver returns JSON as text.
    return [*fields, json.loads(row[9])]


async def batch(connection, client):
    await connection.executemany(f"INSERT INTO {TABLE} VALUES ($1, $2)", [(client, number) for number in BATCH])
    count = f"SELECT count(*) FROM {TABLE} WHERE client = $1 AND number >= 100"
    return await connection.fetchval(count, client)


async def transactions(connection, client):
    insert = f"INSERT INTO {TABLE} VALUES ($1, $2)"
    async with connection.transaction():
        await connection.execute(insert, client, 1)
    transaction = connection.transaction()
    await transaction.start()
    await connection.execute(insert, client, 2)
    await transaction.rollback()
    rows = await connection.fetch(f"SELECT number FROM {TABLE} WHERE client = $1 AND number < 10", client)
    return [number for number, in rows]


async def failing(connection, query, *values):
    try:
        await connection.fetchval(query, *values)
    except asyncpg.PostgresError as error:
        return error.sqlstate


async def failures(connection):
    transaction = connection.transaction()
    await transaction.start()
    states = [await failing(connection, "SELECT 1 / 0"), await failing(connection, "SELECT 1")]
    await transaction.rollback()
    assert await connection.fetchval("SELECT 3") == 3
    assert await connection.fetchval("SELECT 1 / $1::int", 1) == 1
    return states + [await failing(connection, "SELECT 1 / $1::int", 0)]


async def copies(connection, client):
    await connection.copy_records_to_table(TABLE, records=[(client, number) for number in COPIED])
    query = f"SELECT number FROM {TABLE} WHERE client = $1 AND number >= {COPIED[0]}"
    output = io.BytesIO()
    await connection.copy_from_query(query, client, output=output)
    numbers = [int(line) for line in output.getvalue().splitlines()]
    return [len(numbers), sum(numbers)]


async def large_results(connection):
    async with connection.transaction():
        in_pieces = [row async for row in connection.cursor(LARGE)]
    whole = large(await connection.fetch(LARGE))
    assert large(in_pieces) == whole
    return whole


async def cancelled(connection):
    # In a transaction the query need not wait for a server, so it runs when the time is over.
    async with connection.transaction():
        await connection.fetchval("SELECT 1")
        try:
            await connection.execute(SLEEP, timeout=SLEEP_SECONDS)
        except asyncio.TimeoutError:
            # The driver reports its own error in place of the server's; the transaction has failed nevertheless.
            return await failing(connection, "SELECT 1") == "25P02"


async def results(client, barrier):
    servers = set()
    connection = await asyncpg.connect()
    await barrier.wait()
    steps = {
        "simple": list(await connection.fetchrow("SELECT 1, 'one'")),
        "prepared": await prepared(connection, client, servers),
        "types": await types(connection),
        "batch": await batch(connection, client),
        "transactions": await transactions(connection, client),
        "errors": await failures(connection),
        "copied": await copies(connection, client),
        "large": await large_results(connection),
    }
    steps["cancelled"] = await cancelled(connection)
    steps["after cancel"] = await connection.fetchval("SELECT 4")
    await connection.close()
    connection = await asyncpg.connect()
    steps["reconnected"] = await prepared(connection, client, servers)
    await connection.close()
    return {**steps, "servers": sorted(servers)}


async def main():
    barrier = asyncio.Barrier(CLIENTS if TOGETHER else 1)
    print_results(await asyncio.gather(*(results(client, barrier) for client in range(CLIENTS))))


asyncio.run(main())
