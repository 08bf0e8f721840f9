"""Names of settings in other tools, so that an error can name ours."""

from collections.abc import Collection

KEYS: dict[str, str] = {
    "training.learning_rate": "lr learning_rate_init initial_lr rate",
    "training.steps": "max_steps num_steps iterations train_steps total_steps num_iterations",
    "training.epochs": "epoch num_epochs n_epochs num_train_epochs max_epochs",
    "training.batch_size": "batch bs batchsize train_batch_size per_device_train_batch_size",
    "training.temperature": "temp tau",
    "training.precision": "fp16 bf16 half amp dtype torch_dtype mixed_precision tf32",
    "training.loss": "loss_function loss_fn objective criterion",
    "training.evaluate": "eval_steps eval_strategy evaluation_strategy evaluation_steps do_eval eval_every",
    "training.checkpoint_every": "save_steps save_strategy checkpoint_save_steps save_every checkpoint_steps",
    "training.teacher": "distillation distill knowledge_distillation",
    "training.teacher.model": "teacher_model teacher_name",
    "training.teacher.temperature": "teacher_temperature kl_temp",
    "training.teacher.documents": "list_length list_size",
    "training.report_to": "wandb tensorboard log_to logger logging_dir",
    "training.matryoshka": "matryoshka_dims matryoshka_dim mrl dims dimensions",
    "training.phases": "curriculum stages",
    "training.micro_batch_tokens": "mini_batch_size micro_batch_size gradient_accumulation_steps",
    "training.activation_gb": "gradient_checkpointing grad_cache gradient_cache",
    "model.base": "base_model model_name model_name_or_path model_id model_path backbone encoder pretrained name",
    "model.max_tokens": "max_seq_length max_seq_len max_length max_len seq_len passage_max_len query_max_len",
    "model.pooling": "pooling_mode pooling_method sentence_pooling_method",
    "model.instruction": "query_instruction instruct query_instruction_for_retrieval",
    "model.query_prompt": "query_prefix",
    "model.document_prompt": "document_prefix passage_prefix passage_prompt doc_prefix doc_prompt",
    "model.lora": "peft adapter peft_config use_lora",
    "model.lora.rank": "r lora_r lora_rank",
    "model.lora.alpha": "lora_alpha",
    "model.lora.dropout": "lora_dropout",
    "model.lora.targets": "target_modules lora_target_modules",
    "model.lora.quantize": "load_in_4bit quantization qlora bits",
    "output": "output_dir output_folder out out_dir save_dir output_path",
    "seed": "random_seed random_state data_seed",
    "name": "run_name project experiment experiment_name",
    "data": "dataset datasets",
    "data.pairs": "train_file train_data train_dataset training_data data_path train_path pairs_path file path input "
    "data.train data.queries",
    "data.corpus": "documents docs passages corpus_path corpus_file",
    "data.held_out": "test_size val_size valid_size validation_split val_split test_split eval_split dev_size holdout "
    "data.validation data.valid data.val data.dev data.test data.eval",
    "data.limit": "max_train_samples max_samples num_samples max_pairs subset",
    "llm.model": "llm_model llm_name model_name model_id name synthesis.model synthesis.model_name",
    "llm.base_url": "url api_base endpoint host openai_api_base server",
    "llm.api_key_env": "api_key key openai_api_key token",
    "llm.max_concurrency": "concurrency parallel max_parallel_requests llm.max_workers llm.num_workers llm.workers",
    "llm.extra_body": "extra_params extra_args extra_kwargs model_kwargs sampling_params generation_config",
    "llm.extra_headers": "headers default_headers",
    "llm.query": "api_version default_query extra_query query_params",
    "llm.max_cost": "budget max_dollars cost",
    "llm.provider": "backend engine",
    "synthesis": "generation generate synthesise synth",
    "synthesis.per_grade": "negatives num_negatives n_negatives hard_negatives num_hard_negatives negatives_per_query",
    "synthesis.answer_tokens": "max_new_tokens max_output_tokens max_completion_tokens",
    "synthesis.grades": "levels difficulties",
    "synthesis.limit": "max_queries num_queries",
    "mining": "mine",
    "mining.per_grade": "mined_negatives num_mined top_k range_max",
    "grading": "filter filtering",
    "grading.judge_model": "judge_name",
    "grading.cross_encoder": "reranker cross_encoder_model rerank_model",
    "grading.false_negative_above": "margin threshold max_score false_negative_threshold",
    "evaluation": "eval test metrics",
    "evaluation.tasks": "benchmarks benchmark eval_tasks mteb beir eval_dataset",
}
"""Our settings -> their usual names elsewhere. A name that is usual in one section only is written with its section."""

