"""A client: python examples/serving/client.py [URL]."""

import json
import sys
import urllib.request

url = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000"
rows = [[0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8], [0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1]]
tensor = {"name": "features", "datatype": "FP32", "shape": [2, 8], "data": rows}
request = urllib.request.Request(f"{url}/v2/models/model/infer", json.dumps({"inputs": [tensor]}).encode())
answer = json.load(urllib.request.urlopen(request))
print(answer["outputs"][0])
