# Everyday use of a pooler by Python applications: prepared statements, pipelines, COPY, large results,
# cursors, and a canceled query. The PG* variables give the server. Prints one line if every check passed.

import threading
import time

import psycopg

TIMEOUT_SECONDS = 20


def prepared_statements(connection):
    for number in range(20):
        query = connection.execute("SELECT %s::int * 2", (number,), prepare=True)
        assert query.fetchone() == (number * 2,)


def a_pipeline(connection):
    with connection.pipeline():
        cursors = [connection.execute("SELECT %s::int", (number,)) for number in range(100)]
    assert [cursor.fetchone()[0] for cursor in cursors] == list(range(100))
    try:
        with connection.pipeline():
            connection.execute("SELECT 1")
            connection.execute("SELECT 1 / 0")
            connection.execute("SELECT 2")
        raise AssertionError("no error")
    except psycopg.errors.DivisionByZero:
        assert connection.execute("SELECT 3").fetchone() == (3,)


def copy_there_and_back(connection):
    rows = [(number, "tab\there" * 10) for number in range(10_000)]
    with connection.transaction(), connection.cursor() as cursor:
        cursor.execute("CREATE TEMPORARY TABLE lines (number int, line text) ON COMMIT DROP")
        with cursor.copy("COPY lines FROM STDIN") as copy:
            for row in rows:
                copy.write_row(row)
        with cursor.copy("COPY (SELECT * FROM lines ORDER BY number) TO STDOUT") as copy:
            copy.set_types(["int4", "text"])
            assert list(copy.rows()) == rows


def a_large_result_piece_by_piece(connection):
    with connection.transaction(), connection.cursor(name="pieces") as cursor:
        cursor.execute("SELECT n, repeat('x', 1000) FROM generate_series(1, 10000) AS n")
        seen = 0
        for n, filling in cursor:
            seen += 1
            assert n == seen and len(filling) == 1000
    assert seen == 10_000


def a_query_that_is_cancelled(connection):
    def cancel_when_it_runs():
        with psycopg.connect(autocommit=True) as observer:
            running = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query = %s"
            deadline = time.monotonic() + TIMEOUT_SECONDS
            while observer.execute(running, (query,)).fetchone() == (0,):
                assert time.monotonic() < deadline, "it never ran"
        connection.cancel_safe(timeout=TIMEOUT_SECONDS)

    query = "SELECT pg_sleep(60) AS everyday"
    other = threading.Thread(target=cancel_when_it_runs)
    other.start()
    try:
        connection.execute(query)
        raise AssertionError("it was not cancelled")
    except psycopg.errors.QueryCanceled:
        pass
    other.join()
    assert connection.execute("SELECT 4").fetchone() == (4,)


with psycopg.connect(autocommit=True) as connection:
    prepared_statements(connection)
    a_pipeline(connection)
    copy_there_and_back(connection)
    a_large_result_piece_by_piece(connection)
    a_query_that_is_cancelled(connection)
print("all right")
