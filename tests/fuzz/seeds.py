"""What is mutated: small files of each kind, made by those who make them."""

from __future__ import annotations

import json
import shutil
import warnings
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

_DEMO = Path(__file__).parents[2] / "examples" / "g2p" / "model"
#: One of each architecture.
_SHAPES = ("t5-v1.1", "bart-odd", "marian-separate", "m2m100", "pegasus", "blenderbot-small")


def checkpoint(folder: Path) -> None:
    """A small one, with the demo model's tokenizer."""
    from tests.conftest import make_model

    sizes = {"d_model": 32, "d_kv": 16, "d_ff": 48, "num_heads": 2, "vocab_size": 71}
    make_model("t5", num_layers=1, num_decoder_layers=1, **sizes).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        shutil.copyfile(_DEMO / name, folder / name)


def bundles(folder: Path) -> None:
    """One as it is exported, one quantized, one downgraded for old runtimes."""
    from seq2edge.export import export_checkpoint
    from seq2edge.quantize import downgrade_opset, quantize_bundle

    source = folder.with_name("bundles-checkpoint")
    checkpoint(source)
    export_checkpoint(source, folder / "plain", validate=False)
    quantize_bundle(folder / "plain", folder / "int8", "int8", check=False)
    downgrade_opset(folder / "plain", folder / "older")


def families(folder: Path) -> None:
    """A checkpoint of each of several families, one with a tokenizer that hears."""
    from tests.conftest import make_model
    from tests.whisper_models import make_whisper, write_tokenizer

    for shape in _SHAPES:
        make_model(shape).save_pretrained(folder / shape)
    make_whisper("distil", folder / "whisper")
    write_tokenizer(folder / "whisper")


def converted(folder: Path) -> None:
    """Models of CTranslate2, and a package of Argos Translate."""
    from tests.conftest import make_model
    from tests.ctranslate2_folders import convert, convert_opennmt

    make_model("bart-odd").save_pretrained(folder / "source")
    for quantization in ("float32", "int8"):
        convert(folder / "source", folder / f"bart-{quantization}", quantization)
    shutil.rmtree(folder / "source")
    tokens = ["<blank>", "<s>", "</s>", "<unk>", *(f"t{number}" for number in range(60))]
    convert_opennmt(folder / "argos" / "model", tokens)
    about = {"from_code": "en", "to_code": "de", "target_prefix": ""}
    (folder / "argos" / "metadata.json").write_text(json.dumps(about))


def saved(folder: Path) -> None:
    """A checkpoint whose weights torch.save wrote: a zip archive."""
    import torch

    from tests.conftest import make_model

    model = make_model("bart-odd")
    model.config.save_pretrained(folder)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")


def speech(folder: Path) -> None:
    """A bundle that hears."""
    from tests.conftest import export_unvalidated
    from tests.whisper_models import make_whisper, write_tokenizer

    source = folder.with_name("speech-checkpoint")
    make_whisper("tiny", source, speaks=True)
    write_tokenizer(source)
    export_unvalidated(source, folder)


def audio(folder: Path) -> None:
    """WAV files: 8 to 32 bits, floats, an extensible header."""
    folder.mkdir()
    samples = np.sin(np.arange(4000) / 9)
    for width in (1, 2, 3, 4):
        whole = (samples * (2 ** (8 * width - 1) - 1)).astype("<i4")
        raw = whole.view(np.uint8).reshape(-1, 4)[:, :width].tobytes()
        with wave.open(str(folder / f"{width}.wav"), "wb") as file:
            file.setnchannels(1 + (width == 2))
            file.setsampwidth(width)
            file.setframerate((8000, 16000, 44100, 48000)[width - 1])
            file.writeframes(raw)
    plain = (folder / "4.wav").read_bytes()
    # Format 3, IEEE floats; and 0xfffe with the 24 bytes that say the same.
    (folder / "float.wav").write_bytes(plain[:20] + b"\x03\0" + plain[22:])
    longer = b"\x28\0\0\0\xfe\xff" + plain[22:36] + b"\x16\0\x20\0\0\0\0\0\x01\0"
    longer += bytes.fromhex("000000001000800000aa00389b71")
    (folder / "extensible.wav").write_bytes(plain[:16] + longer + plain[36:])


def texts(folder: Path) -> None:
    folder.mkdir()
    lines = [{"source": f"word {number}", "target": ["a", "b"]} for number in range(6)]
    text = "\n".join(map(json.dumps, lines))
    (folder / "data.jsonl").write_text(text)
    (folder / "lines.txt").write_text("one\r\ntwo\rthree\n\ufeffvier\u2028f\u00fcnf\n")
    (folder / "calibration.jsonl").write_text('"a text"\n[5, 6, 7]\n{"source": "b"}\n')


def calibration(folder: Path) -> None:
    """What ``quantize --save-calibration`` writes."""
    from seq2edge.quantize.calibration.store import calibrate, save
    from seq2edge.runtime import Bundle

    folder.mkdir()
    bundles(folder.with_name("calibration-bundles"))
    made = folder.with_name("calibration-bundles") / "plain"
    opened = Bundle.open(made)
    nodes = json.loads((made / "seq2edge.json").read_text())["graphs"]["decoder"]["outputs"]
    keys = [("decoder", nodes[0]["name"])]
    save(calibrate(opened, ["gateway", "hello"], keys), folder / "calibration.npz")


