"""The text files of a pack: how it is installed, run and kept running."""

from __future__ import annotations

from dataclasses import dataclass

from ..targets import Deployment

_INSTALL = r"""#!/bin/sh
# Installs @NAME@ for @PLACE@ into ./venv and looks at the machine@AND_BUILDS@.
#
#   ./install.sh [--offline]@BUILD_USAGE@
#
# --offline   packages come from wheels/ and from this Python, never from the network
@BUILD_HELP@# PYTHON      in the environment: the interpreter (default: @PYTHON@)
set -eu
cd "$(dirname "$0")"

fail() {
  echo "install.sh: error: $*" >&2
  exit 1
}

python=${PYTHON:-@PYTHON@}
index=
@BUILD_DEFAULT@while [ $# -gt 0 ]; do
  case $1 in
  --offline) index=--no-index ;;
@BUILD_CASE@  *) fail "unknown option $1" ;;
  esac
  shift
done

[ "$(uname -m)" = "@MACHINE@" ] ||
  fail "this pack is for @MACHINE@, and this machine is $(uname -m)"
command -v "$python" >/dev/null || fail "there is no $python: set PYTHON to another interpreter"
"$python" -c 'import sys; sys.exit(not sys.version_info[:2] @PYTHON_TEST@)' ||
  fail "@PYTHON_NEEDED@, and $python is $("$python" -V): set PYTHON to another"
@BITS_CHECK@@TENSORRT_CHECK@"$python" - <<'END' ||
import hashlib, json, sys
from pathlib import Path

wrong = []
for name, info in json.loads(Path("manifest.json").read_bytes())["files"].items():
    digest = hashlib.sha256()
    try:
        with open(name, "rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    except OSError:
        pass
    if digest.hexdigest() != info["sha256"]:
        wrong.append(name)
for name in wrong:
    print(name, file=sys.stderr)
sys.exit(bool(wrong))
END
  fail "the files above changed or are missing: copy the pack again"

# The system's packages are seen too: on a Jetson, TensorRT is one of them.
"$python" -m venv --clear --system-site-packages venv ||
  fail "no virtual environment was made (on Debian and Ubuntu: apt-get install python3-venv)"
venv/bin/python -m pip install --disable-pip-version-check --quiet --no-deps $index \
  --find-links wheels -r requirements.txt
venv/bin/python -m seq2edge.cli.main doctor --bundle bundle --program "$PWD/run.sh" ||
  echo "install.sh: see above what is missing" >&2
@BUILD@echo "ready: $PWD/run.sh @EXAMPLE@"
"""

#: A 64 bit kernel may run a 32 bit system: Raspberry Pi OS's 32 bit images do on newer boards.
_BITS_CHECK = """\
"$python" -c 'import sys; sys.exit(sys.maxsize < 2**32)' ||
  fail "$python is a 32 bit program, for which there are no wheels: install a 64 bit system"
"""
_BUILD_HELP = """\
# --no-build  build no engines
# after --    options of 'seq2edge build', such as --max-source-length 128
"""
_BUILD_CASE = """\
  --no-build) build=false ;;
  --)
    shift
    break
    ;;
"""
_BUILD = """\
if $build; then
  venv/bin/python -m seq2edge.cli.main build bundle --backend @ENGINE@ "$@"
fi
"""
_TENSORRT_CHECK = """\
"$python" -c 'import tensorrt' ||
  fail "$python has no TensorRT, which JetPack brings: sudo apt-get install nvidia-jetpack"
"""

_RUN = """#!/bin/sh
# @WHAT@: ./run.sh @EXAMPLE@; ./run.sh --help tells the rest.
# Not venv/bin/seq2edge: what pip writes there cannot be in a path with quotes in it.
here=$(dirname "$(readlink -f "$0")")
exec "$here/venv/bin/python" -m seq2edge.cli.main @COMMAND@ @OPTIONS@"$here/bundle" "$@"
"""

