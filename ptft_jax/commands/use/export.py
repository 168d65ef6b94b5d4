"""ptft export --run_dir=RUN --out_dir=HF_DIR [--architecture=BertForMaskedLM] [--checkpoint=best]

Writes a Hugging Face folder that PyTorch users load with `AutoModel*.from_pretrained`.

Of a run that has trained an adapter, --format=peft writes the adapter alone, for
`PeftModel.from_pretrained`, and --merge folds it into a plain folder.

config.json, model.safetensors, tokenizer files and a model card (README.md). Without
--architecture the class with all heads of the run. Where torch is installed the folder is loaded
and its outputs are compared with ours.
"""

import json
import shlex

from absl import flags

from ptft_jax.commands.parsing import required
from ptft_jax.commands.screen import flag, made, make_console
from ptft_jax.commands.train.evaluate import TASK, define_reading_flags
from ptft_jax.runs.folder import open_run
from ptft_jax.runs.trained.export import export
from ptft_jax.runs.trained.one_task import of_task

_FOR_THE_CARD = {
    "base_model": "For the model card: what training started from, ORGANISATION/NAME on the hub; "
    "with --format=peft also a folder: the model to load the adapter for.",
    "language": "For the model card: of the texts, like en or de,fr.",
    "licence": "For the model card: of the model, like apache-2.0; else that of the corpus.",
}


def define_flags(values: flags.FlagValues) -> None:
    """Defines the command's flags."""
    define_reading_flags(values)
    flags.DEFINE_string("out_dir", None, "Folder to make.", flag_values=values)
    text = "Class of transformers, like BertForMaskedLM; else the one with all heads of the run."
    flags.DEFINE_string("architecture", None, text, flag_values=values)
    flags.DEFINE_string("task", None, TASK, flag_values=values)
    flags.DEFINE_enum("format", "hf", ["hf", "peft"], "What to write.", flag_values=values)
    text = "Fold the adapter into the weights."
    flags.DEFINE_bool("merge", False, text, flag_values=values)
    for name, text in _FOR_THE_CARD.items():
        flags.DEFINE_string(name, None, text, flag_values=values)


def run(values: flags.FlagValues) -> None:
    """Runs the command."""
    required(values, "run_dir", "out_dir")
    out_dir = values.out_dir
    opened = open_run(values.run_dir, values.checkpoint)
    if values.task:
        opened = of_task(opened, values.task)
    exported = export(
        opened,
        out_dir,
        values.architecture,
        form=values.format,
        merge=values.merge,
        base_model=values.base_model,
        languages=values.language.split(",") if values.language else (),
        licence=values.licence,
    )
    loader = exported.loader
    where = json.dumps(out_dir, ensure_ascii=False)
    loading = f"from transformers import {loader}; print({loader}.from_pretrained({where}))"
    if values.format == "peft":
        loader = exported.model_class
        loading = (
            "import peft, transformers; "
            f"config = transformers.AutoConfig.from_pretrained({where}); "
            f"base = peft.PeftConfig.from_pretrained({where}).base_model_name_or_path; "
            f"model = transformers.{loader}.from_pretrained(base, config=config); "
            f"print(peft.PeftModel.from_pretrained(model, {where}))"
        )
    made(
        make_console(),
        "exported",
        {
            "folder": out_dir,
            "class": exported.model_class,
            "step": str(exported.step),
            "PyTorch check": exported.check,
        },
        [
            f"python -c {shlex.quote(loading)}",
            f"ptft import {flag('hf_dir', out_dir)} --run_dir=runs/imported",
        ],
    )
