"""Proxy and mirror settings: what cannot work is named with its own advice, what works is left in peace."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers import presets, small_model
from helpers.errors import CourseError
from helpers.setup import environment, locks, network

KIT = Path(__file__).parents[2]
NAMES = [*network.PROXIES, *map(str.lower, network.PROXIES), *network.MIRRORS, *network.OFFLINE]
NAMES += ["NO_PROXY", "no_proxy"]


@pytest.fixture(autouse=True)
def no_settings(monkeypatch):
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)


# What becomes of each with the real client that asks the hub.
WORKS = [
    {},
    {"HTTPS_PROXY": "127.0.0.1:9"},
    {"HTTPS_PROXY": "http://127.0.0.1:9/"},
    {"https_proxy": "https://name:p%23ss@proxy.school.example:3128"},
    {"HTTP_PROXY": "http://name:p@ss@127.0.0.1:9"},
    {"ALL_PROXY": ""},
    {"HF_ENDPOINT": "https://mirror.example/"},
    {"HF_ENDPOINT": "http://127.0.0.1:8080/api/models-1"},
    {"NO_PROXY": "localhost,127.0.0.1,::1,.school.example,10.0.0.0/8"},
]
FAILS = [
    ({"ALL_PROXY": "socks://127.0.0.1:9"}, "unknown kind", "http://host:port"),
    ({"all_proxy": "socks4://127.0.0.1:9"}, "unknown kind", "http://host:port"),
    ({"HTTPS_PROXY": '"http://127.0.0.1:9"'}, "a quote or a space", "http://host:port"),
    ({"HTTPS_PROXY": " http://127.0.0.1:9"}, "a quote or a space", "http://host:port"),
    ({"HTTPS_PROXY": "http://127.0.0.1:port"}, "not the address of a proxy", "http://host:port"),
    ({"HTTPS_PROXY": "http://a:b#c@127.0.0.1:9"}, "not the address of a proxy", "host:port"),
    ({"HF_ENDPOINT": "mirror.example"}, "is no address", "HF_ENDPOINT=https://host"),
    ({"HF_ENDPOINT": '"https://mirror.example"'}, "a quote or a space", "HF_ENDPOINT=https://host"),
    ({"HF_ENDPOINT": "htps://mirror.example"}, "is no address", "HF_ENDPOINT=https://host"),
    ({"HF_ENDPOINT": ""}, "is set to nothing", "os.environ.pop('HF_ENDPOINT')"),
    ({"NO_PROXY": "localhost,[::1]"}, "NO_PROXY names [::1]", "NO_PROXY=localhost"),
    ({"no_proxy": "::1/128"}, "no_proxy names ::1/128", "Leave it out"),
]
# Right for the client, which then asks a place that cannot be there.
ODD = [
    ({"HTTPS_PROXY": "http//127.0.0.1:9"}, "not the address of a proxy", "http://host:port"),
    ({"https_proxy": "http:/127.0.0.1:9"}, "not the address of a proxy", "http://host:port"),
    ({"HF_ENDPOINT": "https://mirror.example, or"}, "is no address", "HF_ENDPOINT=https://host"),
    ({"HF_ENDPOINT": "https://mirror.example?x=1"}, "is no address", "HF_ENDPOINT=https://host"),
    ({"PIP_INDEX_URL": "pypi.example/simple"}, "is no address", "https://host/simple"),
    ({"UV_DEFAULT_INDEX": "“https://pypi.example”"}, "a quote or a space", "https://host/simple"),
]


@pytest.mark.parametrize("settings", WORKS, ids=str)
def test_what_can_work_is_left_in_peace(settings, monkeypatch):
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    assert network.problems() == []
    network.check()
    assert network.failure("the model could not be loaded") is None


@pytest.mark.parametrize(("settings", "what", "todo"), FAILS + ODD, ids=str)
def test_what_cannot_work_gets_advice_about_itself(settings, what, todo, monkeypatch):
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(CourseError) as caught:
        network.check()
    (name,) = settings
    assert name in caught.value.what and what in caught.value.what
    assert todo in caught.value.todo and len(caught.value.why.split()) > 5


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        *((one, ("ConnectError", "ConnectTimeout", "ProxyError")) for one in WORKS),
        *((one, ("ValueError", "InvalidURL", "UnsupportedProtocol")) for one, *_ in FAILS),
        ({"ALL_PROXY": "socks5://127.0.0.1:9"}, ("ImportError", "ConnectError", "ProxyError")),
    ],
    ids=str,
)
def test_the_hubs_own_client_agrees(settings, expected, monkeypatch):
    """Whether it gets as far as to ask for a connection, which no port 9 and no .example answers."""
    import httpx

    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    address = "https://hub.example"
    if "HF_ENDPOINT" in settings:
        code = "from huggingface_hub import constants; print(constants.ENDPOINT)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
        address = done.stdout.decode().rstrip("\n")
    with pytest.raises(Exception) as caught, httpx.Client(timeout=5) as client:
        client.get(address + "/api/models/owner/name")
    assert caught.type.__name__ in expected


def test_a_socks_proxy_needs_packages_and_the_message_names_those_that_are_absent(monkeypatch):
    monkeypatch.setenv("ALL_PROXY", "socks5h://127.0.0.1:9")
    monkeypatch.setattr(network, "SOCKS_NEEDS", {"no_such_module": "Some-Package", "json": "json"})
    (problem,) = network.problems()
    assert "SOCKS" in problem.what and "needs Some-Package, which" in problem.why
    assert "HTTP address" in problem.todo
    monkeypatch.setattr(network, "SOCKS_NEEDS", {"json": "json"})
    assert network.problems() == []


def test_where_another_proxy_is_set_the_useless_one_is_taken_away(monkeypatch):
    monkeypatch.setenv("ALL_PROXY", "socks://127.0.0.1:9")
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    (problem,) = network.problems()
    assert "unset ALL_PROXY" in problem.todo and "is enough" in problem.todo


def test_the_variable_that_is_named_is_empty_after_the_advice_is_followed():
    """`%env NAME=` is what the advice says."""
    code = (
        "import os; from IPython.core.interactiveshell import InteractiveShell\n"
        "InteractiveShell().run_line_magic('env', 'ALL_PROXY=')\n"
        "from helpers.setup import network; print([os.environ['ALL_PROXY'], network.problems()])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=KIT,
        env=os.environ | {"ALL_PROXY": "socks://127.0.0.1:9"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "['', []]"


def test_several_at_once_are_all_named(monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "'http://127.0.0.1:9'")
    monkeypatch.setenv("HF_ENDPOINT", "mirror.example")
    with pytest.raises(CourseError) as caught:
        network.check()
    assert "HTTPS_PROXY" in caught.value.what and "HF_ENDPOINT" in caught.value.what


# ---------------------------------------------------------------------------------------------- secrets
@pytest.mark.parametrize("scheme", ["", "http://", "socks://", '"http://', "http:/", "htp://"])
@pytest.mark.parametrize("name", ["HTTPS_PROXY", "all_proxy", "HF_ENDPOINT", "PIP_INDEX_URL"])
@given(
    secret=st.text("aZ9#/?%&=!:@ '\"é", min_size=1, max_size=12).map(lambda t: f"s3cr{t}et"),
)
def test_a_password_is_never_shown(scheme, name, secret):
    with pytest.MonkeyPatch.context() as patch:
        for other in NAMES:
            patch.delenv(other, raising=False)
        patch.setenv(name, f"{scheme}student:{secret}@127.0.0.1:9")
        for one in network.problems():
            assert secret not in str(one) and "student" not in str(one)
        said = network.hide(f"ProxyError: http://student:{secret}@127.0.0.1:9/simple failed")
        assert secret not in said and "127.0.0.1:9" in said
        error = network.failure(f"Cannot connect to {scheme}student:{secret}@127.0.0.1:9")
        assert error is None or secret not in str(error)


def test_a_key_behind_a_question_mark_is_not_shown(monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror.example/?token=s3cret")
    (problem,) = network.problems()
    assert "s3cret" not in str(problem) and "mirror.example" in problem.what


# ------------------------------------------------------------------------------- before anything is loaded
def test_offline_is_the_reason_of_a_failed_download(monkeypatch):
    for value in ("0", "", "no"):
        monkeypatch.setenv("HF_HUB_OFFLINE", value)
        assert network.failure("x") is None
    for name in network.OFFLINE:
        monkeypatch.setenv("HF_HUB_OFFLINE", "")
        monkeypatch.setenv(name, "1")
        error = network.failure("unsloth/Some-Model could not be loaded")
        assert error.what.startswith("unsloth/Some-Model could not be loaded")
        assert f"{name} = 1" in error.what and f"%env {name}=0" in error.todo
        monkeypatch.delenv(name)


@pytest.fixture
def right_packages(monkeypatch):
    """All packages are as pinned, so that `install` has nothing to install."""
    monkeypatch.setattr(environment, "package_rows", lambda: ())
    monkeypatch.setattr(environment.untouched, "need", lambda: None)
    monkeypatch.setattr(locks, "need_python", lambda python: None)


def test_the_set_up_stops_before_a_model_would_be_downloaded(right_packages, monkeypatch, capsys):
    monkeypatch.setenv("HF_ENDPOINT", "mirror.example")
    monkeypatch.setenv("COURSE_MODEL", "llama-2-7b")
    with pytest.raises(CourseError, match="HF_ENDPOINT"):
        environment.install()
    # The small model comes from the package index, and may be here already: a warning is enough.
    monkeypatch.setenv("COURSE_MODEL", presets.EMBEDDED)
    environment.install()
    assert "Before you download anything: HF_ENDPOINT" in capsys.readouterr().out


def test_the_set_up_stops_before_packages_would_be_downloaded(monkeypatch):
    row = environment.Row("no-such-package", "1.0", None)
    monkeypatch.setattr(environment, "package_rows", lambda: (row,))
    monkeypatch.setattr(environment.untouched, "need", lambda: None)
    monkeypatch.setattr(environment.installation, "bring", None)
    monkeypatch.delenv("COURSE_INSTALL", raising=False)
    monkeypatch.setenv("ALL_PROXY", "socks://127.0.0.1:9")
    with pytest.raises(CourseError, match="ALL_PROXY"):
        environment.install()


def test_offline_on_a_fresh_colab_machine_is_named_before_the_model_is_loaded(
    right_packages, monkeypatch
):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("COURSE_MODEL", "llama-2-7b")
    monkeypatch.delenv("COLAB_RELEASE_TAG", raising=False)
    environment.install()
    monkeypatch.setenv("COLAB_RELEASE_TAG", "release-colab")
    with pytest.raises(CourseError, match="HF_HUB_OFFLINE = 1"):
        environment.install()
    monkeypatch.setenv("COURSE_MODEL", presets.EMBEDDED)
    environment.install()


@pytest.mark.parametrize("place", ["HF_HUB_CACHE", "HF_HOME", "HOME"])
def test_offline_is_right_where_the_model_was_downloaded_before(
    right_packages, monkeypatch, tmp_path, place
):
    for name in ("HF_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(place, str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("COURSE_MODEL", "llama-2-7b")
    monkeypatch.setenv("COLAB_RELEASE_TAG", "release-colab")
    below = {"HF_HUB_CACHE": ".", "HF_HOME": "hub", "HOME": ".cache/huggingface/hub"}[place]
    owner, model = presets.MODELS["llama-2-7b"].hub_id.split("/")
    folder = tmp_path / below / f"models--{owner}--{model}" / "snapshots" / "1a2b"
    folder.mkdir(parents=True)
    with pytest.raises(CourseError, match="HF_HUB_OFFLINE"):
        environment.install()
    (folder / "config.json").write_text("{}")
    environment.install()


def test_a_name_of_one_letter_is_hidden_in_addresses_only(monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://a@proxy:8080")
    said = network.hide("a@proxy failed at http://a@proxy:8080/data")
    assert said == "…@proxy failed at http://…@proxy:8080/data"


# ------------------------------------------------------------------------------------- while it is loaded
LOAD = """\
import os
from helpers import models
from helpers.errors import CourseError
for name, value in {settings!r}:
    os.environ[name] = value
    try:
        models.load("nobody/no-such-model", max_seq_length=64)
    except CourseError as error:
        print("SAID", name, str(error).replace("\\n", " "))
    del os.environ[name]
