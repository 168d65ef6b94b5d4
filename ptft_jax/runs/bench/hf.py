"""Hugging Face's model in PyTorch, at its best settings: what runs in the process of `hf_process`.

    python -m ptft_jax.runs.bench.hf FOLDER

FOLDER/spec.json says what to build. A line on standard output says that it is built and warm; then
each line on standard input asks for something, and a line on standard output answers it. Nothing
here imports JAX, which would take a GPU's memory.
"""

import contextlib
import functools
import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import safetensors.numpy

from ptft_jax.runs.bench.machine import cores, peak_of_process
from ptft_jax.runs.bench.rounds import repeated

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
        kinds = {"train": Training, "predict": Predicting, "pipeline": Pipeline}
        side = kinds[spec["what"]](spec, folder)
        say(side.warm_up())
        for line in sys.stdin:
            say(side.make_round(json.loads(line)))
    # It is the other process that has a person to tell.
    except Exception as error:
        say({"error": f"{type(error).__name__}: {error}"})
        raise


class _Side:
    """HF's model, fresh, on its device: weights of its own do not change its speed."""

    def __init__(self, spec: dict[str, Any], class_name: str) -> None:
        import torch
        import transformers

        if spec["device"] == "cuda":
            if not torch.cuda.is_available():
                raise RuntimeError("this torch has no CUDA, but JAX runs on a GPU here")
            torch.set_float32_matmul_precision("high")  # TF32, as JAX multiplies float32 there
        torch.manual_seed(0)
        torch.set_num_threads(cores())
        self.torch, self.spec, self.device = torch, spec, spec["device"]
        keys = {name: value for name, value in spec["config"].items() if name != "model_type"}
        keys["attn_implementation"] = "sdpa"
        config = transformers.BertConfig(**keys)
        self.model = getattr(transformers, class_name)(config).to(self.device)

    def autocast(self) -> Any:
        """Returns what makes products bfloat16, where they are to be."""
        if self.spec["dtype"] == "bfloat16":
            return self.torch.autocast(self.device, self.torch.bfloat16)
        return contextlib.nullcontext()

    def put(self, rows: dict[str, Any]) -> dict[str, Any]:
        """Copies tensors to the device."""
        return {name: one.to(self.device, non_blocking=True) for name, one in rows.items()}


