"""The way of one text through the library is short enough to be followed: every frame is a function to open."""

import gc
import os
import sys

import omnitune
from omnitune import SentenceTransformer

OURS = os.path.dirname(omnitune.__file__)
MOST = 12


def ours(frame):
    """Functions of ours that are on the stack, outermost first."""
    found = []
    while frame is not None:
        if frame.f_code.co_filename.startswith(OURS):
            found.append(frame.f_code.co_qualname)
        frame = frame.f_back
    return found[::-1]


def test_a_text_passes_few_functions_on_its_way_to_numpy(tiny_bert):
    model = SentenceTransformer(tiny_bert, device="cpu")
    model.encode(["a text, so that what is made once is made"])
    way = []
    backbone = model.transformers_model.embeddings
    hooks = [backbone.register_forward_pre_hook(lambda *_: way.extend(ours(sys._getframe())))]
    before = sys.getprofile()

    def note(frame, event, _):
        """Functions that handle the vectors after the backbone: from pooling on."""
        if event == "call" and way and frame.f_code.co_filename.startswith(OURS):
            touched = any(map(holds_vectors, list(frame.f_locals.values())))
            if touched and not frame.f_code.co_name.startswith("<") and frame.f_code.co_qualname not in way:
                way.append(frame.f_code.co_qualname)

    gc.collect()  # closing what an earlier test left half done would count as a call
    gc.disable()
    sys.setprofile(note)
    try:
        made = model.encode(["text"])
    finally:
        sys.setprofile(before)
        gc.enable()
        for hook in hooks:
            hook.remove()
    assert made.shape == (1, model.get_embedding_dimension())
    assert way[0].endswith("call") and "SentenceTransformer.encode" in way and way[-1] == "as_numpy", way
    assert len(way) <= MOST, " > ".join(way)


def holds_vectors(value):
    """A tensor of vectors, or features and outputs with some in them."""
    if isinstance(value, dict):
        return any(name in value for name in ("token_embeddings", "last_hidden_state"))
    return getattr(value, "ndim", 0) >= 2
