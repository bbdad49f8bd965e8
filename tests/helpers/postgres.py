"""A PostgreSQL server of a test's own: Debian's programs, a socket in a temporary folder, no TCP."""

from __future__ import annotations

import getpass
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

BINARIES = next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)), Path("/usr/lib/postgresql/bin"))
USER = "postgres" if os.geteuid() == 0 else getpass.getuser()  # the server refuses root


def unavailable() -> str | None:
    """Return why no server can be started here; None where one can."""
    if not (BINARIES / "initdb").is_file():
        return "PostgreSQL's server is not installed; apt-get install postgresql"
    return None


class Server:
    """A server with its data in a folder of its own, which :meth:`remove` takes away."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="udacisense-pg-"))
        if USER == "postgres":
            shutil.chown(self.folder, USER)
        self._run("initdb", "--pgdata", "data", "--username", "udacisense", "--auth", "trust", "--no-sync")
        self.start()

    def url(self, database: str = "postgres") -> str:
        """Return the URL of a database."""
        return f"postgresql://udacisense@/{database}?host={self.folder}"

    def new_database(self, name: str) -> str:
        """Make a database; return its URL."""
        self._run("createdb", "--host", str(self.folder), "--username", "udacisense", name)
        return self.url(name)

    def start(self) -> None:
        """Start it, and wait until it answers."""
        options = f"-c listen_addresses= -c unix_socket_directories={self.folder} -c fsync=off"
        self._run("pg_ctl", "start", "--wait", "--pgdata", "data", "--log", "log", "--options", options)

    def stop(self) -> None:
        """End it at once, as a lost machine would."""
        self._run("pg_ctl", "stop", "--pgdata", "data", "--mode", "immediate")

    def remove(self) -> None:
        """End it and remove its data."""
        if (self.folder / "data" / "postmaster.pid").exists():
            self.stop()
        shutil.rmtree(self.folder)

    def _run(self, program: str, *arguments: str) -> None:
        user = USER if os.geteuid() == 0 else None
        command = [str(BINARIES / program), *arguments]
        # No pipe: the server would inherit it, and hold it open.
        with (self.folder / f"{program}.txt").open("w") as output:
            done = subprocess.run(command, cwd=self.folder, user=user, stdout=output, stderr=output, check=False)
        assert done.returncode == 0, (self.folder / f"{program}.txt").read_text()
