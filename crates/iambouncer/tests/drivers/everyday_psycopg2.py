# Everyday use of psycopg2, with its defaults; PG* variables give the server. Prints the results as one line.
# Its parameters are part of the query's text; an application that wants a prepared statement writes PREPARE.

import contextlib
import io

import psycopg2
from psycopg2.extras import execute_batch

from everyday import BATCH, COPIED, EXECUTIONS, LARGE, TABLE, cancelled, in_threads, large


def one(connection, query, values=None):
    with connection.cursor() as cursor:
        cursor.execute(query, values)
        return cursor.fetchone()


def repeated(connection, client, servers):
    total = 0
    for number in range(EXECUTIONS):
        server, value = one(connection, f"SELECT pg_backend_pid(), %s::int + {client}", (number,))
        servers.add(server)
        total += value
    # Without autocommit, the first query has begun a transaction.
    connection.commit()
    return total


def types(connection):
    values = (None, True, 9007199254740993, "Grüße €", b"\x00\xff", [1, None, 3])
    row = one(
        connection,
        "SELECT %s::int, %s::bool, %s::bigint, %s::text, %s::bytea, %s::int[], 1.50::numeric,"
        " '2024-02-29 12:34:56+00'::timestamptz, 2.5::float8, '{\"a\": [1, null]}'::jsonb",
        values,
    )
    connection.commit()
    return [*row[:2], str(row[2]), row[3], bytes(row[4]).hex(), row[5], str(row[6]), int(row[7].timestamp()), *row[8:]]


def batch(connection, client):
    with connection, connection.cursor() as cursor:
        execute_batch(cursor, f"INSERT INTO {TABLE} VALUES (%s, %s)", [(client, number) for number in BATCH])
    count = one(connection, f"SELECT count(*) FROM {TABLE} WHERE client = %s AND number >= 100", (client,))
    connection.commit()
    return count[0]


def transactions(connection, client):
    insert = f"INSERT INTO {TABLE} VALUES (%s, %s)"
    with connection, connection.cursor() as cursor:
        cursor.execute(insert, (client, 1))
    with connection.cursor() as cursor:
        cursor.execute(insert, (client, 2))
        connection.rollback()
        cursor.execute(f"SELECT number FROM {TABLE} WHERE client = %s AND number < 10", (client,))
        rows = cursor.fetchall()
    connection.commit()
    return [number for number, in rows]


def failing(connection, query):
    try:
        one(connection, query)
    except psycopg2.Error as error:
        return error.pgcode


def failures(connection):
    states = [failing(connection, "SELECT 1 / 0"), failing(connection, "SELECT 1")]
    connection.rollback()
    connection.autocommit = True
    assert one(connection, "SELECT 3") == (3,)
    states.append(failing(connection, "SELECT 1 / 0"))
    connection.autocommit = False
    return states


def copies(connection, client):
    lines = "".join(f"{client}\t{number}\n" for number in COPIED)
    query = f"SELECT number FROM {TABLE} WHERE client = {client} AND number >= {COPIED[0]}"
    output = io.StringIO()
    with connection, connection.cursor() as cursor:
        cursor.copy_expert(f"COPY {TABLE} FROM STDIN", io.StringIO(lines))
        cursor.copy_expert(f"COPY ({query}) TO STDOUT", output)
    numbers = [int(line) for line in output.getvalue().splitlines()]
    return [len(numbers), sum(numbers)]


def large_results(connection):
    with connection, connection.cursor() as cursor, connection.cursor("pieces") as pieces:
        cursor.execute(LARGE)
        pieces.execute(LARGE)
        whole = large(cursor)
        assert large(pieces) == whole
    return whole


def results(client, wait_for_the_others):
    servers = set()
    with contextlib.closing(psycopg2.connect("")) as connection:
        wait_for_the_others()
        steps = {
            "simple": list(one(connection, "SELECT 1, 'one'")),
            "prepared": repeated(connection, client, servers),
            "types": types(connection),
            "batch": batch(connection, client),
            "transactions": transactions(connection, client),
            "errors": failures(connection),
            "copied": copies(connection, client),
            "large": large_results(connection),
            "cancelled": cancelled(connection, connection.cancel, psycopg2.Error).pgcode == "57014",
        }
        connection.rollback()
        steps["after cancel"] = one(connection, "SELECT 4")[0]
        connection.commit()
    with contextlib.closing(psycopg2.connect("")) as connection:
        steps["reconnected"] = repeated(connection, client, servers)
    return {**steps, "servers": sorted(servers)}


in_threads(results)
