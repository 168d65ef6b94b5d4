"""What a compiled program multiplies and exchanges: collectives and products in its optimized HLO.

XLA prints a module as computations of instructions. A loop's body stands there once and runs as
often as the loop's known trip count says, so everything is counted with the number of times that it
runs. XLA's CPU backend writes a reduce-scatter as an all-reduce whose output is cut, and exchanges
bfloat16 as float32.
"""

import math
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import jax
import numpy as np

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")

_HEAD = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{$")
_NAME = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = ")
_ARRAY = re.compile(r"\b([a-z]+\d*(?:e\d\w*)?)\[([\d,<= ]*)\]")
_CALLED = re.compile(r"\b(calls|body|to_apply|branch_computations)=\{?((?:%[\w.\-]+(?:, )?)+)\}?")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')


@dataclass(frozen=True)
class Array:
    """The type of an array in a compiled program, on one device."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """Bytes of the elements."""
        bits = 8 if self.dtype == "pred" else int(re.sub(r"^[a-z]+(\d+).*", r"\1", self.dtype))
        return self.size * bits // 8


@dataclass(frozen=True)
class Collective:
    """One instruction in which devices exchange arrays.

    Attributes:
        kind: one of `KINDS`.
        arrays: the arrays as they are whole in the group.
        groups: devices that exchange with one another, by position in the mesh's row-major order.
        times: how often a run of the program executes it.
    """

    kind: str
    arrays: tuple[Array, ...]
    groups: tuple[tuple[int, ...], ...]
    times: int

    @property
    def bytes(self) -> int:
        """Bytes of `arrays` in one execution."""
        return sum(array.bytes for array in self.arrays)

    def axes(self, sizes: Mapping[str, int]) -> tuple[str, ...]:
        """Returns the axes of a mesh, given by name and size in order, that a group runs along."""
        grid = np.unravel_index(np.array(self.groups[0]), tuple(sizes.values()))
        return tuple(
            name for name, places in zip(sizes, grid, strict=True) if len(set(places.tolist())) > 1
        )


@dataclass(frozen=True)
class _Instruction:
    name: str
    opcode: str
    result: str  # the type as it is written
    operands: tuple[str, ...]
    rest: str  # the whole line


class Program:
    """A compiled program, read from its HLO text."""

    def __init__(self, compiled: jax.stages.Compiled):
        """Reads the text of a compiled function."""
        self._computations, entry = _read(compiled.as_text() or "")
        self._times: dict[str, int] = defaultdict(int)
        self._walk(entry, 1)

    def _walk(self, name: str, factor: int) -> None:
        """Counts how often each computation runs."""
        self._times[name] += factor
        for one in self._computations[name]:
            # A loop whose length XLA does not know does no more than rare scalar work.
            known = _TRIPS.search(one.rest) if one.opcode == "while" else None
            for role, called in _CALLED.findall(one.rest):
                if role != "to_apply" or one.opcode == "call":  # not what adds two scalars
                    for inner in re.findall(r"%([\w.\-]+)", called):
                        self._walk(inner, factor * (int(known[1]) if known else 1))

    def collectives(self) -> list[Collective]:
        """Returns the collectives of groups of two devices and more."""
        found = []
        for where, times in self._times.items():
            for one in self._computations[where]:
                if one.opcode in KINDS and len((groups := _groups(one.rest))[0]) > 1:
                    found.append(Collective(one.opcode, _arrays(one.result), groups, times))
        return found

    def matrix_flops(self) -> int:
        """Returns 2 x the multiplications of all matrix products on one device."""
        total = 0
        for where, times in self._times.items():
            shapes = {one.name: one.result for one in self._computations[where]}
            for one in self._computations[where]:
                if one.opcode == "dot":
                    (contracted,) = re.findall(r"\blhs_contracting_dims={([\d,]*)}", one.rest)
                    left = _arrays(shapes[one.operands[0]])[0].shape
                    summed = math.prod(left[int(k)] for k in contracted.split(",") if k)
                    total += 2 * times * summed * _arrays(one.result)[0].size
        return total


def _read(text: str) -> tuple[dict[str, list[_Instruction]], str]:
    computations: dict[str, list[_Instruction]] = {}
    entry, now = "", None
    for line in text.splitlines():
        if not line.startswith(" "):
            head = _HEAD.match(line)
            if head:
                now = computations[head[1]] = []
                entry = head[1] if line.startswith("ENTRY") else entry
        elif now is not None and (named := _NAME.match(line)):
            # `TYPE opcode(…), …`, the type a tuple in brackets or one word.
            text = line[named.end() :]
            end = _closing(text) if text.startswith("(") else text.index(" ")
            result, rest = text[:end], text[end:].lstrip()
            opcode, _, inside = rest.partition("(")
            now.append(_Instruction(named[1], opcode, result, _operands(inside), rest))
    return computations, entry


def _closing(text: str) -> int:
    """Returns the place behind the bracket that closes the one that `text` begins with."""
    depth = 0
    for place, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if depth == 0:
            return place + 1
    raise ValueError(f"a bracket is not closed: {text[:80]!r}")


def _operands(inside: str) -> tuple[str, ...]:
    body = inside[: _closing("(" + inside) - 2]
    # Types of operands, which some versions write before their names, hold commas in brackets.
    words = re.split(r", (?![^\[{(]*[\]})])", body)
    return tuple(re.sub(r"^.*%|/\*.*?\*/", "", word.strip()) for word in words)


def _arrays(written: str) -> tuple[Array, ...]:
    return tuple(
        Array(dtype, tuple(int(size.strip("<= ")) for size in sizes.split(",") if size.strip()))
        for dtype, sizes in _ARRAY.findall(written)
    )


def _groups(line: str) -> tuple[tuple[int, ...], ...]:
    """Reads the groups of an instruction in any of the forms that XLA writes them in.

    `{{0,1},{2,3}}`; `[2,2]<=[2,2]T(1,0)`: an iota, transposed, in rows; `mesh['a'=2,'b'=2] {'b'}`:
    along axes of a mesh.
    """
    mesh = re.search(r"replica_groups=mesh\[([^\]]*)\] \{([^}:]*)\}", line)
    iota = re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", line)
    written = re.search(r"replica_groups=\{\{([\d,{}]*)\}\}", line)
    if mesh:
        sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", mesh[1])}
        along = re.findall(r"'([^']+)'", mesh[2])
        names = list(sizes)
        grid = np.arange(math.prod(sizes.values())).reshape(*sizes.values())
        order = [names.index(n) for n in names if n not in along] + [names.index(n) for n in along]
        grid = grid.transpose(order).reshape(-1, math.prod(sizes[name] for name in along))
    elif iota:
        shape, reshape, order = ([int(n) for n in (p or "").split(",") if n] for p in iota.groups())
        grid = np.arange(math.prod(reshape)).reshape(reshape)
        grid = grid.transpose(order or range(grid.ndim)).reshape(shape)
    elif written:
        grid = np.array([[int(n) for n in part.split(",")] for part in written[1].split("},{")])
    else:
        raise ValueError(f"groups in a form that is not known: {line[:200]}")
    return tuple(tuple(row) for row in grid.tolist())
