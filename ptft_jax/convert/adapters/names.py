"""The forms of PEFT's, by our names of the adapters."""

from ptft_jax.convert.adapters.adalora import AdaLora
from ptft_jax.convert.adapters.form import Form
from ptft_jax.convert.adapters.ia3 import Ia3
from ptft_jax.convert.adapters.lora import Lora
from ptft_jax.convert.adapters.prefix import PrefixTuning
from ptft_jax.convert.adapters.prompt import PromptTuning, PTuning

FORMS: dict[str, Form] = {
    "lora": Lora(),
    "dora": Lora(),
    "adalora": AdaLora(),
    "ia3": Ia3(),
    "prefix": PrefixTuning(),
    "prompt": PromptTuning(),
    "p_tuning": PTuning(),
}
