# Everyday use of psycopg 3, with its defaults; PG* variables give the server. Prints the results as one line.

import datetime

import psycopg
from psycopg import errors

from everyday import BATCH, COPIED, EXECUTIONS, LARGE, TABLE, cancelled, in_threads, large

TIMEOUT_SECONDS = 20


def prepared(connection, client, servers):
    total = 0
    for number in range(EXECUTIONS):
        # Without `prepare`, psycopg prepares a query that is executed the sixth time.
        row = connection.execute(f"SELECT pg_backend_pid(), %s::int + {client}", (number,)).fetchone()
        servers.add(row[0])
        total += row[1]
    for number in range(EXECUTIONS):
        query = connection.execute("SELECT %s::int * 2", (number,), prepare=True)
        assert query.fetchone() == (number * 2,)
    return total


def types(connection):
    values = (None, True, 9007199254740993, "Grüße €", b"\x00\xff", [1, None, 3])
    row = connection.execute(
        "SELECT %s::int, %s::bool, %s::bigint, %s::text, %s::bytea, %s::int[], 1.50::numeric,"
        " '2024-02-29 12:34:56+00'::timestamptz, 2.5::float8, '{\"a\": [1, null]}'::jsonb",
        values,
    ).fetchone()
    assert isinstance(row[7], datetime.datetime)
    return [*row[:2], str(row[2]), row[3], row[4].hex(), row[5], str(row[6]), int(row[7].timestamp()), *row[8:]]


def batch(connection, client):
    with connection.pipeline():
        cursors = [
            connection.execute(f"INSERT INTO {TABLE} VALUES (%s, %s) RETURNING number", (client, number))
            for number in BATCH
        ]
    assert [cursor.fetchone()[0] for cursor in cursors] == list(BATCH)
    try:
        with connection.pipeline():
            connection.execute("SELECT 1")
            connection.execute("SELECT 1 / 0")
            connection.execute("SELECT 2")
        raise AssertionError("no error")
    except errors.DivisionByZero:
        assert connection.execute("SELECT 3").fetchone() == (3,)
    return len(cursors)


def transactions(connection, client):
    insert = f"INSERT INTO {TABLE} VALUES (%s, %s)"
    with connection.transaction():
        connection.execute(insert, (client, 1))
    with connection.transaction(force_rollback=True):
        connection.execute(insert, (client, 2))
    rows = connection.execute(f"SELECT number FROM {TABLE} WHERE client = %s AND number < 10", (client,))
    return [number for number, in rows]


def failing(connection, query, *values):
    try:
        connection.execute(query, *values)
    except psycopg.Error as error:
        return error.sqlstate


def failures(connection):
    try:
        with connection.transaction():
            states = [failing(connection, "SELECT 1 / 0"), failing(connection, "SELECT 1")]
            raise psycopg.Rollback
    finally:
        assert connection.execute("SELECT 3").fetchone() == (3,)
    for divisor in [1] * EXECUTIONS:
        connection.execute("SELECT 1 / %s::int", (divisor,))
    return states + [failing(connection, "SELECT 1 / %s::int", (0,))]


def copies(connection, client):
    with connection.cursor() as cursor:
        with cursor.copy(f"COPY {TABLE} FROM STDIN") as copy:
            for number in COPIED:
                copy.write_row((client, number))
        query = f"SELECT number FROM {TABLE} WHERE client = {client} AND number >= {COPIED[0]}"
        with cursor.copy(f"COPY ({query}) TO STDOUT") as copy:
            copy.set_types(["int4"])
            numbers = [number for number, in copy.rows()]
    return [len(numbers), sum(numbers)]


def copies_of_text(connection):
    rows = [(number, "tab\there" * 10) for number in COPIED]
    with connection.transaction(), connection.cursor() as cursor:
        cursor.execute("CREATE TEMPORARY TABLE lines (number int, line text) ON COMMIT DROP")
        with cursor.copy("COPY lines FROM STDIN") as copy:
            for row in rows:
                copy.write_row(row)
        with cursor.copy("COPY (SELECT * FROM lines ORDER BY number) TO STDOUT") as copy:
            copy.set_types(["int4", "text"])
            assert list(copy.rows()) == rows


def large_in_pieces(connection):
    with connection.transaction(), connection.cursor(name="pieces") as cursor:
        cursor.execute(LARGE)
        return large(cursor)


def results(client, wait_for_the_others):
    servers = set()
    with psycopg.connect(autocommit=True) as connection:
        wait_for_the_others()
        steps = {
            "simple": list(connection.execute("SELECT 1, 'one'").fetchone()),
            "prepared": prepared(connection, client, servers),
            "types": types(connection),
            "batch": batch(connection, client),
            "transactions": transactions(connection, client),
            "errors": failures(connection),
            "copied": copies(connection, client),
            "large": large(connection.execute(LARGE)),
        }
        copies_of_text(connection)
        assert large_in_pieces(connection) == steps["large"]
        cancel = lambda: connection.cancel_safe(timeout=TIMEOUT_SECONDS)
        steps["cancelled"] = cancelled(connection, cancel, psycopg.Error).sqlstate == "57014"
        steps["after cancel"] = connection.execute("SELECT 4").fetchone()[0]
    with psycopg.connect(autocommit=True) as connection:
        steps["reconnected"] = prepared(connection, client, servers)
    return {**steps, "servers": sorted(servers)}


in_threads(results)
