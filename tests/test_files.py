"""A key becomes a verified file, or one clear line."""

import json
import subprocess
import threading
from contextlib import nullcontext
from functools import partial
from http.server import HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path

import pooch
import pytest
from conftest import ROOT

from nestedae_utils.data import files
from nestedae_utils.errors import DataError, DataUnavailable


def test_every_table_of_the_project_counts_and_no_other(tmp_path, monkeypatch):
    listed = subprocess.check_output(["git", "ls-files", "data"], cwd=ROOT, text=True)
    here = {Path(one).name for one in listed.split() if one.count("/") == 1}
    counted = {path.name for path in files.tables()}
    # what the command and the tests alone read
    assert counted == here - {"times.csv", "steps_before.csv"}


KEY = "folder/table.csv"
CONTENT = b"a,b\n1,2\n3,4\n"


@pytest.fixture
def web(tmp_path, monkeypatch):
    """Return the folder that this machine serves as the only entry's URL."""

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    folder = tmp_path / "web"
    folder.mkdir()
    server = HTTPServer(("127.0.0.1", 0), partial(Handler, directory=folder))
    threading.Thread(target=server.serve_forever, args=(0.02,)).start()
    (tmp_path / "sample").write_bytes(CONTENT)
    sha256 = pooch.file_hash(str(tmp_path / "sample"))
    url = f"http://127.0.0.1:{server.server_port}/table.csv"
    entry = files.Entry(KEY, url, sha256, len(CONTENT), "none", "none", 2, 2)
    monkeypatch.setattr(files, "registry", lambda: {KEY: entry})
    # A proxy of the environment must not answer for this machine.
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv(files.CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setenv(files.MIRROR_VARIABLE, "")
    yield folder
    server.shutdown()
    server.server_close()


@pytest.fixture
def mirror(tmp_path, monkeypatch, web) -> Path:
    (tmp_path / "mirror").mkdir()
    monkeypatch.setenv(files.MIRROR_VARIABLE, str(tmp_path / "mirror"))
    return tmp_path / "mirror"


@pytest.fixture
def cache(tmp_path, web) -> Path:
    return tmp_path / "cache" / "data"


def put(folder: Path, content: bytes = CONTENT) -> Path:
    (folder / KEY).parent.mkdir(parents=True)
    (folder / KEY).write_bytes(content)
    return folder / KEY


def fault(kind=DataError, key=KEY) -> str:
    with pytest.raises(DataError) as caught:
        files.fetch(key)
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_registry(tmp_path, monkeypatch, public):
    for key, entry in files.registry().items():
        assert entry.url.startswith("https://")
        assert entry.url.endswith(Path(key).name)
        assert "doi:10." in entry.citation
        assert entry.licence
        if entry.optional and not files.present()[key]:
            continue
        path = public(key)
        if path.suffix == ".csv":
            lines = path.read_text().splitlines()
            assert len(lines) - (entry.columns != 13) == entry.rows
        assert files.checksums(key) == {key: entry.sha256}
    monkeypatch.setattr(files, "DATA", tmp_path)
    for content in ("{", json.dumps([{"key": "a"}])):
        with pytest.raises(DataError, match="cannot be read.*checkout"):
            files.registry()
        (tmp_path / "registry.json").write_text(content)


def test_the_cache_before_the_mirror_which_is_used_in_place(cache, mirror):
    assert files.present() == {KEY: None}
    assert f"{mirror / KEY}: not in the mirror; put" in fault()
    put(mirror)
    assert files.fetch(KEY) == mirror / KEY
    assert not cache.exists()
    assert put(cache) == files.fetch(KEY)
    assert files.checksums(KEY) == files.present()
    assert files.present()[KEY] == files.registry()[KEY].sha256


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
    cache, mirror, place, remedy, content, message
):
    folder = {"cache": cache, "mirror": mirror}[place]
    if content is None:
        (folder / KEY).mkdir(parents=True)
    else:
        put(folder, content)
    told = fault()
    for text in (str(folder / KEY), message, remedy):
        assert text in told
    assert (folder / KEY).exists()


def test_download(web, cache, capfd, monkeypatch):
    told = fault(DataUnavailable)
    assert f"cannot be downloaded from {files.registry()[KEY].url}" in told
    assert "or set NESTEDAE_DATA_MIRROR to a folder that holds it" in told
    (web / "table.csv").write_bytes(b"<html>log in first</html>")
    assert "does not have the sha256" in fault()
    assert not (cache / KEY).exists()
    (web / "table.csv").write_bytes(CONTENT)
    told = []

    def watch(*what):
        return nullcontext(lambda n: told.append((*what, n)))

    monkeypatch.setattr(files, "watch", watch)
    path = files.fetch(KEY)
    assert path == cache / KEY
    assert told[-1] == ("table.csv", *[len(CONTENT) / 1e6] * 2)
    assert path.read_bytes() == CONTENT
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    assert capfd.readouterr() == ("", "")
    monkeypatch.setenv(files.CACHE_VARIABLE, str(web / "table.csv"))
    assert "cannot be written (Not a directory); set NESTEDAE_CACHE" in fault()
    monkeypatch.setenv(files.MIRROR_VARIABLE, str(web / "nowhere"))
    assert "correct or unset NESTEDAE_DATA_MIRROR" in fault()
    assert "Did you mean 'folder/table.csv'" in fault(key="folder/tables.csv")
