# What the everyday programs in Python share: their clients, constants and output. tests/it/everyday describes the
# steps, the arguments and the results.

import json
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

CLIENTS = 4
EXECUTIONS = 20
BATCH = range(100, 200)
COPIED = range(1000, 11_000)
LARGE = "SELECT n, repeat('x', 1000) FROM generate_series(1, 10000) AS n"
SLEEP = "SELECT pg_sleep(60)"
CANCEL_INTERVAL_SECONDS = 0.05
TABLE = sys.argv[1]
TOGETHER = sys.argv[2] == "together"


def in_threads(client_results):
    """Runs a function for each client in a thread of its own and prints the results."""
    barrier = threading.Barrier(CLIENTS if TOGETHER else 1)

    def run(client):
        try:
            return client_results(client, barrier.wait)
        except BaseException:
            barrier.abort()
            raise

    with ThreadPoolExecutor(CLIENTS) as threads:
        print_results(threads.map(run, range(CLIENTS)))


def print_results(results):
    print(json.dumps({"clients": list(results)}))


def cancelled(connection, cancel, error_type):
    """Cancels until the query ends, since a request that arrives before the query does nothing. Returns the error."""
    ended = threading.Event()

    def cancel_until_it_ends():
        while not ended.wait(CANCEL_INTERVAL_SECONDS):
            cancel()

    other = threading.Thread(target=cancel_until_it_ends)
    other.start()
    try:
        connection.cursor().execute(SLEEP)
        return None
    except error_type as error:
        return error
    finally:
        ended.set()
        other.join()


def large(rows):
    """Number of rows and characters, if the rows are those of `LARGE`."""
    seen = characters = 0
    for number, filling in rows:
        seen += 1
        assert number == seen
        characters += len(filling)
    return [seen, characters]
