from pathlib import Path

import numpy as np
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from multigrain.model.load import load_base


def test_a_model_of_word_vectors_reads_whole_texts(tmp_path: Path) -> None:
    """Such models (Model2Vec) have no length that could be set."""
    tokenizer = Tokenizer(WordLevel({"[UNK]": 0, "cat": 1, "dog": 2}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    words = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]], dtype=np.float32)
    SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_weights=words)]).save_pretrained(str(tmp_path))
    model = load_base(str(tmp_path), max_tokens=8)
    assert model.encode(["cat " * 30 + "dog"]).argmax() == 0
