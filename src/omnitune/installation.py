"""Commands that add to this omnitune, by where it was installed from."""

import json
import shlex
import shutil
import sys
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from urllib.parse import unquote, urlsplit


def pip_install(extra: str) -> str:
    """Word the command that installs an extra from where this omnitune comes from: a clone, a repository, an index.

    Example:
        >>> pip_install("serve")  # in a clone
        "pip install -e '.[serve]'"
    """
    here = Path(__file__).parents[2]
    clone, editable, what = (here if (here / "pyproject.toml").is_file() else None), True, f"omnitune[{extra}]"
    if clone is None:
        with suppress(metadata.PackageNotFoundError, ValueError, TypeError, KeyError):
            origin = json.loads(metadata.distribution("omnitune").read_text("direct_url.json") or "")
            if "dir_info" in origin:  # of a folder, as `pip install .` leaves it
                clone, editable = Path(unquote(urlsplit(origin["url"]).path)), origin["dir_info"].get("editable", False)
            elif "vcs_info" in origin:
                what = f"{what} @ {origin['vcs_info']['vcs']}+{origin['url']}"
    if clone is not None:
        what = f"{'.' if clone == Path.cwd() else clone}[{extra}]"
    # In an environment that is not activated, "pip" is another one's.
    pip = shutil.which("pip")
    command = "pip" if pip and Path(pip).parent == Path(sys.executable).parent else f"{sys.executable} -m pip"
    return f"{command} install {'-e ' * bool(clone and editable)}{shlex.quote(what)}"
