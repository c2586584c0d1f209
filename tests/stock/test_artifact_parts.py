"""Artifacts without a network: what is packed, what is believed of a peer, and what is left where a pull was killed."""

from __future__ import annotations

import io
import os
import tarfile
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peerload.client.stock.archive import members, pack
from peerload.client.stock.artifact import (
    ArtifactChunk,
    ArtifactFile,
    ArtifactManifest,
    header_of,
    read_chunks,
    read_header,
)
from peerload.client.stock.sealing import seal
from peerload.client.stock.staging import ArtifactStaging
from peerload.client.threads import Stopped
from peerload.errors import InvalidArgument, InvalidCheckpoint, LimitExceeded, NotAllowed
from tests.support.stock import import_stock

pytest.importorskip("google_crc32c")

GO_ON = threading.Event()


def nothing(done: int, total: int) -> None:
    pass


def cache(folder: Path) -> dict[str, bytes]:
    """A folder like a compile cache, and what is in it."""
    files = {
        "a.so": os.urandom(300_000),
        "kernels/k1.cubin": os.urandom(70_000),
        "kernels/empty.json": b"",
        "kernels/deep/er/k2.py": b"print()\n",
    }
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
        os.utime(folder / path, (1_700_000_000, 1_700_000_000))
    (folder / "a.so").chmod(0o755)
    (folder / "hollow").mkdir()
    (folder / "link").symlink_to("a.so")
    return files


def sealed(folder: Path, chunk_size: int = 64 * 1024, **roots: Path) -> Any:
    return seal(folder, roots, source_type=4, chunk_size=chunk_size, spool=None, stop=GO_ON, progress=None)


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def fill(staging: ArtifactStaging, artifact: Any, chunks: set[int]) -> None:
    for index in chunks:
        into = memoryview(bytearray(artifact.manifest.chunks[index].length))
        artifact.read(index, into)
        staging.write(index, 0, into)


def test_a_folder_goes_there_and_back(tmp_path: Path) -> None:
    files = cache(tmp_path / "here")
    more = cache(tmp_path / "more")
    artifact = sealed(tmp_path / "here", autotune=tmp_path / "more")
    assert [(each.path, each.reason) for each in artifact.skipped] == [("link", "a link"), ("autotune: link", "a link")]
    manifest = artifact.manifest
    manifest.check()
    assert manifest.names == ("artifact.tar", "autotune.tar")
    target = tmp_path / "there"
    with ArtifactStaging(manifest, target, {"autotune": tmp_path / "there too"}) as staging:
        assert staging.right(GO_ON, nothing) == set()
        fill(staging, artifact, set(range(len(manifest.chunks))))
        assert content(target).keys() <= {f".peerload/artifact-{manifest.artifact_id}/file-{n}" for n in (0, 1)} | {
            ".peerload/lock"
        }, "nothing has its name before everything is there"
        staging.look()
        assert staging.install() == 8
    artifact.close()
    assert content(target) == files
    assert content(tmp_path / "there too") == more
    assert (target / "hollow").is_dir()
    assert (target / "a.so").stat().st_mode & 0o111
    assert (target / "a.so").stat().st_mtime == 1_700_000_000
    assert not (target / ".peerload").exists()


def test_the_manifest_is_the_stock_packages(tmp_path: Path) -> None:
    stock = import_stock("metadata.artifact_manifest")
    cache(tmp_path / "here")
    artifact = sealed(tmp_path / "here")
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    (bundle / "artifact.tar").write_bytes(os.pread(artifact.files[0].fileno(), 1 << 24, 0))
    theirs = stock.build_artifact_manifest(bundle, chunk_size=64 * 1024, mx_source_type=4)
    p2p = import_stock("p2p_pb2")
    ours = p2p.ArtifactManifest(
        manifest_version=1,
        mx_source_type=4,
        chunk_size=64 * 1024,
        files=[
            p2p.ArtifactManifestFile.FromString(each.SerializeToString()) for each in artifact.manifest.file_messages()
        ],
        chunks=[
            p2p.ArtifactManifestChunk.FromString(each.SerializeToString()) for each in artifact.manifest.page(0, 1000)
        ],
    )
    assert stock.artifact_manifest_id(ours) == artifact.manifest.artifact_id
    ours.files[0].path = theirs.files[0].path
    assert ours == theirs
    artifact.close()


