"""Tagging: CoNLL-2003, WNUT-17, and the slots of SNIPS."""

from ptft_jax.data.tasks.tagging.splits import TaggingTask

TAGGING = {
    # Tjong Kim Sang and De Meulder 2003: the files of the shared task, or copies of them.
    "conll2003": TaggingTask(
        "ner",
        "conll2003",
        {
            "train": ("eng.train", "train.txt"),
            "dev": ("eng.testa", "valid.txt"),
            "test": ("eng.testb", "test.txt"),
        },
        "en",
    ),
    # Derczynski et al. 2017.
    "wnut17": TaggingTask(
        "ner",
        "wnut17",
        {
            "train": ("wnut17train.conll",),
            "dev": ("emerging.dev.conll",),
            "test": ("emerging.test.annotated",),
        },
        "en",
    ),
    # Coucke et al. 2018, as columns, or split as by Goo et al. 2018.
    "snips_slots": TaggingTask(
        "slots",
        "snips",
        {
            "train": ("train.slots.conll", "train/seq.in"),
            "dev": ("valid.slots.conll", "valid/seq.in"),
            "test": ("test.slots.conll", "test/seq.in"),
        },
        "en",
    ),
    # One's own sentences.
    "tagging": TaggingTask(),
}
