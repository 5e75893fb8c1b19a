# A Lambda function written for RDS Proxy: the AWS SDK makes a token, and the driver sends it as the password
# over TLS. It gets host names from its environment and does not depend on iambouncer.
#
# DB_HOST is the host the token is signed for. Most code uses one name for both, since tokens for a proxy are
# signed for the proxy.

import os

import boto3
import psycopg

PROXY_HOST = os.environ["PROXY_HOST"]
PROXY_PORT = int(os.environ["PROXY_PORT"])
DB_HOST = os.environ.get("DB_HOST", PROXY_HOST)
DB_PORT = int(os.environ.get("DB_PORT", PROXY_PORT))
DB_USER = os.environ["DB_USER"]

rds = boto3.client("rds", region_name=os.environ["AWS_REGION"])

# Kept between invocations for as long as Lambda keeps this process.
connection = None


def connect():
    token = rds.generate_db_auth_token(DBHostname=DB_HOST, Port=DB_PORT, DBUsername=DB_USER)
    return psycopg.connect(
        host=PROXY_HOST,
        port=PROXY_PORT,
        user=DB_USER,
        password=token,
        dbname=os.environ["DB_NAME"],
        sslmode="verify-full",
        sslrootcert=os.environ["DB_CA_FILE"],
        autocommit=True,
    )


def lambda_handler(event, context):
    global connection
    cold = connection is None or connection.closed
    if cold:
        connection = connect()
    item, quantity = event["item"], event["quantity"]
    user, twice = connection.execute("SELECT current_user, %s::int * 2", (quantity,)).fetchone()
    with connection.transaction():
        connection.execute("INSERT INTO orders (item, quantity) VALUES (%s, %s)", (item, quantity))
        query = "SELECT sum(quantity)::int FROM orders WHERE item = %s"
        (ordered,) = connection.execute(query, (item,)).fetchone()
    return {"user": user, "twice": twice, "ordered": ordered, "cold": cold}