def test_equal_folders_are_one_artifact(tmp_path: Path) -> None:
    files = cache(tmp_path / "one")
    (tmp_path / "two").mkdir()
    for path, data in reversed(files.items()):
        (tmp_path / "two" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "two" / path).write_bytes(data)
        os.utime(tmp_path / "two" / path, (1_700_000_000, 1_700_000_000))
    (tmp_path / "two" / "a.so").chmod(0o755)
    (tmp_path / "two" / "hollow").mkdir()
    for folder in ("", "kernels", "kernels/deep", "kernels/deep/er", "hollow"):
        for side in ("one", "two"):
            os.utime(tmp_path / side / folder, (1_700_000_000, 1_700_000_000))
    one, two = sealed(tmp_path / "one"), sealed(tmp_path / "two")
    assert one.manifest.artifact_id == two.manifest.artifact_id
    one.close()
    two.close()


def test_an_empty_folder_is_no_artifact(tmp_path: Path) -> None:
    with pytest.raises(InvalidCheckpoint, match="no files"):
        sealed(tmp_path)
    with pytest.raises(InvalidArgument, match="roots"):
        sealed(tmp_path, artifact=tmp_path)


def test_a_pull_that_was_killed_is_taken_up_again(tmp_path: Path) -> None:
    files = cache(tmp_path / "here")
    artifact = sealed(tmp_path / "here")
    count = len(artifact.manifest.chunks)
    with ArtifactStaging(artifact.manifest, tmp_path / "there", {}) as staging:
        fill(staging, artifact, {0, 2, 4})
        staging.write(4, 10, memoryview(b"spoilt"))
        with pytest.raises(NotAllowed, match="another pull"):
            ArtifactStaging(artifact.manifest, tmp_path / "there", {})
    with ArtifactStaging(artifact.manifest, tmp_path / "there", {}) as staging:
        assert staging.right(GO_ON, nothing) == {0, 2}
        fill(staging, artifact, set(range(count)) - {0, 2})
        staging.look()
        staging.install()
    assert content(tmp_path / "there") == files
    artifact.close()


def test_what_is_in_the_folder_stays(tmp_path: Path) -> None:
    cache(tmp_path / "here")
    artifact = sealed(tmp_path / "here")
    target = tmp_path / "there"
    target.mkdir()
    (target / "mine").write_bytes(b"mine")
    (target / "kernels").symlink_to(tmp_path)
    with ArtifactStaging(artifact.manifest, target, {}) as staging:
        fill(staging, artifact, set(range(len(artifact.manifest.chunks))))
        staging.look()
        with pytest.raises(InvalidCheckpoint, match="link"):
            staging.install()
    assert not (target / "a.so").exists(), "a link in the way of one file keeps all of them out"
    (target / "kernels").unlink()
    with ArtifactStaging(artifact.manifest, target, {}) as staging:
        assert len(staging.right(GO_ON, nothing)) == len(artifact.manifest.chunks)
        staging.look()
        staging.install()
    assert (target / "mine").read_bytes() == b"mine"
    artifact.close()


def test_every_root_needs_a_folder(tmp_path: Path) -> None:
    cache(tmp_path / "here")
    artifact = sealed(tmp_path / "here", autotune=tmp_path / "here")
    for roots in ({}, {"other": tmp_path / "x"}, {"autotune": tmp_path / "there"}):
        with pytest.raises(InvalidArgument, match="roots"):
            ArtifactStaging(artifact.manifest, tmp_path / "there", roots)
    artifact.close()


