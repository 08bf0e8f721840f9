import gzip
import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from multigrain.grading.language import is_other_language, is_refusal, language_of

ENGLISH = "The treatment usually takes about two weeks, and most patients can do it at home."
OTHERS = {
    "de": [
        "Die Behandlung dauert meistens zwei Wochen und kann zu Hause erfolgen.",
        "Wer nachts schlecht schläft, sollte am Abend keinen Kaffee mehr trinken.",
        "Der Zug nach Hamburg hatte gestern wegen eines Unwetters große Verspätung.",
        "Im Garten hinter dem Haus wachsen Äpfel, Birnen und einige alte Pflaumenbäume.",
        "Diese Bibliothek liest Dateien zeilenweise ein, damit wenig Speicher gebraucht wird.",
    ],
    "fr": [
        "Le traitement dure en général deux semaines et peut se faire à domicile.",
        "Ceux qui dorment mal la nuit ne devraient plus boire de café le soir.",
        "Le train pour Lyon avait hier beaucoup de retard à cause d'un orage.",
        "Dans le jardin derrière la maison poussent des pommiers et quelques vieux pruniers.",
        "Cette bibliothèque lit les fichiers ligne par ligne pour utiliser peu de mémoire.",
    ],
    "es": [
        "El tratamiento suele durar dos semanas y puede hacerse en casa.",
        "Quien duerme mal por la noche no debería tomar café por la tarde.",
        "El tren a Sevilla llegó ayer con mucho retraso a causa de una tormenta.",
        "En el jardín detrás de la casa crecen manzanos y algunos ciruelos viejos.",
        "Esta biblioteca lee los archivos línea por línea para gastar poca memoria.",
    ],
    "zh": [
        "治疗通常持续两周，可以在家中进行。",
        "晚上睡不好的人，下午以后不应该再喝咖啡。",
        "昨天开往上海的火车因为暴风雨晚点了很久。",
        "房子后面的花园里种着苹果树和几棵老李子树。",
        "这个库逐行读取文件，因此占用的内存很少。",
    ],
    "ru": [
        "Лечение обычно длится две недели и может проводиться дома.",
        "Тем, кто плохо спит ночью, не стоит пить кофе по вечерам.",
        "Вчера поезд в Казань сильно опоздал из-за грозы.",
        "В саду за домом растут яблони и несколько старых слив.",
        "Эта библиотека читает файлы построчно, чтобы занимать мало памяти.",
    ],
}
HARMLESS = [
    "def read(path):\n    with open(path) as file:\n        return [line.strip() for line in file]",
    "SELECT name, count(*) FROM animals WHERE age > 3 GROUP BY name ORDER BY 2 DESC LIMIT 10;",
    "pip install --upgrade numpy scipy pandas matplotlib scikit-learn",
    "12, 15, 18, 22, 40.5 mg, 3 x 200 ml, 0.47 (95% CI: 0.34-0.65; I(2) = 63.7%; n = 13)",
    "John Smith, Maria García, Wei Zhang, Ahmed Hassan, Olga Ivanova, Jürgen Müller, François Dupont",
    "Plasmodium falciparum, P. vivax, P. ovale, P. malariae, P. knowlesi and Anopheles gambiae",
    "- Pectus excavatum\n- Pes planus\n- Scoliosis\n- Micromelia\n- Protrusio acetabuli\n- Talipes equinovarus",
    "α-synuclein, β-amyloid, γ-secretase, ΔΨ, Σ x², λ = 0.5, μ ± σ",
    "https://example.org/de/artikel/die-behandlung-dauert-zwei-wochen.html",
    "aspirin",
    "",
]


@pytest.mark.parametrize("language", OTHERS)
def test_languages(language: str) -> None:
    for text in OTHERS[language]:
        assert is_other_language(text, ENGLISH), text
        assert is_other_language(ENGLISH, text), text
        assert not is_other_language(text, OTHERS[language][0])


@pytest.mark.parametrize("text", HARMLESS)
def test_what_is_in_no_language_alarms_nobody(text: str) -> None:
    assert not is_other_language(text, ENGLISH)
    assert not is_other_language(ENGLISH, text)


def test_sister_languages_are_not_told_apart() -> None:
    danish = "Behandlingen tager normalt to uger og kan foregå derhjemme."
    norwegian = "Behandlingen tar vanligvis to uker og kan gjøres hjemme."
    assert not is_other_language(danish, norwegian)
    assert not is_other_language(norwegian, danish)


def test_the_language_and_its_probability() -> None:
    found = language_of(ENGLISH)
    assert found is not None
    assert found[0] == "en" and 0.7 <= found[1] <= 1
    assert language_of("The cat.") is None
    assert language_of("12345 67890 12345 67890 12345 67890") is None


@pytest.mark.parametrize("name", ["scifact", "medquad"])
def test_real_english_alarms_nobody(name: str, real_data: Callable[[str], Path]) -> None:
    """At most 2 in 1,000 fragments of 20 words; the first 2,000 documents."""
    draw, alarms, fragments = random.Random(5), 0, 0
    with gzip.open(real_data(name) / "corpus.jsonl.gz") as file:
        for _, line in zip(range(2000), file, strict=False):
            words = json.loads(line)["text"].split()
            start = draw.randrange(max(len(words) - 20, 0) + 1)
            alarms += is_other_language(" ".join(words[start : start + 20]), ENGLISH)
            fragments += 1
    assert fragments == 2000
    assert alarms < 0.002 * fragments


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't assist with that request.",
        "I\u2019m sorry, but I cannot provide a passage about this topic.",
        "I am sorry, I can't.",
        "Sorry, but I can't help with this.",
        "I apologize, but I am unable to generate such text.",
        "Unfortunately, I cannot write this passage for you.",
        "I cannot fulfill your request to write about this.",
        "As an AI language model, I do not have opinions.",
        "As a large language model, I cannot browse.",
        '"I\'m an AI assistant and do not give medical advice."',
        "**I can't help with this query.**",
    ],
)
def test_refusals(text: str) -> None:
    assert is_refusal(text)


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry I was late, she said, but I can't find my keys.",
        "Patients often say: I'm sorry, but I can't sleep.",
        "Sorry, Wrong Number is a film of 1948.",
        "Sorry, but I can't sleep at night since I take these pills.",
        "I cannot write with my right hand since the accident.",
        "As an AI researcher, Minsky founded a laboratory.",
        "As a language model is trained, its loss falls.",
        "Unfortunately, I cannot eat nuts.",
        "",
    ],
)
def test_what_only_looks_like_a_refusal(text: str) -> None:
    assert not is_refusal(text)
