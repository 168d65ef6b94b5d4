"""Scenarios 1 and 2: the number of processes changes nothing, and may change within a run."""

import os
import shutil
import subprocess
from itertools import chain
from pathlib import Path
from typing import Any

from faults.jobs import BATCH_SIZE, Job, Result, flags_of, ids, last_step, losses

# The layouts of four devices, and what may run across processes in each.
LAYOUTS: dict[str, dict[str, Any]] = {
    "data": {"mesh.data": 4, "mesh.fsdp": 1, "mesh.tensor": 1},
    "fsdp": {"mesh.data": 1, "mesh.fsdp": 4, "mesh.tensor": 1, "mesh.across_hosts": "fsdp"},
    "tensor": {"mesh.data": 1, "mesh.fsdp": 1, "mesh.tensor": 4, "mesh.across_hosts": "tensor"},
    "data x tensor": {"mesh.data": 2, "mesh.fsdp": 1, "mesh.tensor": 2},
}
HEADS = {"model.num_attention_heads": 4}
ROUNDING = 2e-5


def furthest(a: dict[int, float], b: dict[int, float]) -> float:
    """Returns the largest relative difference of two runs' losses; infinite where steps differ."""
    if a.keys() != b.keys() or not a:
        return float("inf")
    return max(abs(a[step] - b[step]) / abs(b[step]) for step in a)


