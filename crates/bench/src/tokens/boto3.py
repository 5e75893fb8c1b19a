"""The boto3 side of `bench --tokens`. Owns minting on request and measuring its time; never decides how often.

Reads lines of tab-separated fields, and answers each with one line:
    target HOST PORT USER REGION     the versions, for the report
    key ID SECRET SESSION_TOKEN      the number of keys so far; the last field may be empty
    mint KEY COUNT                   nanoseconds for all tokens, and the last token
"""

import platform
import sys
import time

import boto3
import botocore


def client_of(region, access_key_id, secret, session_token):
    return boto3.client(
        "rds",
        region_name=region,
        aws_access_key_id=access_key_id,
        aws_secret_access_key=secret,
        aws_session_token=session_token or None,
    )


def mint(client, target, count):
    host, port, user, region = target
    start = time.perf_counter_ns()
    for _ in range(count):
        token = client.generate_db_auth_token(DBHostname=host, Port=int(port), DBUsername=user, Region=region)
    return time.perf_counter_ns() - start, token


def main():
    target, clients = None, []
    for line in sys.stdin:
        word, *fields = line.rstrip("\n").split("\t")
        if word == "target":
            target = fields
            answer = f"boto3 {boto3.__version__}, botocore {botocore.__version__}, Python {platform.python_version()}"
        elif word == "key":
            clients.append(client_of(target[3], *fields))
            answer = len(clients)
        else:
            nanoseconds, token = mint(clients[int(fields[0])], target, int(fields[1]))
            answer = f"{nanoseconds}\t{token}"
        print(answer, flush=True)


main()
