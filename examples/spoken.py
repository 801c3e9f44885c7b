"""Speech synthesised by eSpeak NG out of the package `espeakng-loader`, which is GPL; the library never asks for it."""

import ctypes
from functools import lru_cache
from typing import Any

import numpy as np

from omnitune.inputs.audio import resample

RATE = 16_000
AUDIO_OUTPUT_SYNCHRONOUS = 2
CHARACTERS_UTF8 = 1

_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


@lru_cache
def _engine() -> tuple[Any, int]:
    import espeakng_loader

    library = espeakng_loader.load_library()
    rate = library.espeak_Initialize(AUDIO_OUTPUT_SYNCHRONOUS, 0, espeakng_loader.get_data_path().encode(), 0)
    return library, rate


def spoken(text: str, *, voice: str = "en-us", words_a_minute: int = 140) -> np.ndarray:
    """`text` read aloud: `(samples,)`, float32, at `RATE`.

    Args:
        text: English.
        voice: A name of eSpeak NG's, such as `"en-gb"`, or with a speaker of it, `"en-us+f2"`.
        words_a_minute: Speed.
    """
    library, rate = _engine()
    parts: list[np.ndarray] = []

    @_Callback
    def take(wave: Any, count: int, _: Any) -> int:
        if wave and count:
            parts.append(np.ctypeslib.as_array(wave, (count,)).copy())
        return 0

    library.espeak_SetSynthCallback(take)
    library.espeak_SetVoiceByName(voice.encode())
    library.espeak_SetParameter(1, words_a_minute, 0)
    content = text.encode()
    library.espeak_Synth(content, len(content) + 1, 0, 0, 0, CHARACTERS_UTF8, None, None)
    library.espeak_Synchronize()
    return resample(np.concatenate(parts).astype(np.float32) / 32768, rate, RATE)