_UNIT = """\
# Keeps @NAME@ loaded and answers requests at http://127.0.0.1:8080, from this machine alone:
#
#   sudo tar -C /opt -xf @NAME@.tar... && sudo /opt/@NAME@/install.sh
#   sudo systemctl enable --now /opt/@NAME@/seq2edge.service
#   @ASK@
#
# The paths below are /opt/@NAME@: write others here if it lies elsewhere (not in /home, which
# the service does not see). For other machines: 'systemctl edit seq2edge', and in what it opens
#
#   [Service]
#   ExecStart=
#   ExecStart=(the line below, with @OPEN@)
#   IPAddressAllow=any
#
# API keys: a line SEQ2EDGE_API_KEYS=KEY in /etc/seq2edge/@NAME@.env, which only root may read.

[Unit]
Description=seq2edge: @NAME@
After=network.target

[Service]
Type=notify
NotifyAccess=main
WorkingDirectory=/opt/@NAME@
EnvironmentFile=-/etc/seq2edge/@NAME@.env
ExecStart=/opt/@NAME@/venv/bin/python -m seq2edge.cli.main serve @NAME@=bundle@OPTIONS@
Restart=on-failure
RestartSec=2
# Loading a large bundle or engine from flash takes its time. On stop, what was accepted is
# finished.
TimeoutStartSec=300
TimeoutStopSec=45
KillMode=mixed
@POWER@
# Texts that would take more are refused before; this is for what nobody thought of.
MemoryMax=80%
TasksMax=256
LimitNOFILE=4096

# A user of its own, who can write nothing, and hears this machine only.
DynamicUser=yes
NoNewPrivileges=yes
ProtectSystem=strict
ProtectHome=yes
ProtectProc=invisible
PrivateTmp=yes
IPAddressDeny=any
IPAddressAllow=localhost
@DEVICES@ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
ProtectClock=yes
ProtectHostname=yes
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
CapabilityBoundingSet=
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged
SystemCallErrorNumber=EPERM
UMask=0077

[Install]
WantedBy=multi-user.target
"""
#: The GPU's device files belong to these groups, and what CUDA compiles is kept.
_GPU_DEVICES = """\
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
SupplementaryGroups=video render
CacheDirectory=@NAME@
Environment=CUDA_CACHE_PATH=/var/cache/@NAME@
"""
_NO_DEVICES = """\
PrivateDevices=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6
"""
#: What takes a Raspberry Pi's speed away, and how that is seen.
_COOLING = """\
# A hot board or a weak power supply lowers the clocks: 'vcgencmd get_throttled' says 0x0 if not.
"""
_POWER = """\
# The board's clocks are not the service's: choose a power mode once, with 'sudo nvpmodel -m N'
# (it stays, and some modes ask for a restart), and 'sudo jetson_clocks' after every start.
"""

#: What is to be known of a board's speed, by target.
_SPEED = {"jetson-orin": _POWER, "jetson-thor": _POWER, "raspberry-pi": _COOLING}

_README = """\
@NAME@: a seq2edge bundle for @PLACE@, engine @ENGINE@ on @DEVICE@.

    ./install.sh            makes ./venv@INSTALL_NOTE@
    ./run.sh @EXAMPLE@      prints the result

install.sh takes packages from the package index; with --offline from wheels/ and from what this
Python has. wheels/ always holds seq2edge; 'seq2edge pack --wheels DIR' adds the others.

@SERVICE@@NEEDS@
manifest.json has the SHA-256 of every file, and install.sh checks them.
"""
_SERVICE = """\
seq2edge.service keeps the bundle loaded and answers over HTTP; how to enable it is written there.

"""
_NEEDS = {
    "jetson": "Needs: JetPack @JETPACK@ with TensorRT, Python @VERSION@ and python3-venv.\n",
    "cuda": "Needs: Python @VERSION@ or newer, an NVIDIA driver and, for onnxruntime, CUDA"
    " and cuDNN.\n",
    "cpu": "Needs: Python @VERSION@ or newer.\n",
}


@dataclass(frozen=True)
class Usage:
    """How a bundle is asked: by texts or by recordings."""

    command: str
    what: str
    example: str
    ask: str
    open: str


