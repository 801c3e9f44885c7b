"""The README of a retriever's folder."""

from collections.abc import Mapping
from typing import Any

_SAYS = {
    "lexical": "BM25 over the pages' texts",
    "lines": "the line of a page whose words match the query's best, from 0 to 1, added as it is",
    "listing": "minus the share of lines with dotted leaders, so that tables of contents come later, added as it is",
    "dense": "one vector a window of a page (`model/dense`); a page is as close as its closest window",
    "sparse": "weights of a vocabulary's words (`model/sparse`), one row a page, compared by their products",
    "late": "token vectors of all windows of a page (`model/late`), compared by MaxSim",
}


def render_retriever_card(facts: Mapping[str, Any], pages: int) -> str:
    """Render the card from what `retriever.json` says.

    Args:
        facts: Stages, fusion and reranker.
        pages: Pages in the index.
    """
    fusion, rerank = facts["fusion"], facts["rerank"]
    stages = []
    for stage in facts["stages"]:
        kind = stage["kind"]
        weight = "" if fusion is None else f"; weight {fusion['weights'].get(kind, 0):g}"
        if weight.endswith(" 0"):
            weight += ", so it can propose pages and has no say in their order"
        stages.append(f"- {kind}: {_SAYS[kind]}{weight}")
    if fusion is not None:
        how = "z-scores over the candidates of a query" if fusion["method"] == "z" else f"1 / ({fusion['k']} + rank)"
        stages.append(f"- fusion: sum of {how}")
    if rerank is not None:
        stages.append(f"- reranker: a cross encoder (`model/rerank`) orders the first {rerank['depth']} pages anew")
    listed = "\n".join(stages)
    return f"""---
library_name: omnitune
tags: [retrieval]
---

# Retriever

{pages:,} pages were indexed when it was made. Stages:

{listed}

```python
from omnitune import Retriever

retriever = Retriever.open(".")  # this folder
for hit in retriever.search("how often is the bearing greased", top_k=5, explain=True):
    print(hit.id, hit.score, hit.words)
retriever.add("new-documents/")
retriever.remove(document="old.pdf")
```

The same on the command line: `omnitune search FOLDER "..."`, `omnitune index FOLDER new-documents/`. Several processes
may search while one adds. Nothing in this folder is a pickle.
"""
