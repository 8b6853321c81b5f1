"""A pack on its device: its own install.sh, run.sh and systemd unit."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from seq2edge.deploy import TARGETS, plan
from seq2edge.deploy.pack.scripts import install_script, run_script, unit
from seq2edge.deploy.serve.settings import Limits
from seq2edge.quantize import downgrade_opset
from seq2edge.runtime import Bundle

from ..pinned import link_pins
from .conftest import WORDS

Unpacked = Callable[..., Path]

#: A python3.10 with TensorRT: its environments write down what they are told, and answer.
_BOARD_PYTHON = """#!/bin/sh
case $1 in
-m)
  mkdir -p venv/bin
  for name in python seq2edge; do
    printf '#!/bin/sh\\necho %s "$@" >> "$CALLS"\\n' $name > venv/bin/$name
    chmod +x venv/bin/$name
  done ;;
-) exec @PYTHON@ - ;;
esac
"""


@pytest.fixture(scope="module")
def downgraded(demo: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """For the TensorRT of JetPack 6."""
    path = tmp_path_factory.mktemp("downgraded") / "g2p.downgraded.bundle"
    downgrade_opset(demo.directory, path)
    return Bundle.open(path)


def script(folder: Path, name: str, *arguments: str, **environment: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [folder / name, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def pinned(demo: Bundle, tmp_path: Path) -> dict[str, str]:
    """An environment whose Python has the pins of a service on a CPU, and nothing else of ours."""
    pytest.importorskip("uvicorn", reason="the extra serve is not installed")
    packages = link_pins(plan(demo, "cpu", service=True).requirements, tmp_path / "packages")
    return {"PYTHON": sys.executable, "PYTHONPATH": str(packages)}


def test_installed_offline_it_says_what_the_bundle_says(
    unpacked: Unpacked, spoken: dict[str, str], pinned: dict[str, str]
) -> None:
    plain = unpacked("cpu", service=True)
    # Fault: pip's launcher does not start in such a folder, and install.sh said that all is well.
    folder = plain.rename(plain.with_name("a b $(touch x) \"q's"))
    code, out, err = script(folder, "install.sh", "--offline", **pinned)
    assert code == 0, err
    *_, advised, ready = [line for line in out.splitlines() if line]
    assert advised == "seq2edge quantize bundle bundle.int8.bundle --scheme int8 --target cpu"
    assert f"{shlex.quote(f'{folder}/run.sh')} 'a text' --threads 1" in out.splitlines()
    assert ready == f"ready: {folder}/run.sh 'a text'"
    code, out, err = script(folder, "run.sh", *WORDS, **pinned)
    assert code == 0, err
    assert out.splitlines() == list(spoken.values())
    # What runs is the pack's own wheel, not this checkout.
    where = "import seq2edge.runtime as r; print(r.__file__)"
    code, out, err = script(folder / "venv" / "bin", "python", "-c", where, **pinned)
    assert code == 0, err
    assert Path(out.strip()).is_relative_to(folder / "venv")
    folder = folder.rename(plain)
    _verify_unit(folder)
    _ask_the_unit(folder, spoken, pinned)


def _ask_the_unit(folder: Path, spoken: dict[str, str], pinned: dict[str, str]) -> None:
    """What systemd would run tells it that it is ready, answers, and ends well."""
    unit_lines = (folder / "seq2edge.service").read_text().splitlines()
    [command] = [line for line in unit_lines if line.startswith("ExecStart=/")]
    words = command.partition("=")[2].split()
    words[0] = str(folder / "venv" / "bin" / "python")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(folder / "notify"))
        manager.settimeout(60)
        process = subprocess.Popen(
            [*words, "--unix-socket", "asked"],
            cwd=folder,
            env={**os.environ, **pinned, "NOTIFY_SOCKET": str(folder / "notify")},
        )
        try:
            assert manager.recv(100) == b"READY=1"
            found = subprocess.run(
                [
                    *("curl", "-sS", "--unix-socket", folder / "asked", "http://x/v1/generate"),
                    *("-H", "Content-Type: application/json", "-d", '{"text": "keyboard"}'),
                ],
                capture_output=True,
                check=True,
            ).stdout
            assert json.loads(found)["results"][0]["text"] == spoken["keyboard"]
            process.terminate()
            stopping, extended = manager.recv(100).decode().splitlines()
            assert stopping == "STOPPING=1"
            # However long the drain may take, systemd waits longer.
            name, _, microseconds = extended.partition("=")
            assert name == "EXTEND_TIMEOUT_USEC"
            assert int(microseconds) > Limits().drain_timeout * 1e6
            assert process.wait(60) == 0
        finally:
            process.kill()
            process.wait()


def _verify_unit(folder: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        return
    file = folder / "seq2edge.service"
    file.write_text(file.read_text().replace("/opt/app", str(folder)))
    done = subprocess.run(
        ["systemd-analyze", "verify", file], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not installed")
def test_systemd_finds_little_that_the_unit_leaves_open(demo: Bundle, tmp_path: Path) -> None:
    """What is left of its 10 points: the network, and 0.1 to 0.2 for each of a few others."""
    file = tmp_path / "seq2edge.service"
    file.write_text(unit("app", plan(demo, "cpu", service=True)))
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=20", "--no-pager"]
    done = subprocess.run([*command, file], capture_output=True, text=True, check=False)
    if "option '--offline" in done.stderr:
        pytest.skip("systemd is older than 250")
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_changed_file_is_not_installed(unpacked: Unpacked) -> None:
    folder = unpacked("cpu")
    (folder / "bundle" / "tokenizer.json").write_text("{}")
    (folder / "run.sh").unlink()
    code, _, err = script(folder, "install.sh", PYTHON=sys.executable)
    assert code == 1
    assert err.splitlines() == [
        "bundle/tokenizer.json",
        "run.sh",
        "install.sh: error: the files above changed or are missing: copy the pack again",
    ]
    assert not (folder / "venv").exists()


def board(tmp_path: Path, python: str = "python3.10") -> dict[str, str]:
    """An environment in which the machine is a Jetson, or another board."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name, text in {"uname": "#!/bin/sh\necho aarch64\n", python: _BOARD_PYTHON}.items():
        (tools / name).write_text(text.replace("@PYTHON@", sys.executable))
        (tools / name).chmod(0o755)
    return {"PATH": f"{tools}:{os.environ['PATH']}", "CALLS": str(tmp_path / "calls")}