def adapters(folder: Path) -> None:
    """A checkpoint and a LoRA adapter of it."""
    import peft
    from transformers import AutoModelForSeq2SeqLM

    checkpoint(folder / "base")
    model = AutoModelForSeq2SeqLM.from_pretrained(folder / "base")
    config = peft.LoraConfig(r=2, lora_alpha=4, target_modules=["q", "v"])
    peft.get_peft_model(model, config).save_pretrained(folder / "adapter")


def optimum(folder: Path) -> None:
    """A folder of each layout that optimum has."""
    from tests.optimum_folders import LAYOUTS, write_optimum_folder

    source = folder.with_name("optimum-checkpoint")
    checkpoint(source)
    for layout in LAYOUTS:
        write_optimum_folder(source, folder / layout, layout)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copyfile(_DEMO / name, folder / layout / name)


def engines(folder: Path) -> None:
    """Engines of TensorRT-RTX."""
    from seq2edge.export import export_checkpoint
    from seq2edge.runtime import Bundle
    from seq2edge.runtime.backends.tensorrt import Limits, Options, build_engines

    source = folder.with_name("engines-checkpoint")
    checkpoint(source)
    made = export_checkpoint(source, source / "bundle", validate=False)
    options = Options("tensorrt-rtx", Limits(1, 16, 16, 1), ("8.6",))
    build_engines(Bundle.open(made.path), folder, options)


def containers(folder: Path) -> None:
    """Half a second of a tone in formats that PyAV reads."""
    import av

    folder.mkdir()
    tone = (np.sin(np.arange(8000) / 9) * 20000).astype(np.int16)
    codecs = {"mp3": "libmp3lame", "flac": "flac", "ogg": "libopus", "m4a": "aac"}
    for name, codec in {**codecs, "webm": "libopus", "aiff": "pcm_s16be"}.items():
        with av.open(str(folder / f"sound.{name}"), "w") as container:
            stream: Any = container.add_stream(codec, rate=48000 if "opus" in codec else 16000)
            stream.layout = "mono"
            frame = av.AudioFrame.from_ndarray(tone[None], format="s16", layout="mono")
            frame.sample_rate = 16000
            resampler = av.AudioResampler(
                format=stream.format.name,
                layout="mono",
                rate=stream.rate,
                frame_size=stream.frame_size or None,
            )
            for part in (*resampler.resample(frame), *resampler.resample(None)):
                container.mux(stream.encode(part))
            container.mux(stream.encode(None))


def module(folder: Path) -> None:
    """A state dict, and the TOML that describes it."""
    import torch

    from tests.translators import Shape, make_translator, toml_of

    folder.mkdir()
    shape = Shape("lists", decoder_heads=8, decoder_activation="gelu", head="bias", layers=(1, 1))
    torch.save(make_translator(shape).state_dict(), folder / "model.pt")
    (folder / "model.toml").write_text(toml_of(shape))


def reports(folder: Path) -> None:
    """What ``bench`` and ``compare`` write."""
    import contextlib
    import io

    from seq2edge.cli.main import main

    made = folder.with_name("reports-bundles")
    bundles(made)
    folder.mkdir()
    data = made / "data.jsonl"
    data.write_text('{"source": "gateway", "target": "a"}\n{"source": "hello", "target": "b"}\n')
    few = ["--source-length", "4", "--new-tokens", "2", "--threads", "1"]
    with contextlib.redirect_stdout(io.StringIO()):
        bench = ["bench", str(made / "plain"), "--runs", "1", "--warmup", "1", *few]
        assert main([*bench, "--output", str(folder / "bench.json")]) == 0
        both = ["compare", str(made / "plain"), str(made / "int8"), "--data", str(data)]
        both += ["--metric", "wer", "--speed-texts", "1", "--max-new-tokens", "2"]
        with contextlib.redirect_stdout(io.StringIO()) as said:
            assert main([*both, "--json"]) == 0
    (folder / "compare.json").write_text(said.getvalue())


def make(folder: Path) -> None:
    """What ``make`` is given."""
    checkpoint(folder / "model")
    (folder / "words.txt").write_text("gateway\nhello\n")


def served(folder: Path) -> None:
    """Two bundles, and a recording for requests."""
    made = folder.with_name("served-bundles")
    bundles(made)
    folder.mkdir()
    (made / "plain").rename(folder / "text")
    speech(folder / "speech")
    audio(folder / "audio")
    (folder / "audio" / "2.wav").rename(folder / "sound.wav")
    shutil.rmtree(folder / "audio")


def triton(folder: Path) -> None:
    """A model of Triton's."""
    from seq2edge.deploy import TritonModel, write_triton_model
    from seq2edge.runtime import Bundle

    made = folder.with_name("triton-bundles")
    bundles(made)
    write_triton_model(Bundle.open(made / "plain"), folder, TritonModel("g2p"))


SEEDS: dict[str, Callable[[Path], None]] = {
    make.__name__: make
    for make in (
        *(bundles, checkpoint, families, converted, saved, speech, audio, texts, calibration),
        *(adapters, optimum, engines, containers, module, reports, make, served, triton),
    )
}


def make_seeds(folder: Path, names: list[str]) -> None:
    """Those of ``names`` that are not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in names:
            if not (folder / name).exists():
                unfinished = folder / "unfinished"  # and what it is made of
                shutil.rmtree(unfinished, ignore_errors=True)
                unfinished.mkdir()
                SEEDS[name](unfinished / name)
                (unfinished / name).rename(folder / name)
                shutil.rmtree(unfinished)
