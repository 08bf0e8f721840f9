"""Embed texts with an exported ONNX folder; needs onnxruntime, tokenizers and numpy alone.

    python examples/onnx_embed.py runs/quickstart/model/onnx "remove duplicate rows" "Drops equal rows." "A sum."

The first text is the query, the others are documents; printed are their cosines to the query. A model may have been
trained with a prompt before queries, another before documents, or none: prompts.json says it, empty for none, and the
prompt goes before the text as it is. Use model_int8.onnx in place of model.onnx for a quarter of the size.
"""

import json
import sys
from pathlib import Path

import numpy as np
from onnxruntime import InferenceSession
from tokenizers import Tokenizer

folder, query, *documents = Path(sys.argv[1]), *sys.argv[2:]
session = InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))  # cuts and pads as the model wants it
prompts = json.loads((folder / "prompts.json").read_text(encoding="utf-8"))

texts = [prompts["query"] + query, *(prompts["document"] + document for document in documents)]
encodings = tokenizer.encode_batch(texts)
ids, mask = [e.ids for e in encodings], [e.attention_mask for e in encodings]
(vectors,) = session.run(None, {"input_ids": np.array(ids), "attention_mask": np.array(mask)})  # of length 1
for document, cosine in zip(documents, vectors[1:] @ vectors[0], strict=True):
    print(f"{cosine:.3f}  {document}")
