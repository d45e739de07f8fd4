"""Downloading, from a real server on this machine that speaks https with a certificate of its own."""

import dataclasses
import datetime
import hashlib
import http.server
import ipaddress
import os
import signal
import ssl
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from gradlab.data.datasets.mnist import KMNIST, NAMES
from gradlab.data.download import Download, fetch
from gradlab.errors import ConfigError, DataError
from processes import ROOT, environment

CONTENT = bytes(range(256)) * 4000  # 1 MB
MD5 = hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()


def self_signed(folder: Path) -> Path:
    """A certificate for 127.0.0.1 and its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    file = folder / "certificate.pem"
    file.write_bytes(
        certificate.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return file


class Answers(http.server.BaseHTTPRequestHandler):
    """Answers by the path: what a mirror may do, good and bad."""

    def do_GET(self) -> None:
        assert isinstance(self.server, Server)
        self.server.asked.append(self.path)
        address = self.server.address
        where = self.path.strip("/").split("/")[0]
        if where in self.server.files:
            self.send(self.server.files[where])
        elif where == "good":
            self.send(CONTENT)
        elif where == "no-length":
            self.send(CONTENT, length=None)
        elif where == "truncated":
            self.send(CONTENT[:300_000], length=len(CONTENT))
        elif where == "slow":
            self.send(CONTENT[:300_000], length=len(CONTENT))
            self.wfile.flush()
            self.server.released.wait(60)
        elif where == "short":
            self.send(CONTENT[:-1])
        elif where == "endless":
            self.send(CONTENT * 3, length=None)
        elif where == "other":
            self.send(CONTENT[:-1] + b"?")
        elif where == "away":
            self.redirect(f"{address}/good")
        elif where == "in-circles":
            self.redirect(f"{address}/in-circles")
        elif where == "to-http":
            self.redirect(address.replace("https", "http") + "/good")
        elif where == "to-a-file":
            self.redirect("file:///etc/hostname")
        else:
            self.send_error(404)

    def send(self, content: bytes, length: int | None = -1) -> None:
        self.send_response(200)
        if length is not None:
            self.send_header("Content-Length", str(len(content) if length < 0 else length))
        self.end_headers()
        self.wfile.write(content)

    def redirect(self, address: str) -> None:
        self.send_response(302)
        self.send_header("Location", address)
        self.end_headers()

    def log_message(self, format: str, *arguments: object) -> None:
        pass


class Server(http.server.ThreadingHTTPServer):
    """Whose clients may hang up in the middle."""

    daemon_threads = True

    def __init__(self, certificate: Path) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        self.socket = context.wrap_socket(self.socket, server_side=True)
        self.asked: list[str] = []
        self.files: dict[str, bytes] = {}
        self.released = threading.Event()
        self.address = f"https://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: object, client_address: object) -> None:
        pass


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return self_signed(tmp_path_factory.mktemp("certificate"))


@pytest.fixture
def server(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server(certificate) as running:
        thread = threading.Thread(target=running.serve_forever, args=[0.02])
        thread.start()
        yield running
        running.released.set()
        running.shutdown()
        thread.join()


@pytest.fixture
def trust(certificate: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(certificate))


Offer = Callable[..., Download]


@pytest.fixture
def offer(server: Server) -> Offer:
    """The file at paths of the server."""
    return lambda *paths: Download(
        "folder/file.bin", len(CONTENT), MD5, tuple(f"{server.address}/{path}" for path in paths)
    )


def files_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("path", ["good", "no-length", "away"])
def test_a_file_is_fetched_whole_and_nothing_else_is_left(
    offer: Offer, trust: ssl.SSLContext, tmp_path: Path, path: str, capfd: pytest.CaptureFixture[str]
) -> None:
    file = fetch(offer(path), tmp_path / "new" / "root", trust)
    assert file.read_bytes() == CONTENT
    assert files_in(tmp_path) == ["new/root/folder/file.bin"]
    out, err = capfd.readouterr()
    assert out == ""
    assert err == f"Downloading file.bin (1.02 MB) from 127.0.0.1 to {tmp_path}/new/root/folder\n"


def test_the_file_has_the_rights_that_any_new_file_has(offer: Offer, trust: ssl.SSLContext, tmp_path: Path) -> None:
    (tmp_path / "other").touch()
    file = fetch(offer("good"), tmp_path, trust)
    assert stat.S_IMODE(file.stat().st_mode) == stat.S_IMODE((tmp_path / "other").stat().st_mode)


WRONG = {
    "truncated": "the connection ended after 300,000 of 1,024,000 bytes",
    "short": "the connection ended after 1,023,999 of 1,024,000 bytes",
    "endless": "it sends more than the 1,024,000 bytes",
    "other": f"and it must be {MD5}",
    "to-http": "it redirects to http://127.0.0.1",
    "to-a-file": "is not allowed",
    "in-circles": "302",
    "nothing-there": "the server answers 404",
}


@pytest.mark.parametrize("path", WRONG)
def test_a_wrong_answer_leaves_nothing_and_is_said_in_a_line(
    offer: Offer, trust: ssl.SSLContext, tmp_path: Path, path: str
) -> None:
    with pytest.raises(DataError) as caught:
        fetch(offer(path), tmp_path, trust)
    message = str(caught.value)
    for part in ("file.bin could not be downloaded", f"/{path}: ", WRONG[path], f"{tmp_path}/folder/file.bin", MD5):
        assert part in message
    assert "\n" not in message
    assert files_in(tmp_path) == []


def test_the_wrong_checksum_is_said(offer: Offer, trust: ssl.SSLContext, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=hashlib.md5(CONTENT[:-1] + b"?", usedforsecurity=False).hexdigest()):
        fetch(offer("other"), tmp_path, trust)


def test_the_next_address_is_asked_when_one_fails(
    offer: Offer, server: Server, trust: ssl.SSLContext, tmp_path: Path
) -> None:
    assert fetch(offer("truncated", "to-http", "good", "other"), tmp_path, trust).read_bytes() == CONTENT
    assert server.asked == ["/truncated", "/to-http", "/good"]


def test_every_address_that_failed_is_named(offer: Offer, trust: ssl.SSLContext, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        fetch(offer("short", "nothing-there"), tmp_path, trust)
    assert "/short: the connection ended" in str(caught.value)
    assert "/nothing-there: the server answers 404" in str(caught.value)


def test_a_file_that_is_there_is_left_alone(
    offer: Offer, server: Server, trust: ssl.SSLContext, tmp_path: Path
) -> None:
    file = tmp_path / "folder" / "file.bin"
    file.parent.mkdir()
    file.write_bytes(b"mine")
    assert fetch(offer("good"), tmp_path, trust) == file
    assert file.read_bytes() == b"mine"
    assert server.asked == []
    assert files_in(tmp_path) == ["folder/file.bin"]


def test_a_certificate_that_nobody_vouches_for_is_not_trusted(offer: Offer, server: Server, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="certificate verify failed"):
        fetch(offer("good"), tmp_path)
    assert server.asked == []


def test_plain_http_is_not_even_asked(offer: Offer, server: Server, trust: ssl.SSLContext, tmp_path: Path) -> None:
    (https,) = offer("good").addresses
    plain = dataclasses.replace(offer("good"), addresses=(https.replace("https", "http"),))
    with pytest.raises(DataError, match="it is no https address"):
        fetch(plain, tmp_path, trust)
    assert server.asked == []


def test_a_server_that_is_not_there(tmp_path: Path, trust: ssl.SSLContext) -> None:
    nowhere = Download("file.bin", 1, MD5, ("https://127.0.0.1:1/file.bin",))
    with pytest.raises(DataError, match=r"refused.*Check the network"):
        fetch(nowhere, tmp_path, trust)


def test_what_a_killed_process_left_is_cleared_away(offer: Offer, trust: ssl.SSLContext, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / ".file.bin.abc123.part").write_bytes(b"half")
    (folder / ".file.bin.lock").touch()
    (folder / ".other.bin.abc123.part").write_bytes(b"another's")
    fetch(offer("good"), tmp_path, trust)
    assert files_in(tmp_path) == ["folder/.other.bin.abc123.part", "folder/file.bin"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_named(offer: Offer, trust: ssl.SSLContext, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir(mode=0o500)
    with pytest.raises(DataError, match=r"cannot be written: Permission denied.*data\.root"):
        fetch(offer("good"), tmp_path, trust)


def test_a_root_that_is_a_file_is_named(offer: Offer, trust: ssl.SSLContext, tmp_path: Path) -> None:
    (tmp_path / "folder").touch()
    with pytest.raises(DataError, match=r"cannot be written: .*data\.root"):
        fetch(offer("good"), tmp_path, trust)


def test_of_several_processes_one_fetches(offer: Offer, server: Server, certificate: Path, tmp_path: Path) -> None:
    program = (
        "import sys, pathlib\n"
        "from gradlab.data.download import Download, fetch\n"
        "size, md5, address, root = sys.argv[1:]\n"
        "file = fetch(Download('folder/file.bin', int(size), md5, (address,)), pathlib.Path(root))\n"
        "sys.exit(0 if file.stat().st_size == int(size) else 'not whole')"
    )
    (address,) = offer("good").addresses
    command = [sys.executable, "-c", program, str(len(CONTENT)), MD5, address, str(tmp_path)]
    # The certificate by the environment, as a company's own would be.
    variables = {**os.environ, "SSL_CERT_FILE": str(certificate), "no_proxy": "127.0.0.1"}
    processes = [subprocess.Popen(command, env=variables, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    told = [process.communicate(timeout=900)[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, told
    assert server.asked == ["/good"]
    assert sum("Downloading" in lines for lines in told) == 1
    assert files_in(tmp_path) == ["folder/file.bin"]
    assert (tmp_path / "folder" / "file.bin").read_bytes() == CONTENT


def test_a_dataset_is_fetched_once_and_read(
    server: Server, certificate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A whole dataset through ``load``: KMNIST, of 40 and 20 images."""
    import gzip

    random, downloads = np.random.default_rng(0), []
    for name, count in zip(NAMES, (40, 40, 20, 20), strict=True):
        shape = (count, 28, 28) if "images" in name else (count,)
        values = random.integers(0, 10, shape, dtype=np.uint8)
        header = bytes([0, 0, 8, len(shape)]) + b"".join(size.to_bytes(4, "big") for size in shape)
        content = gzip.compress(header + values.tobytes())
        server.files[f"{name}.gz"] = content
        md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
        downloads.append(Download(f"KMNIST/raw/{name}.gz", len(content), md5, (f"{server.address}/{name}.gz",)))
    monkeypatch.setattr(KMNIST, "downloads", tuple(downloads))
    monkeypatch.setattr(KMNIST, "train_examples", 40)
    monkeypatch.setattr(KMNIST, "test_examples", 20)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    chosen = KMNIST(
        "kmnist",
        batch_size=8,
        val_fraction=0.1,
        split_seed=0,
        class_weights="none",
        normalization="standard",
        root=str(tmp_path),
        download=True,
    )
    assert chosen.spec().train_examples == 36  # nothing is fetched to know that
    assert server.asked == []
    told = chosen.load().fingerprint
    assert server.asked == [f"/{name}.gz" for name in NAMES]
    assert chosen.load().fingerprint == told
    assert len(server.asked) == 4
    assert dataclasses.replace(chosen, download=False).load().fingerprint == told
    (tmp_path / "KMNIST" / "raw" / f"{NAMES[1]}.gz").unlink()
    with pytest.raises(ConfigError, match=NAMES[1]):
        dataclasses.replace(chosen, download=False).spec()
    assert chosen.load().fingerprint == told
    assert server.asked[4:] == [f"/{NAMES[1]}.gz"]


