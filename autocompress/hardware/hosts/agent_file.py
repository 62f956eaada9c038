"""The agent as the one file that runs on a host."""

from __future__ import annotations

import functools
import hashlib
import io
import zipfile
from pathlib import Path

from autocompress.paths import cache_dir, make_dir, write_bytes

AGENT_FOLDER = Path(__file__).resolve().parent.parent / "agent"
_MAIN = "import sys\nfrom agent.commands import main\nsys.exit(main(sys.argv[1:]))\n"


def agent_file() -> Path:
    """The agent's folder as a zip archive that Python 3.6 and newer run like a script.

    It is kept in the user's cache under the digest of its content, so that another version is another file.

    Raises:
        UserError: the cache cannot be written to.
    """
    content = _archive()
    path = cache_dir() / "agents" / hashlib.sha256(content).hexdigest()[:16] / "agent.pyz"
    if not path.exists():
        make_dir(path.parent)
        write_bytes(path, content)
    return path


@functools.cache  # an agent is started some ten times in a trial, and the folder stays as it is
def _archive() -> bytes:
    """The same bytes for the same files, on every machine and at any time."""
    files = {"__main__.py": _MAIN.encode()}
    files |= {f"agent/{path.name}": path.read_bytes() for path in AGENT_FOLDER.glob("*.py")}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(files):
            archive.writestr(zipfile.ZipInfo(name), files[name], zipfile.ZIP_DEFLATED)
    return buffer.getvalue()
