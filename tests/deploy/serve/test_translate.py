"""LibreTranslate's API, with its own client and by hand."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import pytest

from seq2edge.runtime import Bundle, Seq2SeqModel

from ...multilingual import export_multilingual
from .process import ServerProcess

libretranslatepy = pytest.importorskip("libretranslatepy", reason="not installed")

TEXT = "the cat sat on a mat"


@pytest.fixture(scope="module")
def bundle(checkpoint_of: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Translates en, fr and zu into each other, or so."""
    folder = tmp_path_factory.mktemp("m2m")
    return export_multilingual("M2M100Tokenizer", checkpoint_of("m2m100"), folder)


@pytest.fixture(scope="module")
def translator(bundle: Path, demo: Bundle) -> Iterator[ServerProcess]:
    """A bundle that names its languages, and one whose languages are named to the service."""
    arguments = (f"m2m={bundle}", f"spell={demo.directory}", "--translates", "spell=text:sounds")
    with ServerProcess(*arguments) as process:
        yield process


@pytest.fixture(scope="module")
def expected(bundle: Path) -> Iterator[Callable[..., str]]:
    with Seq2SeqModel.load(bundle) as model:
        yield (
            lambda source, target, **options: (
                model.generate(TEXT, source_lang=source, target_lang=target, **options)[0].text
                or ""
            )
        )


def test_libretranslates_own_client_translates(
    translator: ServerProcess, expected: Callable[..., str], spoken: dict[str, str]
) -> None:
    client = libretranslatepy.LibreTranslateAPI(translator.url)
    for source, target in (("en", "fr"), ("fr", "zu")):
        assert client.translate(TEXT, source, target) == expected(source, target)
    assert client.translate("keyboard", "text", "sounds") == spoken["keyboard"]
    codes = {language["code"]: language["targets"] for language in client.languages()}
    assert codes == {
        "en": ["fr", "zu"],
        "fr": ["en", "zu"],
        "zu": ["en", "fr"],
        "text": ["sounds"],
        "sounds": [],
    }


def test_its_client_hears_that_nothing_detects_languages(translator: ServerProcess) -> None:
    client = libretranslatepy.LibreTranslateAPI(translator.url)
    with pytest.raises(HTTPError) as caught:
        client.detect(TEXT)
    assert caught.value.code == 501
    assert "does not detect languages" in json.loads(caught.value.read())["error"]


@pytest.mark.parametrize("kind", ["json", "data", "files"])
def test_json_and_forms_are_the_same(
    translator: ServerProcess, expected: Callable[..., str], kind: str
) -> None:
    fields: dict[str, Any] = {"q": TEXT, "source": "en", "target": "fr", "format": "text"}
    if kind == "files":
        fields = {name: (None, value) for name, value in fields.items()}
    found = translator.post("/translate", **{kind: fields}).json()
    assert found == {"translatedText": expected("en", "fr")}


def test_several_texts_and_alternatives(
    translator: ServerProcess, bundle: Path, expected: Callable[..., str]
) -> None:
    asked = {"q": [TEXT, "home"], "source": "en", "target": "fr"}
    several = translator.post("/translate", json=asked).json()["translatedText"]
    assert len(several) == 2
    assert several[0] == expected("en", "fr")
    found = translator.post("/translate", json={**asked, "q": TEXT, "alternatives": 2}).json()
    with Seq2SeqModel.load(bundle) as model:
        beams = model.generate(
            TEXT, source_lang="en", target_lang="fr", num_beams=3, num_return_sequences=3
        )
    assert [found["translatedText"], *found["alternatives"]] == [r.text for r in beams]


@pytest.mark.parametrize(
    ("change", "status", "said"),
    [
        ({"source": "auto"}, 400, "does not detect languages"),
        ({"source": "xx"}, 400, "no bundle translates from 'xx' to 'fr'"),
        ({"target": None}, 400, "target must be the code of a language"),
        ({"format": "html"}, 400, "format must be text"),
        ({"q": ""}, 400, "empty"),
        ({"q": None}, 400, "q must be a text"),
        ({"alternatives": "many"}, 400, "alternatives must be an integer"),
        ({"alternatives": 99}, 400, "more than the 8 allowed"),
        ({"glossary": "x"}, 400, "unknown field 'glossary'"),
    ],
)
def test_a_wrong_request_is_one_sentence(
    translator: ServerProcess, change: dict[str, Any], status: int, said: str
) -> None:
    fields = {"q": TEXT, "source": "en", "target": "fr", **change}
    response = translator.post("/translate", json=fields)
    assert response.status_code == status
    assert said in response.json()["error"]


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"q=%ff&source=en&target=fr", "application/x-www-form-urlencoded"),
        (b"q=\xff&source=en&target=fr", "application/x-www-form-urlencoded"),
        (
            b'--b\r\nContent-Disposition: form-data; name="q"\r\n\r\n\xff\r\n--b--\r\n',
            "multipart/form-data; boundary=b",
        ),
    ],
)
def test_a_form_must_be_utf8(translator: ServerProcess, content: bytes, kind: str) -> None:
    response = translator.post("/translate", content=content, headers={"Content-Type": kind})
    assert response.status_code == 400
    assert "not UTF-8" in response.json()["error"]


def test_web_pages_get_their_settings(translator: ServerProcess) -> None:
    settings = translator.get("/frontend/settings").json()
    assert (settings["charLimit"], settings["keyRequired"]) == (20_000, False)
    assert settings["language"]["source"]["code"] == "en"


def test_without_a_translator_it_is_said(server: ServerProcess) -> None:
    response = server.post("/translate", json={"q": "a", "source": "en", "target": "fr"})
    assert response.status_code == 404
    assert "no bundle that is served translates" in response.json()["error"]
    assert server.get("/languages").json() == []
