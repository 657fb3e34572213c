"""Indexing, searching and serving need no network: they are done where there is none."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import SAMPLES

_WALK = """
import fcntl, json, socket, struct, subprocess, sys, time, urllib.error, urllib.request

samples, index = sys.argv[1:]
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as door:  # a new namespace's own loopback is down
    fcntl.ioctl(door, 0x8914, struct.pack("16sH22x", b"lo", 1))  # SIOCSIFFLAGS, IFF_UP
    try:
        door.connect(("192.0.2.1", 53))
        sys.exit("there is a network, so this shows nothing")
    except OSError:
        pass
semsearch = [sys.executable, "-m", "semsearch.cli"]
indexed = subprocess.run([*semsearch, "index", samples, "--index", index], check=True, capture_output=True, text=True)
print(indexed.stdout)
question = "how do bacteria defend themselves against viruses"
found = subprocess.run([*semsearch, "search", question, "--index", index, "--json"], check=True, capture_output=True)
printed = json.loads(found.stdout)["results"]
server = subprocess.Popen([*semsearch, "serve", "--index", index, "--port", "0"], stdout=subprocess.PIPE, text=True)
try:
    url = server.stdout.readline().strip().rsplit(" ", 1)[-1]
    for _ in range(600):
        try:
            urllib.request.urlopen(url + "/readyz", timeout=10).close()
            break
        except urllib.error.HTTPError as error:
            error.close()
            time.sleep(0.2)
    served = json.load(urllib.request.urlopen(url + "/search?q=" + question.replace(" ", "+"), timeout=60))["results"]
finally:
    server.terminate()
    server.wait(timeout=30)
assert printed == served, "the command line and the service give one answer"
print("first:", served[0]["paper"]["id"])
"""


def test_the_walk_from_files_to_a_served_answer_needs_no_network(tmp_path: Path) -> None:
    alone = ["unshare", "--map-root-user", "--net"]
    if not shutil.which("unshare") or subprocess.run([*alone, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no network namespace can be made here")
    command = [*alone, sys.executable, "-c", _WALK, str(SAMPLES), str(tmp_path / "index")]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    assert "96 new" in done.stdout
    assert "first: doi:10.1126/science.1225829" in done.stdout
