"""How much of the house a run goes through: what it enters and loads is what a reader must know."""

from command_line import DROPOUT, prepare_corpus, pretrain_flags
from processes import ROOT, printed

_WATCHED = """
import json, sys, threading
entered = set()
def watch(frame, event, argument):
    code = frame.f_code
    # Bodies of modules and classes, which run when they are loaded, are not optimized.
    if event == "call" and code.co_flags & 1 and code.co_filename.startswith(sys.argv[1]):
        entered.add(code.co_filename)
sys.setprofile(watch)
threading.setprofile(watch)
from ptft_jax.cli import main
code = main(sys.argv[2:])
sys.setprofile(None)
modules = [name for name in sys.modules if name.partition(".")[0] == "ptft_jax"]
print(json.dumps([code, sorted(entered), sorted(modules)]))
"""


def test_six_updates_go_through_few_files(tmp_path):
    """It was 75 files and 127 modules: all of fine-tuning, conversion and the kernels loaded."""
    settings = DROPOUT | {"mesh.fsdp": 1}
    flags = pretrain_flags(prepare_corpus(tmp_path), tmp_path / "run", **settings)
    (code, entered, modules), _ = printed(_WATCHED, ROOT / "ptft_jax", *flags)
    print(f"{len(entered)} files entered, {len(modules)} modules loaded")
    assert code == 0
    assert len(entered) <= 62
    # Rooms are not among them: they hold a map and no code.
    code_modules = [one for one in modules if not (ROOT / one.replace(".", "/")).is_dir()]
    print(f"{len(code_modules)} of them with code")
    assert len(code_modules) <= 65
    unused = ("convert", "models.kernels", "data.text", "data.tasks", "training.tracking.profile")
    for room in unused:
        assert not any(name.startswith(f"ptft_jax.{room}") for name in modules), room
