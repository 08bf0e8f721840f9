"""What the help of a command shows below its options: examples, and how to read what it prints."""

EPILOG = """examples:
  multigrain doctor                              check the installation and this machine
  multigrain quickstart                          try the whole method on the documentation of your Python packages
  multigrain search runs/quickstart "remove duplicate rows"
  multigrain check examples/own_pairs.toml       check configuration and data, and show what a run will do
  multigrain check runs/quickstart/model         check that a saved model works as intended
  multigrain run runs/quickstart                 resume a run where it stopped
  multigrain run examples/own_pairs.toml --set training.batch_size=16
  multigrain run examples/own_pairs.toml --against stock    also compare with the stock sentence-transformers trainer

exit codes: 0 done, 1 a stage failed, 2 you must change something, 3 done, but too many requests have no answer,
130 stopped by Ctrl-C, SIGTERM or SIGHUP
"""
"""That of multigrain itself."""
EPILOGS = {
    "doctor": """examples:
  multigrain doctor                    check what multigrain quickstart and the defaults need
  multigrain doctor runs/quickstart    check what this run needs

It contacts no server of [llm], and downloads only small files of models on the hub that the run names.
Exit codes: 0 nothing is wrong, though there may be notes; 1 something is wrong.
""",
    "check": """examples:
  multigrain check run.toml                 show what the run will do, ask and spend
  multigrain check run.toml --time          also measure how long training takes on this machine
  multigrain check run.toml --plan          count what it would take elsewhere: no data, weights or network needed
  multigrain check examples/ablation.toml   check all arms of a grid, and count the trainings
  multigrain check runs/quickstart/model    check attention, EOS token, prompts, padding, and that a reload gives the
                                            same vectors (exit code 2 if not)
""",
    "synthesize": """examples:
  multigrain synthesize examples/own_pairs.toml
  multigrain synthesize run.toml --set llm.max_cost=5          never spend more than 5 dollars
  multigrain synthesize run.toml --retry transport             ask again for inputs that the server did not answer
  multigrain synthesize run.toml --batch submit                half the price, within a day; then --batch status,
                                                               --batch ingest, and synthesize as usual

An input that stays without a usable answer is parked, for one of these reasons:
  transport   no answer after many tries        length     answer truncated at the token limit (synthesis.answer_tokens)
  unreadable  answer in the wrong form          declined   the model declined to answer
  rejected    the server refused the request    budget     a cap of [llm] was reached
""",
    "export-requests": """examples:
  multigrain export-requests run.toml --shards 8 --output requests
  vllm run-batch -i requests/requests-00001.jsonl -o answers/00001.jsonl --model MODEL
  multigrain import-answers run.toml answers
  multigrain run run.toml

Each line is a request in the form of OpenAI's Batch API. The engine may be any that answers it. A request stays open
until its answer is imported: meanwhile, other commands would ask it again.
""",
    "import-answers": """examples:
  multigrain import-answers run.toml answers                 all .jsonl files below a folder
  multigrain import-answers run.toml answers/0000[1-4].jsonl

Each line is an answer in the output form of OpenAI's Batch API. Missing, failed and unusable ones stay open. A line
counts once, however often it is imported.
""",
    "dropped": """examples:
  multigrain dropped runs/quickstart                                     count the candidates that each rule dropped
  multigrain dropped runs/quickstart --pair functools.reduce             list those of one pair, and the kept ones
  multigrain dropped runs/quickstart --pair functools.reduce | less -S   the same with whole texts

sources of candidates:
  written           by the language model
  given             with the pair
  embedding, bm25   mined by this method
grade: the grade that the candidate was written or mined for. value: the value that broke the rule. Scores were
measured in mining.
""",
    "tune": """examples:
  multigrain tune run.toml                              try learning rates, batch sizes, schedules and base shares
  multigrain tune run.toml --set tune.minutes=120       try for longer, for a more reliable choice
  multigrain run run.toml                               train with the choice (training.recipe = "auto")

Recipes are measured on the dev set of the run (data.dev_share). If it has none, they are measured on a fifth of the
training queries (at most 2,000), which the trials leave out. Held-out queries play no part. Settings given in the file
are not varied. You can stop it at any time: the same command resumes.
""",
    "export-data": """examples:
  multigrain export-data runs/quickstart --to hf --out my-dataset
  multigrain export-data runs/quickstart --to sentence-transformers --out train.parquet --negatives 4
  multigrain export-data runs/quickstart --to flagembedding --out train.jsonl
  multigrain export-data runs/quickstart --to tevatron --out train.jsonl --force

formats:
  hf                     a Hugging Face dataset: a folder with parquet and a card, with grades, scores and sources
  sentence-transformers  parquet with the columns anchor, positive, negative_1 .. negative_n, in rising order of grade
  flagembedding          JSON lines: query, pos, neg, neg_scores (and prompt, if there are instructions)
  tevatron               JSON lines: query_id, query, positive_passages, negative_passages
""",
    "compare": """examples:
  multigrain compare runs/mined runs/written                  print a table; the first run is the baseline
  multigrain compare runs/a runs/b runs/c --out comparison    also write Markdown, JSON and plots

Runs are compared on the tasks that all of them measured. Intervals: 95 %, paired bootstrap over queries.
p: paired randomization test, corrected for all comparisons in the table (Holm).
""",
    "ablate": """example:
  multigrain ablate examples/ablation.toml

The file names a run, arms (tables of settings that override the run's) and seeds. Stages that arms share are run once.
You can stop it at any time: the same command resumes. Results are written to OUTPUT/NAME: table.md, table.json and
plots.
""",
    "explain": """examples:
  multigrain explain runs/quickstart/model "How do I remove duplicate rows?"
  multigrain explain runs/quickstart/model "remove duplicate rows" --as query --form json
  multigrain explain runs/quickstart/model "remove duplicate rows" --form html --out tokens.html
  multigrain explain embedded-llm "The capital of France is Paris."      a base, before training
""",
    "merge": """example:
  multigrain merge runs/mine/training/model --out runs/mine/merged
""",
    "export-onnx": """examples:
  multigrain export-onnx runs/quickstart/model                       write runs/quickstart/model/onnx
  multigrain export-onnx runs/quickstart/model --int8 --out served
  python examples/onnx_embed.py served "a text"                      needs only onnxruntime and tokenizers
""",
}
"""By command."""
