"""Embed texts with an exported ONNX folder; needs only onnxruntime, tokenizers and numpy.

    python examples/onnx_embed.py runs/quickstart/model/onnx "remove duplicate rows" "Drops equal rows." "A sum."

The first text is the query, the others are documents; the script prints their cosines to the query. prompts.json holds
the prompts that the model was trained with, for queries and for documents, empty for none. They are placed directly
before the text. Use model_int8.onnx instead of model.onnx for a quarter of the size.
"""

import json
import sys
from pathlib import Path

import numpy as np
from onnxruntime import InferenceSession
from tokenizers import Tokenizer

folder, query, *documents = Path(sys.argv[1]), *sys.argv[2:]
session = InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))  # truncates and pads as the model requires
prompts = json.loads((folder / "prompts.json").read_text(encoding="utf-8"))

texts = [prompts["query"] + query, *(prompts["document"] + document for document in documents)]
encodings = tokenizer.encode_batch(texts)
ids, mask = [e.ids for e in encodings], [e.attention_mask for e in encodings]
(vectors,) = session.run(None, {"input_ids": np.array(ids), "attention_mask": np.array(mask)})  # of length 1
for document, cosine in zip(documents, vectors[1:] @ vectors[0], strict=True):
    print(f"{cosine:.3f}  {document}")
