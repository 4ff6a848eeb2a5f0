"""Archives that escape, deceive or explode are refused before anything is unpacked."""

import stat
import struct
import zipfile
from pathlib import Path

import pytest

from kbn.export.errors import BrokenModelError, KbnError, UnsafeModelError
from kbn.export.zip_archive import CONFIG, WEIGHTS, read_config

MODEL = {"metadata.json": b"{}", CONFIG: b"the configuration", WEIGHTS: b"weights" * 100}


def archive(path: Path, content: dict[str | zipfile.ZipInfo, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as file:
        for member, data in content.items():
            file.writestr(member, data)
    return path


def refusal(path: Path) -> KbnError:
    with pytest.raises(KbnError) as caught:
        read_config(path)
    assert str(path) in str(caught.value)
    assert str(caught.value).isprintable()
    return caught.value


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_sound_archive_gives_its_configuration(tmp_path, compression):
    extra = {"assets/": b"", "assets/layers/lookup/words.txt": b"a\nb", ".DS_Store": b"mac"}
    assert read_config(archive(tmp_path / "m.keras", MODEL | extra, compression)) == b"the configuration"


@pytest.mark.parametrize(
    "name", ["../out", "assets/../../out", "/etc/cron.d/job", "C:/out", "c:out", "assets\\..\\..\\out", "..", "a\\b"]
)
def test_a_member_that_escapes(tmp_path, name):
    error = refusal(archive(tmp_path / "m.keras", MODEL | {name: b""}))
    assert isinstance(error, UnsafeModelError)
    assert "outside the folder" in str(error)


def test_a_member_whose_name_is_cut_at_a_nul(tmp_path):
    path = archive(tmp_path / "m.keras", MODEL | {"assets/aXb": b""})
    path.write_bytes(path.read_bytes().replace(b"assets/aXb", b"assets/a\0b"))
    assert isinstance(refusal(path), UnsafeModelError)


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR])
def test_a_member_that_is_no_file(tmp_path, kind):
    member = zipfile.ZipInfo("assets/link")
    member.create_system, member.external_attr = 3, (kind | 0o777) << 16
    error = refusal(archive(tmp_path / "m.keras", MODEL | {member: b"/etc/passwd"}))
    assert isinstance(error, UnsafeModelError)
    assert "is a link or a device" in str(error)


def test_an_encrypted_member(tmp_path):
    path = archive(tmp_path / "m.keras", MODEL)
    data = bytearray(path.read_bytes())
    entry = data.index(b"PK\x01\x02")
    data[entry + 8] |= 1  # the flags of the first entry of the central directory
    path.write_bytes(data)
    assert "is encrypted" in str(refusal(path))


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_an_unusual_compression(tmp_path, compression):
    error = refusal(archive(tmp_path / "m.keras", MODEL, compression))
    assert isinstance(error, UnsafeModelError)
    assert f"compressed by method {compression}" in str(error)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_members_of_one_name(tmp_path):
    path = archive(tmp_path / "m.keras", MODEL)
    with zipfile.ZipFile(path, "a") as file:
        file.writestr(CONFIG, b"another configuration")
    assert "2 members of the name 'config.json'" in str(refusal(path))


def test_too_many_members(tmp_path):
    path = archive(tmp_path / "m.keras", MODEL | {f"assets/{i}": b"" for i in range(10_000)})
    assert "10003 members" in str(refusal(path))


def test_a_bomb(tmp_path):
    error = refusal(archive(tmp_path / "m.keras", MODEL | {"assets/zeros": bytes(2**27)}, zipfile.ZIP_DEFLATED))
    assert isinstance(error, UnsafeModelError)
    assert "134217728 of them in 'assets/zeros'" in str(error)


def test_a_bomb_of_many_small_members(tmp_path):
    zeros = {f"assets/{i}": bytes(2**20) for i in range(100)}
    assert "unpacks to" in str(refusal(archive(tmp_path / "m.keras", MODEL | zeros, zipfile.ZIP_DEFLATED)))


def test_a_huge_configuration(tmp_path):
    path = archive(tmp_path / "m.keras", MODEL | {CONFIG: bytes(2**26 + 1)})
    assert "config.json of 67108865 bytes" in str(refusal(path))


def test_a_size_that_lies(tmp_path):
    """A directory that declares a few bytes for a bomb: only those are read, and the checksum does not fit them."""
    path = archive(tmp_path / "m.keras", MODEL | {"assets/zeros": bytes(2**27)}, zipfile.ZIP_DEFLATED)
    data = bytearray(path.read_bytes())
    entry = data.rindex(b"PK\x01\x02")
    struct.pack_into("<I", data, entry + 24, 10)  # uncompressed size
    path.write_bytes(data)
    assert "'assets/zeros' does not match its checksum" in str(refusal(path))


def test_a_damaged_member(tmp_path):
    path = archive(tmp_path / "m.keras", MODEL)
    path.write_bytes(path.read_bytes().replace(b"weightsweights", b"weightsWeights", 1))
    error = refusal(path)
    assert isinstance(error, BrokenModelError)
    assert "'model.weights.h5' does not match its checksum" in str(error)


def test_every_truncation_is_broken(tmp_path):
    whole = archive(tmp_path / "whole", MODEL).read_bytes()
    path = tmp_path / "m.keras"
    for kept in range(4, len(whole)):
        path.write_bytes(whole[:kept])
        assert isinstance(refusal(path), BrokenModelError)


@pytest.mark.parametrize("missing", [CONFIG, WEIGHTS])
def test_an_archive_that_is_no_model(tmp_path, missing):
    content = {name: data for name, data in MODEL.items() if name != missing}
    error = refusal(archive(tmp_path / "m.keras", content))
    assert isinstance(error, BrokenModelError)
    assert f"holds no {missing} (but " in str(error)
