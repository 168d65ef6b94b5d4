"""What each key of a config means, in a sentence: for `--help`, `ptft help KEY` and docs/."""

from collections.abc import Mapping

Group = Mapping[str, Mapping[str, str]]

_OPTIMIZER = {
    "optimizer.name": "adamw or lamb",
    "optimizer.learning_rate": "the peak of the schedule",
    "optimizer.b1": "decay of the first moment",
    "optimizer.b2": "decay of the second moment",
    "optimizer.eps": "added to the root of the second moment",
    "optimizer.weight_decay": "decoupled; not on biases and LayerNorm",
    "optimizer.max_grad_norm": "bound of the gradient's global norm; 0 switches clipping off",
    "optimizer.layer_decay": "factor of the rate from each layer to the one below it; 1 none",
    "optimizer.rules": "pairs of a pattern of parameters and None (frozen) or a factor of the rate",
    "schedule.name": "linear, cosine or constant, after a linear warm-up from 0; one_cycle: up "
    "from a 25th of the peak and down, each along a cosine",
    "schedule.warmup_steps": "warm-up in updates",
    "schedule.warmup_ratio": "warm-up as a share of the updates; 0 if `warmup_steps` is set",
    "schedule.end_learning_rate_ratio": "last rate as a share of the peak",
}
_COMPUTING = {
    "model.dtype": "float32 or bfloat16, of activations and matrix products",
    "model.attention": "auto, xla, cudnn or kernel",
    "model.fused": "auto, xla or kernel, for what stands between products",
    "model.unroll": "layers per iteration of the scan over layers; None: all",
    "model.remat": "recompute each layer in the backward pass",
}
_RUNNING = {
    "ema": "decay of a moving average of the parameters, which is then scored, saved and exported; "
    "0 none",
    "log_every": "a line in `metrics.jsonl` every so many updates",
    "keep_last": "checkpoints kept beside the best one",
    "workers": "threads that make batches ahead of the device",
    "max_skipped_in_row": "updates without finite gradients, one after another, that end the run",
}
_TEACHER = {
    "teacher": "a run, a Hugging Face folder or a Hub name that the model is to be like; empty: "
    "none",
    "init_layers": "layers of `--init_from` to start from, like (0, 2, 4), from 0 on; empty: all",
    "distillation.temperature": "of the logits of both",
    "distillation.soft_weight": "of the divergence of the two outputs",
    "distillation.task_weight": "of the loss against labels",
    "distillation.hidden_weight": "of the distance of hidden states",
    "distillation.hidden_loss": "cosine or mse",
    "distillation.layers": "pairs of a layer and one of the teacher, 0 the embeddings; empty: the "
    "last ones",
}
_DEVICES = {
    "mesh.data": "devices that split the batch; -1 is what the others leave",
    "mesh.fsdp": "devices that split the batch and the stored parameters",
    "mesh.tensor": "devices that split heads, feed-forward width and vocabulary",
    "mesh.across_hosts": "innermost axis that may run across hosts: `data`, `fsdp` or `tensor`",
}