_SELF_PACED = (
    'there is no such setting; training.schedule = "self-paced" ends a phase when its margin stops growing, and '
    "training.evaluate = true measures after each phase"
)
_WARMUP = "there is no such setting; the learning rate rises over the first tenth of the steps, then falls to 0"
_OPTIMISER = "there is no such setting; the optimizer is AdamW without weight decay"
_RESUME = "there is no such setting; the same command resumes where it stopped"
_RETRIES = (
    "there is no such setting; failed requests are retried automatically, and multigrain synthesize RUN.toml "
    "--retry transport asks once more"
)
_OF_THE_SERVER = (
    "chat_template_kwargs frequency_penalty llm.top_k min_p presence_penalty reasoning reasoning_effort "
    "repetition_penalty service_tier thinking top_p"
)
ABSENT: dict[str, str] = {
    **dict.fromkeys(("early_stopping", "patience", "early_stopping_patience", "load_best_model_at_end"), _SELF_PACED),
    **dict.fromkeys(
        ("warmup", "warmup_steps", "warmup_ratio", "scheduler", "lr_scheduler", "lr_scheduler_type"), _WARMUP
    ),
    "training.symmetric": 'symmetric = true is now directions = ["query_to_doc", "doc_to_query"] with partition_mode = '
    '"per_direction"',
    "scale": "set training.temperature, which is 1 / scale",
    **dict.fromkeys(("weight_decay", "optimizer", "optimiser", "optim"), _OPTIMISER),
    **dict.fromkeys(("resume", "resume_from_checkpoint"), _RESUME),
    **dict.fromkeys(("retries", "max_retries", "num_retries"), _RETRIES),
    **{
        name: f"pass it to the server with llm.extra_body = {{ {name.removeprefix('llm.')} = ... }}"
        for name in _OF_THE_SERVER.split()
    },
    "enable_thinking": "pass it to the server with llm.extra_body = "
    "{ chat_template_kwargs = { enable_thinking = ... } }",
    "revision": "there is no such setting; download it (hf download NAME --revision REVISION --local-dir FOLDER), and "
    "set model.base to the folder",
    "data.split": "there is no such setting; name the split in data.pairs, as in beir:FOLDER:train, or name its file",
    "data.format": "there is no such setting; the fields of the first row determine the format (docs/interchange.md)",
    "enabled": "only mining has it; to ask no language model, set synthesis.limit = 0",
}
"""Settings that we do not have -> what to use instead."""

VALUES: dict[str, str] = {
    "mean": "avg average mean_pooling",
    "last": "eos last_token lasttoken last-token",
    "cls": "first cls_token cls-token",
    "bf16": "fp16 half float16 bfloat16",
    "fp32": "float32 full single",
    "endpoint": "openai vllm ollama anthropic azure litellm sglang tgi openrouter server api http",
    "infonce": "mnrl multiplenegativesranking multiplenegativesrankingloss contrastive mnr ranking cross-entropy",
    "distill": "kl kldiv distillation marginmse margin-mse",
    "listwise": "listnet listmle",
    "coarse-to-fine": "curriculum easy-to-hard staged",
    "reverse": "hard-to-easy fine-to-coarse",
    "all-at-once": "all mixed",
    "in-batch": "none no-negatives",
    "cross-encoder": "reranker crossencoder",
    "embedding": "embeddings bi-encoder dense cosine",
    "bm25": "bm-25 sparse lexical",
    "embedded": "local builtin",
    "all-grades": "json all",
    "llm": "written generated synthetic",
    "4bit": "nf4 int4 4-bit",
}
"""Values of our settings -> their usual names elsewhere."""


def key_for(name: str, section: str) -> str | None:
    """Return our setting with this usual name, preferably one in the section.

    >>> key_for("model_name", "model"), key_for("per-device-train-batch-size", "")
    ('model.base', 'training.batch_size')
    """
    named = {_plain(name), f"{section}.{_plain(name)}"}
    found = [key for key, names in KEYS.items() if named & set(names.split()) and key != section]
    here = [key for key in found if key.rpartition(".")[0] == section]
    return next(iter(here or found), None)


def absent(name: str, section: str) -> str | None:
    """Return what to use instead of a setting of other tools, for this section or for any."""
    return ABSENT.get(f"{section}.{_plain(name)}", ABSENT.get(_plain(name)))


def value_for(found: str, allowed: Collection[str]) -> str | None:
    """Return the allowed value that has this usual name elsewhere."""
    plain = found.lower().replace("_", "-")
    return next((value for value in allowed if plain in VALUES.get(value, "").replace("_", "-").split()), None)


def _plain(name: str) -> str:
    return name.lower().replace("-", "_")
