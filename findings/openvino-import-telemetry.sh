#!/usr/bin/env bash
# `import openvino` alone reports to www.google-analytics.com, and writes an identifier into the home folder.
#
# pip installs openvino-telemetry with openvino. The import sends the event "import", before any function is called and without a
# word. A proxy on this machine notes here where it would have gone, and lets nothing through.
# Safe: `sys.modules["openvino_telemetry"] = None` before the import, as SAFRON does, or `opt_in_out --opt_out` once for each user.
#
# Seen on 2026-11-29 with openvino 2026.4.1 and openvino-telemetry 2025.2.0:
#   asked for: www.google-analytics.com:443
#   written: intel/openvino_ga_cid, intel/stats
#   without openvino_telemetry: asked for nothing, wrote nothing
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check openvino==2026.4.1 openvino-telemetry==2025.2.0 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import os
import socket
import subprocess
import sys
import threading
from importlib.metadata import version
from pathlib import Path

print(f"openvino {version('openvino')}, openvino-telemetry {version('openvino-telemetry')}")
asked = []


def note(server):
    while True:
        connection, _ = server.accept()
        asked.append(connection.recv(4096).split()[1].decode())
        connection.close()


server = socket.create_server(("127.0.0.1", 0))
threading.Thread(target=note, args=(server,), daemon=True).start()


def run(name, code):
    """Import in a process with a home folder of its own; say what it asked for and wrote."""
    home = Path(name).absolute()
    home.mkdir()
    asked.clear()
    proxy = f"http://127.0.0.1:{server.getsockname()[1]}"
    quiet = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy") and key != "CI"}
    environment = quiet | {"HOME": str(home), "https_proxy": proxy, "http_proxy": proxy}
    subprocess.run([sys.executable, "-c", code + "; import openvino, time; time.sleep(5)"], env=environment, check=True)
    return sorted(set(asked)), sorted(str(file.relative_to(home)) for file in home.rglob("*") if file.is_file())


hosts, files = run("plain", "pass")
print(f"asked for: {', '.join(hosts) or 'nothing'}")
print(f"written: {', '.join(files) or 'nothing'}")
without = run("without", "import sys; sys.modules['openvino_telemetry'] = None")
print(f"without openvino_telemetry: asked for {', '.join(without[0]) or 'nothing'}, wrote {', '.join(without[1]) or 'nothing'}")
if not hosts or not files or any(without):
    sys.exit("changed: see the head of this script")
PYTHON
