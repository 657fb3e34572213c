"""The demo: index the papers that ship with semsearch, serve them, ask one question over HTTP, go on serving."""

import argparse
import json
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
INDEX = ROOT / "indexes" / "demo"
QUERY = "how do bacteria defend themselves against viruses?"
_PATIENCE_SECONDS = 180


def main() -> None:
    """Run the demo until Ctrl-C, or until its one answer with --once."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--port", type=int, default=8000, help="port on 127.0.0.1 (default: 8000; 0: any free one)")
    arguments.add_argument("--index", type=Path, default=INDEX, help="where the index goes (default: indexes/demo)")
    arguments.add_argument("--once", action="store_true", help="stop after the first answer")
    options = arguments.parse_args()

    semsearch = [sys.executable, "-m", "semsearch.cli"]
    subprocess.run(
        [*semsearch, "index", str(ROOT / "semsearch" / "samples"), "--index", str(options.index)], check=True
    )
    serve = [*semsearch, "serve", "--index", str(options.index), "--port", str(options.port)]
    server = subprocess.Popen(serve, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None, "its output was asked for"
        announced = server.stdout.readline().strip()
        if not announced:
            sys.exit("the service did not start; is the port taken? Try: scripts/demo --port 0")
        url = announced.rsplit(" ", 1)[-1]
        answer = ask(server, f"{url}/search?{urllib.parse.urlencode({'q': QUERY, 'limit': 3})}")
        print(f"\n{QUERY}")
        for result in answer["results"]:
            print(f"  {result['score']:.3f}  {result['paper']['title']}")
        print(f"\nOpen {url} and ask your own question. Ctrl-C stops.", flush=True)
        if not options.once:
            server.wait()
    except KeyboardInterrupt:
        pass
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait()


def ask(server: "subprocess.Popen[str]", url: str) -> dict[str, list[dict[str, dict[str, str]]]]:
    """Return the answer of the service, waiting while it is still loading its model."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=30) as response:
                answer: dict[str, list[dict[str, dict[str, str]]]] = json.load(response)
                return answer
        except urllib.error.HTTPError as error:
            if error.code != 503:
                sys.exit(f"the service answered {error.code}: {error.read().decode()}")
        except OSError:
            pass
        time.sleep(0.2)
    sys.exit("the service did not answer")


if __name__ == "__main__":
    main()
