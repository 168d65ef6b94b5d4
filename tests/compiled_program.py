"""What a compiled program sends between devices and multiplies, read from its HLO text.

Layouts are checked by what the real step executes. XLA writes a program as computations of
instructions. A loop's body stands there once and runs as often as the loop's known trip count says,
so everything is counted with the number of times that it runs.

An all-reduce of which every device of a group goes on with its own part alone is a reduce-scatter:
XLA's CPU backend has no other way to write one, and it is reported as what it is. That backend also
exchanges bfloat16 as float32; an array that was bfloat16 up to there is reported as bfloat16.
"""

import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial

import jax
import numpy as np

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")

_BITS = {"pred": 8, "s4": 4, "u4": 4, "bf16": 16}
# What hands its operand's numbers on, whole and in whatever form.
_FORMS = ("bitcast", "copy", "transpose", "reshape", "convert")
_HEAD = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{$")
_NAME = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = ")
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
        bits = _BITS.get(self.dtype) or int(re.sub(r"^[a-z]+(\d+).*", r"\1", self.dtype))
        return self.size * bits // 8


@dataclass(frozen=True)
class Collective:
    """One instruction in which devices exchange arrays.

    Attributes:
        kind: one of `KINDS`.
        arrays: the arrays as they are whole in the group: what an all-reduce or a reduce-scatter
            adds up, what an all-gather gives.
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
    is_root: bool


class Program:
    """A compiled program, read from its HLO text."""

    def __init__(self, compiled: jax.stages.Compiled):
        """Reads the text of a compiled function."""
        self._computations, self._entry = _read(compiled.as_text() or "")
        self._named = {
            where: {one.name: one for one in instructions}
            for where, instructions in self._computations.items()
        }
        # Computation → instruction → the instructions that read it.
        self._uses: dict[str, dict[str, list[_Instruction]]] = {}
        for where, instructions in self._computations.items():
            uses = self._uses[where] = defaultdict(list)
            for one in instructions:
                for operand in set(one.operands):
                    uses[operand].append(one)
        self._times = self._count()

    def collectives(self) -> list[Collective]:
        """Returns the collectives of groups of two devices and more.

        An all-reduce of several arrays of which some are cut afterwards comes as two.
        """
        return [found for where in self._times for found in self._collectives_of(where)]

    def matrix_flops(self) -> int:
        """Returns 2 x the multiplications of all matrix products on one device."""
        total = 0
        for where, times in self._times.items():
            shapes = {one.name: one.result for one in self._computations[where]}
            for one in self._computations[where]:
                if one.opcode == "dot":
                    contracted = _numbers(one.rest, "lhs_contracting_dims")
                    left = _arrays(shapes[one.operands[0]])[0].shape
                    summed = math.prod(left[k] for k in contracted)
                    total += 2 * times * summed * _arrays(one.result)[0].size
        return total

    def _count(self) -> dict[str, int]:
        """How often each computation runs that the entry reaches."""
        times: dict[str, int] = defaultdict(int)

        def walk(name: str, factor: int) -> None:
            times[name] += factor
            for one in self._computations[name]:
                trips = 1
                if one.opcode == "while":
                    known = _TRIPS.search(one.rest)
                    # A loop whose length XLA does not know does no more than rare scalar work.
                    trips = int(known[1]) if known else 1
                for called in _called(one):
                    walk(called, factor * trips)

        walk(self._entry, 1)
        return dict(times)

    def _collectives_of(self, where: str) -> Iterator[Collective]:
        instructions = self._computations[where]
        for one in instructions:
            kind = one.opcode
            if kind not in KINDS:
                continue
            groups = _groups(one.rest)
            if len(groups[0]) < 2:
                continue
            arrays = _arrays(one.result)
            arrays = [
                replace(array, dtype="bf16") if self._is_bfloat16(where, one, k) else array
                for k, array in enumerate(arrays)
            ]
            parts = {kind: arrays}
            if kind == "all-reduce":
                members = len(groups[0])
                cut = [
                    self._only_used(where, one, k, partial(_is_slice, size=array.size // members))
                    for k, array in enumerate(arrays)
                ]
                parts = {
                    "reduce-scatter": [a for a, is_cut in zip(arrays, cut, strict=True) if is_cut],
                    kind: [a for a, is_cut in zip(arrays, cut, strict=True) if not is_cut],
                }
            for name, some in parts.items():
                if some:
                    yield Collective(name, tuple(some), groups, self._times[where])

    def _is_bfloat16(self, where: str, one: _Instruction, index: int) -> bool:
        """Whether array `index` of a collective is a bfloat16, made wider for the exchange only."""
        if self._was_bfloat16(where, one.operands[index]):
            return True
        promoted = re.search(r"to_apply=%[\w.\-]*promoted", one.rest)
        return promoted is not None and self._only_used(where, one, index, _narrows)

    def _was_bfloat16(
        self, where: str, name: str, outside: tuple[str, _Instruction] | None = None
    ) -> bool:
        """Whether a value is a bfloat16, or is one that was converted since.

        `outside`: the fusion that the computation `where` is the inside of, and where that is.
        """
        one = self._named[where][name]
        if one.result.startswith("bf16"):
            return True
        if one.opcode == "parameter" and outside is not None:
            return self._was_bfloat16(outside[0], outside[1].operands[int(one.operands[0])])
        if one.opcode == "fusion":
            (inner,) = _called(one)
            root = next(each for each in self._computations[inner] if each.is_root)
            return self._was_bfloat16(inner, root.name, (where, one))
        if one.opcode in _FORMS:
            return self._was_bfloat16(where, one.operands[0], outside)
        return False

    def _only_used(
        self, where: str, one: _Instruction, index: int, accept: Callable[[_Instruction], bool]
    ) -> bool:
        """Whether whatever reads output `index` of an instruction, in any form, is accepted."""
        if not one.result.startswith("("):
            return self._ends_in(where, one.name, accept, None)
        outputs = [
            user.name
            for user in self._users(where, one.name)
            if user.opcode == "get-tuple-element" and f"index={index}" in user.rest.split(", ")
        ]
        return bool(outputs) and all(self._ends_in(where, n, accept, None) for n in outputs)

    def _ends_in(
        self,
        where: str,
        name: str,
        accept: Callable[[_Instruction], bool],
        outside: tuple[str, _Instruction] | None,
    ) -> bool:
        """Whether all paths from a value lead to instructions that are accepted."""
        one = self._named[where][name]
        if one.is_root:  # of a fusion: what follows is outside
            return outside is not None and self._ends_in(outside[0], outside[1].name, accept, None)
        users = self._users(where, name)
        return bool(users) and all(self._leads(where, u, name, accept, outside) for u in users)

    def _leads(self, where, user, name, accept, outside) -> bool:
        if accept(user):
            return user.operands[0] == name
        if user.opcode == "fusion":
            (inner,) = _called(user)
            places = [k for k, operand in enumerate(user.operands) if operand == name]
            parameters = [
                one.name
                for one in self._computations[inner]
                if one.opcode == "parameter" and int(one.operands[0]) in places
            ]
            return all(self._ends_in(inner, p, accept, (where, user)) for p in parameters)
        return user.opcode in _FORMS and self._ends_in(where, user.name, accept, outside)

    def _users(self, where: str, name: str) -> list[_Instruction]:
        return self._uses[where].get(name, [])


def _is_slice(one: _Instruction, size: int) -> bool:
    return one.opcode == "dynamic-slice" and _arrays(one.result)[0].size == size


def _narrows(one: _Instruction) -> bool:
    return one.opcode == "convert" and one.result.startswith("bf16")


def _read(text: str) -> tuple[dict[str, list[_Instruction]], str]:
    computations: dict[str, list[_Instruction]] = {}
    entry, now = None, None
    for line in text.splitlines():
        if not line.startswith(" "):
            head = _HEAD.match(line)
            if head:
                now = computations[head[1]] = []
                entry = head[1] if line.startswith("ENTRY") else entry
        elif now is not None and (named := _NAME.match(line)):
            result, rest = _type_and_rest(line[named.end() :])
            opcode, _, inside = rest.partition("(")
            now.append(
                _Instruction(
                    named[2],
                    opcode,
                    result,
                    tuple(re.sub(r"^.*%|/\*.*?\*/", "", word) for word in _operands(inside)),
                    rest,
                    named[1] is not None,
                )
            )
    if entry is None:
        raise ValueError("no HLO module: it has no line that begins with ENTRY")
    return computations, entry


def _type_and_rest(text: str) -> tuple[str, str]:
    """Cuts `TYPE opcode(…), …` behind the type, which is a tuple in brackets or one word."""
    end = _closing(text) if text.startswith("(") else text.index(" ")
    return text[:end], text[end:].lstrip()


def _closing(text: str) -> int:
    """Returns the place behind the bracket that closes the one that `text` begins with."""
    depth = 0
    for place, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if depth == 0:
            return place + 1
    raise ValueError(f"a bracket is not closed: {text[:80]!r}")


def _operands(inside: str) -> list[str]:
    body = inside[: _closing("(" + inside) - 2]
    # Types of operands, which some versions write before their names, hold commas in brackets.
    return [word.strip() for word in re.split(r", (?![^\[{(]*[\]})])", body) if word.strip()]


def _called(one: _Instruction) -> list[str]:
    """The computations that run when an instruction does; not those that add two scalars."""
    names = []
    for role, called in _CALLED.findall(one.rest):
        if role != "to_apply" or one.opcode == "call":
            names += re.findall(r"%([\w.\-]+)", called)
    return names


def _arrays(written: str) -> list[Array]:
    return [
        Array(dtype, tuple(int(size.strip("<= ")) for size in sizes.split(",") if size.strip()))
        for dtype, sizes in _ARRAY.findall(written)
    ]


def _numbers(text: str, name: str) -> list[int]:
    found = re.search(rf"\b{name}={{([\d,]*)}}", text)
    return [int(number) for number in found[1].split(",") if number] if found else []


def _groups(line: str) -> tuple[tuple[int, ...], ...]:
    """Reads the groups of an instruction in any of the forms that XLA writes them in.

    `{{0,1},{2,3}}`; `[2,2]<=[2,2]T(1,0)`: an iota, transposed, in rows; `mesh['a'=2,'b'=2] {'b'}`:
    along axes of a mesh.
    """
    mesh = re.search(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}", line)
    if mesh:
        sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", mesh[1])}
        along = re.findall(r"'([^']+)'", mesh[2])
        if ":(" in mesh[2]:  # a part of an axis
            raise ValueError(f"groups in a form that is not known: {mesh[0]}")
        names = list(sizes)
        grid = np.arange(math.prod(sizes.values())).reshape(*sizes.values())
        order = [names.index(n) for n in names if n not in along] + [names.index(n) for n in along]
        members = math.prod(sizes[name] for name in along)
        return _rows(grid.transpose(order).reshape(-1, members))
    iota = re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", line)
    if iota:
        shape, reshape, order = (
            [int(n) for n in part.split(",")] if part else None for part in iota.groups()
        )
        assert shape is not None
        assert reshape is not None
        grid = np.arange(math.prod(reshape)).reshape(reshape)
        return _rows((grid if order is None else grid.transpose(order)).reshape(shape))
    written = re.search(r"replica_groups=\{\{([\d,{}]*)\}\}", line)
    if written is None:
        raise ValueError(f"groups in a form that is not known: {line[:200]}")
    return tuple(tuple(int(n) for n in part.split(",") if n) for part in written[1].split("},{"))


def _rows(grid: np.ndarray) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(row) for row in grid.tolist())
