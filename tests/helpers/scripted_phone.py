"""A phone of files: Android's own adbd in a file system of its own, with scripts for what the app and Android do.

Everything between `udacisense device` and the phone's shell is real: the adb server, its protocol, the daemon that
runs on phones. Scripts stand in for `am`, `pm`, `getprop` and `pidof`; what the app "measured" is put there by a test.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

from tests_cache import CACHE

from harness.device.contract import FILES, PACKAGE

ADB = shutil.which("adb") or "/usr/bin/adb"
ADBD = CACHE / "adbd" / "adbd"
SERVER_S = 20.0
_SCRIPTS = {
    "getprop": 'cat "/phone/properties/$1" 2>/dev/null || echo',
    "pm": """
case "$1" in
  path) [ -e /phone/state/installed ] && echo "package:/data/app/base.apk" ;;
  install)
    for file; do :; done
    if [ -e /phone/state/refuse-install ]; then cat /phone/state/refuse-install; exit 1; fi
    cp "$file" /phone/state/installed && echo Success ;;
esac""",
    "pidof": "[ -e /phone/state/alive ] && echo 4242",
    "am": f"""
files={FILES}
shift
while [ $# -gt 0 ]; do
  case "$1" in
    -n) component=$2; shift 2 ;;
    -c) category=$2; shift 2 ;;
    --es) eval "extra_$2=\\$3"; shift 3 ;;
    *) shift ;;
  esac
done
echo "Starting: Intent {{ cmp=$component }}"
echo "$component $extra_command $extra_variants $extra_threads" >>/phone/state/orders
mkdir -p $files/results
touch /phone/state/alive
[ -n "$category" ] && exit 0
mode=$(cat /phone/state/mode 2>/dev/null || echo answer)
place="$files/results/$extra_order"
case $mode in
  none) echo "Error: Activity class {{$component}} does not exist." ;;
  hang) ;;
  crash) rm /phone/state/alive ;;
  fail) printf '{{"order": "%s", "error": "The model is damaged."}}' "$extra_order" >"$place.failed.json" ;;
  half) head -c 500 "/phone/state/$extra_command.json" >"$place.json" ;;
  answer) (sleep 0.3; cp "/phone/state/$extra_command.json" "$place.tmp"; mv "$place.tmp" "$place.json") \
    >/dev/null 2>&1 </dev/null & ;;
esac""",
}
_ENTER = """
set -e
root=$1
for folder in usr etc dev; do mount --rbind "/$folder" "$root/$folder"; done
[ -z "$2" ] || mount -t tmpfs -o "size=$2" none "$root/sdcard"
exec chroot "$root" /phone/adbd
"""


class ScriptedPhone:
    """A phone on a port of the loopback; its file system is below ``root``."""

    def __init__(
        self, folder: Path, adbd: Path, *, model: str = "Desk_1", sdcard: str | None = None, secure: bool = False
    ) -> None:
        self.root = folder
        self.port = free_port()
        self.serial = f"127.0.0.1:{self.port}"
        for name in ("usr", "etc", "dev", "sdcard", "data/local/tmp", "tmp", "phone/bin", "phone/state"):
            (folder / name).mkdir(parents=True)
        for name in ("bin", "lib", "lib64"):
            (folder / name).symlink_to(f"usr/{name}")
        shutil.copy(adbd, folder / "phone" / "adbd")
        for name, text in _SCRIPTS.items():
            script = folder / "phone" / "bin" / name
            script.write_text(f"#!/bin/sh\n{text.strip()}\n")
            script.chmod(0o755)
        for name, value in {
            "ro.build.version.sdk": "34",
            "ro.build.version.release": "14",
            "ro.product.cpu.abi": "arm64-v8a",
            "ro.product.model": model.replace("_", " "),
        }.items():
            (folder / "phone" / "properties").mkdir(exist_ok=True)
            (folder / "phone" / "properties" / name).write_text(value + "\n")
        environment = {
            "PATH": "/phone/bin:/usr/bin:/bin:/usr/sbin",
            "ADBD_LISTEN": f"tcp:localhost:{self.port}",
            "ADBD_MODEL": model,
            "HOME": "/",
        } | ({"ADBD_SECURE": "1"} if secure else {})
        namespace = ["unshare", "--mount", *([] if os.getuid() == 0 else ["--map-root-user"])]
        with (folder / "adbd.log").open("w") as log:
            self._process = subprocess.Popen(
                [*namespace, "sh", "-c", _ENTER, "sh", str(folder), sdcard or ""],
                env=environment,
                stdout=subprocess.DEVNULL,
                stderr=log,
            )

    @property
    def sdcard(self) -> Path:
        """The phone's storage as the phone sees it, also where it is a file system of its own."""
        return Path(f"/proc/{self._process.pid}/root/sdcard")

    @property
    def files(self) -> Path:
        return self.sdcard / FILES.removeprefix("/sdcard/")

    @property
    def orders(self) -> list[str]:
        return (self.root / "phone" / "state" / "orders").read_text().splitlines()

    def state(self, name: str, text: str = "") -> None:
        (self.root / "phone" / "state" / name).write_text(text)

    def install_app(self) -> None:
        """The app is installed and was opened once."""
        self.state("installed")
        (self.files / "results").mkdir(parents=True)

    def unplug(self) -> None:
        """The daemon is gone, as it is when the cable is drawn."""
        self._process.kill()
        self._process.wait()


class AdbServer:
    """An adb server of its own on a free port, with keys of its own."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.environment = {**os.environ, "HOME": str(folder), "ANDROID_ADB_SERVER_PORT": str(self.port)}
        self._process = subprocess.Popen(
            [ADB, "-P", str(self.port), "nodaemon", "server"],
            env=self.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        _until(lambda: _answers(self.port), "the adb server did not start")

    def adb(self, *words: str) -> str:
        ran = subprocess.run(
            [ADB, "-P", str(self.port), *words], env=self.environment, capture_output=True, text=True, check=False
        )
        return ran.stdout + ran.stderr

    def plug_in(self, phone: ScriptedPhone, *, state: str = "device") -> None:
        _until(lambda: _answers(phone.port), f"adbd did not start: {(phone.root / 'adbd.log').read_text()}")
        self.adb("connect", phone.serial)
        _until(lambda: f"{phone.serial}\t{state}" in self.adb("devices"), f"{phone.serial} did not become {state}")

    def forget(self, phone: ScriptedPhone) -> None:
        phone.unplug()
        self.adb("disconnect", phone.serial)

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _until(condition: object, problem: str) -> None:
    end = time.monotonic() + SERVER_S
    while time.monotonic() < end:
        if condition():  # type: ignore[operator]
            return
        time.sleep(0.05)
    raise AssertionError(problem)


def why_not(adbd: Path) -> str | None:
    """Return why there can be no scripted phone on this machine, or None."""
    if not Path(ADB).is_file():
        return "adb is not installed (Debian: apt install adb)"
    if not adbd.is_file():
        return f"Android's adbd is not at {adbd}; tests/harness/device/build_adbd.sh builds it"
    namespace = ["unshare", "--mount", *([] if os.getuid() == 0 else ["--map-root-user"]), "true"]
    if shutil.which("unshare") is None or subprocess.run(namespace, capture_output=True, check=False).returncode:
        return "this machine lets no process have a file system of its own (unshare --mount)"
    return None


__all__ = ["ADBD", "PACKAGE", "AdbServer", "ScriptedPhone", "why_not"]
