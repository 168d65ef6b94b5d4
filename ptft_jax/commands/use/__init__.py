"""Commands that use a trained model: predict, embed, export, import; demo goes the whole way."""
