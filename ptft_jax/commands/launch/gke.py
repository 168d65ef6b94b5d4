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
from typing import Any

from absl import flags

from ptft_jax.commands.launch.command import (
    COUNT,
    COUNT_OR_NONE,
    DEFAULT_PORT,
    NODES,
    checked_command,
    define_launch_flags,
    required,
    script,
    start,
)
from ptft_jax.commands.launch.restarts import NO_RESTART_CODES
from ptft_jax.errors import ConfigError

# A JobSet's name becomes part of its pods' host names, which have 63 characters at most.
_NAME = re.compile(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?")
_OBJECT = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")
_VOLUME = re.compile(r"([a-z0-9][-a-z0-9.]*):(/[^:]+)")
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
    "namespace": (str, None, "Namespace of the job set; None: kubectl's."),
}


def define_flags(values: flags.FlagValues) -> None:
    """Defines the command's flags."""
    define_launch_flags(values, _FLAGS)


def run(values: flags.FlagValues, positional: list[str]) -> None:
    """Runs the command."""
    text = render(values, checked_command("launch gke", positional).words)
    if values.dry_run:
        print(text, end="")
        return
    namespace = [f"--namespace={values.namespace}"] if values.namespace else []
    hint = "install it (https://kubernetes.io/docs/tasks/tools) and log in."
    apply = ["kubectl", "apply", *namespace, "-f", "-"]
    start(values, apply, reads=text, tool="kubectl", install=hint)


def render(values: flags.FlagValues, words: list[str]) -> str:
    """Returns the JobSet as YAML.

    Raises:
        ConfigError: a name, a number or the choice of accelerators cannot be.
    """
    name = required(values, "name", "a name for the job set")
    image = required(values, "image", "a container image that holds ptft")
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"--name={name}: expected at most 40 small letters, digits and hyphens, beginning "
            "with a letter, like bert-base."
        )
    for secret in values.secrets:
        if not _OBJECT.fullmatch(secret):
            raise ConfigError(
                f"--secrets={secret}: expected names of Kubernetes Secrets, not their values; make "
                "one with `kubectl create secret generic NAME --from-env-file=FILE`."
            )
    nodes, resources, selector, annotations = _accelerators(values)
    address = f"{name}-worker-0-0.{name}:{DEFAULT_PORT}"
    filled = {
        "name": name,
        "annotations": annotations,
        "max_restarts": values.max_restarts,
        "nodes": nodes,
        "no_restart_codes": sorted(NO_RESTART_CODES),
        "grace_seconds": values.grace_seconds,
        "node_selector": selector,
        "image": image,
        # Kubernetes replaces $(NAME) in arguments, and takes two dollars for one.
        "args": [
            *(word.replace("$", "$$") for word in words),
            f"--coordinator_address={address}",
            f"--num_processes={nodes}",
            "--process_id=$(JOB_COMPLETION_INDEX)",
        ],
        "port": DEFAULT_PORT,
        "env_from": [{"secretRef": {"name": secret}} for secret in values.secrets],
        "resources": resources,
        **_volumes(values.volume),
    }
    template = script("gke_jobset.yaml").read_text(encoding="utf-8")
    # JSON is YAML, and quotes whatever a value may hold.
    return re.sub(
        r"@(\w+)@", lambda match: json.dumps(filled[match[1]], ensure_ascii=False), template
    )


def _accelerators(values: flags.FlagValues) -> tuple[int, dict, dict, dict]:
    """Returns the number of nodes, and a pod's resources, node selector and annotations."""
    nodes = values.nodes
    if (values.tpu_type is None) != (values.tpu_topology is None):
        raise ConfigError(
            "--tpu_type and --tpu_topology belong together, like "
            "--tpu_type=tpu-v5-lite-podslice --tpu_topology=4x4."
        )
    if values.tpu_type is None:
        selector = {}
        if values.gpu_type:
            if not values.gpus_per_node:
                raise ConfigError(f"--gpu_type={values.gpu_type}: expected --gpus_per_node too.")
            selector = {"cloud.google.com/gke-accelerator": values.gpu_type}
        limits = {"nvidia.com/gpu": values.gpus_per_node} if values.gpus_per_node else {}
        return nodes or 1, {"limits": limits}, selector, {}
    if values.gpus_per_node:
        raise ConfigError("--gpus_per_node and --tpu_type: expected GPUs or TPUs, not both.")
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*){1,2}", values.tpu_topology):
        raise ConfigError(
            f"--tpu_topology={values.tpu_topology}: expected sizes like 4x4 or 2x2x4."
        )
    chips = math.prod(map(int, values.tpu_topology.split("x")))
    wanted, rest = divmod(chips, values.tpus_per_node)
    if rest or nodes not in (None, wanted):
        raise ConfigError(
            f"--tpu_topology={values.tpu_topology} has {chips} chips, which is not nodes="
            f"{nodes or '…'} x tpus_per_node={values.tpus_per_node}; expected "
            f"--tpus_per_node to divide it, and --nodes left out."
        )
    selector = {
        "cloud.google.com/gke-tpu-accelerator": values.tpu_type,
        "cloud.google.com/gke-tpu-topology": values.tpu_topology,
    }
    # All hosts of a slice are one node pool: no pod may land in another one.
    one_pool = {"alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"}
    return wanted, {"limits": {"google.com/tpu": values.tpus_per_node}}, selector, one_pool


def _volumes(given: list[str]) -> dict[str, list[dict[str, Any]]]:
    """Returns mounts and volumes: those of --volume, and shared memory, which NCCL needs."""
    mounts = [{"name": "shared-memory", "mountPath": "/dev/shm"}]
    volumes: list[dict[str, Any]] = [{"name": "shared-memory", "emptyDir": {"medium": "Memory"}}]
    for number, text in enumerate(given):
        match = _VOLUME.fullmatch(text)
        if match is None:
            raise ConfigError(f"--volume={text}: expected CLAIM:/path, like runs:/data.")
        name = f"volume-{number}"
        mounts.append({"name": name, "mountPath": match[2]})
        volumes.append({"name": name, "persistentVolumeClaim": {"claimName": match[1]}})
    return {"volume_mounts": mounts, "volumes": volumes}
