"""Proxy and mirror settings that cannot work, named before anything is downloaded. Standard library only.

What each client accepts was tried with huggingface_hub 1.33 (httpx 0.28), pip 25 and uv 0.13: a proxy without
``http://`` works everywhere and is not complained of, an empty ``HF_ENDPOINT`` works nowhere.
"""

import importlib.util
import os
import re
import sys
from pathlib import Path
from typing import NamedTuple

from helpers.errors import CourseError

PROXIES = ("ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY")
# Where models, data and packages come from, if not from their usual places.
MIRRORS = ("HF_ENDPOINT", "PIP_INDEX_URL", "UV_DEFAULT_INDEX", "UV_INDEX_URL")
OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
# What httpx and pip need for a SOCKS proxy: {module: package}.
SOCKS_NEEDS = {"socksio": "socksio", "socks": "PySocks"}
HOST = r"(\[[\da-fA-F:.]+\]|[^\W_](?:[\w.-]*\w)?)(:\d{1,5})?"
USER = r"(?:[^\s/?#]+@)?"
PROXY = re.compile(rf"(?:(\w+)://)?{USER}{HOST}/?", re.ASCII)
ADDRESS = re.compile(rf"https?://{USER}{HOST}(/[\w.~%/+@:-]*)?", re.ASCII)
# A password whose "@host" was forgotten.
NO_PORT = re.compile(r":(?!/)(?!\d{1,5}(?:[/\"' ]|$))[^\]]+$")
QUOTED = re.compile(r"""^\s|\s$|["'“”‘’]""")


class Problem(NamedTuple):
    """A setting that cannot work: what it is, why it fails, what to do."""

    what: str
    why: str
    todo: str


def hide(text: str) -> str:
    """A text without the names and passwords that stand in addresses: ``http://…@proxy:8080``."""
    for name in (*PROXIES, *map(str.lower, PROXIES), *MIRRORS, "COURSE_REPO"):
        before = os.environ.get(name, "").rpartition("@")[0]
        secret = re.sub(r"^[\"' ]*(?:[\w+.-]+:/+)?", "", before)
        # A name of a few letters stands in other words too.
        end = "" if len(secret) > 3 else "@"
        if secret:
            text = text.replace(secret + end, "…" + end)
        elif unfinished := NO_PORT.search(os.environ.get(name, "")):
            text = text.replace(unfinished[0], ":…")
    return re.sub(r"(?<=://)[^\s/@]+@", "…@", text)


def _shown(name: str) -> str:
    """``NAME = value`` without a name, a password or a key in it."""
    head, at, tail = os.environ[name].rpartition("@")
    tail = NO_PORT.sub(":…", tail)
    scheme = re.match(r"[\"'“‘ ]*(?:[\w+.-]+:/+)?", head)[0]
    return f"{name} = {scheme + '…@' if at else head}{re.sub(r'[?#].*', '?…', tail)}"


def _again(name: str, example: str) -> str:
    """How to set a variable, or to take it away where there is no example of a right one."""
    text = f"Set it anew before the first cell: %env {name}={example}"
    if not example:
        text = f"Take it away: %env {name}= in a cell, or in a terminal `unset {name}`"
        if name.startswith("HF_"):
            text = f"Take it away: import os; os.environ.pop('{name}')"
    if name in ("HF_ENDPOINT", *OFFLINE) and "huggingface_hub" in sys.modules:
        text += (
            ". It was read already, so first restart the session (menu Runtime > Restart session)"
        )
    return f"{text}."


def problems() -> list[Problem]:
    """Proxy and mirror variables that are set and cannot work, each with what to do; empty where all is well."""
    found = []
    for name in PROXIES:
        for spelling in (name, name.lower()):
            if os.environ.get(spelling):
                found.append(_proxy(spelling))
    found += [_mirror(name) for name in MIRRORS if name in os.environ]
    found += [_exceptions(name) for name in ("NO_PROXY", "no_proxy") if os.environ.get(name)]
    return [one for one in found if one]


