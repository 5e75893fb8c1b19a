# Plays Lambda's part: calls the handler once per event argument, all in one process, and prints the results.

import json
import sys

from lambda_function import lambda_handler

for event in sys.argv[1:]:
    print(json.dumps(lambda_handler(json.loads(event), None)))