def test_a_signal_ends_a_download_at_once_and_leaves_no_half_of_a_file(
    server: Server, certificate: Path, tmp_path: Path
) -> None:
    """A run on a dataset of a user's own, whose mirror falls silent in the middle."""
    (tmp_path / "mine.py").write_text(
        "from dataclasses import dataclass\n"
        "from typing import ClassVar\n"
        "from gradlab.data.datasets import DATASETS\n"
        "from gradlab.data.datasets.mnist import KMNIST\n"
        "from gradlab.data.download import Download\n"
        "@DATASETS.register('slow')\n"
        "@dataclass(frozen=True)\n"
        "class Slow(KMNIST):\n"
        f"    downloads: ClassVar = (Download('folder/x.gz', {len(CONTENT)}, '{MD5}', ('{server.address}/slow',)),)\n"
    )
    (tmp_path / "configs" / "data").mkdir(parents=True)
    numbers = (ROOT / "configs" / "data" / "kmnist.yaml").read_text()
    (tmp_path / "configs" / "data" / "slow.yaml").write_text(numbers.replace("kmnist", "slow"))
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), "--config-dir=configs", "imports=[mine]", "data=slow",
         "data.download=true", "tracking=none"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=environment(
            SSL_CERT_FILE=str(certificate), no_proxy="127.0.0.1",
            PYTHONPATH=os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]),
        ),
    )  # fmt: skip
    assert process.stderr is not None
    assert "Downloading x.gz" in process.stderr.readline()
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=900)
    assert process.returncode == 143, out + err
    assert files_in(tmp_path / "data") == []
