"""``python -m benchmarks.audit --advisories CHECKOUT``: pip-audit over the requirements, from a checkout of advisories.

For places that reach no vulnerability service: the advisories of a checkout of github.com/pypa/advisory-database are
served to pip-audit on this machine as OSV serves them (https://google.github.io/osv.dev/post-v1-query). What is found
is as new as the checkout, whose date is printed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import yaml
from packaging.version import Version


def affects(advisory: dict, package: str, version: Version) -> bool:
    """Whether an advisory (OSV schema 1) is about a version of a package on PyPI."""
    for affected in advisory.get("affected", []):
        if affected["package"]["ecosystem"] != "PyPI" or affected["package"]["name"].lower() != package:
            continue
        ranges = [each for each in affected.get("ranges", []) if each["type"] == "ECOSYSTEM"]
        if str(version) in affected.get("versions", []) or any(_within(each["events"], version) for each in ranges):
            return True
    return False


def _within(events: list[dict[str, str]], version: Version) -> bool:
    """Whether a version lies between an event that introduces and the next one that fixes."""
    inside = False
    for event in events:  # The schema has them in order.
        [(kind, where)] = event.items()
        if kind == "introduced" and (where == "0" or version >= Version(where)):
            inside = True
        if (kind == "fixed" and version >= Version(where)) or (kind == "last_affected" and version > Version(where)):
            inside = False
    return inside


def advisories_for(checkout: Path, package: str, version: Version) -> list[dict]:
    """The advisories of a checkout that concern a version."""
    found = [yaml.safe_load(path.read_text()) for path in sorted((checkout / "vulns" / package).glob("*.yaml"))]
    return [json.loads(json.dumps(each, default=str)) for each in found if affects(each, package, version)]


def handler(checkout: Path) -> type[BaseHTTPRequestHandler]:
    """Answers OSV's ``POST /v1/query`` from a checkout."""

    class Query(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            query = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            found = advisories_for(checkout, query["package"]["name"], Version(query["version"]))
            answer = json.dumps({"vulns": found} if found else {}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            """pip-audit's own output says enough."""

    return Query


def main() -> int:
    """Runs pip-audit; its exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.audit", description=__doc__.splitlines()[0])
    parser.add_argument("--advisories", type=Path, required=True, help="checkout of github.com/pypa/advisory-database")
    parser.add_argument("--requirements", type=Path, default=Path("requirements.txt"))
    options = parser.parse_args()
    if not (options.advisories / "vulns").is_dir():
        print(f"error: {options.advisories}: no folder vulns in it; expected a checkout of pypa/advisory-database")
        return 2
    date = subprocess.run(
        ["git", "-C", options.advisories, "log", "-1", "--format=%cs %h"], capture_output=True, text=True, check=True
    )
    print(f"advisories of {date.stdout.strip()}", flush=True)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(options.advisories))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    command = [sys.executable, "-m", "pip_audit", "--vulnerability-service", "osv", "--strict", "--no-deps"]
    command += ["--osv-url", f"http://127.0.0.1:{server.server_port}/v1/query", "--disable-pip"]
    return subprocess.run([*command, "--requirement", options.requirements], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
