"""A small disk of its own, and a program that keeps it full."""

import contextlib
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest


@contextlib.contextmanager
def mounted(mebibytes: int) -> Iterator[Path]:
    """Mounts a file system of this size outside pytest's folders, since a killed test leaves it mounted."""
    folder = Path(tempfile.mkdtemp(prefix="comfyui-modal-disk-"))
    mount = ["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m", "tmpfs", str(folder)]
    try:
        is_mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        is_mounted = False
    if not is_mounted:
        folder.rmdir()
        pytest.skip("mounting a file system is not permitted here")
    try:
        yield folder
    finally:
        unmount = ["umount", "--lazy", str(folder)]
        subprocess.run(unmount, check=True)
        folder.rmdir()


def fill(disk: Path) -> Path:
    """Writes until the disk is full, and returns the file whose removal frees it."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    return ballast


@contextlib.contextmanager
def filled(disk: Path) -> Iterator[None]:
    """Keeps the disk full, even if others delete files."""
    ended = threading.Event()
    thread = threading.Thread(target=_keep_full, args=(disk / "ballast", ended))
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        (disk / "ballast").unlink()


def _keep_full(ballast: Path, ended: threading.Event) -> None:
    with ballast.open("wb", buffering=0) as file:
        while not ended.is_set():
            try:
                file.write(bytes(64 * 1024))
            except OSError:
                time.sleep(0.001)