def test_files_come_as_they_are_where_they_are_no_archives(tmp_path: Path) -> None:
    import google_crc32c

    data = {"x/one": b"1" * 10, "x/sub/two": b"2" * 5, "x/empty": b""}
    files = tuple(
        ArtifactFile(f"/mnt/{path}", len(each), google_crc32c.Checksum(each).hexdigest().decode())
        for path, each in data.items()
    )
    chunks = tuple(ArtifactChunk(index, 0, file.size, file.checksum) for index, file in enumerate(files) if file.size)
    manifest = ArtifactManifest(5, 16, files, chunks)
    manifest.check()
    with ArtifactStaging(manifest, tmp_path, {}) as staging:
        for index, chunk in enumerate(chunks):
            staging.write(index, 0, memoryview(list(data.values())[chunk.file]))
        assert len(staging.right(GO_ON, nothing)) == len(chunks)
        assert staging.install() == 3
    assert content(tmp_path) == {"one": b"1" * 10, "sub/two": b"2" * 5, "empty": b""}


def test_a_disk_that_is_too_small_is_said_beforehand(tmp_path: Path) -> None:
    manifest = ArtifactManifest(
        5, 1 << 40, (ArtifactFile("/a/artifact.tar", 1 << 60, "0" * 8),), (ArtifactChunk(0, 0, 1 << 60, "0" * 8),)
    )
    with pytest.raises(LimitExceeded, match="are free"):
        ArtifactStaging(manifest, tmp_path, {})


# What a peer says.


def good() -> ArtifactManifest:
    files = (ArtifactFile("/b/artifact.tar", 20, "0" * 8), ArtifactFile("/b/jit.tar", 5, "f" * 8))
    return ArtifactManifest(
        4, 16, files, tuple(ArtifactChunk(*each, "0" * 8) for each in ((0, 0, 16), (0, 16, 4), (1, 0, 5)))
    )


def header(**changed: Any) -> Any:
    message = header_of(good())
    for name, value in changed.items():
        setattr(message, name, value)
    return message


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"manifest_version": 2}, "manifest_version"),
        ({"artifact_id": "../../etc"}, "artifact_id"),
        ({"artifact_id": "A" * 64}, "artifact_id"),
        ({"chunk_size": 0}, "chunk_size"),
        ({"chunk_size": 2**63}, "chunk_size"),
        ({"file_count": 3}, "file_count"),
        ({"chunk_count": 2**32 - 1}, "chunk_count"),
        ({"chunk_count": 1}, "chunk_count"),
        ({"total_size": 2**64 - 1}, "total_size"),
    ],
)
def test_a_header_that_is_not_right_is_refused(changed: dict[str, Any], named: str) -> None:
    read_header(header())
    with pytest.raises(InvalidArgument, match=named):
        read_header(header(**changed))


def test_files_of_a_header_are_checked() -> None:
    for change, named in (
        (lambda file: setattr(file, "file_index", 1), "file_index"),
        (lambda file: setattr(file, "checksum", "0" * 7 + "G"), "checksum"),
        (lambda file: setattr(file, "size", 2**63), "total_size"),
    ):
        message = header()
        change(message.files[0])
        with pytest.raises(InvalidArgument, match=named):
            read_header(message)
    for path in ("", "relative", "/a/../b", "/a//b", "/", "/a/./b", "/a/b/"):
        message = header()
        message.files[0].path = path
        with pytest.raises(InvalidCheckpoint):
            read_header(message)


@pytest.mark.parametrize(
    "chunks",
    [
        ((0, 0, 16), (0, 16, 4)),
        ((0, 0, 16), (0, 15, 4), (1, 0, 5)),
        ((0, 0, 17), (0, 17, 3), (1, 0, 5)),
        ((0, 0, 16), (0, 16, 5), (1, 0, 5)),
        ((0, 0, 16), (0, 16, 4), (2, 0, 5)),
        ((0, 0, 16), (0, 16, 0), (1, 0, 5)),
    ],
    ids=["missing", "overlap", "too long", "beyond the end", "no such file", "empty"],
)
def test_chunks_must_cover_the_files(chunks: Any) -> None:
    good().check()
    manifest = good()
    with pytest.raises(InvalidArgument, match="manifest"):
        ArtifactManifest(4, 16, manifest.files, tuple(ArtifactChunk(*each, "0" * 8) for each in chunks)).check()


