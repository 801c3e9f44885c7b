import pytest

import sentence_transformers as st
import omnitune
import numpy as np
from fixtures.checkpoints import BUILDERS

@pytest.mark.parametrize("name", [*BUILDERS, "st_bert","st_bert_legacy","st_dense","st_router","st_static","st_clip","st_qwen3_vl"])
def test_it(name, request, page_images, texts):
    path = str(request.getfixturevalue(name))
    m = st.SentenceTransformer(path, device="cpu")
    print(m, m.modalities)
    o = omnitune.SentenceTransformer(path, device="cpu")
    print(o, o.modalities)
    if m.supports("text"):
        a=m.encode_document(texts); b=o.encode_document(texts)
        print("text", np.abs(a-b).max(), a.std(0).mean())
    if m.supports("image"):
        a=m.encode(page_images); b=o.encode(page_images)
        print("image", np.abs(a-b).max(), a.std(0).mean())
    if m.supports(("image","text")):
        x=[{"text":t,"image":i} for t,i in zip(texts,page_images)]
        a=m.encode(x); b=o.encode(x)
        print("image+text", np.abs(a-b).max(), a.std(0).mean())
