"""Commands that train or score: pretrain, finetune, evaluate; training_run is what they share."""
