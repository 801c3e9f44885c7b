"""The machine and the process: device, ranks, progress, optional packages, caches.

The only module that reads the environment.
"""

import importlib
import logging
import os
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from omnitune.errors import InputError, MissingExtraError
from omnitune.installation import pip_install

logger = logging.getLogger(__name__)
Item = TypeVar("Item")

BFLOAT16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
"""Flags of processors that multiply bfloat16, as Linux lists them: the first two of x86, the last of Arm."""


def require(package: str, *, extra: str) -> ModuleType:
    """Import an optional package.

    Args:
        package: Name to import.
        extra: The extra of omnitune that installs it.

    Raises:
        MissingExtraError: It is not installed; the message has the command that installs it.
        ImportError: It is installed and cannot be imported.
    """
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name is None or not (package + ".").startswith(error.name + "."):
            raise
        raise MissingExtraError(f"{package} is needed here and is not installed: {pip_install(extra)}") from error


def require_peft() -> ModuleType:
    """Import peft, of a version that the installed transformers takes.

    Raises:
        MissingExtraError: It is not installed, or too old; the message has the command that mends it.
    """
    peft = require("peft", extra="lora")
    import transformers
    from packaging.version import Version
    from transformers.integrations.peft import MIN_PEFT_VERSION

    if Version(peft.__version__) < Version(MIN_PEFT_VERSION):
        raise MissingExtraError(
            f"peft: expected {MIN_PEFT_VERSION} or newer, as transformers {transformers.__version__} takes adapters "
            f"with no older one, got {peft.__version__}: pip install 'omnitune[lora]' installs two that go together"
        )
    return peft


def installed(package: str) -> str | None:
    """Version of a package, or of Python ("python"); None where it is not installed."""
    import platform
    from importlib import metadata

    if package == "python":
        return platform.python_version()
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def cache_folder() -> Path:
    """Name the folder of derived results: `OMNITUNE_CACHE`, or `omnitune` under the user's cache folder."""
    explicit = os.environ.get("OMNITUNE_CACHE")
    if explicit:
        return Path(explicit)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "omnitune"


def state_folder() -> Path:
    """Name the folder of what must outlive the caches: `omnitune` under `XDG_STATE_HOME`, or `~/.local/state`."""
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "omnitune"


def endpoint() -> tuple[str, str]:
    """Address and key of a model behind an OpenAI-compatible API: `OPENAI_BASE_URL`, `OPENAI_API_KEY` ("" without one).

    Raises:
        InputError: No address is set; pages are never sent to a place that nobody named.
    """
    url = os.environ.get("OPENAI_BASE_URL", "")
    if not url:
        raise InputError(
            "OPENAI_BASE_URL: expected the address of an OpenAI-compatible API such as http://localhost:8000/v1, got "
            "nothing; set it, and OPENAI_API_KEY where the server asks for a key"
        )
    return url.rstrip("/"), os.environ.get("OPENAI_API_KEY", "")


def proxy_for(scheme: str, host: str) -> str | None:
    """Address of the proxy that the environment names for a host (`HTTPS_PROXY`, `NO_PROXY`, ...), or None."""
    import urllib.request

    named = urllib.request.getproxies()
    proxy = named.get(scheme) or named.get("all")
    return None if not proxy or urllib.request.proxy_bypass(host) else proxy


@contextmanager
def environment(**variables: str) -> Iterator[None]:
    """Environment variables for a block alone, such as the import of a library that reads them as it loads."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def rank() -> int:
    """This process's number among the ranks of a distributed run; 0 when there is one process."""
    return int(os.environ.get("RANK", "0"))


def ranks() -> int:
    """Number of processes of a distributed run; 1 when there is one process."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def end_group(process: subprocess.Popen[Any]) -> None:
    """Kill a process that was started with `start_new_session`, and all that it has started itself."""
    if os.name == "posix":
        with suppress(ProcessLookupError, PermissionError):  # macOS says the latter of a group that has ended
            os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()


def cores() -> int:
    """Processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def best_device() -> str:
    """`cuda`, `mps` or `cpu`: the first that is there."""
    import torch

    if torch.cuda.is_available():
        return f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def device_named(device: Any) -> Any:
    """The `torch.device` that a caller names.

    Args:
        device: A name such as `"cpu"` or `"cuda:1"`, or a `torch.device`.

    Raises:
        InputError: There is no such kind of device, or this machine has none.
    """
    import torch

    try:
        found = torch.device(device)
        there = (
            found.type not in ("cuda", "mps", "xpu")
            or (found.index or 0) < torch.get_device_module(found).device_count()
        )
    except (RuntimeError, TypeError) as error:
        raise InputError(f'device: expected a name such as "cpu", "cuda", "cuda:1" or "mps", got {device!r}') from error
    if not there:
        raise InputError(
            f"device: expected one that this machine has, got {device!r}; the best there is: {best_device()}"
        )
    return found


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error says that memory ran out; on a CPU torch says so in a plain `RuntimeError`.

    Example:
        >>> is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory"))
        True
    """
    import torch

    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )


def computes_bfloat16(device: str, cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Tell whether `device` multiplies bfloat16 matrices in hardware: emulated, it is slower than float32, so no."""
    if device.startswith("cuda"):
        import torch

        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    try:
        lines = cpuinfo.read_text().splitlines() if device == "cpu" else []
    except OSError:
        return False
    flags = {flag for line in lines if line.startswith(("flags", "Features")) for flag in line.split(":")[1].split()}
    return not flags.isdisjoint(BFLOAT16_FLAGS)