"""


@pytest.mark.parametrize(
    ("at_start", "settings"),
    [
        (
            {},
            [
                ("ALL_PROXY", "socks5://student:s3cret@127.0.0.1:9"),
                ("ALL_PROXY", "socks://student:s3cret@127.0.0.1:9"),
                ("HTTPS_PROXY", '"http://student:s3cret@127.0.0.1:9"'),
            ],
        ),
        # The hub's client reads this one when it is imported.
        ({"HF_ENDPOINT": "mirror.example"}, [("HF_ENDPOINT", "mirror.example")]),
    ],
    ids=["proxies", "mirror"],
)
def test_a_model_that_cannot_be_downloaded_blames_the_setting_and_not_its_name(at_start, settings):
    kept = {k: v for k, v in os.environ.items() if k not in NAMES}
    done = subprocess.run(
        [sys.executable, "-c", LOAD.format(settings=settings)],
        cwd=KIT,
        env=kept | at_start,
        capture_output=True,
        text=True,
        check=False,
    )
    said = [line for line in done.stdout.splitlines() if line.startswith("SAID ")]
    assert [line.split()[1] for line in said] == [name for name, _ in settings], done.stderr
    for line, (name, _) in zip(said, settings, strict=True):
        assert f"{name} = " in line and "%env" in line and "misspelt" not in line
    assert "s3cret" not in done.stdout


def test_a_model_that_is_not_here_while_downloads_are_forbidden_says_so(monkeypatch):
    from helpers import models

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(CourseError, match="HF_HUB_OFFLINE = 1, and what is needed is not"):
        models.load("nobody/no-such-model", max_seq_length=64)


def test_a_package_that_cannot_be_downloaded_blames_only_what_pip_reads(monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "mirror.example")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert network.failure("x", hub=False) is None
    monkeypatch.setenv("ALL_PROXY", "socks://127.0.0.1:9")
    assert "ALL_PROXY" in network.failure("x", hub=False).what


def test_the_small_models_package_behind_a_proxy_that_cannot_work(monkeypatch, tmp_path):

    monkeypatch.setenv("ALL_PROXY", "socks://student:s3cret@127.0.0.1:9")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    with pytest.raises(CourseError, match="ALL_PROXY = socks://…@127.0.0.1:9") as caught:
        small_model._download_gguf(tmp_path)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("value", ["http://user:s3cret", "user:s3cret", '"http://user:s3cret/"'])
def test_a_password_whose_host_was_forgotten_is_not_shown(value, monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", value)
    (problem,) = network.problems()
    assert "s3cret" not in str(problem) and "HTTPS_PROXY = " in problem.what
    assert "s3cret" not in network.hide(f"ProxyError: {value} failed")


def test_a_port_is_shown(monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", '"http://proxy:8080"')
    (problem,) = network.problems()
    assert "http://proxy:8080" in problem.what
