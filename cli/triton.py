"""Write a bundle as a model of NVIDIA's Triton Inference Server, with streaming."""

from __future__ import annotations

import argparse
from pathlib import Path

from .arguments import add_bundle, add_json, positive
from .output import print_result
from .progress import Progress


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_bundle(parser)
    parser.add_argument("repository", type=Path, help="the model repository; made if missing")
    parser.add_argument(
        "--name", help="the model's name (default: the bundle's folder's, without .bundle)"
    )
    parser.add_argument(
        "--backend", default="onnxruntime", metavar="NAME", help="default: onnxruntime"
    )
    parser.add_argument(
        "--device", metavar="NAME", help="cpu or cuda (default: the engine's own; onnxruntime: cpu)"
    )
    parser.add_argument(
        "--instances",
        type=positive,
        default=1,
        metavar="N",
        help="processes that load the bundle (default: 1)",
    )
    parser.add_argument(
        "--max-batch-size",
        type=positive,
        default=8,
        metavar="N",
        help="waiting requests that are taken together (default: 8)",
    )
    parser.add_argument(
        "--force", action="store_true", help="replace a model that this command has written"
    )
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    from seq2edge.runtime.dependencies import needs

    with needs("triton", "export"):
        from seq2edge.deploy import TritonModel, write_triton_model
    from seq2edge.runtime import Bundle

    bundle = Bundle.open(options.bundle)
    model = TritonModel(
        name=options.name or bundle.directory.resolve().name.removesuffix(".bundle"),
        backend=options.backend,
        device=options.device,
        instances=options.instances,
        max_batch_size=options.max_batch_size,
    )
    with Progress() as progress:
        folder = write_triton_model(
            bundle,
            options.repository,
            model,
            overwrite=options.force,
            progress=lambda done, total: progress("copying the bundle", done, total),
        )
    line = f"{folder}: start it with tritonserver --model-repository {options.repository}"
    return print_result(options, {"path": str(folder), "name": model.name}, [line])