@pytest.mark.parametrize(
    "paths", [("/b/.git/x", "/b/y"), ("/b/x", "/b/X"), ("/b/x", "/b/x"), ("/b/x", "/b/x/y"), ("/a\n/x", "/b/y")]
)
def test_paths_that_are_unsafe_here_are_refused(paths: tuple[str, str]) -> None:
    manifest = ArtifactManifest(4, 16, tuple(ArtifactFile(path, 0, "0" * 8) for path in paths), ())
    with pytest.raises(InvalidCheckpoint):
        manifest.check()


def test_pages_must_follow_each_other() -> None:
    page = good().page(1, 10)
    assert len(list(read_chunks(page, 1))) == 2
    with pytest.raises(InvalidArgument, match="chunk_index"):
        list(read_chunks(page, 0))


# Archives that mean harm.


def archive(tmp_path: Path, *infos: tarfile.TarInfo, data: bytes = b"") -> Any:
    path = tmp_path / "hostile.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for info in infos:
            tar.addfile(info, io.BytesIO(data) if info.isreg() else None)
    return path.open("rb")


def info(name: str, kind: bytes = tarfile.REGTYPE, size: int = 0, link: str = "", **more: Any) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.size, made.linkname = kind, size, link
    for field, value in more.items():
        setattr(made, field, value)
    return made


@pytest.mark.parametrize(
    "infos",
    [
        [info("../x")],
        [info("/etc/x")],
        [info("a/../../x")],
        [info("x", tarfile.SYMTYPE, link="/etc")],
        [info("x"), info("y", tarfile.LNKTYPE, link="x")],
        [info("x", tarfile.CHRTYPE)],
        [info("x", tarfile.FIFOTYPE)],
        [info("x"), info("x")],
        [info("x"), info("X")],
        [info("x"), info("x/y")],
        [info("d", tarfile.DIRTYPE), info("d")],
        [info(".peerload/lock")],
        [info("a/.git/hooks/post-checkout")],
        [info("x", pax_headers={"GNU.sparse.realsize": "9223372036854775807", "GNU.sparse.major": "1"})],
        [info("x", pax_headers={"size": "99999999999"})],
        [info("x", pax_headers={"comment": "c" * (2 << 20)})],
    ],
    ids=lambda infos: str(infos[-1].name)[:20] + str(infos[-1].type),
)
def test_an_archive_that_is_unsafe_is_refused(tmp_path: Path, infos: list[tarfile.TarInfo]) -> None:
    with archive(tmp_path, *infos) as file, pytest.raises(InvalidCheckpoint):
        members(file, "artifact.tar")


def test_records_that_announce_each_other_end(tmp_path: Path) -> None:
    one = info("././@LongLink", b"L", size=512).tobuf(tarfile.GNU_FORMAT) + b"a" * 512
    path = tmp_path / "deep.tar"
    path.write_bytes(one * 5000 + bytes(1024))
    with path.open("rb") as file, pytest.raises(InvalidCheckpoint, match=r"artifact\.tar"):
        members(file, "artifact.tar")


@given(st.binary(max_size=3000), st.integers(0, 20_000))
def test_any_bytes_end_in_a_list_or_a_refusal(noise: bytes, at: int) -> None:
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name in ("a", "b/c", "d" * 200):
            tar.addfile(info(name, size=600), io.BytesIO(bytes(600)))
    data = bytearray(whole.getvalue())
    at = min(at, len(data))
    data[at : at + len(noise)] = noise
    fd = os.memfd_create("noise")
    with open(fd, "w+b") as file:  # noqa: PTH123
        file.write(data)
        file.seek(0)
        try:
            found = members(file, "artifact.tar")
        except InvalidCheckpoint:
            return
        for member in found:
            assert member.offset + member.size <= len(data)


def test_packing_stops_when_it_is_told(tmp_path: Path) -> None:
    cache(tmp_path)
    stop = threading.Event()
    stop.set()
    with pytest.raises(Stopped), io.BytesIO() as output:
        pack(tmp_path, output, stop)
