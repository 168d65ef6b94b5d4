"""Hugging Face's model in PyTorch, at its best settings: what runs in the process of `hf_process`.

    python -m ptft_jax.runs.bench.hf FOLDER

FOLDER/spec.json says what to build. A line on standard output says that it is built and warm; then
each line on standard input asks for something, and a line on standard output answers it. Nothing
here imports JAX, which would take a GPU's memory.
"""

import contextlib
import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from ptft_jax.runs.bench.machine import cores, peak_of_process

NO_LABEL = -100
"""What PyTorch's cross entropy leaves out."""

# Updates by which eager and compiled PyTorch are compared on a CPU, the first left out.
_TRIAL = 3
_TOP = 5


def serve(folder: Path) -> None:
    """Answers the lines of standard input until it ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print goes elsewhere
    spec = json.loads((folder / "spec.json").read_text(encoding="utf-8"))

    def say(answer: dict[str, Any]) -> None:
        answers.write(json.dumps(answer) + "\n")
        answers.flush()

    try:
        side = Training(spec, folder) if spec["what"] == "train" else Predicting(spec, folder)
        say(side.warm_up())
        for line in sys.stdin:
            say(side.make_round(json.loads(line)))
    # It is the other process that has a person to tell.
    except Exception as error:
        say({"error": f"{type(error).__name__}: {error}"})
        raise


class Training:
    """Updates of HF's model: SDPA, autocast to bfloat16, fused AdamW, torch.compile if it pays.

    The attention mask is always given, as HF's collators do. `gathered` puts the MLM head on the
    masked positions alone, which HF's own class does not.
    """

    def __init__(self, spec: dict[str, Any], folder: Path) -> None:
        """Builds the model and loads the batches: the first of them is the untimed one."""
        self._torch = torch = _torch_for(spec)
        self._spec, self._device = spec, spec["device"]
        self._model = _model(spec, "pretraining").train()
        if spec["remat"]:
            self._model.gradient_checkpointing_enable()
        config = spec["optimizer"]
        self._clip = config["max_grad_norm"]
        undecayed = [p for name, p in self._model.named_parameters() if _is_undecayed(name)]
        decayed = [p for name, p in self._model.named_parameters() if not _is_undecayed(name)]
        self._optimizer = torch.optim.AdamW(
            [
                {"params": decayed, "weight_decay": config["weight_decay"]},
                {"params": undecayed, "weight_decay": 0.0},
            ],
            lr=config["learning_rate"],
            betas=(config["b1"], config["b2"]),
            eps=config["eps"],
            fused=True,
        )
        files = sorted(folder.glob("batch-*.safetensors"))
        batches = [self._parts(safetensors.numpy.load_file(file)) for file in files]
        if len(batches) == 1:  # the same rows in every update lie where they are needed
            batches = [[self._put(part) for part in batches[0]]] * (1 + spec["updates"])
        elif self._device == "cuda":
            batches = [
                [{name: rows.pin_memory() for name, rows in part.items()} for part in parts]
                for parts in batches
            ]
        self._batches = batches
        self._loss_of: Callable[..., Any] = self._gathered if spec["gathered"] else self._whole

    def _parts(self, batch: dict[str, np.ndarray]) -> list[dict[str, Any]]:
        """Cuts a batch into its micro-batches, as tensors."""
        count = self._spec["accumulate"]
        cut = {name: np.array_split(rows, count) for name, rows in batch.items()}
        parts = [{name: rows[i] for name, rows in cut.items()} for i in range(count)]
        if self._spec["gathered"]:
            for part in parts:
                labels = part["labels"].reshape(-1)
                part["places"] = np.flatnonzero(labels != NO_LABEL)
                part["labels"] = labels[part["places"]]
        return [
            {
                name: self._torch.from_numpy(np.ascontiguousarray(rows))
                for name, rows in part.items()
            }
            for part in parts
        ]

    def _put(self, part: dict[str, Any]) -> dict[str, Any]:
        return {name: rows.to(self._device, non_blocking=True) for name, rows in part.items()}

    def _whole(self, part: dict[str, Any]) -> Any:
        return self._model(**part).loss

    def _gathered(self, part: dict[str, Any]) -> Any:
        cross_entropy = self._torch.nn.functional.cross_entropy
        names = ("input_ids", "attention_mask", "token_type_ids")
        found = self._model.bert(**{name: part[name] for name in names})
        hidden = found.last_hidden_state.flatten(0, 1)[part["places"]]
        loss = cross_entropy(self._model.cls.predictions(hidden), part["labels"])
        if "next_sentence_label" in part:
            logits = self._model.cls.seq_relationship(found.pooler_output)
            loss = loss + cross_entropy(logits, part["next_sentence_label"])
        return loss

    def _update(self, parts: Sequence[dict[str, Any]], loss_of: Callable[..., Any]) -> Any:
        total = 0.0
        for part in parts:
            with _autocast(self._torch, self._spec):
                loss = loss_of(self._put(part)) / len(parts)
            loss.backward()
            total += loss.detach()
        if self._clip:
            self._torch.nn.utils.clip_grad_norm_(self._model.parameters(), self._clip)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return total

    def _timed(self, batches: Sequence[Any], loss_of: Callable[..., Any]) -> tuple[float, Any]:
        """Makes updates; returns their seconds and the loss of the last one."""
        _wait(self._torch, self._device)
        loss, began = None, time.perf_counter()
        for parts in batches:
            loss = self._update(parts, loss_of)
        _wait(self._torch, self._device)
        return time.perf_counter() - began, loss

    def warm_up(self) -> dict[str, Any]:
        """Compiles if that works, and on a CPU if it is the faster way; says which it took."""
        plain, compiled, note = self._loss_of, None, "torch.compile"
        first = 0.0
        if os.environ.get("TORCH_COMPILE_DISABLE") == "1":
            note = "eager (TORCH_COMPILE_DISABLE=1)"
        else:
            try:
                compiled = self._torch.compile(plain)
                first, _ = self._timed(self._batches[:1], compiled)
                self._timed(self._batches[1:], compiled)  # all shapes
            except self._torch.OutOfMemoryError:
                raise
            # Whatever a compiler can fail at: no C++ compiler, a construct it does not know.
            except Exception as error:
                compiled = None
                reason = str(error).strip().partition("\n")[0][:120]
                note = f"eager (torch.compile failed: {type(error).__name__}: {reason})"
                self._optimizer.zero_grad(set_to_none=True)
        if compiled is None:
            first, _ = self._timed(self._batches[:1], plain)
        elif self._device == "cpu":
            trial = list(itertools.islice(itertools.cycle(self._batches), _TRIAL))
            taken = []
            for way in (plain, compiled):
                self._timed(trial[:1], way)
                taken.append(self._timed(trial[1:], way)[0])
            if taken[0] < taken[1]:
                compiled = None
                note = f"eager (torch.compile takes {taken[1] / taken[0]:.2f} times as long)"
        self._loss_of = plain if compiled is None else compiled
        if self._device == "cuda":
            self._torch.cuda.reset_peak_memory_stats()
        return {"first_seconds": first, "note": note}

    def make_round(self, request: dict[str, Any]) -> dict[str, Any]:
        """Makes an untimed update, then those that are timed."""
        self._update(self._batches[0], self._loss_of)
        seconds, loss = self._timed(self._batches[1:], self._loss_of)
        if self._device == "cuda":
            peak = self._torch.cuda.max_memory_allocated()
        else:
            peak = peak_of_process()
        return {"seconds": seconds, "loss": float(loss), "peak_memory": peak}


class Predicting:
    """From texts to answers on the host: tokenizer, HF's model (eager, SDPA), the best tokens."""

    def __init__(self, spec: dict[str, Any], folder: Path) -> None:
        """Builds the model, with weights of its own: they do not change its speed."""
        self._torch = _torch_for(spec)
        from transformers import AutoTokenizer

        self._spec, self._device, self._head = spec, spec["device"], spec["head"]
        self._model = _model(spec, self._head).eval()
        self._tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")

    def warm_up(self) -> dict[str, Any]:
        """Says what runs."""
        return {"first_seconds": 0.0, "note": "eager"}

    def make_round(self, request: dict[str, Any]) -> dict[str, Any]:
        """Answers `texts` for `calls` times after an untimed one."""
        texts = request["texts"]
        self._answer(texts)
        began = time.perf_counter()
        for _ in range(request["calls"]):
            self._answer(texts)
        return {"seconds": time.perf_counter() - began}

    def _answer(self, texts: list[str]) -> Any:
        torch, pairs = self._torch, [text.split("\t") for text in texts]
        columns = [list(column) for column in zip(*pairs, strict=True)]
        limit = self._spec["limit"]
        inputs = self._tokenizer(
            *columns, padding=True, truncation=True, max_length=limit, return_tensors="pt"
        )
        inputs = {name: rows.to(self._device) for name, rows in inputs.items()}
        with torch.inference_mode(), _autocast(torch, self._spec):
            found = self._model(**inputs)
            if self._head == "classification":
                return found.logits.float().softmax(-1).cpu().numpy()
            if self._head == "mlm":
                is_mask = inputs["input_ids"] == self._tokenizer.mask_token_id
                best = found.logits[is_mask].float().softmax(-1).topk(_TOP)
                return best.values.cpu().numpy(), best.indices.cpu().numpy()
            mask = inputs["attention_mask"][:, :, None].float()
            mean = (found.last_hidden_state * mask).sum(1) / mask.sum(1)
            return mean.float().cpu().numpy()


