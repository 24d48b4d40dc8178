"""Finding and fetching models, against a hub on loopback; each client is a process of its own."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_hub import FakeHub

from mlxquant.assets import BUNDLED_MODEL
from mlxquant.errors import InputError, RequestError
from mlxquant.load.hub import _explain, resolve

CLIENT = """
import json, sys
from mlxquant.errors import MlxquantError
from mlxquant.load.hub import resolve

for options in json.loads(sys.argv[1]):
    try:
        found = resolve(**options)
    except MlxquantError as error:
        said = {"error": type(error).__name__, "message": str(error), "status": error.exit_status}
    else:
        said = {"path": str(found.path), "source": found.source, "revision": found.revision}
    print(json.dumps(said), flush=True)
"""

WEIGHTS = bytes(range(256)) * 4000
FILES = {
    "config.json": b'{"model_type": "llama"}',
    "tokenizer.json": b"{}" * 1000,
    "chat_template.jinja": b"{{ messages }}",
    "LICENSE": b"do as you like",
    "model-00001-of-00002.safetensors": WEIGHTS,
    "model-00002-of-00002.safetensors": WEIGHTS[::-1],
    "model.safetensors.index.json": b"{}",
    "modeling.py": b"print('code')",
    "README.md": b"# Tiny",
    "pytorch_model.bin": b"pickle",
    "consolidated.safetensors": b"the same weights again",
    "onnx/config.json": b"{}",
    "original/model.safetensors": b"the same weights again",
}
LAST = "model-00002-of-00002.safetensors"
FETCHED = {name for name in FILES if "/" not in name} - {
    "modeling.py",
    "README.md",
    "pytorch_model.bin",
    "consolidated.safetensors",
}


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with FakeHub() as running:
        running.commit = running.add("org/tiny", FILES)  # type: ignore[attr-defined]
        yield running


def command(requests: tuple[dict[str, Any], ...]) -> list[str]:
    return [sys.executable, "-c", CLIENT, json.dumps(requests)]


def environment(hub: FakeHub, home: Path, changes: dict[str, str | None]) -> dict[str, str]:
    merged = {**os.environ, **hub.environment(home), **changes}
    return {name: value for name, value in merged.items() if value is not None}


def client(
    hub: FakeHub, home: Path, *requests: dict[str, Any], **changes: str | None
) -> list[dict[str, Any]]:
    """What `resolve` gave for each of `requests` in one process with the cache in `home`."""
    done = subprocess.run(
        command(requests or ({"model": "org/tiny"},)),
        env=environment(hub, home, changes),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "\r" not in done.stderr, "a progress bar, although stderr is no terminal"
    return [json.loads(line) for line in done.stdout.splitlines()]


def assert_complete(found: dict[str, Any], files: dict[str, bytes] = FILES) -> None:
    assert "error" not in found, found
    folder = Path(found["path"])
    for name in FETCHED:
        assert (folder / name).read_bytes() == files[name]


def fetches(hub: FakeHub) -> list[tuple[str, str | None]]:
    """The content requests so far: (file or blob, range)."""
    return [
        (request.path.rpartition("/")[2], request.range)
        for request in hub.requests
        if request.method == "GET" and not request.path.startswith("/api/")
    ]


# Names


def test_nothing_named_is_the_bundled_model() -> None:
    found = resolve(None)
    assert found.path == BUNDLED_MODEL
    assert found.source == "books-7m (bundled)"
    assert found.revision is None


def test_a_folder_is_itself_and_huggingface_hub_is_not_imported(tmp_path: Path) -> None:
    (tmp_path / "org" / "name").mkdir(parents=True)
    script = (
        "import sys; from mlxquant.load.hub import resolve; found = resolve('org/name');"
        "print(found.path, found.source, found.revision, 'huggingface_hub' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["org/name", "org/name", "None", "False"]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("./foo", "no such folder"),
        ("/x/y", "no such folder"),
        ("../org/name", "no such folder"),
        ("~/no/such", "no such folder"),
        ("org/name/", "no such folder"),
        ("a/b/c", "no such folder"),
        ("org/na me", "no such folder"),
        ("foo", "org/name"),
        ("https://huggingface.co/org/name", "org/name"),
        ("", "empty"),
        (" ", "empty"),
        ("x" * 5000, "name too long"),
        ("nul\0", "org/name"),
        (Path("org/name"), "no such folder"),
    ],
)
def test_a_name_that_is_neither_folder_nor_hub_id(name: str | Path, says: str) -> None:
    with pytest.raises(InputError, match=f"(?i){says}") as caught:
        resolve(name)
    assert "\n" not in str(caught.value)
    assert "\0" not in str(caught.value)


def test_a_revision_needs_the_hub(tmp_path: Path) -> None:
    for model in (None, tmp_path):
        with pytest.raises(RequestError, match="revision 'main'"):
            resolve(model, revision="main")


# Fetching


def test_fetches_only_what_is_needed(hub: FakeHub, tmp_path: Path) -> None:
    (found,) = client(hub, tmp_path)
    assert_complete(found)
    assert found["source"] == "org/tiny"
    assert found["revision"] == hub.commit  # type: ignore[attr-defined]
    here = {
        str(path.relative_to(found["path"]))
        for path in Path(found["path"]).rglob("*")
        if path.is_file()
    }
    assert here == FETCHED


def test_progress_is_shown_on_a_terminal(hub: FakeHub, tmp_path: Path) -> None:
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))
    with subprocess.Popen(
        command(({"model": "org/tiny"},)),
        env=environment(hub, tmp_path, {}),
        stdout=subprocess.PIPE,
        stderr=theirs,
    ) as process:
        os.close(theirs)
        shown = b""
        try:
            while piece := os.read(ours, 65536):
                shown += piece
        except OSError:  # Linux says so when the other end is closed
            pass
        assert process.stdout is not None
        assert_complete(json.loads(process.stdout.read()))
    os.close(ours)
    assert b"\r" in shown
    assert b"100%" in shown


def test_code_comes_only_when_trusted(hub: FakeHub, tmp_path: Path) -> None:
    (found,) = client(hub, tmp_path, {"model": "org/tiny", "trust_remote_code": True})
    assert (Path(found["path"]) / "modeling.py").read_bytes() == FILES["modeling.py"]


def test_offline_use_of_a_cached_model_asks_nothing(hub: FakeHub, tmp_path: Path) -> None:
    client(hub, tmp_path)
    hub.requests.clear()
    (found,) = client(hub, tmp_path, HF_HUB_OFFLINE="1")
    assert_complete(found)
    assert hub.requests == []


def test_a_cached_model_works_with_the_hub_gone(hub: FakeHub, tmp_path: Path) -> None:
    client(hub, tmp_path)
    for status in (500, 503):
        hub.down = status
        (found,) = client(hub, tmp_path)
        assert_complete(found)
    hub.stop()
    (found,) = client(hub, tmp_path)
    assert_complete(found)


def test_a_cached_commit_is_not_looked_up(hub: FakeHub, tmp_path: Path) -> None:
    request = {"model": "org/tiny", "revision": hub.commit}  # type: ignore[attr-defined]
    client(hub, tmp_path, request)
    hub.requests.clear()
    (found,) = client(hub, tmp_path, request)
    assert_complete(found)
    assert hub.requests == []


def test_a_moved_branch_is_followed_and_unchanged_files_are_kept(
    hub: FakeHub, tmp_path: Path
) -> None:
    client(hub, tmp_path)
    newer = {**FILES, "config.json": b'{"model_type": "qwen3"}'}
    commit = hub.add("org/tiny", newer)
    hub.requests.clear()
    (found,) = client(hub, tmp_path)
    assert found["revision"] == commit
    assert_complete(found, newer)
    assert fetches(hub) == [("config.json", None)]


# Interruptions


def test_a_broken_connection_is_resumed_at_its_byte(hub: FakeHub, tmp_path: Path) -> None:
    # The client writes pieces of 10 MiB; what it had of a piece when the connection broke is lost.
    files = {**FILES, LAST: bytes(range(256)) * 100_000}
    hub.add("org/tiny", files)
    hub.cut[LAST] = [25_000_000]
    (found,) = client(hub, tmp_path)
    assert_complete(found, files)
    assert [asked for _, asked in fetches(hub) if asked is not None] == ["bytes=20971520-"]


def test_a_failed_download_goes_on_with_the_files_that_are_missing(
    hub: FakeHub, tmp_path: Path
) -> None:
    hub.fail[LAST] = 500
    (failed,) = client(hub, tmp_path)
    assert failed["error"] == "HubError"
    assert "HTTP 500" in failed["message"]
    (offline,) = client(hub, tmp_path, HF_HUB_OFFLINE="1")
    assert "not complete in the cache" in offline["message"]
    hub.fail.clear()
    hub.requests.clear()
    (found,) = client(hub, tmp_path)
    assert_complete(found)
    assert len(fetches(hub)) == 1


def test_a_killed_download_goes_on_with_the_files_that_are_missing(
    hub: FakeHub, tmp_path: Path
) -> None:
    hub.stall[LAST] = threading.Event()
    with subprocess.Popen(
        command(({"model": "org/tiny"},)),
        env=environment(hub, tmp_path, {}),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        assert hub.stalled.wait(60)
        blobs = tmp_path / "hub" / "models--org--tiny" / "blobs"
        for _ in range(600):
            if len([b for b in blobs.iterdir() if b.suffix != ".incomplete"]) == len(FETCHED) - 1:
                break
            threading.Event().wait(0.05)
        process.send_signal(signal.SIGKILL)
    hub.stall.pop(LAST).set()
    hub.requests.clear()
    (found,) = client(hub, tmp_path)
    assert_complete(found)
    assert len({name for name, _ in fetches(hub)}) < len(FETCHED)


@pytest.mark.slow
def test_a_connection_that_keeps_breaking_is_given_up(hub: FakeHub, tmp_path: Path) -> None:
    hub.cut[LAST] = [0] * 20
    (failed,) = client(hub, tmp_path)
    assert failed["error"] == "HubError"
    assert "run the same command again" in failed["message"]
    hub.cut.clear()
    (found,) = client(hub, tmp_path)
    assert_complete(found)


@pytest.mark.parametrize("name", ["config.json", LAST])
def test_damaged_content_is_noticed_and_fetched_anew(
    hub: FakeHub, tmp_path: Path, name: str
) -> None:
    hub.damage.add(name)
    (failed,) = client(hub, tmp_path)
    assert failed["error"] == "HubError"
    assert "damaged" in failed["message"]
    (offline,) = client(hub, tmp_path, HF_HUB_OFFLINE="1")
    assert "not complete in the cache" in offline["message"]
    hub.damage.clear()
    (found,) = client(hub, tmp_path)
    assert_complete(found)


def test_content_that_is_too_short_is_noticed(hub: FakeHub, tmp_path: Path) -> None:
    hub.lose_tail.add(LAST)
    (failed,) = client(hub, tmp_path)
    assert failed["error"] == "HubError"
    assert "Consistency check failed" in failed["message"]
    hub.lose_tail.clear()
    (found,) = client(hub, tmp_path)
    assert_complete(found)


# What cannot be fetched


def test_each_failure_says_in_one_line_what_to_do(hub: FakeHub, tmp_path: Path) -> None:
    hub.add("org/gated", FILES)
    hub.gated.add("org/gated")
    hub.add("org/pickle", {"config.json": b"{}", "pytorch_model.bin": b"x"})
    cases = [
        ({"model": "org/absent"}, "InputError", 2, "no such model on http://127.0.0.1"),
        ({"model": "org/tiny", "revision": "v9"}, "InputError", 2, "no revision 'v9'"),
        ({"model": "org/gated"}, "HubError", 1, "accept its terms on http://127.0.0.1"),
        ({"model": "org/pickle"}, "InputError", 2, "no model*.safetensors"),
    ]
    answers = client(hub, tmp_path, *(request for request, *_ in cases))
    for (request, kind, status, says), answer in zip(cases, answers, strict=True):
        assert (answer["error"], answer["status"]) == (kind, status)
        assert answer["message"].startswith(f"{request['model']}: ")
        assert says in answer["message"]
        assert "\n" not in answer["message"]


def test_a_token_opens_a_gated_model_and_a_bad_one_is_named(hub: FakeHub, tmp_path: Path) -> None:
    hub.gated.add("org/tiny")
    hub.tokens.add("hf_good")
    (refused,) = client(hub, tmp_path, HF_TOKEN="hf_bad")
    assert refused["error"] == "HubError"
    assert "refused the access token (HTTP 401)" in refused["message"]
    (found,) = client(hub, tmp_path, HF_TOKEN="hf_good")
    assert_complete(found)


def test_nothing_cached_and_no_hub(hub: FakeHub, tmp_path: Path) -> None:
    (offline,) = client(hub, tmp_path, HF_HUB_OFFLINE="1")
    assert offline["error"] == "HubError"
    assert "HF_HUB_OFFLINE" in offline["message"]
    assert hub.requests == []
    hub.down = 503
    (unavailable,) = client(hub, tmp_path)
    assert "HTTP 503" in unavailable["message"]
    hub.stop()
    (refused,) = client(hub, tmp_path)
    assert refused["error"] == "HubError"
    assert "check the connection" in refused["message"]


def test_a_full_disk_says_where() -> None:
    with pytest.raises(OSError, match="No space left") as caught:
        Path("/dev/full").write_bytes(b"x")
    said = str(_explain("org/tiny", None, caught.value))
    assert said.startswith("org/tiny: no space left on the disk of /")
    assert "HF_HOME" in said


def test_a_cache_that_cannot_be_written(hub: FakeHub, tmp_path: Path) -> None:
    (tmp_path / "hub").write_text("a file where the cache's folder should be")
    (failed,) = client(hub, tmp_path)
    assert failed["error"] == "HubError"
    assert "HF_HOME" in failed["message"]
