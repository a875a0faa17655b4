"""A stand-in for JupyterLab that misbehaves on demand. Run in its place, with the behaviour in FAKE_JUPYTER_SERVER.

good      announces its port and answers /api/status to the token
halting   as good, but its file is broken at first and its first answers are errors
open      answers without the token, too
refusing  answers 403 to everything
silent    never announces a port
dying     writes its token to its standard streams and ends with exit code 3
"""

from __future__ import annotations

import http.server
import json
import os
import sys
import time
from pathlib import Path


def main() -> None:
    behaviour = os.environ["FAKE_JUPYTER_SERVER"]
    token = Path(os.environ["JUPYTER_TOKEN_FILE"]).read_text()
    options = dict(argument.split("=", 1) for argument in sys.argv if "=" in argument)
    print(f"starting http://127.0.0.1/lab?token={token}", flush=True)
    if behaviour == "dying":
        sys.exit(3)
    if behaviour == "silent":
        time.sleep(3600)
    asked = 0

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            nonlocal asked
            asked += 1
            known = self.headers.get("Authorization") == f"token {token}" or behaviour == "open"
            status = 200 if known and behaviour != "refusing" else 403
            if behaviour == "halting" and asked < 3:
                status = 503
            self.send_response(status)
            self.end_headers()

    server = http.server.HTTPServer(("127.0.0.1", int(options["--ServerApp.port"])), Handler)
    file = Path(os.environ["JUPYTER_RUNTIME_DIR"]) / f"jpserver-{os.getpid()}.json"
    if behaviour == "halting":
        file.write_text('{"port":')
        time.sleep(0.2)
    file.write_text(json.dumps({"port": server.server_port}))
    server.serve_forever()


if __name__ == "__main__":
    main()
