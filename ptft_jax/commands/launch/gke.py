"""ptft launch gke --name=bert --image=IMAGE --nodes=2 --gpus_per_node=8 -- pretrain --run_dir=RUN …

Runs a command on a Kubernetes cluster with JobSet: fills in launch/gke_jobset.yaml and hands it to
kubectl. What follows `--` is the command, as it would be typed for one process; its paths are those
inside the pods. --dry_run prints the YAML.

IMAGE holds ptft. --volume=CLAIM:/data mounts a persistent volume, which all pods must be able to
write to. --secrets=NAME makes the entries of a Kubernetes Secret environment variables of the pods:
values of secrets belong in no command line and in no file. TPUs: --tpu_type=tpu-v5-lite-podslice
--tpu_topology=4x4 instead of GPUs.
"""

import json
import math
import re
from functools import partial
from pathlib import Path
from typing import Any

from absl import flags

from ptft_jax.commands.launch.command import (
    COUNT,
    COUNT_OR_NONE,
    DEFAULT_PORT,
    NODES,
    checked_command,
    define_launch_flags,
    script,
    start,
)
from ptft_jax.commands.launch.supervisor import NO_RESTART_CODES
from ptft_jax.commands.parsing import required
from ptft_jax.errors import ConfigError

_FLAGS = NODES | {
    "name": (str, None, "Name of the job set."),
    "image": (str, None, "Container image that holds ptft."),
    "gpu_type": (str, None, "Kind of GPU, like nvidia-h100-80gb; None: any."),
    "tpu_type": (str, None, "Kind of TPU nodes, like tpu-v5-lite-podslice."),
    "tpu_topology": (str, None, "Topology of the slice, like 4x4."),
    "tpus_per_node": (COUNT, 4, "TPU chips of each node."),
    "max_restarts": (COUNT_OR_NONE, 10, "How often all pods are started again."),
    "grace_seconds": (COUNT, 120, "From SIGTERM to SIGKILL: the time to save."),
    "secrets": (list, [], "Secrets whose entries become environment variables."),
    "volume": (list, [], "CLAIM:/path of persistent volumes."),
    "namespace": (str, None, "Namespace; None: kubectl's."),
}
# Flag → what each of its values has to be; a JobSet's name becomes part of its pods' host names,
# which have 63 characters at most.
_FORMS = {
    "name": (
        r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?",
        "at most 40 small letters, digits and hyphens, beginning with a letter, like bert-base.",
    ),
    "secrets": (
        r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?",
        "names of Kubernetes Secrets, not their values; make one with `kubectl create secret "
        "generic NAME --from-env-file=FILE`.",
    ),
    "volume": (r"[a-z0-9][-a-z0-9.]*:/[^:]+", "CLAIM:/path, like runs:/data."),
    "tpu_topology": (r"[1-9]\d*(x[1-9]\d*){1,2}", "sizes like 4x4 or 2x2x4."),
}
define_flags = partial(define_launch_flags, _FLAGS)


def run(values: flags.FlagValues, words: list[str]) -> None:
    """Runs the command."""
    words, _ = checked_command("launch gke", words)
    namespace = [f"--namespace={values.namespace}"] if values.namespace else []
    hint = "install it (https://kubernetes.io/docs/tasks/tools) and log in."
    apply = ["kubectl", "apply", *namespace, "-f", "-"]
    start(values, apply, reads=_job_set(values, words), tool="kubectl", install=hint)


def _job_set(values: flags.FlagValues, words: list[str]) -> str:
    """Returns the JobSet as YAML.

    Raises:
        ConfigError: a name, a number or the choice of accelerators cannot be.
    """
    required(values, "name", "image")
    name = values.name
    for flag, (form, expected) in _FORMS.items():
        value: Any = values[flag].value
        for text in value if isinstance(value, list) else filter(None, [value]):
            if not re.fullmatch(form, text):
                raise ConfigError(f"--{flag}={text}: expected {expected}")
    nodes, pods = _tpus(values) if values.tpu_type or values.tpu_topology else _gpus(values)
    # Shared memory is what NCCL needs.
    memory = {"name": "shared-memory", "emptyDir": {"medium": "Memory"}}
    mounts, volumes = [{"name": "shared-memory", "mountPath": "/dev/shm"}], [memory]
    for number, text in enumerate(values.volume):
        claim, _, path = text.partition(":")
        mounts.append({"name": f"volume-{number}", "mountPath": path})
        held = {"persistentVolumeClaim": {"claimName": claim}}
        volumes.append({"name": f"volume-{number}", **held})
    filled = {
        "name": name,
        "max_restarts": values.max_restarts,
        "nodes": nodes,
        "no_restart_codes": sorted(NO_RESTART_CODES),
        "grace_seconds": values.grace_seconds,
        "image": values.image,
        # Kubernetes replaces $(NAME) in arguments, and takes two dollars for one.
        "args": [
            *(word.replace("$", "$$") for word in words),
            f"--coordinator_address={name}-worker-0-0.{name}:{DEFAULT_PORT}",
            f"--num_processes={nodes}",
            "--process_id=$(JOB_COMPLETION_INDEX)",
        ],
        "port": DEFAULT_PORT,
        "env_from": [{"secretRef": {"name": secret}} for secret in values.secrets],
        "volume_mounts": mounts,
        "volumes": volumes,
        **pods,
    }
    template = Path(script("gke_jobset.yaml")).read_text(encoding="utf-8")
    # JSON is YAML, and quotes whatever a value may hold.
    return re.sub(
        r"@(\w+)@", lambda match: json.dumps(filled[match[1]], ensure_ascii=False), template
    )


def _gpus(values: flags.FlagValues) -> tuple[int, dict[str, Any]]:
    """Returns the number of nodes, and what a pod with GPUs, or without, asks for."""
    many, kind = values.gpus_per_node, values.gpu_type
    if kind and not many:
        raise ConfigError(f"--gpu_type={kind}: expected --gpus_per_node too.")
    limits = {"nvidia.com/gpu": many} if many else {}
    selector = {"cloud.google.com/gke-accelerator": kind} if kind else {}
    asked = {"resources": {"limits": limits}, "node_selector": selector, "annotations": {}}
    return values.nodes or 1, asked


def _tpus(values: flags.FlagValues) -> tuple[int, dict[str, Any]]:
    """Returns the number of nodes of a TPU slice, and what a pod asks for."""
    if not (values.tpu_type and values.tpu_topology):
        raise ConfigError(
            "--tpu_type and --tpu_topology belong together, like "
            "--tpu_type=tpu-v5-lite-podslice --tpu_topology=4x4."
        )
    if values.gpus_per_node:
        raise ConfigError("--gpus_per_node and --tpu_type: expected GPUs or TPUs, not both.")
    chips = math.prod(map(int, values.tpu_topology.split("x")))
    nodes, rest = divmod(chips, values.tpus_per_node)
    if rest or values.nodes not in (None, nodes):
        raise ConfigError(
            f"--tpu_topology={values.tpu_topology} has {chips} chips; expected --tpus_per_node="
            f"{values.tpus_per_node} to divide them, and --nodes left out."
        )
    return nodes, {
        "resources": {"limits": {"google.com/tpu": values.tpus_per_node}},
        "node_selector": {
            "cloud.google.com/gke-tpu-accelerator": values.tpu_type,
            "cloud.google.com/gke-tpu-topology": values.tpu_topology,
        },
        # All hosts of a slice are one node pool: no pod may land in another one.
        "annotations": {
            "alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"
        },
    }