def write_scripts(folder: Path, bundle: Bundle, target: str = "jetson-orin") -> Path:
    """The scripts of a pack for a board, and a manifest without files."""
    deployment = plan(bundle, target)
    (folder / "manifest.json").write_text('{"files": {}}')
    (folder / "install.sh").write_text(install_script("app", deployment))
    (folder / "install.sh").chmod(0o755)
    return folder


@pytest.mark.parametrize(
    ("options", "build"),
    [
        ([], ["python -m seq2edge.cli.main build bundle --backend tensorrt"]),
        (
            ["--offline", "--", "--max-source-length", "64"],
            ["python -m seq2edge.cli.main build bundle --backend tensorrt --max-source-length 64"],
        ),
        (["--no-build"], []),
    ],
)
def test_on_a_board_the_engines_are_built_at_last(
    downgraded: Bundle, tmp_path: Path, options: list[str], build: list[str]
) -> None:
    environment = board(tmp_path)
    code, _, err = script(
        write_scripts(tmp_path, downgraded), "install.sh", *options, **environment
    )
    assert code == 0, err
    pip, doctor, *rest = Path(environment["CALLS"]).read_text().splitlines()
    assert pip.startswith("python -m pip install")
    assert "--no-deps" in pip
    assert ("--no-index" in pip) == ("--offline" in options)
    assert (
        doctor == f"python -m seq2edge.cli.main doctor --bundle bundle --program {tmp_path}/run.sh"
    )
    assert rest == build


def test_on_a_raspberry_pi_the_pins_are_installed(demo: Bundle, tmp_path: Path) -> None:
    environment = board(tmp_path, "python3")
    folder = write_scripts(tmp_path, demo, "raspberry-pi")
    code, out, err = script(folder, "install.sh", **environment)
    assert code == 0, err
    pip, doctor = Path(environment["CALLS"]).read_text().splitlines()
    assert pip.startswith("python -m pip install")
    assert "--no-deps" in pip
    assert doctor.startswith("python -m seq2edge.cli.main doctor --bundle bundle")
    assert out.splitlines()[-1].startswith("ready: ")


def test_a_32_bit_system_is_named(demo: Bundle, tmp_path: Path) -> None:
    """The kernel of Raspberry Pi OS's 32 bit image has 64 bits: ``uname -m`` says aarch64."""
    environment = board(tmp_path, "python3")
    python = tmp_path / "tools" / "python3"
    python.write_text("#!/bin/sh\ncase $2 in *maxsize*) exit 1 ;; esac\n")
    code, _, err = script(
        write_scripts(tmp_path, demo, "raspberry-pi"), "install.sh", **environment
    )
    assert code == 1
    assert "python3 is a 32 bit program" in err
    assert "install a 64 bit system" in err


def test_the_unit_of_a_raspberry_pi_says_what_slows_it_down(unpacked: Unpacked) -> None:
    folder = unpacked("raspberry-pi", service=True)
    text = (folder / "seq2edge.service").read_text()
    assert "vcgencmd get_throttled" in text
    assert "nvpmodel" not in text
    assert "PrivateDevices=yes" in text
    python = folder / "venv" / "bin" / "python"  # as install.sh makes it
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    _verify_unit(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"uname": "echo x86_64"}, "for aarch64, and this machine is x86_64"),
        ({"python3.10": '[ "$1" = -V ] && echo Python 3.12.3; exit 1'}, "has Python 3.10, and"),
        (
            {"python3.10": "case $2 in *tensorrt*) exit 1 ;; esac"},
            "apt-get install nvidia-jetpack",
        ),
    ],
)
def test_another_machine_is_refused(
    downgraded: Bundle, tmp_path: Path, change: dict[str, str], message: str
) -> None:
    environment = board(tmp_path)
    for name, text in change.items():
        (tmp_path / "tools" / name).write_text(f"#!/bin/sh\n{text}\n")
    code, _, err = script(write_scripts(tmp_path, downgraded), "install.sh", **environment)
    assert code == 1
    assert message in err.splitlines()[-1]
    assert not (tmp_path / "venv").exists()


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_scripts_have_no_open_places_and_parse(downgraded: Bundle, target: object) -> None:
    for backend in target.engines:  # type: ignore[attr-defined]
        deployment = plan(downgraded, target.name, backend=backend)  # type: ignore[attr-defined]
        for text in (install_script("app", deployment), run_script(deployment)):
            assert "@NAME@" not in text and text.count("@") == text.count('"$@"')
            subprocess.run(["sh", "-n"], input=text.encode(), check=True)
        service = unit("app", deployment)
        assert not re.search("@[A-Z_]+@", service)
        assert ("--backend tensorrt" in service) == (backend != "onnxruntime")
        assert ("PrivateDevices=yes" in service) == (deployment.device == "cpu")