KEYS: Mapping[str, Group] = {
    "prepare": {
        "common": {
            "inputs": "the sources, separated by commas; required",
            "text_column": "where records of JSON lines, Parquet and datasets have their text",
            "join_lines": "join wrapped lines: a blank line ends a paragraph, two a document",
            "dev_fraction": "share of the documents held out as dev; at least two documents",
            "workers": "encoding processes; they do not change a byte of the result",
            "seed": "of the held-out documents and the vocabulary's sample",
            "licence": "a note for the manifest, such as `CC BY-SA 4.0`",
        },
        "tokenizer": {
            "vocab": "a vocab.txt, tokenizer folder or Hub name to use; empty learns a vocabulary",
            "tokenizer": "kind to learn: `wordpiece`, `bpe` (byte-level) or `unigram`",
            "vocab_size": "tokens of a learned vocabulary, at most; at least 64, 320 for `bpe`",
            "lowercase": "lower-case the text; for a learned vocabulary or a bare vocab.txt",
            "strip_accents": "None: the same as `lowercase`, as in BERT; for a learned vocabulary",
            "handle_chinese_chars": "each Chinese character is a word; for a learned `wordpiece`",
            "vocab_sample_characters": "characters that a vocabulary is learned from, at most",
        },
        "copies and files": {
            "deduplicate": "leave out copies: `exact`, or `near` (which includes `exact`)",
            "near_threshold": "Jaccard index from which on documents are near duplicates",
            "near_permutations": "hash functions that it is estimated with, 16 to 1024",
            "shard_tokens": "a token file is closed once it has this many tokens",
        },
    },
    "pretrain": {
        "common": {
            "data_dir": "a folder made by `ptft prepare`; required",
            "steps": "updates in all",
            "batch_size": "sequences per update, over all devices and micro-batches",
            "accumulate": "micro-batches that an update is made of",
            "max_seq_length": "tokens per sequence, special tokens included",
            "seed": "decides initial parameters, dropout, order, pairs and masks",
            "eval_every": "evaluation on dev every so many updates; 0 only at the end",
            "eval_examples": "dev examples to evaluate on, rounded up to whole batches; 0 means "
            "all",
            "checkpoint_every": "a checkpoint every so many updates; 0 only at the end",
            **_RUNNING,
        },
        "examples and masks": {
            "input_format": "nsp, sop, full_sentences, doc_sentences or single_segment",
            "short_seq_prob": "share of the chunks of a pair format that aim at a shorter length",
            "masking": "token, whole_word, ngram or span",
            "masked_lm_prob": "share of the tokens that are predicted",
            "max_predictions_per_seq": "predicted tokens per example, at most",
            "mask_replace_prob": "share of the predicted tokens that become the mask",
            "random_replace_prob": "share of them that become a random token; the rest stay",
            "max_ngram": "longest run of words of `masking=ngram`",
            "span_geometric_p": "parameter of the span lengths of `masking=span`",
            "span_max_words": "longest span of `masking=span`, in words",
            "dupe_factor": "0: pairs and masks anew in each epoch; N: N of them, used in turn",
            "packing": "several examples in a row",
            "max_sequences_per_pack": "most examples in a row; 0: twice as many as the mean "
            "example leaves room for",
            "phases": "what changes during the run",
        },
        "model": {
            "model.num_hidden_layers": "layers",
            "model.hidden_size": "width; a multiple of the number of heads",
            "model.num_attention_heads": "attention heads",
            "model.intermediate_size": "width of the feed-forward block",
            "model.hidden_act": "gelu (exact), gelu_new, gelu_pytorch_tanh or relu",
            "model.hidden_dropout_prob": "dropout after the embeddings and in both residual "
            "branches",
            "model.attention_probs_dropout_prob": "dropout of the attention probabilities",
            "model.max_position_embeddings": "longest sequence that the model can ever take",
            "model.type_vocab_size": "token types",
            "model.initializer_range": "standard deviation of fresh weights",
            "model.layer_norm_eps": "added to LayerNorm's variance",
            "model.vocab_size": "None takes the tokenizer's; a larger one leaves ids unused",
            "model.vocab_size_multiple": "rows of the word table are padded to a multiple of this",
            **_COMPUTING,
        },
        "a teacher": _TEACHER,
        "optimizer": _OPTIMIZER,
        "many devices": _DEVICES,
    },
    "finetune": {
        "common": {
            "task": "set by the config: a task of GLUE, or text",
            "data_dir": "the folder of the task's files, or hf:NAME; empty takes them from TFDS",
            "epochs": "passes over the training examples",
            "steps": "updates; 0 means as many as `epochs` makes",
            "batch_size": "examples per update, over all devices and micro-batches",
            "accumulate": "micro-batches that an update is made of",
            "max_seq_length": "longer examples are cut to this many tokens",
            "trainable": "all, head, bias, or topK like top2: what is trained, heads always",
            "adapter.name": "lora, dora, adalora, ia3, houlsby, pfeiffer, parallel, prefix, "
            "prompt or p_tuning: a small trained part beside the encoder, which stays as it is; "
            "empty: none",
            "adapter.rank": "columns of the thin matrices of lora and dora, width of a bottleneck",
            "adapter.alpha": "the product of thin matrices is multiplied by `alpha` / `rank`",
            "adapter.rank_stabilized": "divide by the root of `rank` (rsLoRA)",
            "adapter.initial_rank": "columns that adalora begins with, of which `rank` are left on "
            "average",
            "adapter.warmup_ratio": "share of the run before adalora drops the first of them",
            "adapter.final_ratio": "share of the run after it has dropped the last one",
            "adapter.orthogonal_weight": "of what keeps its matrices orthogonal",
            "adapter.num_virtual_tokens": "keys and values of prefix, in each layer; tokens of "
            "prompt and p_tuning",
            "adapter.targets": "maps of each layer that it acts on, like attention/query; empty: "
            "the usual ones",
            "unfreeze": "share of the run by which all layers are trained, one after another from "
            "the head down; 0 all from the start",
            "cache_features": "`trainable=head`: the encoder runs once over each example, without "
            "dropout",
            "packing": "training examples share rows",
            "length_buckets": "lengths of the rows where examples do not share them",
            "seed": "decides a new head, dropout and the order of the examples",
            "eval_every": "evaluation every so many updates; None every epoch, 0 only at the end",
            "eval_batch_size": "examples per evaluation batch; None: a micro-batch of training, "
            "`batch_size` / `accumulate`",
            "checkpoint_every": "a checkpoint every so many updates; None every epoch, 0 only at "
            "the end",
            **_RUNNING,
        },
        "few examples, rare classes, early ends": {
            "max_train_examples": "training examples to use, drawn by the seed; 0 all",
            "examples_per_class": "training examples to use of each class, drawn by the seed; 0 "
            "all",
            "regularizer.name": "r_drop, fgm, smart or mixup; empty: none",
            "regularizer.weight": "of the loss that it adds; None: 1",
            "regularizer.epsilon": "how far word embeddings are moved: the norm for a text (fgm, "
            "None: 0.5) or the largest entry (smart, None: 0.001)",
            "regularizer.step_size": "of the step up the gradient (smart); None: 0.1",
            "regularizer.alpha": "of the Beta distribution of shares (mixup); None: 0.4",
            "augment.swap": "probability of neighbouring words of a training text to change "
            "places, half of all pairs in an epoch",
            "augment.word_dropout": "of each word to be left out",
            "augment.token_dropout": "of each token to become the mask",
            "augment.refill": "of each token to be written anew by `augment.masked_lm`, other ones "
            "in each epoch",
            "augment.masked_lm": "a run, a Hugging Face folder or a Hub name with a masked-LM head",
            "mixout": "probability of each entry of the encoder's matrices to be, in an update, "
            "the value that it began with",
            "reinit_layers": "top layers, and with them the pooler, that start from the seed and "
            "not from `--init_from`; 0 none",
            "patience": "ends the run when so many evaluations, one after another, are no better "
            "than the best before; 0 never",
            "class_weights": "`balanced`, numbers in the order of the labels (1,2.5) or a JSON "
            "object by name; empty: all count alike",
            "label_smoothing": "share of a label that is spread evenly over all classes",
        },
        "table": {
            "table.text_column": "column of the text, or of the first text of pairs",
            "table.text_pair_column": "column of the second text; empty means single texts",
            "table.label_column": "column of the label",
            "table.regression": "labels are numbers to predict",
            "table.context_column": "column of the context of multiple choice",
            "table.choices_column": "column of the list of choices; in a CSV choices0, choices1, …",
            "table.multi_label": "a text may have several labels, as a list or with bars between",
        },
        "few examples": {
            "few_shot.way": "setfit (vectors of pairs, then a classifier), prompt (words in a "
            "gap), or empty",
            "few_shot.template": "of prompt, like `{text} It was [MASK].`; of pairs with {text_a} "
            "and {text_b}",
            "few_shot.words": "of prompt, words for each class in the order of the labels, "
            "`bad/awful,good`, or a JSON object; empty: the labels",
            "few_shot.calibrate": "of prompt: less what classes have where a text says nothing",
            "few_shot.pairs": "of setfit, pairs of each text with its class; as many with others",
        },
        "several tasks": {
            "tasks": "names of tasks of labelled texts, in their order, each perhaps with the "
            "folder of its files, `imdb@DIR`",
            "continual.way": "sequence: a run for each task, from the one before; together: one "
            "run; alone: the task of `continual.stage`",
            "continual.stage": "of sequence and alone, the number of the task; 0: all, one after "
            "another",
            "continual.replay": "of sequence, share of the training examples that are of earlier "
            "tasks",
            "continual.memory": "training examples kept of each earlier task to be replayed; 0 all",
            "continual.temperature": "a task of n examples is drawn in proportion to the power "
            "1 / `temperature` of n: 1 by number, 2 by the root",
            "continual.ewc": "weight of elastic weight consolidation; 0 none",
            "continual.fisher_examples": "examples of each task by whose gradients it knows what "
            "mattered",
            "continual.lwf": "weight of the divergence from what the run before says of earlier "
            "tasks (learning without forgetting); 0 none",
        },
        "vectors of texts": {
            "embedding.pooling": "mean over a text's tokens, or cls, the output at [CLS]",
            "embedding.loss": "ranking, cosent or cosine (the squared error of cosines); empty: "
            "cosent where there are scores",
            "embedding.scale": "what cosines are multiplied by in the loss",
            "embedding.dims": "numbers of features that the loss is of, like (384, 128, 64); "
            "empty: all",
            "table.first_column": "column of the first of two texts",
            "table.second_column": "column of the one that is like it",
            "table.negative_column": "column of a text that does not mean the same as the first",
            "table.score_column": "column of how alike the two texts are; without it they mean the "
            "same",
        },
        "episodes": {
            "episode.n_way": "classes of an episode",
            "episode.k_shot": "texts of each that the class is known by",
            "episode.queries": "other texts of each, to be classified",
            "episode.na_rate": "how many times as many texts as `queries` are of none of the "
            "classes",
            "episode.pooling": "a text's vector: mean over its tokens, cls, or entities, the "
            "outputs at the markers of both",
            "episode.eval": "pairs of `n_way` and `k_shot` to be scored on, the first one decides "
            "which checkpoint is best; empty: those of training",
            "episode.eval_episodes": "episodes that scores are means over",
        },
        "questions": {
            "version": "1.1: every question has an answer; 2.0: it may have none; empty: as the "
            "task has it",
            "doc_stride": "tokens that two windows of a long context share",
            "max_query_length": "longer questions are cut to this many tokens",
            "max_answer_length": "tokens of the longest answer that is predicted",
            "n_best": "starts and ends of a window that are looked at, and answers kept of a "
            "question",
            "null_score_threshold": "no answer where its score is that much higher than the best "
            "answer's; None: what gives the best F1 on dev",
            "misplaced_answers_allowed": "share of the answers that may not stand where their file "
            "says",
        },
        "tagging": {
            "word_column": "column of a column file that holds the words, from 0; -1 is the last",
            "tag_column": "column that holds their tags",
            "label_all_subwords": "all tokens of a word have its label, not the first one alone",
        },
        "model": {
            "model.hidden_dropout_prob": "None keeps what `--init_from` says",
            "model.attention_probs_dropout_prob": "None keeps what `--init_from` says",
            "model.classifier_dropout": "None keeps what `--init_from` says, by default "
            "`hidden_dropout_prob`",
            **_COMPUTING,
        },
        "a teacher": _TEACHER,
        "optimizer": _OPTIMIZER,
        "many devices": _DEVICES,
    },
}