def available_memory(device: str = "cpu") -> int:
    """Bytes that can still be allocated on `device` (`"cpu"`, `"cuda:0"`, ...)."""
    if device.startswith("cuda"):
        import torch

        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except OSError:  # not Linux
        free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min(free, _cgroup_headroom())


NO_LIMIT = 1 << 62

_CGROUP_FILES = (
    ("memory.max", "memory.current", ("inactive_file", "active_file")),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", ("total_inactive_file", "total_active_file")),
)
"""Files and fields of control groups, of version 2 and of version 1: limit, use, and what is cached of files."""


def _cgroup_headroom(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> int:
    """Bytes that the process may still take, by the narrowest of its control groups.

    Every group above the process's own limits it too. Inside a container, the path of the own group may be the host's,
    which is not mounted; the root of the mount is then the container's group.
    """
    places = [root, root / "memory"]
    try:
        lines = own.read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        number, controllers, path = line.split(":", 2)
        if number == "0" or "memory" in controllers.split(","):
            mount = root if number == "0" else root / "memory"
            inside = Path(path.lstrip("/"))
            places += [mount / part for part in (inside, *inside.parents) if ".." not in part.parts]
    return min(_headroom_of(place, *names) for place in places for names in _CGROUP_FILES)


def _headroom_of(folder: Path, limit: str, used: str, cached: tuple[str, str]) -> int:
    try:
        most = (folder / limit).read_text().strip()
        taken = int((folder / used).read_text())
        facts = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        if most == "max":
            return NO_LIMIT
        # Files that were read are counted as used, and dropped when memory is needed.
        return max(int(most) - taken + sum(int(facts.get(name, 0)) for name in cached), 0)
    except (OSError, ValueError):
        return NO_LIMIT


@contextmanager
def no_collection() -> Iterator[None]:
    """Look for no garbage while a block loads: torch and transformers leave millions of objects to look through.

    Of `omnitune search` it was 0.7 s of 7.6 s of processor time.
    """
    import gc

    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def about(seconds: float) -> str:
    """Write a rough duration: `"20 s"`, `"4 min"`, `"1.5 h"`."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < 5400:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h"


def progress(
    items: Iterable[Item], *, label: str, total: int | None = None, show: bool | None = None, unit: str = "it"
) -> Iterator[Item]:
    """Iterate with a progress bar on standard error.

    Args:
        items: What to iterate over.
        label: What is being done, shown before the bar.
        total: Number of items where `len` does not say.
        show: None shows it when standard error is a terminal or the log level is INFO or lower.
        unit: Noun for one item.
    """
    known = len(items) if total is None and isinstance(items, Sized) else total
    with progress_bar(label=label, total=known, show=show, unit=unit) as bar:
        for item in items:
            yield item
            bar.update()


PROGRESS = logging.getLogger("omnitune.progress")
"""Gets a line a minute where no bar is shown, at level INFO; the command line prints them."""

LINE_SECONDS = 60.0


class _ProgressLines:
    """Stands in for a bar where there is no terminal, such as in a log file."""

    def __init__(self, label: str, total: int | None, unit: str) -> None:
        self.label, self.total, self.unit, self.n = label, total, unit, 0
        self._from, self._started = 0, time.monotonic()
        self._said, self._postfix = self._started, ""

    def update(self, n: int = 1) -> None:
        """Count, and log a line if the last one is a minute old."""
        if self.n == 0 and n > 1 and time.monotonic() - self._started < 1:
            self._from = n  # a resumed training begins at the step that an earlier run came to
        self.n += n
        self.say_if_due()

    def say_if_due(self) -> None:
        """Log a line if the last one is a minute old."""
        now = time.monotonic()
        if now - self._said < LINE_SECONDS:
            return
        self._said = now
        left = ""
        if self.total and self._from < self.n < self.total:
            left = f", about {about((now - self._started) / (self.n - self._from) * (self.total - self.n))} left"
        of = f" of {self.total:,}" if self.total else ""
        PROGRESS.info("%s: %s%s %ss%s%s", self.label, f"{self.n:,}", of, self.unit, left, self._postfix)

    def set_postfix_str(self, text: str) -> None:
        """Add to the end of the line, such as the loss."""
        self._postfix = f", {text}"


_shown: list[Any] = []
"""Bars, and what stands in for them, that are open, the innermost last."""


def shown_bar() -> Any:
    """The innermost bar that is open, or what stands in for it where no terminal is; None without one."""
    return next(iter(_shown[-1:]), None)


@contextmanager
def progress_bar(*, label: str, total: int | None, show: bool | None = None, unit: str = "it") -> Iterator[Any]:
    """A bar whose `update(n)` the caller calls; shown as in `progress`."""
    import sys

    from tqdm.auto import tqdm

    visible = (sys.stderr.isatty() or logger.isEnabledFor(logging.INFO)) if show is None else show
    if show is None and not visible and rank() == 0 and PROGRESS.isEnabledFor(logging.INFO):
        with _open(_ProgressLines(label, total, unit)) as lines:
            yield lines
        return
    hidden = not visible or rank() != 0
    with (
        tqdm(total=total, desc=label, unit=unit, disable=hidden, dynamic_ncols=True) as bar,
        nullcontext() if hidden else _open(bar),
    ):
        yield bar


@contextmanager
def _open(bar: Any) -> Iterator[Any]:
    _shown.append(bar)
    try:
        yield bar
    finally:
        _shown.remove(bar)
