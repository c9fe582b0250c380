"""A key becomes a verified file, or one clear line."""

import dataclasses
import http.server
import json
import socket
import threading
from pathlib import Path

import pooch
import pytest

from nestedae_utils.data import files as datasets
from nestedae_utils.errors import DataError, DataUnavailable

KEY = "folder/table.csv"
CONTENT = b"a,b\n1,2\n3,4\n"


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv(datasets.CACHE_VARIABLE, str(folder))
    monkeypatch.delenv(datasets.MIRROR_VARIABLE, raising=False)
    return folder / "data"


@pytest.fixture
def mirror(tmp_path, monkeypatch, cache) -> Path:
    folder = tmp_path / "mirror"
    folder.mkdir()
    monkeypatch.setenv(datasets.MIRROR_VARIABLE, str(folder))
    return folder


@pytest.fixture
def entry(tmp_path, monkeypatch) -> datasets.Entry:
    """Return the only entry of the registry; its URL refuses connections."""
    # A proxy of the environment must not answer for this machine.
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    sample = tmp_path / "sample"
    sample.write_bytes(CONTENT)
    entry = datasets.Entry(
        key=KEY,
        url=f"http://127.0.0.1:{port}/table.csv",
        sha256=pooch.file_hash(str(sample)),
        bytes=len(CONTENT),
        licence="none",
        citation="none",
        rows=2,
        columns=2,
    )
    monkeypatch.setattr(datasets, "registry", lambda: {KEY: entry})
    return entry


@pytest.fixture
def served(entry, monkeypatch):
    """Serve a content at the entry's URL from this machine."""
    servers = []

    def serve(content: bytes) -> None:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *args):
                pass

        server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(
            target=server.serve_forever, args=(0.02,), daemon=True
        ).start()
        url = f"http://127.0.0.1:{server.server_port}/table.csv"
        moved = dataclasses.replace(entry, url=url)
        monkeypatch.setattr(datasets, "registry", lambda: {KEY: moved})

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


def put(folder: Path, content: bytes = CONTENT) -> Path:
    path = folder / KEY
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    return path


def fault(kind=DataError) -> str:
    with pytest.raises(kind) as caught:
        datasets.fetch(KEY)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_registry_entries_are_complete():
    entries = datasets.registry()
    assert len(entries) == 9
    for key, entry in entries.items():
        assert entry.key == key
        assert entry.url.startswith("https://")
        assert entry.url.endswith(Path(key).name)
        assert len(entry.sha256) == 64
        assert "doi:10." in entry.citation
        assert entry.licence
        assert min(entry.bytes, entry.rows, entry.columns) > 0


def test_registry_absent(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "DATA", tmp_path)
    with pytest.raises(DataError, match="run from a checkout"):
        datasets.registry()


@pytest.mark.parametrize("content", ["{", json.dumps([{"key": "a"}])])
def test_registry_unreadable(tmp_path, monkeypatch, content):
    monkeypatch.setattr(datasets, "DATA", tmp_path)
    (tmp_path / "registry.json").write_text(content)
    with pytest.raises(DataError, match="cannot be read"):
        datasets.registry()


def test_cache_before_mirror(entry, cache, mirror):
    put(mirror)
    assert datasets.fetch(KEY) == mirror / KEY
    cached = put(cache)
    assert datasets.fetch(KEY) == cached


def test_mirror_is_used_in_place(entry, cache, mirror):
    put(mirror)
    assert datasets.fetch(KEY) == mirror / KEY
    assert not cache.exists()


def test_checksums(entry, cache):
    put(cache)
    assert datasets.checksums(KEY) == {KEY: entry.sha256}
    assert datasets.checksums() == {}


def test_unknown_key():
    wrong = "psc_bandgaps_pbe/PSC_bandgap_dataset.csv"
    with pytest.raises(DataError, match="Did you mean 'psc_bandgaps_pbe/"):
        datasets.fetch(wrong)


def test_mirror_folder_missing(entry, cache, monkeypatch, tmp_path):
    monkeypatch.setenv(datasets.MIRROR_VARIABLE, str(tmp_path / "nowhere"))
    message = fault()
    assert "does not exist" in message
    assert datasets.MIRROR_VARIABLE in message


def test_mirror_lacks_the_file(entry, mirror):
    message = fault()
    assert str(mirror / KEY) in message
    assert "unset NESTEDAE_DATA_MIRROR to download it" in message


def test_empty_mirror_variable_is_unset(entry, cache, monkeypatch):
    monkeypatch.setenv(datasets.MIRROR_VARIABLE, "")
    fault(DataUnavailable)


@pytest.mark.parametrize(
    ("place", "remedy"), [("cache", "delete it"), ("mirror", "replace it")]
)
class TestFaultyFile:
    """A file that is not what the registry says is never used."""

    def test_altered_byte(self, entry, mirror, request, place, remedy):
        path = put(request.getfixturevalue(place), CONTENT.replace(b"4", b"5"))
        message = fault()
        assert str(path) in message
        assert f"{entry.sha256} expected" in message
        assert remedy in message
        assert path.exists()

    def test_truncated(self, entry, mirror, request, place, remedy):
        put(request.getfixturevalue(place), CONTENT[:-3])
        message = fault()
        assert "truncated: 9 bytes found, 12 expected" in message
        assert remedy in message

    def test_too_long(self, entry, mirror, request, place, remedy):
        put(request.getfixturevalue(place), CONTENT + b"x")
        message = fault()
        assert "13 bytes found, 12 expected" in message
        assert "truncated" not in message

    def test_folder(self, entry, mirror, request, place, remedy):
        (request.getfixturevalue(place) / KEY).mkdir(parents=True)
        assert "not a file" in fault()


def test_no_network(entry, cache):
    message = fault(DataUnavailable)
    assert entry.url in message
    assert datasets.MIRROR_VARIABLE in message
    assert not (cache / KEY).exists()


def test_download_to_the_cache(served, cache, capfd):
    served(CONTENT)
    path = datasets.fetch(KEY)
    assert path == cache / KEY
    assert path.read_bytes() == CONTENT
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    assert capfd.readouterr() == ("", "")


def test_downloaded_something_else(served, cache):
    served(b"<html>log in first</html>")
    message = fault()
    assert "does not have the sha256" in message
    assert not (cache / KEY).exists()


def test_cache_cannot_be_written(served, cache):
    served(CONTENT)
    cache.parent.write_text("a file, where the folder should be")
    message = fault()
    assert "cannot be written" in message
    assert datasets.CACHE_VARIABLE in message


def test_public_files_have_the_stated_sizes(public):
    for key, entry in datasets.registry().items():
        lines = public(key).read_text().splitlines()
        header = 0 if entry.columns == 13 else 1
        assert len(lines) - header == entry.rows
        if key.startswith("nestedae_synthetic"):
            assert lines[0].count(",") + 1 == entry.columns
