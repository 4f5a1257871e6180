"""Weights by name: without a network, from a mirror, and what a user is told meanwhile."""

import json
import os
import shutil
import subprocess
import sys
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from typer.testing import CliRunner

from likeness.backbones import hub
from likeness.cli import app
from likeness.convert import fetch
from likeness.errors import UserError

BY_NAME = ["generate", "--model", "wan2.1-1.3b", "--method", "concat-id-wan-adaln", "--no-reference", "-p", "a man"]
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def empty_cache(monkeypatch, tmp_path) -> Path:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("LIKENESS_CACHE", str(tmp_path / "converted"))
    return tmp_path


@pytest.mark.parametrize("is_offline", [True, False])
def test_no_network_is_one_line(empty_cache, monkeypatch, is_offline) -> None:
    """Told to stay offline, and an address where nobody answers."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", is_offline)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    result = CliRunner().invoke(app, [*BY_NAME, "-o", str(empty_cache / "v.mp4")])
    (line,) = result.stderr.splitlines()
    assert result.exit_code == 2 and result.stdout == ""
    assert line.startswith("error: Wan-AI/Wan2.1-T2V-1.3B-Diffusers on the Hugging Face Hub cannot be fetched")
    assert ("HF_HUB_OFFLINE is set" if is_offline else "Connection refused") in line
    assert "where there is a network" in line
    assert not (empty_cache / "converted").exists() and not (empty_cache / "v.mp4").exists()


def test_weights_on_another_hub_are_refused_before_the_base_is_fetched(empty_cache, monkeypatch) -> None:
    monkeypatch.setattr(fetch, "resolve_model", lambda *args: pytest.fail("the base was fetched"))
    given = ["generate", "--model", "cogvideox-5b", "--method", "concat-id", "--no-reference", "-p", "a man"]
    result = CliRunner().invoke(app, [*given, "-o", str(empty_cache / "v.mp4")])
    (line,) = result.stderr.splitlines()
    assert result.exit_code == 2
    for word in ("ModelScope", "yongzhong/Concat-ID ", "yongzhong/Concat-ID-pre-training", "'latest'"):
        assert word in line
    assert "likeness convert FOLDER --base cogvideox-5b --output NEW" in line


FILES = {"first_stage.pt": b"the weights", "photo.png": b"not wanted"}


@pytest.mark.parametrize(
    ("model", "method", "words"),
    [
        ("wan2.1-1.3b", None, "--method concat-id-wan or concat-id-wan-adaln"),
        ("wan2.1-14b", None, "is a base, which has not learned"),
        ("cogvideox-5b", "concat-id-wan", "cannot express method 'concat-id-wan'; its methods are concat-id, st-drc"),
        ("ltx-2.3", "concat-id-wan-adaln", "cannot express method 'concat-id-wan-adaln'"),
    ],
)
def test_a_base_that_cannot_do_it_is_refused_before_it_is_fetched(monkeypatch, model, method, words) -> None:
    monkeypatch.setattr(fetch, "resolve_model", lambda *args: pytest.fail("the base was fetched"))
    with pytest.raises(UserError) as told:
        fetch.prepare(model, method)
    assert words in str(told.value)


class Mirror(BaseHTTPRequestHandler):
    """One repository, owner/name, with two files."""

    def do_HEAD(self) -> None:
        self._answer(is_body=False)

    def do_GET(self) -> None:
        self._answer(is_body=True)

    def _answer(self, is_body: bool) -> None:
        path = self.path.split("?")[0]
        self.server.asked.append(path)  # type: ignore[attr-defined]
        headers = {"X-Repo-Commit": COMMIT}
        if path == "/api/models/owner/name/revision/main":
            content = json.dumps({"id": "owner/name", "sha": COMMIT, "siblings": []}).encode()
        elif path == f"/api/models/owner/name/tree/{COMMIT}":
            entries = [{"type": "file", "path": name, "size": len(data), "oid": sha1(data).hexdigest()}
                       for name, data in FILES.items()]  # fmt: skip
            content = json.dumps(entries).encode()
        else:
            content = FILES[path.rsplit("/", 1)[1]]
            headers["ETag"] = f'"{sha1(content).hexdigest()}"'
        self.send_response(200)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if is_body:
            self.wfile.write(content)

    def log_message(self, *args) -> None:
        pass


def test_a_mirror_is_asked_and_then_the_cache_is_enough(tmp_path) -> None:
    """In a process of its own, as the client reads HF_ENDPOINT and HF_HUB_OFFLINE when it is imported."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Mirror)
    server.asked = []  # type: ignore[attr-defined]
    Thread(target=server.serve_forever, daemon=True).start()
    code = (
        "import contextlib; from likeness.backbones.hub import fetch\n"
        "say = lambda what: contextlib.nullcontext(print(what))\n"
        "print((fetch('owner/name', ['first_stage.pt'], '', say) / 'first_stage.pt').read_text())"
    )

    def call(**settings) -> list[str]:
        environment = {**os.environ, "HF_HOME": str(tmp_path), **settings}
        environment = {name: value for name, value in environment.items() if not name.lower().endswith("_proxy")}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        return done.stdout.splitlines()

    endpoint = f"http://127.0.0.1:{server.server_port}"
    try:
        first = call(HF_ENDPOINT=endpoint)
        asked = list(server.asked)  # type: ignore[attr-defined]
        again = call(HF_ENDPOINT=endpoint)
    finally:
        server.shutdown()
        server.server_close()
    assert first == ["owner/name from the Hugging Face Hub: 1 file, 0.0 GB", "the weights"]
    assert f"/owner/name/resolve/{COMMIT}/first_stage.pt" in asked and not any("photo.png" in path for path in asked)
    assert again == ["the weights"]  # nothing to fetch, nothing told
    assert call(HF_ENDPOINT=endpoint, HF_HUB_OFFLINE="1") == ["the weights"]


def test_a_download_that_does_not_fit_is_refused_before_it_begins(monkeypatch, tmp_path) -> None:
    from huggingface_hub import DryRunFileInfo

    asked = []

    def planned(repo, *, dry_run=False, **options):
        asked.append(dry_run)
        return [DryRunFileInfo(COMMIT, 3_000_000_000, name, "", is_cached=False, will_download=True) for name in "ab"]

    monkeypatch.setattr("huggingface_hub.snapshot_download", planned)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**10, 0, 5 * 10**9))
    with pytest.raises(UserError, match=r"takes 6\.1 GB, but the disk of .*hub has 5\.0 GB free.*HF_HOME"):
        hub.fetch("owner/name", ["*"], "")
    assert asked == [True]
