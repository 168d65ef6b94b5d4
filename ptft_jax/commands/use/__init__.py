"""Commands that use a trained model: predict, export, import; demo goes the whole way."""
