"""PushT's demonstrations from a zip of the published layout, and what is refused; without a network."""

import json
import sys
import types
import zipfile
import zlib

import numpy as np
import pytest

from rljax.data import download, formats

ENDS = np.array([3, 5])
RNG = np.random.default_rng(0)
STATE, ACTION = RNG.uniform(20, 490, (5, 5)).astype("<f4"), RNG.uniform(20, 490, (5, 2)).astype("<f4")
SIZES = {"episodes": 2, "steps": 5}


def zip_of(folder, compress=None, **changes):
    """A zip with the arrays in chunks of two rows, the last of which is padded; `changes` are of each .zarray."""
    path = folder / "pusht.zip"
    arrays = {"data/state": STATE, "data/action": ACTION, "data/img": np.zeros((5, 2)), "meta/episode_ends": ENDS}
    with zipfile.ZipFile(path, "w") as file:
        for name, x in arrays.items():
            about = {
                "shape": x.shape,
                "chunks": (2, *x.shape[1:]),
                "dtype": x.dtype.str,
                "order": "C",
                "filters": None,
                "compressor": {"id": "blosc", "cname": "zstd", "shuffle": 2} if compress else None,
                "fill_value": 0,
                "zarr_format": 2,
            }
            file.writestr(f"pusht/replay.zarr/{name}/.zarray", json.dumps(about | changes))
            for i in range(0, len(x), 2):
                chunk = np.resize(x[i : i + 2], (2, *x.shape[1:])).tobytes()
                key = ".".join([str(i // 2), *["0"] * (x.ndim - 1)])
                file.writestr(f"pusht/replay.zarr/{name}/{key}", compress(chunk) if compress else chunk)
    return path.as_uri()


@pytest.mark.parametrize("compress", [None, zlib.compress])
def test_it_becomes_the_npz_that_is_read(tmp_path, monkeypatch, compress):
    # In place of Blosc.
    stub = types.SimpleNamespace(blosc=types.SimpleNamespace(decompress=zlib.decompress))
    monkeypatch.setitem(sys.modules, "numcodecs", stub)
    path = tmp_path / "demos.npz"
    download.push_t(path, zip_of(tmp_path, compress), **SIZES)
    with np.load(path, allow_pickle=False) as found:
        assert set(found) == {"state", "action", "episode_ends"}
        np.testing.assert_array_equal(found["state"], STATE)
        np.testing.assert_array_equal(found["episode_ends"], ENDS)
    data = formats.load(path)
    assert data.metadata.task == "push_t"
    assert data.ends.tolist() == [3, 5]
    np.testing.assert_array_equal(data.action, ACTION)
    assert {file.name for file in tmp_path.iterdir()} == {"demos.npz", "pusht.zip"}


def test_blosc_itself(tmp_path):
    blosc = pytest.importorskip("numcodecs").Blosc(cname="zstd", clevel=5, shuffle=2)
    download.push_t(tmp_path / "demos.npz", zip_of(tmp_path, blosc.encode), **SIZES)
    np.testing.assert_array_equal(np.load(tmp_path / "demos.npz")["state"], STATE)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dtype": "|O"}, "data/state/.zarray must be of numbers, in chunks of rows, compressed by Blosc or not"),
        ({"compressor": {"id": "pickle"}}, "must be of numbers"),
        ({"filters": [{"id": "pickle"}]}, "must be of numbers"),
        ({"zarr_format": 3}, "must be of numbers"),
        ({"chunks": [0, 5]}, "must be of numbers"),
        ({"dtype": "<f8"}, "data/state/0.0 has 40 bytes, and must have 80"),
        ({"shape": [7, 5]}, "damaged, or not readable: .*data/state/3.0"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(tmp_path, changes, message):
    url = zip_of(tmp_path, **changes)
    with pytest.raises(ValueError, match=message) as error:
        download.push_t(tmp_path / "demos.npz", url, **SIZES)
    assert "\n" not in str(error.value)
    assert [file.name for file in tmp_path.iterdir()] == ["pusht.zip"]


def test_what_cannot_be_had_is_one_line(tmp_path, monkeypatch, capsys):
    path = tmp_path / "demos.npz"
    url = zip_of(tmp_path, zlib.compress)
    monkeypatch.setitem(sys.modules, "numcodecs", None)
    with pytest.raises(ValueError, match=r'compressed by Blosc: pip install "rljax\[download\]"'):
        download.push_t(path, url, **SIZES)
    with pytest.raises(ValueError, match="2 episodes of 5 steps, and there must be 206 of 25650"):
        download.push_t(path, zip_of(tmp_path))
    (tmp_path / "page.html").write_text("gone")
    with pytest.raises(ValueError, match=r"page.html: damaged, or not readable: File is not a zip file"):
        download.push_t(path, (tmp_path / "page.html").as_uri())
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as other:
        other.writestr("readme", "")
    with pytest.raises(ValueError, match=r"no data/state/.zarray; it must hold a Zarr store, version 2"):
        download.push_t(path, (tmp_path / "other.zip").as_uri())

    def no_network(*_, **__):
        raise OSError("Name or service not known")

    monkeypatch.setattr(download.urllib.request, "urlopen", no_network)
    assert download.main([str(path)]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {download.PUSH_T}: not downloaded: Name or service not known; fetch it where")
    assert said.count("\n") == 1
    path.touch()
    assert download.main([str(path)]) == 2
    assert "exists already" in capsys.readouterr().err
