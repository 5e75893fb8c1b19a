"""PostgreSQL's parser (libpg_query, in the package pglast) for the test: texts on the standard input, each as its length in bytes on
a line of its own and the text; for each one a line of JSON with the tree and the quoted tokens, or null if it is refused."""

import json
import sys

from pglast import Error, parser

QUOTED = {"SCONST", "USCONST", "BCONST", "XCONST", "IDENT", "UIDENT"}


def places(text):
    """The byte at which each character begins, and the length."""
    at, all_places = 0, []
    for character in text:
        all_places.append(at)
        at += len(character.encode())
    return all_places + [at]


def examine(text):
    try:
        tree = parser.parse_sql_json(text)
        tokens = parser.scan(text)
    except Error:
        return "null"
    begins = places(text)
    quoted = [
        [begins[token.start], begins[token.end + 1]]
        for token in tokens
        if token.name in QUOTED and (token.name != "IDENT" or text[token.start] == '"')
    ]
    return '{"tree": %s, "quoted": %s}' % (tree, json.dumps(quoted))


def main():
    source, out = sys.stdin.buffer, sys.stdout
    while line := source.readline():
        try:
            answer = examine(source.read(int(line)).decode())
        except UnicodeDecodeError:
            answer = "null"
        print(answer, file=out, flush=True)


main()
