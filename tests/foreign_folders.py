"""Folders and files as strangers could make them, for the tests that read them."""

import io
import json
import pickle
import struct
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import jax
from command_line import finetune_flags, prepare_corpus, pretrain_flags, run

from ptft_jax.convert.folder import write_hf_folder
from ptft_jax.data.tokenizer.tokenizer import TextTokenizer
from ptft_jax.models.build import build_model
from ptft_jax.models.config import EncoderConfig

LABELS = ("bad", "good")


def make_run(place: Path) -> None:
    """Makes a Hugging Face folder of random weights beside a corpus, and a run imported from it."""
    tokenizer = TextTokenizer.load(place / "data" / "tokenizer")
    config = EncoderConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=48,
        num_labels=2,
        heads=("pooler", "classification"),
    )
    params = jax.device_get(build_model(config).init(jax.random.key(0)))
    write_hf_folder(place / "hf", params, config, tokenizer, "card", LABELS)
    assert run("import", f"--hf_dir={place}/hf", f"--run_dir={place}/run") == 0


def make_folders(place: Path) -> Path:
    """Makes a corpus, a Hugging Face folder, a run imported from it and a table in a folder."""
    prepare_corpus(place)
    make_run(place)
    (place / "table").mkdir()
    for split in ("train", "dev"):
        rows = ["text\tlabel", "the river is fine\tgood", "the stone is not\tbad"]
        (place / "table" / f"{split}.tsv").write_text("\n".join(rows) + "\n")
    return place


def reading(command: str, place: Path) -> list[str]:
    """A command line that reads one of the folders of `make_folders`."""
    run_dir = f"--run_dir={place}/run"
    return {
        "import": ["import", f"--hf_dir={place}/hf", f"--run_dir={place}/new"],
        "predict": ["predict", run_dir, "the river"],
        "export": ["export", run_dir, f"--out_dir={place}/new"],
        "evaluate": ["evaluate", run_dir],
        "finetune": finetune_flags("text.py", place / "table", place / "run", place / "new"),
        "pretrain": pretrain_flags(place / "data", place / "new"),
        "check": ["check", f"--data_dir={place}/data"],
    }[command]


def safetensors(header: Any, *, length: int | None = None, data: bytes = b"\0" * 64) -> bytes:
    """A safetensors file with any header, of any alleged length."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def tensor(begin: int, end: int, shape: list[int], dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def zipped() -> bytes:
    """What torch.save writes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps([1]))
    return buffer.getvalue()


def tarred(mode: str) -> bytes:
    """A tar archive whose member wants to be written elsewhere; `mode` as of tarfile.open."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:  # type: ignore[call-overload]
        member = tarfile.TarInfo("../../etc/cron.d/x")
        member.size = 3
        archive.addfile(member, io.BytesIO(b"abc"))
    return buffer.getvalue()


def one_error(capsys) -> str:
    """Returns what a command said, which has to be one error and no traceback."""
    said = capsys.readouterr()
    assert said.err.count("ptft: error: ") == 1, said.err
    assert "Traceback" not in said.err + said.out
    return said.err
