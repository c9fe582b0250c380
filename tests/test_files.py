"""A key becomes a verified file, or one clear line."""

import dataclasses
import json
import socket
import threading
from functools import partial
from http.server import HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path

import pooch
import pytest

from nestedae_utils.data import files
from nestedae_utils.errors import DataError, DataUnavailable

KEY = "folder/table.csv"
CONTENT = b"a,b\n1,2\n3,4\n"


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv(files.CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.delenv(files.MIRROR_VARIABLE, raising=False)
    return tmp_path / "cache" / "data"


@pytest.fixture
def mirror(tmp_path, monkeypatch, cache) -> Path:
    (tmp_path / "mirror").mkdir()
    monkeypatch.setenv(files.MIRROR_VARIABLE, str(tmp_path / "mirror"))
    return tmp_path / "mirror"


@pytest.fixture
def entry(tmp_path, monkeypatch) -> files.Entry:
    """Return the only entry of the registry; its URL refuses connections."""
    # A proxy of the environment must not answer for this machine.
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (tmp_path / "sample").write_bytes(CONTENT)
    sha256 = pooch.file_hash(str(tmp_path / "sample"))
    url = f"http://127.0.0.1:{port}/table.csv"
    entry = files.Entry(KEY, url, sha256, len(CONTENT), "none", "none", 2, 2)
    monkeypatch.setattr(files, "registry", lambda: {KEY: entry})
    return entry


@pytest.fixture
def served(entry, tmp_path, monkeypatch):
    """Return the file that this machine serves at the entry's URL."""

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    (tmp_path / "web").mkdir()
    handler = partial(Handler, directory=tmp_path / "web")
    server = HTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.02,)).start()
    url = f"http://127.0.0.1:{server.server_port}/table.csv"
    moved = dataclasses.replace(entry, url=url)
    monkeypatch.setattr(files, "registry", lambda: {KEY: moved})
    yield tmp_path / "web" / "table.csv"
    server.shutdown()
    server.server_close()


def put(folder: Path, content: bytes = CONTENT) -> Path:
    path = folder / KEY
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    return path


def fault(kind=DataError, key=KEY) -> str:
    with pytest.raises(DataError) as caught:
        files.fetch(key)
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_registry(tmp_path, monkeypatch):
    for key, entry in files.registry().items():
        assert entry.key == key
        assert entry.url.startswith("https://")
        assert entry.url.endswith(Path(key).name)
        assert "doi:10." in entry.citation
        assert entry.licence
    monkeypatch.setattr(files, "DATA", tmp_path)
    for content in ("{", json.dumps([{"key": "a"}])):
        with pytest.raises(DataError, match="cannot be read.*checkout"):
            files.registry()
        (tmp_path / "registry.json").write_text(content)


def test_public_files_have_the_stated_sizes(public):
    for key, entry in files.registry().items():
        lines = public(key).read_text().splitlines()
        assert len(lines) - (entry.columns != 13) == entry.rows
        assert files.checksums(key) == {key: entry.sha256}


def test_the_cache_before_the_mirror_which_is_used_in_place(
    entry, cache, mirror
):
    assert files.present() == {KEY: None}
    assert f"{mirror / KEY}: not in the mirror; put" in fault()
    put(mirror)
    assert files.fetch(KEY) == mirror / KEY
    assert not cache.exists()
    cached = put(cache)
    assert files.fetch(KEY) == cached
    assert files.checksums(KEY) == files.present() == {KEY: entry.sha256}


def test_a_mistaken_mirror_or_key(entry, cache, monkeypatch, tmp_path):
    monkeypatch.setenv(files.MIRROR_VARIABLE, str(tmp_path / "nowhere"))
    assert "correct or unset NESTEDAE_DATA_MIRROR" in fault()
    monkeypatch.setenv(files.MIRROR_VARIABLE, "")
    assert "cannot be downloaded" in fault(DataUnavailable)
    assert "Did you mean 'folder/table.csv'" in fault(key="folder/tables.csv")


@pytest.mark.parametrize(
    ("place", "remedy"), [("cache", "delete it"), ("mirror", "replace it")]
)
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (CONTENT.replace(b"4", b"5"), " expected"),
        (CONTENT[:-3], "truncated: 9 bytes found, 12 expected"),
        (CONTENT + b"x", ": 13 bytes found, 12 expected"),
        (None, "not a file"),
    ],
)
def test_a_file_that_is_not_what_the_registry_says_is_never_used(
    entry, mirror, request, place, remedy, content, message
):
    folder = request.getfixturevalue(place)
    if content is None:
        (folder / KEY).mkdir(parents=True)
    else:
        put(folder, content)
    told = fault()
    assert str(folder / KEY) in told
    assert message in told
    assert remedy in told
    assert (folder / KEY).exists()


def test_no_network(entry, cache):
    told = fault(DataUnavailable)
    assert entry.url in told
    assert files.MIRROR_VARIABLE in told


def test_download(served, cache, capfd):
    served.write_bytes(b"<html>log in first</html>")
    assert "does not have the sha256" in fault()
    assert not (cache / KEY).exists()
    served.write_bytes(CONTENT)
    path = files.fetch(KEY)
    assert path == cache / KEY
    assert path.read_bytes() == CONTENT
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    assert capfd.readouterr() == ("", "")


def test_cache_cannot_be_written(served, cache):
    served.write_bytes(CONTENT)
    cache.parent.write_text("a file, where the folder should be")
    told = fault()
    assert "cannot be written" in told
    assert files.CACHE_VARIABLE in told