def _torch_for(spec: dict[str, Any]) -> Any:
    """Imports torch and sets it up for a device."""
    import torch

    if spec["device"] == "cuda" and not torch.cuda.is_available():
        raise RuntimeError("this torch has no CUDA, but JAX runs on a GPU here")
    torch.manual_seed(0)
    torch.set_num_threads(cores())
    if spec["device"] == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32, as JAX multiplies float32 there
    return torch


def _model(spec: dict[str, Any], head: str) -> Any:
    import transformers

    has_pairs = "nsp" in spec["heads"]
    name = {
        "pretraining": "BertForPreTraining" if has_pairs else "BertForMaskedLM",
        "mlm": "BertForMaskedLM",
        "classification": "BertForSequenceClassification",
        "none": "BertModel",
    }[head]
    keys = {name: value for name, value in spec["config"].items() if name != "model_type"}
    keys["attn_implementation"] = "sdpa"
    config = transformers.BertConfig(**keys)
    return getattr(transformers, name)(config).to(spec["device"])


def _autocast(torch: Any, spec: dict[str, Any]) -> Any:
    if spec["dtype"] == "bfloat16":
        return torch.autocast(spec["device"], torch.bfloat16)
    return contextlib.nullcontext()


def _is_undecayed(name: str) -> bool:
    return name.endswith("bias") or "LayerNorm" in name


def _wait(torch: Any, device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