TEXTS = Usage(
    command="run",
    what="Text in, text out",
    example="'a text'",
    ask="""curl http://127.0.0.1:8080/v1/generate -H 'Content-Type: application/json' \\
#     -d '{"text": "a text"}'""",
    open="--host 0.0.0.0; it needs API keys",
)
RECORDINGS = Usage(
    command="transcribe",
    what="Speech in, text out",
    example="talk.wav",
    ask="curl http://127.0.0.1:8080/v1/audio/transcriptions -F file=@talk.wav",
    open="--host 0.0.0.0; it needs API keys. For Home Assistant:\n#     --wyoming 0.0.0.0:10300"
    " --without-keys",
)


def install_script(name: str, deployment: Deployment, usage: Usage = TEXTS) -> str:
    """``install.sh``: checks, makes the environment, installs the pins, builds the engines."""
    build = deployment.builds_engines
    exact = deployment.jetpack is not None
    version = _dotted(deployment.python)
    jetpack = f"JetPack {deployment.jetpack.version} has Python" if deployment.jetpack else ""
    return _fill(
        _INSTALL,
        NAME=name,
        EXAMPLE=usage.example,
        PLACE=deployment.place,
        AND_BUILDS=", then builds the engines" if build else "",
        BUILD_USAGE=" [--no-build] [-- OPTION...]" if build else "",
        BUILD_HELP=_BUILD_HELP if build else "",
        BUILD_DEFAULT="build=true\n" if build else "",
        BUILD_CASE=_BUILD_CASE if build else "",
        BUILD=_fill(_BUILD, ENGINE=deployment.backend) if build else "",
        BITS_CHECK=_BITS_CHECK if deployment.target.machine == "aarch64" else "",
        TENSORRT_CHECK=_TENSORRT_CHECK if exact and build else "",
        MACHINE=deployment.target.machine,
        PYTHON=f"python{version}" if exact else "python3",
        PYTHON_TEST=f"{'==' if exact else '>='} {deployment.python}",
        PYTHON_NEEDED=f"{jetpack} {version}" if exact else f"it needs Python {version} or newer",
    )


def run_script(deployment: Deployment, usage: Usage = TEXTS) -> str:
    """``run.sh``: the command line over the bundle."""
    return _fill(
        _RUN,
        WHAT=usage.what,
        EXAMPLE=usage.example,
        COMMAND=usage.command,
        OPTIONS="".join(f"{word} " for word in engine_options(deployment)),
    )


def unit(name: str, deployment: Deployment, usage: Usage = TEXTS) -> str:
    """``seq2edge.service``: a systemd unit for the pack in ``/opt``."""
    return _fill(
        _UNIT,
        DEVICES=_NO_DEVICES if deployment.device == "cpu" else _GPU_DEVICES,
        POWER=_SPEED.get(deployment.target.name, ""),
        ASK=usage.ask,
        OPEN=usage.open,
        NAME=name,
        OPTIONS="".join(f" {word}" for word in engine_options(deployment)),
    )


def readme(name: str, deployment: Deployment, usage: Usage = TEXTS) -> str:
    """``README.txt``."""
    kind = "jetson" if deployment.jetpack else deployment.device
    return _fill(
        _README,
        SERVICE=_SERVICE if deployment.service else "",
        NEEDS=_NEEDS[kind],
        EXAMPLE=usage.example,
        NAME=name,
        PLACE=deployment.place,
        ENGINE=deployment.backend,
        DEVICE=deployment.device,
        INSTALL_NOTE=" and builds the engines" if deployment.builds_engines else "",
        JETPACK=deployment.jetpack.version if deployment.jetpack else "",
        VERSION=_dotted(deployment.python),
    )


def engine_options(deployment: Deployment) -> list[str]:
    """Options of ``seq2edge run`` and ``serve``; those that are the default are left out."""
    options = []
    if deployment.backend != "onnxruntime":
        options += ["--backend", deployment.backend]
    elif deployment.device != "cpu":
        options += ["--device", deployment.device]
    return options


def _fill(template: str, **values: str) -> str:
    for key, value in values.items():
        template = template.replace(f"@{key}@", value)
    return template


def _dotted(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))