class Training(_Side):
    """Updates of HF's model: SDPA, autocast to bfloat16, fused AdamW, torch.compile if it pays.

    The attention mask is always given, as HF's collators do. `gathered` puts the MLM head on the
    masked positions alone, which HF's own class does not.
    """

    def __init__(self, spec: dict[str, Any], folder: Path) -> None:
        """Builds the model and loads the batches: the first of them is the untimed one."""
        super().__init__(spec, f"BertFor{'PreTraining' if 'nsp' in spec['heads'] else 'MaskedLM'}")
        self.model.train()
        if spec["remat"]:
            self.model.gradient_checkpointing_enable()
        config = spec["optimizer"]
        self._clip = config["max_grad_norm"]
        decayed, undecayed = [], []
        for name, parameter in self.model.named_parameters():
            is_undecayed = name.endswith("bias") or "LayerNorm" in name
            (undecayed if is_undecayed else decayed).append(parameter)
        self._optimizer = self.torch.optim.AdamW(
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
            batches = [[self.put(part) for part in batches[0]]] * (1 + spec["updates"])
        elif self.device == "cuda":
            for part in itertools.chain(*batches):
                part.update({name: rows.pin_memory() for name, rows in part.items()})
        self._batches = batches
        self._loss_of: Callable[..., Any] = self._gathered if spec["gathered"] else self._whole

    def _parts(self, batch: dict[str, np.ndarray]) -> list[dict[str, Any]]:
        """Cuts a batch into its micro-batches, as tensors."""
        count = self.spec["accumulate"]
        cut = {name: np.array_split(rows, count) for name, rows in batch.items()}
        parts = [{name: rows[i] for name, rows in cut.items()} for i in range(count)]
        for part in parts:
            if self.spec["gathered"]:
                labels = part["labels"].reshape(-1)
                part["places"] = np.flatnonzero(labels != NO_LABEL)
                part["labels"] = labels[part["places"]]
            for name, rows in part.items():
                part[name] = self.torch.from_numpy(np.ascontiguousarray(rows))
        return parts

    def _whole(self, part: dict[str, Any]) -> Any:
        return self.model(**part).loss

    def _gathered(self, part: dict[str, Any]) -> Any:
        cross_entropy = self.torch.nn.functional.cross_entropy
        names = ("input_ids", "attention_mask", "token_type_ids")
        found = self.model.bert(**{name: part[name] for name in names})
        hidden = found.last_hidden_state.flatten(0, 1)[part["places"]]
        loss = cross_entropy(self.model.cls.predictions(hidden), part["labels"])
        if "next_sentence_label" in part:
            logits = self.model.cls.seq_relationship(found.pooler_output)
            loss = loss + cross_entropy(logits, part["next_sentence_label"])
        return loss

    def _update(self, parts: Sequence[dict[str, Any]], loss_of: Callable[..., Any]) -> Any:
        total = 0.0
        for part in parts:
            with self.autocast():
                loss = loss_of(self.put(part)) / len(parts)
            loss.backward()
            total += loss.detach()
        if self._clip:
            self.torch.nn.utils.clip_grad_norm_(self.model.parameters(), self._clip)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return total

    def _timed(self, batches: Sequence[Any], loss_of: Callable[..., Any]) -> tuple[float, Any]:
        """Makes updates; returns their seconds and the loss of the last one."""
        wait = self.torch.cuda.synchronize if self.device == "cuda" else lambda: None
        wait()
        loss, began = None, time.perf_counter()
        for parts in batches:
            loss = self._update(parts, loss_of)
        wait()
        return time.perf_counter() - began, loss

    def warm_up(self) -> dict[str, Any]:
        """Compiles if that works, and on a CPU if it is the faster way; says which it took."""
        plain, compiled, note, first = self._loss_of, None, "torch.compile", 0.0
        if os.environ.get("TORCH_COMPILE_DISABLE") == "1":
            note = "eager (TORCH_COMPILE_DISABLE=1)"
        else:
            try:
                compiled = self.torch.compile(plain)
                first, _ = self._timed(self._batches[:1], compiled)
                self._timed(self._batches[1:], compiled)  # all shapes
            except self.torch.OutOfMemoryError:
                raise
            # Whatever a compiler can fail at: no C++ compiler, a construct it does not know.
            except Exception as error:
                compiled = None
                reason = str(error).strip().partition("\n")[0][:120]
                note = f"eager (torch.compile failed: {type(error).__name__}: {reason})"
                self._optimizer.zero_grad(set_to_none=True)
        if compiled is None:
            first, _ = self._timed(self._batches[:1], plain)
        elif self.device == "cpu":
            trial = list(itertools.islice(itertools.cycle(self._batches), _TRIAL))
            taken = []
            for way in (plain, compiled):
                self._timed(trial[:1], way)
                taken.append(self._timed(trial[1:], way)[0])
            if taken[0] < taken[1]:
                compiled = None
                note = f"eager (torch.compile takes {taken[1] / taken[0]:.2f} times as long)"
        self._loss_of = plain if compiled is None else compiled
        if self.device == "cuda":
            self.torch.cuda.reset_peak_memory_stats()
        return {"first_seconds": first, "note": note}

    def make_round(self, request: dict[str, Any]) -> dict[str, Any]:
        """Makes an untimed update, then those that are timed."""
        self._update(self._batches[0], self._loss_of)
        seconds, loss = self._timed(self._batches[1:], self._loss_of)
        on_gpu = self.device == "cuda"
        peak = self.torch.cuda.max_memory_allocated() if on_gpu else peak_of_process()
        return {"seconds": seconds, "loss": float(loss), "peak_memory": peak}


class Predicting(_Side):
    """From texts to answers on the host: tokenizer, HF's model (eager, SDPA), the best tokens."""

    _CLASSES: ClassVar = {"mlm": "ForMaskedLM", "classification": "ForSequenceClassification"}

    def __init__(self, spec: dict[str, Any], folder: Path) -> None:
        """Builds the model and loads the tokenizer."""
        super().__init__(spec, f"Bert{self._CLASSES.get(spec['head'], 'Model')}")
        from transformers import AutoTokenizer

        self.model.eval()
        self._tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")

    def warm_up(self) -> dict[str, Any]:
        """Says what runs."""
        return {"first_seconds": 0.0, "note": "eager"}

    def make_round(self, request: dict[str, Any]) -> dict[str, Any]:
        """Answers `texts` for `calls` times after an untimed one."""
        return {"seconds": repeated(lambda: self._answer(request["texts"]), request["calls"])()}

    def _answer(self, texts: list[str]) -> Any:
        pairs, head = [text.split("\t") for text in texts], self.spec["head"]
        columns = [list(column) for column in zip(*pairs, strict=True)]
        options = {"padding": True, "truncation": True, "max_length": self.spec["limit"]}
        inputs = self.put(self._tokenizer(*columns, **options, return_tensors="pt"))
        with self.torch.inference_mode(), self.autocast():
            found = self.model(**inputs)
            if head == "classification":
                return found.logits.float().softmax(-1).cpu().numpy()
            if head == "mlm":
                is_mask = inputs["input_ids"] == self._tokenizer.mask_token_id
                best = found.logits[is_mask].float().softmax(-1).topk(_TOP)
                return best.values.cpu().numpy(), best.indices.cpu().numpy()
            mask = inputs["attention_mask"][:, :, None].float()
            mean = (found.last_hidden_state * mask).sum(1) / mask.sum(1)
            return mean.float().cpu().numpy()


class Pipeline:
    """A file's texts through `transformers.pipeline` with batches, from a folder with weights.

    transformers 5 has no pipeline of questions and answers: those go as in its run_qa, in windows
    of padded batches, without its search for the best spans, which takes time as well.
    """

    _NAMES: ClassVar = {
        "classification": ("text-classification", {}),
        "tagging": ("token-classification", {"aggregation_strategy": "first"}),
    }

    def __init__(self, spec: dict[str, Any], folder: Path) -> None:
        """Loads model and tokenizer."""
        import torch
        import transformers

        torch.set_num_threads(cores())
        self.torch, self.spec = torch, spec
        if spec["head"] == "span":
            auto = transformers.AutoModelForQuestionAnswering
            self._model = auto.from_pretrained(spec["model"]).to(spec["device"]).eval()
            self._tokenizer = transformers.AutoTokenizer.from_pretrained(spec["model"])
        else:
            name, more = self._NAMES[spec["head"]]
            # Names of tasks are literals to its overloads.
            make: Any = transformers.pipeline
            self._pipe = make(name, model=spec["model"], device=spec["device"], **more)

    def warm_up(self) -> dict[str, Any]:
        """Says what runs."""
        is_span = self.spec["head"] == "span"
        way = "windows and padded batches as in run_qa" if is_span else "transformers.pipeline"
        return {"first_seconds": 0.0, "note": f"{way}, eager"}

    def make_round(self, request: dict[str, Any]) -> dict[str, Any]:
        """Answers `texts` in batches of `batch_size` for `calls` times after an untimed one."""
        texts, size = request["texts"], request["batch_size"]
        if self.spec["head"] == "span":
            call = functools.partial(self._answers, texts, size)
        elif isinstance(texts[0], str):
            call = functools.partial(self._pipe, texts, batch_size=size, **self._cut())
        else:
            pairs = [{"text": first, "text_pair": second} for first, second in texts]
            call = functools.partial(self._pipe, pairs, batch_size=size, **self._cut())
        return {"seconds": repeated(call, request["calls"], clock=request["clock"])()}

    def _cut(self) -> dict[str, Any]:
        if self.spec["head"] == "tagging":
            return {}
        return {"truncation": True, "max_length": self.spec["limit"]}

    def _answers(self, pairs: Sequence[Sequence[str]], size: int) -> list[Any]:
        found = []
        windows = self._tokenizer(
            [question for question, _ in pairs],
            [context for _, context in pairs],
            truncation="only_second",
            max_length=self.spec["limit"],
            stride=self.spec["doc_stride"],
            return_overflowing_tokens=True,
        )
        names = ("input_ids", "attention_mask", "token_type_ids")
        for start in range(0, len(windows["input_ids"]), size):
            rows = {name: windows[name][start : start + size] for name in names}
            batch = self._tokenizer.pad(rows, return_tensors="pt").to(self.spec["device"])
            with self.torch.inference_mode():
                logits = self._model(**batch)
            found.append((logits.start_logits.cpu().numpy(), logits.end_logits.cpu().numpy()))
        return found


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