def run(
    place: Path, name: str, steps: int, count: int, record: bool = True, **changes: Any
) -> Path:
    """Runs `count` processes that have four devices together; returns the run's folder."""
    folder = place / name
    changes = HEADS | changes | {"steps": steps, "eval_every": 0, "checkpoint_every": 0}
    plans = [{"record": f"{folder}-ids-{i}"} if record else {} for i in range(count)]
    Job(place, flags_of(place, folder, **changes), count, 4 // count, plans).succeed()
    return folder


def equality(place: Path, steps: int, layouts: tuple[str, ...], counts: tuple[int, ...]) -> Result:
    """The losses of 1, 2 and 4 processes are those of one; each reads its own part only."""
    result = Result(f"equal losses over {steps} steps")
    one = run(place, "one", steps, 1, **LAYOUTS["data"])
    wanted, whole = losses(one), ids(Path(f"{one}-ids-0"))
    result.expect(sorted(wanted) == list(range(1, steps + 1)), "the run of one process is short")
    for layout in layouts:
        for count in counts:
            crosses = layout != "data x tensor" or count <= 2
            if not crosses or (layout == "data" and count == 1):
                continue
            result.tries += 1
            folder = run(
                place, f"{layout.replace(' ', '')}-{count}", steps, count, **LAYOUTS[layout]
            )
            far = furthest(losses(folder), wanted)
            what = f"{layout}, {count} processes"
            result.figures[what] = f"{far:.1e}"
            result.expect(far < ROUNDING, f"{what}: the losses differ by {far:.1e}")
            parts = [ids(Path(f"{folder}-ids-{index}")) for index in range(count)]
            right = reads_its_part(parts, whole, range(steps), layout)
            result.expect(right, f"{what}: wrong examples read")
    return result


def reads_its_part(
    parts: list[dict[int, list[int]]], whole: dict[int, list[int]], steps: range, layout: str
) -> bool:
    """Says whether the processes asked for all examples, each once (tensor: each for all)."""
    for number in steps:
        asked = [part[number] for part in parts]
        if layout == "tensor":
            if any(rows != whole[number] for rows in asked):
                return False
        elif sorted(chain(*asked)) != whole[number] or len({len(rows) for rows in asked}) != 1:
            return False
    return len(whole[0]) == BATCH_SIZE


def elastic(place: Path, stretch: int, path: tuple[tuple[int, str], ...]) -> Result:
    """A run saved by four processes goes on with other numbers of them, and on other meshes."""
    steps = stretch * len(path)
    result = Result(f"another number of processes every {stretch} steps", tries=len(path))
    one = run(place, "unbroken", steps, 1, **LAYOUTS["data"])
    whole, folder = ids(Path(f"{one}-ids-0")), place / "elastic"
    changes = HEADS | {"steps": steps, "eval_every": 0, "checkpoint_every": stretch}
    for part, (count, layout) in enumerate(path):
        began, until = part * stretch, (part + 1) * stretch
        plans = [{"record": f"{folder}-ids-{part}-{index}"} for index in range(count)]
        flags = flags_of(place, folder, **changes, **LAYOUTS[layout])
        job = Job(place, flags, count, 4 // count, plans)
        if until < steps:
            job.wait_until(
                (folder / "checkpoints" / str(until) / "manifest.json").exists, f"{until}"
            )
            job.kill()
            # As if it had been stopped right after that checkpoint.
            for later in (folder / "checkpoints").iterdir():
                if later.name.isdecimal() and int(later.name) > until:
                    shutil.rmtree(later)
        else:
            job.succeed()
        asked = [ids(Path(f"{folder}-ids-{part}-{index}")) for index in range(count)]
        what = f"steps {began + 1} to {until} with {count} processes ({layout})"
        right = reads_its_part(asked, whole, range(began, until), layout)
        result.expect(right, f"{what}: wrong examples read")
    far = furthest(losses(folder), losses(one))
    result.figures["largest difference to one process"] = f"{far:.1e}"
    result.expect(far < ROUNDING, f"the losses differ by {far:.1e}")
    return result


class Hosts:
    """Two network namespaces as two hosts, joined by a pair of virtual network interfaces."""

    ADDRESSES = ("10.213.7.1", "10.213.7.2")

    def __init__(self):
        self.names = [f"ptft{os.getpid()}{letter}" for letter in "ab"]

    def __enter__(self) -> "Hosts":
        sh = ["ip link add {0}v type veth peer name {1}v"]
        for index, address in enumerate(self.ADDRESSES):
            space, link = f"{{{index}}}", f"{{{index}}}v"
            sh += [
                f"ip netns add {space}",
                f"ip link set {link} netns {space}",
                f"ip -n {space} addr add {address}/24 dev {link}",
                f"ip -n {space} link set {link} up",
                f"ip -n {space} link set lo up",
            ]
        try:
            for command in sh:
                subprocess.run(command.format(*self.names).split(), check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            self.__exit__()
            raise
        for name in self.names:
            # gloo advertises the address that the host's own name has.
            folder = Path("/etc/netns") / name
            folder.mkdir(parents=True, exist_ok=True)
            entries = [
                f"{address} {host}"
                for address, host in zip(self.ADDRESSES, self.names, strict=True)
            ]
            (folder / "hosts").write_text("127.0.0.1 localhost\n" + "\n".join(entries) + "\n")
        return self

    def __exit__(self, *_: object) -> None:
        for name in self.names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)
            shutil.rmtree(Path("/etc/netns") / name, ignore_errors=True)

    def prefix(self, index: int) -> list[str]:
        """What starts a program on a host, with the host's own name."""
        name = self.names[index]
        inner = f'hostname {name}; exec "$@"'
        return ["ip", "netns", "exec", name, "unshare", "-u", "bash", "-c", inner, "bash"]


def two_hosts(place: Path, steps: int) -> Result:
    """Two hosts with network stacks of their own; one dies, and the other names it."""
    result = Result("two network namespaces as two hosts", tries=2)
    changes = HEADS | LAYOUTS["data"] | {"eval_every": 0, "checkpoint_every": 0}
    one = run(place, "hosts-one", steps, 1, record=False, **LAYOUTS["data"])
    with Hosts() as hosts:
        prefixes = [hosts.prefix(0), hosts.prefix(1)]
        both = place / "hosts-both"
        flags = flags_of(place, both, **changes, steps=steps)
        job = Job(place, flags, 2, 2, prefixes=prefixes, host=hosts.ADDRESSES[0]).succeed()
        far = furthest(losses(both), losses(one))
        result.figures["difference to one process"] = f"{far:.1e}"
        result.expect(far < ROUNDING, f"the losses differ by {far:.1e}")
        for name in hosts.names:
            result.expect(name in job.said(), f"host {name} is not in the process map")
        dies = place / "hosts-dies"
        flags = flags_of(place, dies, **changes, steps=100_000)
        job = Job(
            place,
            flags,
            2,
            2,
            prefixes=prefixes,
            host=hosts.ADDRESSES[0],
            more=["--heartbeat_seconds=4"],
        )
        job.wait_until(lambda: last_step(dies) > 3, "training")
        # The cable is cut: no connection ends, there is only silence.
        cut = ["ip", "-n", hosts.names[1], "link", "set", f"{hosts.names[1]}v", "down"]
        subprocess.run(cut, check=True)
        codes, times = job.ends()
        job.kill()
        result.figures["cut cable noticed after"] = f"{max(times.values(), default=99):.1f} s"
        result.expect(codes == {0: 76, 1: 76}, f"a cut cable: codes {codes}\n{job.everything()}")
        result.expect(max(times.values(), default=99) < 4 + 3, f"a cut cable: after {times}")
        lost = f"process 1 on host {hosts.names[1]} is gone"
        result.expect(lost in job.said(0), f"a cut cable: {job.said(0)[-500:]}")
    return result