def _proxy(name: str) -> Problem | None:
    value = os.environ[name]
    enough = any(os.environ.get(n) for n in ("HTTPS_PROXY", "https_proxy"))
    # Beside HTTPS_PROXY, ALL_PROXY only does harm: what is downloaded here has an https address.
    spare = enough and name.upper() == "ALL_PROXY"
    example = "" if spare else "http://host:port"
    todo = _again(name, example) + (" HTTPS_PROXY is set too, and is enough." if spare else "")
    if QUOTED.search(value):
        why = "Quotes or spaces have become a part of the address."
        return Problem(f"{_shown(name)} has a quote or a space in it.", why, todo)
    parts = PROXY.fullmatch(value)
    if not parts or parts[2] in ("http", "https"):
        why = (
            "A proxy is written http://host:port, or http://name:password@host:port. In a password "
        )
        why += "# is written %23, / %2F, ? %3F."
        return Problem(f"{_shown(name)} is not the address of a proxy.", why, todo)
    scheme = (parts[1] or "http").lower()
    if scheme in ("http", "https"):
        return None
    if scheme not in ("socks5", "socks5h"):
        why = f"The programs that download here know http://, https:// and socks5://, not {scheme}://."
        return Problem(f"{_shown(name)} is of an unknown kind.", why, todo)
    absent = [p for module, p in SOCKS_NEEDS.items() if importlib.util.find_spec(module) is None]
    if not absent:
        return None
    why = f"To download through a SOCKS proxy, Python needs {' and '.join(absent)}, which are not here."
    if not spare:
        todo = f"If your proxy has an HTTP address too, take that. {todo}"
    return Problem(f"{_shown(name)} is a SOCKS proxy.", why, todo)


def _mirror(name: str) -> Problem | None:
    value = os.environ[name]
    hub = name == "HF_ENDPOINT"
    if not value and not hub:
        return None
    # uv takes name=address too; packages may also come from a folder.
    address = value if hub else re.sub(r"^[\w-]+=", "", value)
    if not hub and (address.startswith("file:") or os.path.exists(address)):
        return None
    todo = _again(name, "https://host" if hub else "https://host/simple")
    if not value:
        why = "Then there is no address to ask, not even the usual one."
        return Problem(f"{name} is set to nothing.", why, _again(name, ""))
    if QUOTED.search(value):
        why = "Quotes or spaces have become a part of the address."
        return Problem(f"{_shown(name)} has a quote or a space in it.", why, todo)
    if not re.match(r"https?://", address):
        why = "It begins with neither https:// nor http://, so no program knows how to ask there."
        return Problem(f"{_shown(name)} is no address.", why, todo)
    if not ADDRESS.fullmatch(address):
        why = "Something follows it, or stands in it, that belongs to no address of a mirror."
        return Problem(f"{_shown(name)} is no address.", why, todo)
    return None


def _exceptions(name: str) -> Problem | None:
    """httpx, and so the hub's client, cannot read an IPv6 address with brackets or a mask there."""
    hosts = [host.strip() for host in os.environ[name].split(",")]
    bad = [h for h in hosts if h.startswith("[") or ("/" in h and h.count(":") > 1)]
    if not bad:
        return None
    return Problem(
        f"{name} names {', '.join(bad)}.",
        "The program that downloads models cannot read an IPv6 address with brackets or a mask.",
        f"Leave it out, or write it without them: %env {name}={','.join(h for h in hosts if h not in bad)}",
    )


def offline() -> Problem | None:
    """The setting that forbids the hub's client every download, if there is one."""
    for name in OFFLINE:
        if os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE"):
            what = f"{name} = {os.environ[name]}, and what is needed is not on this machine."
            return Problem(what, "It forbids every download from the model hub.", _again(name, "0"))
    return None


def is_cached(hub_id: str) -> bool:
    """Whether a model of the hub was downloaded to this machine, at least its config.json.

    The hub's client could tell too, but importing it fixes ``HF_HUB_OFFLINE`` for the session.
    """
    home = os.environ.get("HF_HOME") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface"
    )
    cache = os.environ.get("HF_HUB_CACHE") or os.path.join(home, "hub")
    folder = Path(os.path.expandvars(cache)).expanduser() / f"models--{hub_id.replace('/', '--')}"
    return any(folder.glob("snapshots/*/config.json"))


def check() -> None:
    """Nothing, where the settings can work.

    Raises:
        CourseError: some cannot; it names them all, without a password.
    """
    if found := problems():
        raise _error(found)


def failure(what: str, *, hub: bool = True) -> CourseError | None:
    """Why a download failed, if a setting explains it; else ``None``.

    Args:
        what: what failed, in a few words.
        hub: it was to come from the model hub, not from a package index.
    """
    found = [one for one in problems() if hub or not one.what.startswith("HF_")]
    if hub and not found:
        found = [one for one in [offline()] if one]
    return _error(found, hide(what)) if found else None


def _error(found: list[Problem], what: str = "") -> CourseError:
    parts = [what, *(one.what for one in found)]
    todo = list(dict.fromkeys(one.todo for one in found))
    why = list(dict.fromkeys(one.why for one in found))
    return CourseError(" ".join(filter(None, parts)), " ".join(why), " ".join(todo))
