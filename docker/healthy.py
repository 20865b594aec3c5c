#!/opt/stream-al/bin/python -IS
"""The image's health check: exit 0 if the process in this container answers, and says that it is alive.

``healthy /readyz`` asks whether it does its work. The port is that of ``STREAM_AL_HTTP__PORT``.
"""

import http.client
import os
import sys


def main() -> int:
    path = sys.argv[1] if len(sys.argv) > 1 else "/healthz"
    port = int(os.environ.get("STREAM_AL_HTTP__PORT", "9108"))
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=3)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        print(answer.read(4096).decode("utf-8", "replace"))
    except (OSError, http.client.HTTPException) as why:
        print(f"no answer on port {port}: {why}")
        return 1
    return 0 if answer.status == 200 else 1


if __name__ == "__main__":
    sys.exit(main())
