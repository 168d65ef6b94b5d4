"""Commands that train or score: pretrain, finetune, sweep, lr_find, evaluate; what they share."""
