"""ptft import --hf_dir=HF_DIR --run_dir=RUN

Turns a Hugging Face BERT folder into a run that others can start from. One of sentence-transformers
keeps its pooling.

HF_DIR may be the name of a model on the Hub, such as bert-base-uncased or ORGANISATION/NAME, with
@REVISION after it for another than the newest; its files are fetched into the cache of HF_HOME.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
from absl import flags

from ptft_jax.commands.parsing import required
from ptft_jax.commands.screen import facts, flag, made, make_console
from ptft_jax.convert.folder import made_whole, read_hf_folder
from ptft_jax.convert.sentence_folder import recipe_files
from ptft_jax.data.hub import locate
from ptft_jax.errors import ConfigError
from ptft_jax.models.build import build_model
from ptft_jax.runs.describe import describe_model
from ptft_jax.runs.folder import RunFolder
from ptft_jax.runs.record import RunRecord
from ptft_jax.runs.start.starting_point import imported_record
from ptft_jax.training.step import TrainState


def define_flags(values: flags.FlagValues) -> None:
    """Defines the command's flags."""
    flags.DEFINE_string("hf_dir", None, "Hugging Face folder to read.", flag_values=values)
    flags.DEFINE_string("run_dir", None, "Folder of the run to make.", flag_values=values)


def run(values: flags.FlagValues) -> None:
    """Runs the command."""
    required(values, "hf_dir", "run_dir")
    import_hf(values.hf_dir, values.run_dir)


def import_hf(hf_dir: str, run_dir: str) -> RunRecord:
    """Imports a folder as step 0 of a new run."""
    console = make_console()
    folder = RunFolder(run_dir)
    folder.check_usable()
    if folder.path.exists() and any(folder.path.iterdir()):
        raise ConfigError(f"--run_dir={run_dir} is not empty: choose a new folder.")
    path, origin = locate(hf_dir, f"--hf_dir={hf_dir}")
    params, config, tokenizer, info = read_hf_folder(path)
    record = imported_record(origin, config, info)
    model = build_model(config)
    with made_whole(folder.path) as partial:
        made_run = RunFolder(partial)
        made_run.start(record, tokenizer)
        for name, file in recipe_files(Path(hf_dir)).items():
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            (partial / name).write_bytes(file)
        with made_run.checkpoints(record, tokenizer) as checkpoints:
            state = TrainState.new(jax.tree.map(jnp.asarray, params), None)
            checkpoints.save(0, state, 0, {})
    facts(console, {"model": describe_model(model), "heads": ", ".join(config.heads) or "none"})
    made(
        console,
        "imported",
        {"run": run_dir},
        [
            f"ptft finetune --config=configs/finetune/glue.py:sst2 {flag('init_from', run_dir)} "
            "--config.data_dir=GLUE_DIR --run_dir=runs/sst2",
            f"ptft export {flag('run_dir', run_dir)} --out_dir=hf/again",
        ],
    )
    return record
