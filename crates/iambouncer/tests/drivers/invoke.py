# Stands for Lambda: calls the handler for each event it is given, in one process, and prints what it returns.

import json
import sys

from lambda_function import lambda_handler

for event in sys.argv[1:]:
    print(json.dumps(lambda_handler(json.loads(event), None)))
