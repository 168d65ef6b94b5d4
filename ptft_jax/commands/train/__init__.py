"""Commands that train or score: pretrain, finetune, evaluate; flags and progress they share."""
